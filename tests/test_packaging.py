"""What is said to be in a published adapter, for every method that can be recommended."""

import json
from dataclasses import fields, replace
from importlib.resources import files

import jinja2
import pytest
import yaml
from jinja2 import meta

from rocket_hub import records
from rocket_hub.errors import NothingLeftError
from rocket_hub.lora.attach import ADAPTER
from rocket_hub.options import PushOptions
from rocket_hub.pipeline.context import Context
from rocket_hub.pipeline.lock import used
from rocket_hub.pipeline.push import package
from rocket_hub.recipe import CONTROLS, Recipe
from rocket_hub.results import CardFacts, Chosen, DataSelection, Discovery, Evaluations, Generation, Recommendation
from rocket_hub.runs import RunFolder, Silent
from rocket_hub.tasks import get_task

COMMIT = "a" * 40
BASE = records.Pinned("acme/base", COMMIT, "model", "mit")
INSIDE = {
    "best_single": {"models/acme/best"},
    "best_single_trained": {"models/acme/best", "datasets/acme/rows"},
    "fresh_lora": {"datasets/acme/rows"},
    "uniform_merge": {"models/acme/one", "models/acme/two"},
    "stack_trained": {"models/acme/one", "models/acme/two", "datasets/acme/rows"},
}


def chosen():
    """What the first stages left: the best single expert is not in the group, and has a licence of its own."""
    licences = {"one": "mit", "two": "mit", "best": "gpl-3.0", "unused": "mit"}
    adapters = tuple(records.AdapterCandidate(f"acme/{name}", COMMIT, licence) for name, licence in licences.items())
    datasets = tuple(
        records.DatasetCandidate(f"acme/{name}", COMMIT, licence)
        for name, licence in (("rows", "cc-by-sa-4.0"), ("nothing-taken", "mit"))
    )
    encoder, test = (
        records.Pinned("acme/encoder", COMMIT, "model", "mit"),
        records.Pinned("acme/test", COMMIT, "dataset", "mit"),
    )
    scores = tuple(records.ExpertScore(each.repo_id, 2.0, 0.5, 1, 1) for each in adapters)
    group = ("acme/one", "acme/two")
    return Chosen(
        Discovery(records.AdapterDiscovery(BASE, adapters), records.DatasetDiscovery(datasets), encoder, test),
        Generation(),
        records.ExpertSelection(group, (), scores, 1.0, "acme/best", group),
        DataSelection((records.Example("", ""),), (), (), 9, {"acme/rows": 1, "acme/nothing-taken": 0}),
    )


def measured(method, **details):
    """Measurements of every method, one of which is recommended and has details."""
    evaluations = tuple(
        records.Evaluation(name, 0.5, 0.4, 0.6, (0, 1), 1.0, {} if name == "base" else
                   {"adapter": f"made/{name}", **(details if name == method else {})})
        for name in (*CONTROLS, "routed")
    )  # fmt: skip
    labels = {name: name for name in (*CONTROLS, "routed")}
    return Evaluations(evaluations, {}, Recommendation(method, "it is cheap"), labels)


@pytest.fixture
def context(tmp_path):
    """A build that publishes only the best; every method's adapter lies in its run folder."""
    for name in CONTROLS:
        (tmp_path / "made" / name).mkdir(parents=True)
        for file in ADAPTER:
            (tmp_path / "made" / name / file).write_text(name)
    recipe = Recipe("gsm8k", "acme/base", push=PushOptions(publish="best"))
    shots = (records.Example("1 + 1?", "2", "2"),)
    api = None  # nothing is asked of it
    return Context(recipe, get_task("gsm8k"), shots, shots, RunFolder(tmp_path, Silent()), api, "", Silent(),
                   records.Pinned("acme/base", COMMIT))  # fmt: skip


