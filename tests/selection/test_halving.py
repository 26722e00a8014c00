import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.errors import RecipeError
from rocket_hub.lora.expert import read_expert
from rocket_hub.options import Budget
from rocket_hub.recipe import Recipe, read_budget
from rocket_hub.selection.halving import FEWEST, Round, pairs_of, pairs_within, race, schedule, spread, tied
from tests.helping import ROOT, run
from tests.selection.two_processes import plain, scored


def reader(losses):
    """Look losses up and note which pairs were asked for."""
    asked = np.zeros(losses.shape, dtype=int)

    def score(alive, shots):
        asked[np.ix_(alive, shots)] += 1
        return losses[np.ix_(alive, shots)]

    return score, asked


def raced(losses, finalists, pairs, **options):
    adapters, shots = losses.shape
    rounds = schedule(adapters, shots, finalists, pairs)
    score, asked = reader(losses)
    return race(score, adapters, rounds, pairs=pairs, order=range(shots), **options), asked, rounds


@pytest.mark.parametrize(
    ("text", "budget"),
    [("40%", (40, "%")), ("12.5 %", (12.5, "%")), ("all", (100, "%")), ("800 pairs", (800, "pairs")),
     ("1 pair", (1, "pairs")), ("2k pairs", (2000, "pairs")), ("2M tokens", (2_000_000, "tokens")),
     ("1.1M tokens", (1_100_000, "tokens")), ("10 minutes", (10, "minutes")), ("0.5 minutes", (0.5, "minutes"))],
)  # fmt: skip
def test_a_budget_is_read(text, budget):
    assert read_budget(text, "--budget") == Budget(*budget)


@pytest.mark.parametrize(
    "text", ["", "40", "0%", "101%", "-3%", "1.5 pairs", "2M minutes", "ten", "1e3 pairs", "40%%", "nan%", "9" * 400]
)
def test_what_is_no_budget_is_refused_with_its_place(text):
    with pytest.raises(RecipeError, match=r"r\.yaml: experts\.budget: expected"):
        Recipe.from_yaml(json.dumps({"task": "gsm8k", "base": "u/b", "experts": {"budget": text}}), "r.yaml")


def test_a_budget_becomes_pairs():
    def pairs(amount, unit, **prices):
        return pairs_within(Budget(amount, unit), 24, 50, 4, **prices)

    assert (pairs(40, "%"), pairs(800, "pairs"), pairs(8e9, "pairs")) == (480, 800, 1200)
    # 24 adapters, 50 shots, 10 tokens a pair and 2 an answer: the base takes 600, four finalists' answers 400;
    # all of them are scored only if all can answer
    for tokens, expected in ((3000, 200), (500, 0), (600 + 24 * 600 - 1, 1199), (600 + 24 * 600, 1200)):
        assert pairs(tokens, "tokens", pair=10, answer=2) == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 80), st.integers(1, 12), st.floats(0, 1))
def test_a_schedule_is_a_schedule(adapters, shots, finalists, share):
    pairs = int(share * adapters * shots)
    rounds = schedule(adapters, shots, finalists, pairs)
    sizes, ends = [each.adapters for each in rounds], [each.shots for each in rounds]
    assert sizes[0] == adapters and ends[-1] == shots
    assert sizes == sorted(set(sizes), reverse=True) and ends == sorted(set(ends))
    assert sizes[-1] >= min(finalists, adapters)
    assert len(rounds) == 1 or (ends[0] >= FEWEST and sizes[-1] == finalists)
    least = (Round(adapters, FEWEST), Round(finalists, shots))
    assert rounds == least or pairs_of(rounds) <= pairs or adapters <= finalists or shots <= FEWEST


def test_the_schedule_of_a_bank():
    rounds = schedule(38, 50, 8, 760)
    assert rounds[0].adapters == 38 and rounds[-1] == Round(8, 50) and len(rounds) > 3
    assert 0.7 * 760 < pairs_of(rounds) <= 0.8 * 760  # the rest is for ties
    assert schedule(38, 50, 8, 1900) == (Round(38, 50),)
    assert schedule(38, 50, 8, 10) == (Round(38, 5), Round(8, 50))  # the least there is
    assert schedule(6, 50, 8, 10) == (Round(6, 50),) and schedule(38, 4, 8, 10) == (Round(38, 4),)
    costs = [pairs_of(schedule(38, 50, 8, pairs)) for pairs in range(0, 2000, 50)]
    assert costs == sorted(costs)


