from xml.etree import ElementTree

import numpy as np
import pytest

from rocket_hub.errors import InputError, StorageError
from rocket_hub.plots import MAX_POINTS, draw_experts, draw_rows, experts_figure, project
from rocket_hub.records import ExpertScore, ExpertSelection

SVG = "{http://www.w3.org/2000/svg}"
SCORES = (
    ExpertScore("u/good", 2.0, 0.5, 1, 1, (0.5, 0.7, 0.9), (1, 0, 1), 3, 0.2, 0.8, chosen_share=0.87),
    ExpertScore("u/odd $name$ <b>", 5.0, 0.0, 2, 2, (1.5, 1.7, 1.6), (0, 0, 0), 3, 0.0, 0.4, chosen_share=0.13),
    ExpertScore("u/out", float("inf"), 0.0, 3, 3, shots=1, marks=("halved_out",)),
)
BASE = ExpertScore("u/base", 9.0, 0.1, 0, 0, (2.0, 2.2, 2.4), (0, 0, 1), 3, 0.0, 0.5)
SELECTION = ExpertSelection(("u/good",), (), SCORES, 1.0, "u/good", base=BASE)


def texts(path):
    return ["".join(element.itertext()).strip() for element in ElementTree.parse(path).iter(f"{SVG}text")]


def count(path, tag):
    return sum(1 for _ in ElementTree.parse(path).iter(f"{SVG}{tag}"))


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    sizes = {"pool": 200, "shots": 5, "chosen": 40}
    return {name: rng.normal(size=(size, 16)).astype(np.float32) for name, size in sizes.items()}


def test_experts_names_every_adapter_and_the_base(tmp_path):
    path, again = tmp_path / "experts.svg", tmp_path / "again.svg"
    draw_experts(SELECTION, path)
    draw_experts(SELECTION, again)
    assert again.read_bytes() == path.read_bytes()
    assert ElementTree.parse(path).getroot().tag == f"{SVG}svg" and count(path, "path") > 10
    assert {"u/good  87%", "u/odd $name$ <b>  13%", "u/out", "base model"} <= set(said := texts(path))
    assert any("1 of 3 adapters chosen" in text for text in said)


def test_experts_dots_and_intervals_are_the_numbers():
    accuracy, perplexity = experts_figure(SELECTION).axes
    assert [line.get_xdata()[0] for line in accuracy.lines] == [50, 0, 10]  # u/out was never asked
    assert [line.get_xdata()[0] for line in perplexity.lines] == [2, 5, 9]
    ends = [segments.get_segments()[0][:, 0].tolist() for segments in accuracy.collections]
    assert ends == [[20, 80], [0, 40], [0, 50]]
    assert [line.get_markerfacecolor() for line in accuracy.lines][1:] == ["white", "white"]


def test_rows_are_named_and_counted(rows, tmp_path):
    sources = ["u/sums"] * 25 + ["u/a$b$<c>"] * 10 + ["u/small"] * 5
    draw_rows(path := tmp_path / "rows.svg", **rows, sources=sources, title="40 of 200 rows, $x$ & y")
    assert {"25 chosen of u/sums", "10 chosen of u/a$b$<c>", "5 chosen of u/small", "5 examples",
            "all rows (a sample)", "40 of 200 rows, $x$ & y"} <= set(said := texts(path))  # fmt: skip
    assert any(line.startswith("first principal component (") for line in said)
    assert count(path, "use") >= 200 + 5 + 40


def test_rows_of_more_than_six_data_sets_are_put_together(rows, tmp_path):
    draw_rows(path := tmp_path / "rows.svg", **rows, sources=[f"u/{number % 9}" for number in range(40)])
    said = texts(path)
    assert sum(" chosen of u/" in line for line in said) == 6 and "12 chosen of other data sets" in said


def test_the_same_rows_give_the_same_file_and_many_are_thinned(rows, tmp_path):
    many = np.random.default_rng(1).normal(size=(5000, 16)).astype(np.float32)
    one, two = tmp_path / "one.svg", tmp_path / "two.svg"
    for path in (one, two):
        draw_rows(path, pool=many, shots=rows["shots"], chosen=many[:3000], sources=["u/a"] * 3000)
    assert one.read_bytes() == two.read_bytes()
    assert 2 * MAX_POINTS <= count(one, "use") < 2 * MAX_POINTS + 20
    assert "3,000 chosen of u/a" in texts(one)


def test_the_plane_is_the_one_of_the_largest_spread():
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    flat = rng.normal(size=(300, 6)) * [9, 4, 0.1, 0.1, 0.1, 0.1]
    points, shares = project(flat @ turn)
    flat -= flat.mean(axis=0)
    for column in (0, 1):
        assert abs(np.corrcoef(points[:, column], flat[:, column])[0, 1]) > 0.999
    assert shares == pytest.approx([81 / 97, 16 / 97], abs=0.05)
    assert project(flat @ turn + 5)[0] == pytest.approx(points)
    same, nothing = project(np.ones((4, 3)))
    assert not same.any() and not nothing.any()


def test_what_cannot_be_drawn_or_written_is_said(rows, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"experts\.svg: cannot be written"):
        draw_experts(SELECTION, tmp_path / "file" / "experts.svg")
    with pytest.raises(StorageError, match="cannot be written"):
        draw_rows(tmp_path / "file" / "rows.svg", **rows, sources=["u/a"] * 40)
    with pytest.raises(InputError, match="3 data sets"):
        draw_rows(tmp_path / "rows.svg", **rows, sources=["u/a"] * 3)
    with pytest.raises(InputError, match=r"\(200, 16\), \(5, 4\)"):
        draw_rows(tmp_path / "rows.svg", **{**rows, "shots": rows["shots"][:, :4]}, sources=["u/a"] * 40)