@pytest.mark.parametrize("method", INSIDE)
def test_card_licence_and_lock_name_what_is_inside(method, context, tmp_path):
    content = package(context, chosen(), measured(method), tmp_path / "content")
    assert {path.name for path in content.iterdir()} == {*ADAPTER, "lock.json", "recipe.yaml", "README.md"}
    assert (content / ADAPTER[0]).read_text() == method
    lock = json.loads((content / "lock.json").read_text())["ingredients"]
    assert {key for key, pin in lock.items() if pin["used"]} == {"models/acme/base", *INSIDE[method]}
    assert len(lock) == 9
    _, header, card = (content / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(header)
    trained = "datasets/acme/rows" in INSIDE[method]
    assert metadata.get("datasets") == (["acme/rows"] if trained else None)
    licences = {"best_single": "gpl-3.0", "best_single_trained": "other", "uniform_merge": "mit"}
    assert metadata["license"] == licences.get(method, "cc-by-sa-4.0")
    assert ("It was not trained" in card) != trained
    for name in ("one", "two", "best"):
        assert (f"[acme/{name}]" in card) == (f"models/acme/{name}" in INSIDE[method])


def test_with_routers_trained_alone_it_is_a_routed_adapter_too(context, tmp_path, monkeypatch):
    collapse = {"expert_means": (0.8, 1.2), "loss": 0.25, "collapsed_nll": 1.25, "routed_nll": 1.0, "tokens": 64,
                "energy": 1.0}  # fmt: skip
    monkeypatch.setattr("rocket_hub.pipeline.push._static", lambda *_: collapse)
    found = measured("router_only", learning_rate=0.01, weight=0.25)  # the build's own starts at another weight
    content = package(context, chosen(), found, tmp_path / "content")
    assert (content / ADAPTER[0]).read_text() == "router_only"
    card = (content / "README.md").read_text()
    assert "- mixture-of-lora" in card and "import rocket_hub" in card and "merged into one routed adapter" in card
    assert "| 0.20 |" in card and "| 0.30 |" in card
    assert "| router_only | 50.0% | 40.0% to 60.0% |  | lr 0.01, weight 0.25 |" in card
    assert "| stack_trained | 50.0% | 40.0% to 60.0% | +0.0% ± 0.0% |" in card  # compared with what is published
    lock = json.loads((content / "lock.json").read_text())
    assert lock["licence"]["result"] == "cc-by-sa-4.0" and not lock["ingredients"]["models/acme/best"]["used"]


def test_where_none_helps_the_card_of_a_control_does_not_contradict_itself(context, tmp_path):
    why = (("one", "verdict"), ("two", "verdict"), ("unused", "shortlist"))
    rejected = tuple(records.Rejection(f"acme/{name}", reason) for name, reason in why)
    given = replace(chosen(), experts=replace(chosen().experts, selected=(), rejected=rejected))
    card = (package(context, given, measured("stack_trained"), tmp_path / "content") / "README.md").read_text()
    assert "[acme/one]" in card and "[acme/two]" in card and "Adapters not taken: 1 shortlist" in card


@pytest.mark.parametrize("method", ["routed", "router_only", "stack_trained"])
def test_of_routed_and_stacked_adapters_the_group_is_used(method):
    given = chosen()
    names = ["acme/base", "acme/one", "acme/two", "acme/rows"]
    assert [pin.repo_id for pin in used(given, method)] == names
    given = replace(given, experts=replace(given.experts, selected=()))
    assert [pin.repo_id for pin in used(given, method)] == names
    assert [pin.repo_id for pin in used(given, "fresh_lora")] == ["acme/base", "acme/rows"]


def test_the_bare_base_is_not_published(context, tmp_path):
    with pytest.raises(NothingLeftError, match="'base' is recommended"):
        package(context, chosen(), measured("base"), tmp_path / "content")
    assert not (tmp_path / "content").exists()


def test_a_card_has_one_fact_for_each_place_of_its_template():
    text = (files("rocket_hub") / "templates" / "model_card.md").read_text()
    asked = meta.find_undeclared_variables(jinja2.Environment().parse(text))
    assert asked == {field.name for field in fields(CardFacts)} | {"metadata"}
