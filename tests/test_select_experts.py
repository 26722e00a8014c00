"""The stage that chooses experts: real adapters on a real base from a real Hub, and what it leaves and says."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from transformers import LlamaForCausalLM

from rocket_hub.cli.screen import experts as table_of
from rocket_hub.errors import AdapterError, NothingLeftError
from rocket_hub.lora.expert import read_expert
from rocket_hub.options import DiscoverOptions, EvaluateOptions, ExpertOptions, MergeOptions
from rocket_hub.pipeline.adapters import IN_MEMORY, Shelf
from rocket_hub.pipeline.context import Context
from rocket_hub.pipeline.select_experts import check_chosen, reasoned_shots, select_experts
from rocket_hub.recipe import Recipe
from rocket_hub.records import AdapterCandidate, AdapterDiscovery, DatasetDiscovery, Example, Pinned, Rejection
from rocket_hub.results import Discovery
from rocket_hub.runs import RunFolder, plain
from rocket_hub.tasks import get_task
from tests.helping import Heard, push_adapter

STAGE = "2-select-experts"
SHOTS = tuple(
    Example(f"what is {i} plus {j} ? the answer", f" {i} + {j} = {i + j} #### {i + j}", str(i + j))
    for i in range(5) for j in (1, 3, 4)
)  # fmt: skip


@pytest.fixture(scope="module")
def found(lasting_api, tiny_model, lora_bank):
    """Four adapters; one was made from the task's own data, one has gone from the Hub."""
    candidates = []
    for number, folder in enumerate(lora_bank):
        commit = push_adapter(lasting_api, repo := f"local/lora-{number}", folder)
        datasets = ("OpenAI/GSM8K",) if number == 2 else ("local/other",)
        candidates.append(AdapterCandidate(repo, commit, "mit", datasets=datasets, flags=("base_unverified",)))
    gone = AdapterCandidate("local/gone", "0" * 40)
    return AdapterDiscovery(Pinned(str(tiny_model), ""), (*candidates, gone))


def context(api, base, folder, **groups):
    recipe = Recipe("gsm8k", str(base), experts=ExpertOptions(shortlist=3, num_experts=2, follow_verdict=False),
                    evaluate=EvaluateOptions(max_new_tokens=4))  # fmt: skip
    recipe = replace(recipe, **groups)
    return Context(recipe, get_task("gsm8k"), SHOTS, SHOTS, RunFolder(folder, Heard()), api, "", Heard(),
                   Pinned(str(base), ""))  # fmt: skip


@pytest.fixture(scope="module")
def left(lasting_api, tiny_model, found, tmp_path_factory):
    """A run folder and what the stage left in it."""
    folder = tmp_path_factory.mktemp("left")
    return folder, run(context(lasting_api, tiny_model, folder), found)


def run(place, found):
    return select_experts(place, Discovery(found, DatasetDiscovery(()), found.base, found.base))


def shown(result):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table_of(result))
    return capture.get()


def test_the_stage_leaves_scores_a_picture_and_a_table(left):
    folder, selection = left
    assert len(selection.selected) == 2
    assert {score.repo_id for score in selection.scores} == {f"local/lora-{i}" for i in range(4)}
    reasons = {rejection.item: rejection.reason for rejection in selection.rejected}
    assert reasons.keys() == {"local/gone", *(s.repo_id for s in selection.scores)} - set(selection.selected)
    assert reasons["local/gone"] == "not_found"
    assert selection.base is not None and len(selection.base.nll) == len(SHOTS)
    marks = {score.repo_id: score.marks for score in selection.scores}
    assert [name for name, marked in marks.items() if "task_data" in marked] == ["local/lora-2"]
    assert all("base_unverified" in marked for marked in marks.values())
    assert sum("halved_out" in marked for marked in marks.values()) == 1
    assert selection.cost["possible"] == 4 * len(SHOTS) > selection.cost["pairs"]
    assert "local/lora-0" in (folder / STAGE / "experts.svg").read_text()
    assert json.loads((folder / STAGE / "result.json").read_text())["result"] == plain(selection)
    text = shown(selection)
    assert all(f"{score.perplexity:.3f}" in text for score in (*selection.scores, selection.base))
    assert f"{selection.cost['pairs']:.0f} of 60 pairs" in text
    assert "task_data" in text and "base model" in text and selection.reason[:40] in text


