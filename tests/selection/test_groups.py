import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.errors import InputError
from rocket_hub.selection import groups
from rocket_hub.selection.groups import best_group, lowest_groups, mean_ranks, ranked_groups


def every_group(count, size):
    return np.array(list(itertools.combinations(range(count), size)))


def mean_similarity(similarity, group):
    pairs = [similarity[i, j] for i, j in itertools.combinations(group, 2)]
    return float(np.mean(pairs)) if pairs else 1.0


def algorithm_1(rank_sums, similarity, size):
    """Algorithm 1, word by word, over all groups: (total, Σ (RP + RA), group), best first."""
    all_groups = every_group(len(rank_sums), size)
    ranks = mean_ranks(np.array([mean_similarity(similarity, g) for g in all_groups]).round(12))
    sums = rank_sums[all_groups].sum(axis=1)
    return sorted(zip((sums + ranks).tolist(), sums.tolist(), map(tuple, all_groups.tolist()), strict=True))


def bank(seed, count, kind):
    """Similarities as of experts at random, in families, all alike (ties everywhere), and of both signs."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 6))
    if kind == "families":
        vectors = rng.normal(size=(3, 6))[rng.integers(0, 3, count)] + 0.3 * vectors
    if kind == "ties":
        vectors = np.eye(6)[rng.integers(0, 3, count)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.sort(rng.integers(2, 2 * count + 1, count).astype(float)), vectors @ vectors.T


KINDS = st.sampled_from(["random", "families", "ties"])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 5), KINDS)
def test_groups_are_ranked_as_in_algorithm_1(seed, count, size, kind):
    size = min(size, count)
    rank_sums, similarity = bank(seed, count, kind)
    expected = algorithm_1(rank_sums, similarity, size)
    found, totals = ranked_groups(rank_sums, similarity, size)
    assert best_group(rank_sums, similarity, size) == expected[0][2]
    assert list(zip(totals.tolist(), map(tuple, found.tolist()), strict=True)) == [(t, g) for t, _, g in expected]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), KINDS)
def test_the_first_two_and_all_ties_are_right_where_not_all_groups_are_listed(seed, kind):
    rank_sums, similarity = bank(seed, 16, kind)
    expected = algorithm_1(rank_sums, similarity, 4)
    found, totals = ranked_groups(rank_sums, similarity, 4)
    assert [tuple(group) for group in found[:2].tolist()] == [group for _, _, group in expected[:2]]
    tied = {group for total, _, group in expected if total == expected[0][0]}
    assert {tuple(group) for group in found[totals == totals[0]].tolist()} == tied


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(1, 5), KINDS, st.integers(1, 40))
def test_the_lowest_groups_are_those_of_all_groups(seed, count, size, kind, wanted):
    size = min(size, count)
    linear, pair = bank(seed, count, kind)
    all_groups = every_group(count, size)
    values = linear[all_groups].sum(axis=1)
    values = values + [sum(pair[i, j] for i, j in itertools.combinations(group, 2)) for group in all_groups]
    order = np.lexsort((*all_groups.T[::-1], values.round(12)))
    limit = values.round(12)[order[min(wanted, len(order)) - 1]]
    expected = [tuple(all_groups[i]) for i in order if values.round(12)[i] <= limit]
    found, found_values = lowest_groups(linear, pair, size, wanted)
    assert [tuple(group) for group in found] == expected
    assert found_values == pytest.approx(np.sort(values)[: len(expected)])


def test_ties_fall_to_the_rank_sum_and_then_to_the_order():
    assert best_group(np.array([4.0, 4.0, 4.0]), np.eye(3), 2) == (0, 1)
    assert best_group(np.array([6.0, 3.0, 3.0]), np.eye(3), 2) == (1, 2)
    assert best_group(np.array([2.0, 3.0]), np.eye(2), 1) == (0,)


def test_the_whole_bank_of_the_paper_and_more_is_searched_exactly():
    """M = 38 against all 73,815 groups; M = 200 has 64,684,950, and takes a fraction of a second."""
    rng = np.random.default_rng(0)
    similarity = np.corrcoef(rng.normal(size=(38, 50)))
    rank_sums = np.sort(rng.permutation(38) + rng.permutation(38) + 2.0)
    everything = every_group(38, 4)
    means = sum(similarity[everything[:, i], everything[:, j]] for i, j in itertools.combinations(range(4), 2)) / 6
    totals = rank_sums[everything].sum(axis=1) + mean_ranks(means.round(12))
    assert best_group(rank_sums, similarity, 4) == tuple(everything[totals.argmin()])
    started = time.process_time()
    assert len(best_group(np.sort(rng.uniform(2, 400, 200)), np.corrcoef(rng.normal(size=(200, 50))), 4)) == 4
    assert time.process_time() - started < 5, "a bound has gone slack: this takes half a second"


def test_what_cannot_be_searched_is_refused(monkeypatch):
    monkeypatch.setattr(groups, "MAX_TIED", 1000)
    with pytest.raises(InputError, match=r"more than 1,000 groups.*shortlist"):
        best_group(np.arange(20.0), np.eye(20), 6)
    monkeypatch.setattr(groups, "MAX_VISITS", 10)
    with pytest.raises(InputError, match=r"groups of 6 among 30 experts.*shortlist"):
        best_group(np.arange(30.0), np.corrcoef(np.random.default_rng(0).normal(size=(30, 9))), 6)


def test_similarities_of_both_signs_and_a_diagonal_of_any_kind_are_right():
    similarity = -np.ones((5, 5)) + np.diag([7.0] * 5)
    similarity[0, 1] = similarity[1, 0] = -2
    found, values = lowest_groups(np.zeros(5), similarity, 3, 1)
    assert found[0].tolist() == [0, 1, 2] and math.isclose(values[0], -4)
