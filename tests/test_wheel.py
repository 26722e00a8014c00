"""The wheel holds all that the package needs when no checkout is beside it, and nothing else."""

import os
import zipfile
from pathlib import Path

import pytest

from tests.helping import ROOT, run

PROGRAM = """
from pathlib import Path
import rocket_hub
from rocket_hub.cli.options import packaged_recipes
from rocket_hub.localhub.importing import is_hub_folder
from rocket_hub.localhub.connect import DEMO
print(Path(rocket_hub.__file__).parent, *(path.name for path in packaged_recipes()), is_hub_folder(DEMO), sep="\\n")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run("-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (wheel,) = folder.glob("rocket_hub-*.whl")
    return wheel


@pytest.fixture(scope="module")
def inside(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def below(folder, place):
    """The files of a folder of the checkout, as the wheel should name them."""
    paths = (ROOT / folder).rglob("*")
    kept = (path for path in paths if path.is_file() and "__pycache__" not in path.parts)
    return {f"{place}/{path.relative_to(ROOT / folder).as_posix()}" for path in kept}


def test_it_holds_the_package_and_the_recipes_and_nothing_else(inside):
    assert inside == below("rocket_hub", "rocket_hub") | below("recipes", "rocket_hub/recipes")


@pytest.mark.parametrize("name", [
    "templates/model_card.md", "templates/reload.py", "recipes/gsm8k.yaml", "recipes/demo/make_hub.py",
    "recipes/demo/gsm8k.yaml", "recipes/demo/kshot.jsonl", "localhub/demo/hub.json", "localhub/demo/recipes/gsm8k.yaml",
    "localhub/demo/models/rocket-demo/tiny-llama/model.safetensors",
])  # fmt: skip
def test_it_holds(name, inside):
    assert f"rocket_hub/{name}" in inside


def test_it_is_small_and_has_its_command(wheel):
    assert wheel.stat().st_size < 20 * 2**20
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        assert "rocket-hub = rocket_hub.cli:main" in archive.read(name).decode()


def test_it_works_without_a_checkout(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    variables = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    place, *recipes, has_demo = run("-c", PROGRAM, cwd=tmp_path, env=variables).split()
    assert Path(place) == tmp_path / "installed" / "rocket_hub"
    assert recipes == sorted(path.name for path in (ROOT / "recipes").glob("*.yaml"))
    assert has_demo == "True"
