"""What is said to be in a published adapter, for every method that can be recommended."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rocket_hub.controls import CONTROLS
from rocket_hub.errors import NothingLeftError
from rocket_hub.lora.attach import ADAPTER
from rocket_hub.options import PushOptions
from rocket_hub.pipeline.card import package
from rocket_hub.pipeline.context import Context
from rocket_hub.pipeline.lock import used
from rocket_hub.recipe import Recipe
from rocket_hub.records import Example, Pinned
from rocket_hub.runs import RunFolder, Silent
from rocket_hub.tasks import get_task

COMMIT = "a" * 40
BASE = {"repo_id": "acme/base", "revision": COMMIT, "kind": "model", "licence": "mit"}
INSIDE = {
    "best_single": {"models/acme/best"},
    "best_single_trained": {"models/acme/best", "datasets/acme/rows"},
    "fresh_lora": {"datasets/acme/rows"},
    "uniform_merge": {"models/acme/one", "models/acme/two"},
    "stack_trained": {"models/acme/one", "models/acme/two", "datasets/acme/rows"},
}


def found(name: str, licence: str) -> dict[str, Any]:
    return {"repo_id": f"acme/{name}", "revision": COMMIT, "licence": licence}


def results(method: str) -> dict[str, Any]:
    """What the stages before left: the best single expert is not in the group, and has a licence of its own."""
    adapters = [found("one", "mit"), found("two", "mit"), found("best", "gpl-3.0"), found("unused", "mit")]
    datasets = [found("rows", "cc-by-sa-4.0"), found("nothing-taken", "mit")]
    scores = [{"repo_id": each["repo_id"], "perplexity": 2.0, "accuracy": 0.5} for each in adapters]
    measured = [
        {"method": name, "accuracy": 0.5, "low": 0.4, "high": 0.6, "correct": [0, 1], "seconds": 1.0,
         "details": {} if name == "base" else {"adapter": f"made/{name}"}}
        for name in (*CONTROLS, "routed")
    ]  # fmt: skip
    return {
        "1-discover": {"encoder": found("encoder", "mit"), "evaluation": {**found("test", "mit"), "kind": "dataset"},
                       "adapters": {"base": BASE, "selected": adapters, "rejected": []},
                       "datasets": {"selected": datasets, "rejected": []}},
        "2-select-experts": {"selected": ["acme/one", "acme/two"], "rejected": [], "scores": scores, "diversity": 1.0,
                             "group": ["acme/one", "acme/two"], "best_single": "acme/best"},
        "3-select-instructions": {"selected": [{}], "rejected": [], "reasons": {}, "considered": 9,
                                  "per_source": {"acme/rows": 1, "acme/nothing-taken": 0}},
        "5-train": {"choice": {"setting": {"weight": 0.5}}},
        "6-evaluate": {"evaluations": measured, "differences": {}, "labels": {n: n for n in (*CONTROLS, "routed")},
                       "recommendation": {"method": method, "reason": "it is cheap"}},
    }  # fmt: skip


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """A build that publishes only the best; every method's adapter lies in its run folder."""
    for name in CONTROLS:
        (tmp_path / "made" / name).mkdir(parents=True)
        for file in ADAPTER:
            (tmp_path / "made" / name / file).write_text(name)
    recipe = Recipe("gsm8k", "acme/base", push=PushOptions(publish="best"))
    shots = (Example("1 + 1?", "2", "2"),)
    api: Any = None  # nothing is asked of it
    return Context(recipe, get_task("gsm8k"), shots, shots, RunFolder(tmp_path, Silent()), api, "", Silent(),
                   Pinned("acme/base", COMMIT))  # fmt: skip


@pytest.mark.parametrize("method", INSIDE)
def test_card_licence_and_lock_name_what_is_inside(method: str, context: Context, tmp_path: Path) -> None:
    content = package(context, results(method), tmp_path / "content")
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


def test_with_routers_trained_alone_it_is_a_routed_adapter_too(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collapse = {
        "expert_means": (0.8, 1.2),
        "loss": 0.25,
        "collapsed_nll": 1.25,
        "routed_nll": 1.0,
        "tokens": 64,
        "energy": 1.0,
    }
    monkeypatch.setattr("rocket_hub.pipeline.card._static", lambda *_: collapse)
    given = results("router_only")
    measured = next(each for each in given["6-evaluate"]["evaluations"] if each["method"] == "router_only")
    measured["details"] |= {"learning_rate": 0.01, "weight": 0.25}  # the build's own starts at another weight
    content = package(context, given, tmp_path / "content")
    assert (content / ADAPTER[0]).read_text() == "router_only"
    card = (content / "README.md").read_text()
    assert "- mixture-of-lora" in card and "import rocket_hub" in card and "merged into one routed adapter" in card
    assert "| 0.20 |" in card and "| 0.30 |" in card
    assert "| router_only | 50.0% | 40.0% to 60.0% |  | lr 0.01, weight 0.25 |" in card
    assert "| stack_trained | 50.0% | 40.0% to 60.0% | +0.0% ± 0.0% |" in card, (
        "all are compared with what is published"
    )
    lock = json.loads((content / "lock.json").read_text())
    assert lock["licence"]["result"] == "cc-by-sa-4.0" and not lock["ingredients"]["models/acme/best"]["used"]


def test_where_none_helps_the_card_of_a_control_does_not_contradict_itself(context: Context, tmp_path: Path) -> None:
    given = results("stack_trained")
    given["2-select-experts"] |= {"selected": [], "rejected": [
        {"item": f"acme/{name}", "reason": reason, "detail": ""}
        for name, reason in (("one", "verdict"), ("two", "verdict"), ("unused", "shortlist"))]}  # fmt: skip
    card = (package(context, given, tmp_path / "content") / "README.md").read_text()
    assert "[acme/one]" in card and "[acme/two]" in card and "Adapters not taken: 1 shortlist" in card


@pytest.mark.parametrize("method", ["routed", "router_only", "stack_trained"])
def test_of_routed_and_stacked_adapters_the_group_is_used(method: str) -> None:
    given = results(method)
    names = ["acme/base", "acme/one", "acme/two", "acme/rows"]
    assert [pin.repo_id for pin in used(given, method)] == names
    given["2-select-experts"]["selected"] = []  # none helps; the controls are made of the group all the same
    assert [pin.repo_id for pin in used(given, method)] == names
    assert [pin.repo_id for pin in used(given, "fresh_lora")] == ["acme/base", "acme/rows"]


def test_the_bare_base_is_not_published(context: Context, tmp_path: Path) -> None:
    with pytest.raises(NothingLeftError, match="'base' is recommended"):
        package(context, results("base"), tmp_path / "content")
    assert not (tmp_path / "content").exists()
