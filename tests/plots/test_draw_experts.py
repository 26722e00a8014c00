"""The picture of the adapters' scores."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from rocket_hub.errors import StorageError
from rocket_hub.plots import draw_experts, experts_figure
from rocket_hub.records import ExpertScore, ExpertSelection

SCORES = (
    ExpertScore("u/good", 2.0, 0.5, 1, 1, (0.5, 0.7, 0.9), (1, 0, 1), 3, 0.2, 0.8, chosen_share=0.87),
    ExpertScore("u/odd $name$ <b>", 5.0, 0.0, 2, 2, (1.5, 1.7, 1.6), (0, 0, 0), 3, 0.0, 0.4, chosen_share=0.13),
    ExpertScore("u/out", float("inf"), 0.0, 3, 3, shots=1, marks=("halved_out",)),
)
BASE = ExpertScore("u/base", 9.0, 0.1, 0, 0, (2.0, 2.2, 2.4), (0, 0, 1), 3, 0.0, 0.5)
SELECTION = ExpertSelection(("u/good",), (), SCORES, 1.0, "u/good", base=BASE)


def test_the_picture_names_every_adapter_and_the_base(tmp_path: Path) -> None:
    draw_experts(SELECTION, tmp_path / "experts.svg")
    tree = ElementTree.parse(tmp_path / "experts.svg")
    space = "{http://www.w3.org/2000/svg}"
    assert tree.getroot().tag == f"{space}svg"
    texts = {"".join(text.itertext()).strip() for text in tree.iter(f"{space}text")}
    assert {"u/good  87%", "u/odd $name$ <b>  13%", "u/out", "base model"} <= texts
    assert any("1 of 3 adapters chosen" in text for text in texts)
    assert len(list(tree.iter(f"{space}path"))) > 10
    again = tmp_path / "again.svg"
    draw_experts(SELECTION, again)
    assert again.read_bytes() == (tmp_path / "experts.svg").read_bytes()


def test_dots_and_intervals_are_the_numbers() -> None:
    accuracy, perplexity = experts_figure(SELECTION).axes
    assert [line.get_xdata()[0] for line in accuracy.lines] == [50, 0, 10]  # u/out was never asked
    assert [line.get_xdata()[0] for line in perplexity.lines] == [2, 5, 9]
    ends = [segments.get_segments()[0][:, 0].tolist() for segments in accuracy.collections]
    assert ends == [[20, 80], [0, 40], [0, 50]]
    assert [line.get_markerfacecolor() for line in accuracy.lines][1:] == ["white", "white"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"experts\.svg: cannot be written"):
        draw_experts(SELECTION, tmp_path / "file" / "experts.svg")
