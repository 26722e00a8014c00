"""Imports go down a floor, never up and never sideways between rooms. FLOORS is the architecture."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from tests.house import ROOT, crowded_names, files, functions, header_share, lines, rooms

MOST_FILES, MOST_LINES, MOST_HEADERS = 150, 25_500, 0.09
FLOORS = [  # ground floor first; rooms on one floor do not know each other
    {"errors", "autoload", "records"},
    {"options", "results", "serialization"},
    {"recipe", "runs", "sandbox", "rows"},
    {"tasks", "inference"},
    {"lora"},
    {"discovery", "selection", "moe", "localhub"},
    {"training", "evaluation"},
    {"controls", "tuning", "generation"},
    {"publishing", "plots"},
    {"pipeline"},
    {"cli"},
    {"__main__"},
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


def test_the_house_is_no_larger_than_it_may_be() -> None:
    assert {str(path): lines(path) for path in files() if lines(path) > 450} == {}
    assert {room: len(paths) for room, paths in rooms().items() if len(paths) > 18} == {}
    assert [name for name, count in functions() if count > 60] == []
    assert crowded_names() == {}
    assert len(files()) <= MOST_FILES and sum(map(lines, files())) <= MOST_LINES
    assert header_share() < MOST_HEADERS
