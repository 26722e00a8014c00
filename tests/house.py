"""The size of the house, room by room: `make tree`. The floors test holds the same figures to their bars."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1] / "rocket_hub"
OUTSIDE = {"recipes"}  # scripts that a wheel carries along


def files() -> list[Path]:
    """List the package's modules, without what the demo Hub is made of."""
    found = (path for path in ROOT.rglob("*.py") if not path.is_relative_to(ROOT / "localhub" / "demo"))
    return sorted(path for path in found if path.relative_to(ROOT).parts[0] not in OUTSIDE)


def lines(path: Path) -> int:
    """Count the lines of a file."""
    return len(path.read_text().splitlines())


def header(path: Path) -> int:
    """Count the lines of a file before its first statement that is no docstring and no import."""
    last = 0
    for node in ast.parse(path.read_text()).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not (docstring or typing or isinstance(node, (ast.Import, ast.ImportFrom))):
            break
        last = node.end_lineno or 0
    return last


def functions() -> Iterator[tuple[str, int]]:
    """List all functions with their lines."""
    for path in files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{path.relative_to(ROOT)}: {node.name}", (node.end_lineno or 0) - node.lineno + 1


def rooms() -> dict[str, list[Path]]:
    """Map each folder to its files."""
    found: dict[str, list[Path]] = {}
    for path in files():
        found.setdefault(path.parent.relative_to(ROOT).as_posix(), []).append(path)
    return found


def crowded_names() -> dict[str, int]:
    """Count the file names that stand in more than two rooms."""
    names = Counter(path.name for path in files() if path.name != "__init__.py")
    return {name: count for name, count in names.items() if count > 2}


def header_share() -> float:
    """Return the share of all lines that are file headers."""
    return sum(map(header, files())) / sum(map(lines, files()))


def main() -> None:
    """Print the rooms and the figures that the floors test holds."""
    for room, paths in rooms().items():
        print(f"{room:15} {len(paths):3} files {sum(map(lines, paths)):6,} lines")
    here = Path(__file__).parent
    scripts = [*here.glob("benchmarks/*.py"), here / "mutants.py", here / "house.py"]  # run by hand, not collected
    tests = [path for path in here.rglob("*.py") if path not in scripts]
    print(f"{'all':15} {len(files()):3} files {sum(map(lines, files())):6,} lines")
    print(f"{'tests':15} {len(tests):3} files {sum(map(lines, tests)):6,} lines")
    print(f"{'their scripts':15} {len(scripts):3} files {sum(map(lines, scripts)):6,} lines")
    print(f"file headers {header_share():.1%} of the lines")
    print("longest files:", ", ".join(f"{p.relative_to(ROOT)} {lines(p)}" for p in sorted(files(), key=lines)[-3:]))
    print("longest functions:", ", ".join(f"{name} {n}" for name, n in sorted(functions(), key=lambda f: f[1])[-3:]))


if __name__ == "__main__":
    main()
