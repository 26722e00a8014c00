"""Every method of a build: made from what the stages left, opened, and the base given back."""

import copy
from dataclasses import replace

import pytest
import torch

from rocket_hub import records
from rocket_hub.controls.methods import ROUTED
from rocket_hub.inference import completion_nll
from rocket_hub.moe.router_init import read_stacks
from rocket_hub.options import ExpertOptions, MergeOptions, TrainOptions
from rocket_hub.pipeline.context import Context
from rocket_hub.pipeline.merge import merge, methods, weighed
from rocket_hub.pipeline.select_data import random_rows
from rocket_hub.pipeline.train import method_model, training_rows
from rocket_hub.recipe import CONTROLS, TRAINED_CONTROLS, Recipe
from rocket_hub.results import Chosen, DataSelection, Discovery, Generation
from rocket_hub.runs import RunFolder, Silent
from rocket_hub.tasks import get_task
from rocket_hub.tuning import grid
from tests.helping import lines, push_adapter, push_rows

from .conftest import RATE, says

SHOTS = tuple(records.Example(f"what is {n} plus 1 ?", f" the answer #### {n + 1}", str(n + 1)) for n in range(4))
SETTING = records.Setting(RATE, 0.5)
POOL, REFUSED = 30, 12
NAMES = tuple(f"local/lora-{number}" for number in range(4))


@pytest.fixture(scope="module")
def commits(lasting_api, lora_bank):
    """Four adapters and a data set."""
    found = {name: push_adapter(lasting_api, name, folder) for name, folder in zip(NAMES, lora_bank, strict=True)}
    rows = [{"prompt": f"what is {n} plus {n} ?", "completion": f"it is #### {2 * n}"} for n in range(POOL)]
    return found | {"local/rows": push_rows(lasting_api, "local/rows", rows)}


@pytest.fixture(scope="module")
def context(lasting_api, tiny_model, tmp_path_factory):
    recipe = Recipe("gsm8k", str(tiny_model), seed=3, experts=ExpertOptions(num_experts=2),
                    merge=MergeOptions(gate_start=(0.5,)),
                    train=TrainOptions(learning_rate=(RATE,), max_steps=2, batch_size=4, max_length=48))  # fmt: skip
    run = RunFolder(tmp_path_factory.mktemp("run"), Silent())
    return Context(
        recipe, get_task("gsm8k"), SHOTS, SHOTS, run, lasting_api, "", Silent(), records.Pinned(str(tiny_model), "")
    )


@pytest.fixture(scope="module")
def chosen(context, commits):
    """What the first stages leave: the second and the fourth adapter are chosen, the rest only ranked."""
    refused = [{"item": f"local/rows#{n}", "reason": "contaminated", "detail": ""} for n in range(REFUSED)]
    near = {"item": f"local/rows#{POOL - 1}", "reason": "near_duplicate_of", "detail": ""}
    path = context.run.path / "3-select-instructions" / "rejected.jsonl"
    path.parent.mkdir()
    path.write_text(lines([*refused, near]))
    data = records.DatasetCandidate("local/rows", commits["local/rows"], "mit", "prompt_completion", ("train.jsonl",))
    row = records.Example("what is 20 plus 20 ?", "it is #### 40", source="local/rows", index=20)
    other = records.Pinned("local/other", "0" * 40, "model", "mit")
    adapters = tuple(records.AdapterCandidate(name, commits[name], "mit") for name in NAMES)
    group = (NAMES[1], NAMES[3])
    scores = tuple(records.ExpertScore(name, 2.0, 0.5, 1, 1) for name in NAMES)
    return Chosen(
        Discovery(records.AdapterDiscovery(context.pinned, adapters), records.DatasetDiscovery((data,)), other,
                  replace(other, kind="dataset")),
        Generation(),
        records.ExpertSelection(group, (), scores, 1.0, NAMES[0], group),
        DataSelection((row,) * 5, (), (), 5, rejected_file=context.run.relative(path)),
    )  # fmt: skip


def test_listing_the_methods_fetches_nothing(context, chosen, monkeypatch):
    monkeypatch.setattr(context, "api", None)
    known = methods(context, chosen)
    assert tuple(known) == (*CONTROLS, ROUTED)  # the result is measured last
    assert {name for name, method in known.items() if method.trained} == {*TRAINED_CONTROLS, ROUTED}
    assert known["no_diversity"].experts == NAMES[:2]
    drawn = known["random_experts"].experts
    assert len(set(drawn)) == 2 and set(drawn) <= set(NAMES)
    assert len({method.label for method in known.values()}) == len(known)
    assert {name for name, method in known.items() if method.weighted} == {
        "stack_trained", "random_experts", "random_init", "router_only", "two_stage", "no_diversity", "no_data",
        "random_data", ROUTED,
    }  # fmt: skip
    assert "base" not in vars(context)