def test_the_clear_winners_win_for_less():
    rng = np.random.default_rng(0)
    skill = rng.permutation(24)
    losses = skill[:, None] / 4 + rng.normal(size=50) + 0.3 * rng.normal(size=(24, 50))
    found, asked, rounds = raced(losses, 4, 480)
    assert set(found.finalists) >= set(np.argsort(skill)[:4]) and found.pairs == asked.sum() <= 480
    assert asked.max() == 1 and np.array_equal(asked == 1, np.isfinite(found.losses))
    assert np.array_equal(found.losses[asked == 1], losses[asked == 1])
    assert set(found.finalists) | set(found.halved) == set(range(24)) and not found.broken
    assert np.isfinite(found.losses[list(found.finalists)]).all()
    ends = [each.shots for each in rounds]
    for adapter, left in found.halved.items():
        assert left.shots == ends[left.round - 1] == np.isfinite(found.losses[adapter]).sum()
        assert left.loss == pytest.approx(losses[adapter, : left.shots].mean()) and left.loss > left.last_kept


def test_what_is_tied_goes_on_as_long_as_there_are_pairs():
    losses = np.ones((12, 40)) * np.arange(12)[:, None]
    losses[2:5] = np.random.default_rng(1).normal(2, 1, size=(3, 40))  # equal but for noise
    found, _, rounds = raced(losses, 3, 300)
    assert set(found.finalists) > {0, 1} and len(found.finalists) > rounds[-1].adapters and found.pairs <= 300
    frugal, _, _ = raced(losses, 3, 300, answer=100.0)  # nobody more can be paid for
    assert len(frugal.finalists) == 3
    same = np.zeros(5)
    assert tied(same, same) and not tied(same, same + 1) and tied(same, np.array([0, 0, 1, -1, 0]))


def test_what_is_no_number_is_left_out_at_once():
    losses = np.ones((10, 30)) * np.arange(10)[:, None]
    losses[0, 0], losses[1, 29] = np.nan, np.inf
    found, asked, rounds = raced(losses, 3, 150)
    assert found.broken == {0: 1, 1: 1} and asked[0].sum() == rounds[0].shots and asked[1].sum() == 30
    assert not {0, 1} & {*found.finalists, *found.halved} and 2 in found.finalists
    nobody, _, _ = raced(np.full((9, 30), np.nan), 3, 150)
    assert nobody.finalists == () and len(nobody.broken) == 9


def test_the_first_shots_are_as_different_as_can_be():
    kinds = ("each basket holds {} eggs", "a thief takes {} coins", "how old is Ann in {}")
    texts = [text.format(n) for n in range(12) for text in kinds]
    order = spread(texts, seed=3)
    assert sorted(order) == list(range(36)) and order == spread(texts, seed=3) != spread(texts, seed=4)
    for seed in range(5):
        assert {shot % 3 for shot in spread(texts, seed)[:3]} == {0, 1, 2}
    assert spread([""] * 4, 0) != [] and spread(["one"], 0) == [0]


def test_two_processes_score_as_one_bit_for_bit(tiny_model, lora_bank, tmp_path):
    bank = {f"u/{number}": read_expert(folder).modules for number, folder in enumerate(lora_bank)}
    bank |= {name.replace("u/", "v/"): {m: (a, -2 * b) for m, (a, b) in bank[name].items()} for name in list(bank)}
    torch.save(bank, tmp_path / "bank.pt")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = Path(__file__).with_name("two_processes.py")
    run(*launch, script, tiny_model, tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    alone = json.loads(json.dumps(plain(scored(str(tiny_model), bank))))
    together = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert repr(together[0]) == repr(together[1]) == repr(alone)  # repr: NaN is not equal to itself
    assert alone["cost"]["pairs"] < alone["cost"]["possible"] and "halved_out" in repr(alone["rejected"])
    assert math.isnan(min(map(max, alone["nll"]))) or any(math.isnan(each) for row in alone["nll"] for each in row)
