import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.selection.near_duplicates import distinct


def unit(raw):
    return raw / np.linalg.norm(raw, axis=1, keepdims=True)


def clustered(rows, width, centres, spread, seed=0):
    """Rows around centres, in float32, so that many are near-duplicates."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(centres, width))[rng.integers(0, centres, rows)]
    return unit(raw + spread * rng.normal(size=raw.shape)).astype(np.float32)


def walked(embeddings, threshold):
    """What `distinct` keeps, and the dropped rows with their partners."""
    found = list(distinct(embeddings, range(len(embeddings)), threshold))
    return [row for row, partner in found if partner is None], {row: p for row, p in found if p is not None}


def naive_distinct(embeddings, threshold):
    """The definition, pair by pair and in double precision."""
    kept, dropped = [], {}
    exact = embeddings.astype(np.float64)
    for row in range(len(exact)):
        near = [k for k in kept if min(float(exact[row] @ exact[k]), 1.0) > threshold]
        if near:
            dropped[row] = near[0]
        else:
            kept.append(row)
    return kept, dropped


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(1, 3), st.sampled_from([-0.5, 0.3, 0.8, 0.97, 1.0]))
def test_distinct_is_the_naive_definition(seed, count, width, threshold):
    rng = np.random.default_rng(seed)
    # Whole numbers, so that equal rows and equal directions occur.
    raw = rng.integers(-2, 3, size=(count, width)).astype(np.float64) + 1e-3
    assert walked(unit(raw), threshold) == naive_distinct(unit(raw), threshold)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.6, 0.9, 0.95]), st.sampled_from([0.05, 0.1, 0.2]))
def test_distinct_across_blocks_is_the_naive_definition(seed, threshold, spread):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("rocket_hub.selection.near_duplicates._BLOCK", 16)
        embeddings = clustered(150, 24, 60, spread, seed)
        assert walked(embeddings, threshold) == naive_distinct(embeddings, threshold)


def test_distinct_across_whole_blocks():
    embeddings = clustered(2600, 8, 300, 0.05)
    kept, dropped = walked(embeddings, 0.9)
    assert (kept, dropped) == naive_distinct(embeddings, 0.9)
    assert max(kept) > 1024 and any(row > 1024 and partner < 1024 for row, partner in dropped.items())


def test_a_cosine_within_rounding_of_the_threshold_is_computed_in_double_precision():
    """4,096 rows 1e-8 apart around the threshold: float32 products put some of them on the wrong side."""
    threshold = 0.9
    cosines = threshold + 1e-8 * np.arange(-256, 256)
    rows = np.zeros((1 + len(cosines), 600), dtype=np.float32)
    rng = np.random.default_rng(0)
    rows[0] = unit(rng.normal(size=(1, 600)))[0]
    across = rng.normal(size=(len(cosines), 600))
    across -= np.outer(across @ rows[0].astype(np.float64), rows[0])
    rows[1:] = cosines[:, None] * rows[0] + np.sqrt(1 - cosines**2)[:, None] * unit(across)
    exact = rows[1:].astype(np.float64) @ rows[0].astype(np.float64) > threshold
    assert ((rows[1:] @ rows[0] > threshold) != exact).any(), "else this test shows nothing"
    _, dropped = walked(rows, threshold)
    assert {row for row, partner in dropped.items() if partner == 0} == set(1 + np.flatnonzero(exact))


def test_a_dropped_row_drops_no_other():
    angles = np.array([0.0, 0.4, 0.8])  # each is near the next, the first is not near the last
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert walked(embeddings, 0.9) == ([0, 2], {1: 0})


def test_at_threshold_one_nothing_is_dropped():
    rows = unit(np.random.default_rng(0).normal(size=(50, 33))).astype(np.float32)
    assert len(walked(np.concatenate([rows, rows]), 1.0)[0]) == 100


def test_rows_are_walked_in_the_given_order_and_read_only_when_they_are_due():
    class Counted:
        def __init__(self, rows):
            self.rows, self.shape, self.read = rows, rows.shape, 0

        def __getitem__(self, positions):
            self.read += len(positions)
            return self.rows[positions]

    rows = Counted(clustered(5000, 16, 4000, 0.01))
    walk = distinct(rows, range(4999, -1, -1), 0.9)
    assert [row for row, _ in itertools.islice(walk, 3)] == [4999, 4998, 4997]
    assert rows.read == 1024
    assert list(distinct(rows, [], 0.9)) == []


def test_memory_beside_the_rows_does_not_grow_with_their_square():
    peaks = []
    for count in (4000, 8000):
        embeddings = clustered(count, 32, count, 0.3)
        tracemalloc.start()
        kept, _ = walked(embeddings, 0.99)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(kept) > 0.9 * count
    assert peaks[1] < 1.3 * peaks[0]  # four times as many pairs
