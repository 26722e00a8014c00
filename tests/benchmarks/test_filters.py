import numpy as np
import pytest

from tests.benchmarks import filters, million, pool


@pytest.fixture
def vectors(tmp_path, monkeypatch):
    """The world of the benchmark, small."""
    for name, value in (("ROWS", 300), ("WIDTH", 48), ("SHOTS", 20)):
        monkeypatch.setattr(filters, name, value)
    filters.make(tmp_path)
    return np.load(tmp_path / "rows.npy"), np.load(tmp_path / "shots.npy")


def test_every_way_does_what_it_is_described_as(vectors):
    rows, shots = vectors
    right = filters.definition(rows, shots)
    assert 200 < len(right) < 290
    assert filters.ours(rows, shots) == filters.one_by_one(rows, shots) == right
    cosines = rows @ rows.T
    reference = set(filters.reference(rows, shots))
    assert reference != set(right)
    for row in set(range(300)) - reference:
        assert (np.delete(cosines[row], row) > 0.9).any()
    communities = filters.communities(rows, shots)
    assert len(communities) == len(set(communities)) < 300


def test_the_million_is_made_of_places_and_copies(tmp_path, monkeypatch):
    monkeypatch.setattr(million, "BLOCK", 500)
    million.make(tmp_path, 1000)
    rows = np.fromfile(tmp_path / "rows.f32", np.float32).reshape(-1, million.WIDTH)
    assert len(rows) == 1000 and np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)


def test_what_leads_is_told_by_the_share_of_a_set():
    read = {"svamp": 100, "ni_hans": 2000, "aqua_rat": 50, "bbq": 10}
    chosen = {"svamp": 50, "ni_hans": 60, "aqua_rat": 20, "bbq": 1}
    assert [source for source, _ in pool.leaders(chosen, read)] == ["svamp", "aqua_rat", "bbq", "ni_hans"]
    assert pool.as_expected("gsm8k", chosen, read) and not pool.as_expected("mbpp", chosen, read)
