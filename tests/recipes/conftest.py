import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).parents[2] / "recipes" / "paper_table"
NAMES = ("cells", "results_store", "bootstrap", "choosing", "curves", "tables", "real_bank")


@pytest.fixture(scope="module")
def table() -> Iterator[SimpleNamespace]:
    """The scripts of the paper's table, which import each other by their bare names."""
    sys.path.insert(0, str(FOLDER))
    yield SimpleNamespace(**{name: import_module(name) for name in NAMES})
    sys.path.remove(str(FOLDER))
    for name in NAMES:
        sys.modules.pop(name, None)


@pytest.fixture
def page(table: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """Write the page of the results in `tmp_path / "results"`, and return its text."""

    def write() -> str:
        path = tmp_path / "README.md"
        path.write_text(f"before\n{table.tables.BEGIN}\nold\n{table.tables.END}\nafter\n")
        monkeypatch.setattr(sys, "argv", ["tables.py", "--results", str(tmp_path / "results"), "--page", str(path)])
        table.tables.main()
        return path.read_text()

    return write


def table_rows(text: str) -> list[list[str]]:
    """The cells of every line of every table in a page."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
