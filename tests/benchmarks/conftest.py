import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).parents[2] / "recipes" / "paper_table"
NAMES = ("cells", "kept", "bootstrap", "choosing", "curves", "tables", "real_bank")


@pytest.fixture(scope="module")
def table() -> Iterator[SimpleNamespace]:
    """The scripts import each other by their bare names."""
    sys.path.insert(0, str(FOLDER))
    yield SimpleNamespace(**{name: import_module(name) for name in NAMES})
    sys.path.remove(str(FOLDER))
    for name in NAMES:
        sys.modules.pop(name, None)