def test_rows_drawn_from_the_pool(context, chosen):
    drawn = random_rows(context, chosen, 5)
    assert drawn == random_rows(context, chosen, 5) and len({row.index for row in drawn}) == 5
    assert {row.index for row in random_rows(context, chosen, 99)} == set(range(REFUSED, POOL))
    assert len(training_rows(context, chosen, "random")) == len(training_rows(context, chosen)) == 5
    assert training_rows(context, chosen, "none") == []


@pytest.mark.parametrize("name", [*CONTROLS, ROUTED])
def test_every_method_is_made_and_opened(name, context, chosen):
    base, tokenizer = context.base
    before, said = {n: t.clone() for n, t in base.state_dict().items()}, says(base)
    method, folder = methods(context, chosen)[name], context.run.path / "measured" / name
    with method_model(context, chosen, method, SETTING, folder) as (model, details):
        found = says(model)
        nll, _ = completion_nll(model, tokenizer, [(shot.prompt, shot.completion) for shot in SHOTS])
        assert (nll > 0).all() and torch.equal(says(model), found)
    if name != "lorahub":  # it may find that no expert helps
        assert torch.equal(found, said) == (name == "base")
    assert all(torch.equal(tensor, before[n]) for n, tensor in base.state_dict().items())
    assert torch.equal(says(base), said)
    assert details.get("steps") == (2 if method.trained else None)
    assert details.get("weight") == ((0.5 if method.weighted else 1.0) if method.trained else None)
    assert tuple(details.get("experts", ())) == method.experts
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with method_model(context, chosen, method, SETTING, folder) as (model, again):  # nothing is made twice
        assert torch.equal(says(model), found) and again == details
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == written


def test_one_expert_alone_starts_at_the_strength_it_came_with(context, chosen):
    alone = replace(chosen, experts=replace(chosen.experts, selected=(NAMES[1],)))
    assert not any(method.weighted for method in methods(context, alone).values())
    merged = merge(context, alone)
    assert merged.weight == 1.0 and read_stacks(context.run.absolute(merged.adapter))[0].gate_start == 1.0
    folder = context.run.path / "alone"
    with method_model(context, alone, methods(context, alone)["stack_trained"], SETTING, folder) as (_, details):
        assert (details["learning_rate"], details["weight"]) == (RATE, 1.0)


def test_a_grid_of_weights_is_tried_only_where_there_is_one(context, chosen):
    points = grid((RATE, 2 * RATE), (0.5, 1.0))
    found = {name: [*dict.fromkeys(weighed(methods(context, chosen)[name], point) for point in points)]
             for name in (ROUTED, "fresh_lora")}  # fmt: skip
    assert found[ROUTED] == [*points] and found["fresh_lora"] == [
        records.Setting(RATE, 1.0),
        records.Setting(2 * RATE, 1.0),
    ]
    softmax = copy.copy(context)
    softmax.recipe = context.recipe.updated("merge", gate="softmax")
    weighted = {name for name, method in methods(softmax, chosen).items() if method.weighted}
    assert weighted == {"stack_trained"}, "softmax gates start where they start"


def test_what_is_in_the_routed_ones(context, chosen, tmp_path):
    known = methods(context, chosen)
    assert (known["router_only"].schedule, known["two_stage"].schedule) == ("router_only", "two_stage")
    assert (known["no_data"].rows, known["random_data"].rows) == ("none", "random")
    starts = {name: known[name].start for name in (ROUTED, "random_experts", "no_diversity", "random_init")}
    read = {name: read_stacks(start(0.5, tmp_path / name)) for name, start in starts.items() if start}
    config, stacks = read["random_init"]
    assert config.experts == []
    for module, (a, b, ranks) in stacks.items():
        routed_a, routed_b, routed_ranks = read[ROUTED][1][module]
        assert (a.shape, b.shape, tuple(ranks)) == (routed_a.shape, routed_b.shape, tuple(routed_ranks))
        assert not b.any() and 0.1 < a.abs().max() <= a.shape[1] ** -0.5
    for name in ("random_experts", "no_diversity"):
        assert tuple(entry["repo_id"] for entry in read[name][0].experts) == known[name].experts
