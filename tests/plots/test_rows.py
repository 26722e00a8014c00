import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from rocket_hub.errors import InputError, StorageError
from rocket_hub.plots import MAX_POINTS, draw_rows, project

SVG = "{http://www.w3.org/2000/svg}"


def texts(path):
    return ["".join(element.itertext()).strip() for element in ElementTree.parse(path).iter(f"{SVG}text")]


def marks(path):
    return sum(1 for element in ElementTree.parse(path).iter(f"{SVG}use"))


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    return {
        "pool": rng.normal(size=(200, 16)).astype(np.float32),
        "shots": rng.normal(size=(5, 16)).astype(np.float32),
        "chosen": rng.normal(size=(40, 16)).astype(np.float32),
    }


def test_the_map_names_and_counts_what_is_on_it(world, tmp_path):
    sources = ["u/sums"] * 25 + ["u/a$b$<c>"] * 10 + ["u/small"] * 5
    draw_rows(tmp_path / "rows.svg", **world, sources=sources, title="40 of 200 rows, $x$ & y")
    said = texts(tmp_path / "rows.svg")
    for line in ("25 chosen of u/sums", "10 chosen of u/a$b$<c>", "5 chosen of u/small", "5 examples"):
        assert line in said
    assert "all rows (a sample)" in said and "40 of 200 rows, $x$ & y" in said
    assert any(line.startswith("first principal component (") for line in said)
    assert marks(tmp_path / "rows.svg") >= 200 + 5 + 40


def test_beyond_six_data_sets_the_rest_is_one(world, tmp_path):
    sources = [f"u/{number % 9}" for number in range(40)]
    draw_rows(tmp_path / "rows.svg", **world, sources=sources)
    said = texts(tmp_path / "rows.svg")
    assert sum(" chosen of u/" in line for line in said) == 6
    assert "12 chosen of other data sets" in said


def test_the_same_rows_give_the_same_file_and_many_are_thinned(world, tmp_path):
    rng = np.random.default_rng(1)
    many = rng.normal(size=(5000, 16)).astype(np.float32)
    for name in ("one.svg", "two.svg"):
        draw_rows(tmp_path / name, pool=many, shots=world["shots"], chosen=many[:3000], sources=["u/a"] * 3000)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert 2 * MAX_POINTS <= marks(tmp_path / "one.svg") < 2 * MAX_POINTS + 20
    assert "3,000 chosen of u/a" in texts(tmp_path / "one.svg")


def test_the_plane_is_the_one_of_the_largest_spread():
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    flat = rng.normal(size=(300, 6)) * [9, 4, 0.1, 0.1, 0.1, 0.1]
    points, shares = project(flat @ turn)
    flat -= flat.mean(axis=0)
    for column in (0, 1):
        assert abs(np.corrcoef(points[:, column], flat[:, column])[0, 1]) > 0.999
    assert shares == pytest.approx([81 / 97, 16 / 97], abs=0.05)
    again, _ = project(flat @ turn + 5)
    assert again == pytest.approx(points)
    same, nothing = project(np.ones((4, 3)))
    assert not same.any() and not nothing.any()


def test_what_cannot_be_drawn_is_said(world, tmp_path):
    with pytest.raises(InputError, match="3 data sets"):
        draw_rows(tmp_path / "rows.svg", **world, sources=["u/a"] * 3)
    with pytest.raises(InputError, match=r"\(200, 16\), \(5, 4\)"):
        draw_rows(tmp_path / "rows.svg", **{**world, "shots": world["shots"][:, :4]}, sources=["u/a"] * 40)
    (tmp_path / "no").write_text("a file, no folder")
    with pytest.raises(StorageError, match="cannot be written"):
        draw_rows(tmp_path / "no" / "rows.svg", **world, sources=["u/a"] * 40)