def test_another_choice_does_not_score_again(left, lasting_api, tiny_model, found, tmp_path):
    _, before = left
    shutil.copytree(left[0], tmp_path / "run")
    again = context(lasting_api, tiny_model, tmp_path / "run", experts=ExpertOptions(3, 1, follow_verdict=False))
    after = run(again, found)
    assert "scoring adapters" not in again.reporter.heard
    assert len(after.selected) == 1
    assert [s.nll for s in after.scores] == [s.nll for s in before.scores]
    assert after.cost == before.cost


def test_adapters_made_from_the_tasks_own_data_can_be_left_out(lasting_api, tiny_model, found, tmp_path):
    result = run(context(lasting_api, tiny_model, tmp_path, discover=DiscoverOptions(leave_task_out=True)), found)
    assert {score.repo_id for score in result.scores} == {"local/lora-0", "local/lora-1", "local/lora-3"}
    left_out = [each for each in result.rejected if each.reason == "task_data"]
    assert left_out == [Rejection("local/lora-2", "task_data", "trained on OpenAI/GSM8K, the task's own training data")]


@pytest.mark.parametrize("selector", ["coverage", "arrow", "lorahub", "all"])
def test_the_others_choose_among_all(selector, lasting_api, tiny_model, found, tmp_path):
    result = run(context(lasting_api, tiny_model, tmp_path, experts=ExpertOptions(2, 2, selector=selector)), found)
    assert len(result.selected) == 4 if selector == "all" else 1 <= len(result.selected) <= 2
    assert all(len(score.correct) == len(SHOTS) for score in result.scores)
    assert {each.reason for each in result.rejected} <= {"not_selected", "not_found"}


def test_the_verdict_is_acted_on(left, lasting_api, tiny_model, tmp_path):
    place, result = context(lasting_api, tiny_model, tmp_path, merge=MergeOptions(top_k=2)), left[1]
    check_chosen(place, result)
    none = replace(result, selected=(), verdict="none_helps", reason="no adapter beats the bare base")
    check_chosen(place, none)
    heard = " ".join(place.reporter.heard)
    assert re.search(r"no adapter beats.*goes on with a fresh LoRA \(-o experts\.follow_verdict=false", heard)
    with pytest.raises(NothingLeftError, match=r"merge\.top_k is 2, and 1 expert is left.*-o experts\.follow_verdict"):
        check_chosen(place, replace(result, selected=result.selected[:1]))
    assert "not followed" in shown(replace(result, verdict="none_helps"))
    assert "not followed" not in shown(none)


def test_what_an_author_wrote_is_no_markup(left):
    result = replace(left[1], scores=(replace(left[1].scores[0], licence="[red]mine[/red] [bold"),))
    assert "[red]mine[/red] [bold" in shown(result)


def test_the_base_may_write_the_reasoning_once(lasting_api, tiny_model, tmp_path):
    place = context(lasting_api, tiny_model, tmp_path, experts=ExpertOptions(rationales="base"))
    place.examples = tuple(replace(shot, rationale="") for shot in SHOTS)
    made = reasoned_shots(place)
    assert set(made.sources) <= {"generated", "none"} and len(made.examples) == len(SHOTS)
    assert [shot.answer for shot in made.examples] == [shot.answer for shot in SHOTS]
    assert len(made.rejected) == made.sources.count("none")
    heard = list(place.reporter.heard)
    assert any("writes the reasoning" in each for each in heard)
    assert reasoned_shots(place) == made
    assert place.reporter.heard == heard
    given = context(lasting_api, tiny_model, tmp_path)
    assert reasoned_shots(given).sources == ("none",) * len(SHOTS)


def test_a_bank_of_any_size_has_few_adapters_in_memory(tiny_model, lora_bank, tmp_path):
    shelf = Shelf(LlamaForCausalLM.from_pretrained(tiny_model).get_parameter)
    names = [f"local/lora-{number}" for number in range(IN_MEMORY + 5)]
    for number, name in enumerate(names):
        shelf.put(name, lora_bank[number % len(lora_bank)])
    with pytest.raises(AdapterError, match="adapter_config"):
        shelf.put("local/nothing", tmp_path)
    assert list(shelf) == names and "local/nothing" not in list(shelf)
    assert all(len(modules) for modules in shelf.values()) and shelf._read.cache_info().currsize == IN_MEMORY
    for name, (a, b) in read_expert(lora_bank[0]).modules.items():
        assert torch.equal(shelf[names[0]][name][0], a) and torch.equal(shelf[names[0]][name][1], b)
