"""A machine that can isolate programs, or a clean skip."""

import sys

import pytest

from rocket_hub.errors import SandboxError
from rocket_hub.sandbox import check_isolation


@pytest.fixture(scope="session", autouse=True)
def isolation() -> tuple[str, ...]:
    """The mechanisms in force here."""
    if sys.platform != "linux":
        pytest.skip("programs are isolated on Linux only")
    try:
        return check_isolation()
    except SandboxError as error:
        pytest.skip(str(error))
