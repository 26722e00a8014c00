"""Imports go down a floor, never up and never sideways between rooms. FLOORS is the architecture."""

import ast
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

import rocket_hub

ROOT = Path(rocket_hub.__file__).parent
FLOORS = [  # ground floor first; rooms on one floor do not know each other
    {"errors", "autoload", "records"},
    {"options", "results", "serialization"},
    {"recipe", "runs", "sandbox"},
    {"tasks", "inference"},
    {"lora", "rows"},
    {"discovery", "selection", "moe", "localhub"},
    {"training", "evaluation"},
    {"controls", "tuning", "generation"},
    {"publishing", "plots"},
    {"pipeline"},
    {"cli"},
]
OUTSIDE = {"templates", "recipes"}  # text and scripts, no modules of the package


def imports_of(path: Path) -> set[str]:
    """Return the rocket_hub modules a file imports, at any depth, as dotted names below the package."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):  # what only type checkers see is no import
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module != "rocket_hub", f"{path}: import from the module itself"
            names.add(node.module or "")
    return {name.removeprefix("rocket_hub.") for name in names if name.startswith("rocket_hub.")}


def modules() -> dict[str, set[str]]:
    """Map every module below the package to the modules it imports."""
    paths = [path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] not in OUTSIDE | {"__init__.py"}]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): imports_of(path)
        for path in paths
    }


def room(module: str) -> str:
    return module.split(".")[0]


def test_every_room_has_a_floor() -> None:
    assert sorted({room(m) for m in modules()}) == sorted(name for floor in FLOORS for name in floor)


def test_imports_go_down() -> None:
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    climbs = [
        f"{module} -> {target}"
        for module, targets in modules().items()
        for target in targets
        if room(target) != room(module) and floor[room(target)] >= floor[room(module)]
    ]
    assert climbs == []


def test_no_circles_inside_a_room() -> None:
    # a package's __init__ re-exports its files, which may import its siblings: the files alone must have no circles
    packages = {module for module in modules() if (ROOT / module.replace(".", "/")).is_dir()}
    graph = {m: {t for t in targets if t not in packages} for m, targets in modules().items() if m not in packages}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_no_file_outgrows_its_room() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in ROOT.rglob("*.py")
        if (count := len(path.read_text().splitlines())) > 450
    }
    assert long == {}


def test_no_room_is_crowded() -> None:
    files = [path for path in ROOT.rglob("*.py") if not path.is_relative_to(ROOT / "localhub" / "demo")]
    rooms = Counter(path.parent.relative_to(ROOT) for path in files)
    assert {str(folder): count for folder, count in rooms.items() if count > 18} == {}
    names = Counter(path.name for path in files if path.name != "__init__.py")
    assert {name: count for name, count in names.items() if count > 2} == {}


def test_no_function_is_longer_than_a_page() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno >= 60
    ]
    assert long == []
