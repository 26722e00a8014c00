"""What the package promises is there, and asking for it costs nothing until it is used."""

import pytest

import rocket_hub
from tests.helping import run


@pytest.mark.parametrize("name", rocket_hub.__all__)
def test_every_public_name_exists_and_is_documented(name):
    assert getattr(rocket_hub, name).__doc__


def test_dir_lists_the_public_names():
    assert set(rocket_hub.__all__) <= set(dir(rocket_hub))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = rocket_hub.no_such_name


HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "evaluate", "numpy", "pyarrow"}
LIGHT = {
    "rocket_hub": HEAVY,
    "rocket_hub.cli.app": HEAVY - {"evaluate", "numpy", "pyarrow"},
    "rocket_hub.discovery": HEAVY - {"evaluate"},
    "rocket_hub.tasks, rocket_hub.sandbox": HEAVY,
}


@pytest.mark.parametrize("modules", LIGHT)
def test_light_import(modules):
    assert run("-c", f"import sys, {modules}\nprint({LIGHT[modules]} & set(sys.modules))").strip() == "set()"
