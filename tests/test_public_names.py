"""What the package promises is there, and asking for it costs nothing until it is used."""

import subprocess
import sys

import pytest

import rocket_hub


@pytest.mark.parametrize("name", rocket_hub.__all__)
def test_every_public_name_exists_and_is_documented(name: str) -> None:
    assert getattr(rocket_hub, name).__doc__


def test_dir_lists_the_public_names() -> None:
    assert set(rocket_hub.__all__) <= set(dir(rocket_hub))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = rocket_hub.no_such_name


@pytest.mark.parametrize("start", ["import rocket_hub", "from rocket_hub.cli.app import cli"])
def test_light_import(start: str) -> None:
    heavy = ("torch", "transformers", "peft", "trl", "datasets")
    code = f"{start}\nimport sys\nprint([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
