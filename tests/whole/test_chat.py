"""A build on a chat base: one template for scoring, routing, training and measuring, and none where data is chosen."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi

import rocket_hub
from rocket_hub.errors import InputError, TaskError
from rocket_hub.pipeline import build
from rocket_hub.pipeline.context import open_context
from rocket_hub.recipe import Recipe
from rocket_hub.records import Pinned
from rocket_hub.runs import Silent

from .conftest import ROOT, STAGES, finish

DEMO = Path(rocket_hub.__file__).parent / "localhub" / "demo"
TEMPLATE = "{% for m in messages %}user : {{ m.content }}{% endfor %} assistant : "
BEFORE, AFTER = "user : Question: ", "\nAnswer: assistant : "
SHOTS = [
    ("Tom has 3 apples. Tom finds 4 apples. How many apples are there now?", "3 + 4 = 7.\n#### 7"),
    ("Mia has 9 toys. Mia sells 2 toys. How many toys are there now?", "9 - 2 = 7.\n#### 7"),
    ("Leo has 5 rocks. Leo buys 6 rocks. How many rocks are there now?", "5 + 6 = 11.\n#### 11"),
    ("Ann has 8 pens. Ann loses 5 pens. How many pens are there now?", "#### 3"),
]


def write_kshot(folder):
    path = folder / "kshot.jsonl"
    path.write_text("".join(json.dumps({"question": asked, "answer": said}) + "\n" for asked, said in SHOTS))
    return path


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What `chat_build.py` saw on the demo Hub, whose base has got a chat template; and where."""
    folder = tmp_path_factory.mktemp("chat")
    shutil.copytree(DEMO, folder / "hub")
    (folder / "hub" / "models" / "rocket-demo" / "tiny-llama" / "chat_template.jinja").write_text(TEMPLATE)
    script = str(Path(__file__).with_name("chat_build.py"))
    done = finish([sys.executable, script, str(folder / "hub"), str(write_kshot(folder)), str(folder)], ROOT,
                  folder / "home")  # fmt: skip
    found = json.loads(done.out.splitlines()[-1])
    return found | {"folder": folder}


def asked(rows):
    """The bare questions of prompts that must be in the template."""
    assert all(prompt.startswith(BEFORE) and prompt.endswith(AFTER) for prompt, _ in rows), rows[0]
    return [prompt[len(BEFORE) : -len(AFTER)] for prompt, _ in rows]


def test_the_template_is_used_and_said(seen):
    assert "rocket-demo/tiny-llama is asked in its chat template" in seen["first"]
    card = (seen["folder"] / "run" / seen["content"] / "README.md").read_text()
    assert "Everything was asked in the base's chat template." in card
    assert f"```text\n{BEFORE}…{AFTER}\n```" in card


def test_scoring_routing_and_training_are_given_the_same_prompts(seen):
    questions = [question for question, _ in SHOTS]
    scored, routed, trained = (seen["seen"][name] for name in ("score_adapters", "kshot_routers", "train_expert"))
    assert asked(scored) == questions
    assert asked(trained) == [*questions, *seen["rows"]]
    assert seen["rows"] and routed[: len(SHOTS)] == trained[: len(SHOTS)]
    assert [prompt for prompt, _ in scored] == [prompt for prompt, _ in trained[: len(SHOTS)]]
    assert scored[:3] == trained[:3] and trained[0][1] == SHOTS[0][1]  # nothing before the completion
    assert scored[3][1].endswith("#### 3") and not scored[3][1].startswith(" ")


def test_the_base_writes_reasoning_in_its_template(seen):
    (prompt,) = seen["seen"]["generate"]
    assert prompt.startswith(BEFORE + SHOTS[3][0]) and prompt.endswith("Reasoning: assistant : ")
    assert prompt.count("user :") == 1


def test_examples_before_a_problem_are_in_the_same_turn(seen):
    measured = seen["seen"]["evaluate"]
    shown = f"{SHOTS[0][0]}\nAnswer: {SHOTS[0][1]}\n\nQuestion: "
    assert len(measured) == 4
    for question in asked(measured):
        assert question.startswith(shown) and "user :" not in question and "assistant :" not in question


def test_data_is_chosen_without_the_template(seen):
    texts = seen["seen"]["encode"]
    assert any(SHOTS[0][0] in text for text in texts)
    assert not [text for text in texts if "user :" in text or "assistant :" in text]


def test_in_bfloat16_it_is_published_and_loads_as_it_was_computed(seen):
    card = (seen["folder"] / "run" / seen["content"] / "README.md").read_text()
    assert "dtype=torch.bfloat16" in card and "The base was computed in bfloat16." in card
    checked = json.loads((seen["folder"] / "run" / "7-push" / "result.json").read_text())["result"]["reload"]
    assert checked["precision"] == "bfloat16" and checked["max_difference"] <= checked["bound"] < 0.5
    assert checked["agreement"] >= 0.98


def test_a_finished_build_is_kept(seen):
    assert [note for note in seen["again"] if note[0].isdigit()] == [f"{name} done earlier" for name in STAGES]


def test_an_expert_of_a_chat_base(seen):
    assert asked(seen["expert"]) == [question for question, _ in SHOTS]
    card = " ".join((seen["folder"] / "expert" / "README.md").read_text().split())
    assert "in the base's chat template" in card and "user : Question: … Answer: assistant : ```" in card


def opened(base, folder):
    """A build after its first stage."""
    recipe = Recipe("gsm8k", str(base)).updated("evaluate", few_shot=2)
    context = open_context(recipe, write_kshot(folder), folder / "run", "", Silent())
    context.pinned = Pinned(str(base), "")
    return context


def test_a_base_without_a_template_is_asked_as_ever(tiny_model, tmp_path):
    context = opened(tiny_model, tmp_path)
    task, examples, inputs, prompt = (
        context.task,
        context.examples,
        context.inputs("train"),
        context.measured.prompt("x"),
    )
    context.use_chat_template()
    assert context.task is task and context.examples is examples
    assert (context.inputs("train"), context.measured.prompt("x")) == (inputs, prompt)


def chat_copy(base, folder, template):
    copy = folder / "chat"
    shutil.copytree(base, copy)
    (copy / "chat_template.jinja").write_text(template)
    (copy / "model.safetensors").unlink()  # the tokenizer is enough
    return copy


def test_stages_depend_on_the_template(tiny_model, tmp_path):
    context = opened(chat_copy(tiny_model, tmp_path, TEMPLATE), tmp_path)
    before = context.inputs("train")
    context.use_chat_template()
    after = context.inputs("train")
    assert after.keys() - before.keys() == {"chat_template"} and before.items() <= after.items()
    assert context.measured.prompt("x").count("user :") == 1
    (tmp_path / "chat" / "chat_template.jinja").write_text(TEMPLATE.replace("user", "human"))
    other = opened(tmp_path / "chat", tmp_path)
    other.use_chat_template()
    assert other.inputs("train")["chat_template"] != after["chat_template"]


BROKEN = {
    "it fails": ("{{ raise_exception('no user') }}", "its chat template fails: no user"),
    "it is no template": ("{% for %}", "its chat template fails"),
    "it says something else": ("Hello.", "holds what is asked 0 times, not once"),
    "it repeats": ("{{ messages[0].content }} {{ messages[0].content }}", "holds what is asked 2 times"),
    "it wants to get out": ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "its chat template fails"),
}


@pytest.mark.parametrize(("template", "message"), BROKEN.values(), ids=BROKEN)
def test_a_template_that_cannot_be_used(template, message, tiny_model, tmp_path):
    context = opened(chat_copy(tiny_model, tmp_path, template), tmp_path)
    with pytest.raises(TaskError, match=message):
        context.use_chat_template()


def test_a_template_with_a_clock_asks_the_same_every_day(tiny_model, tmp_path):
    dated = "{{ strftime_now('%d %b %Y') }} " + TEMPLATE
    context = opened(chat_copy(tiny_model, tmp_path, dated), tmp_path)
    context.use_chat_template()
    assert context.task.prompt("x") == f"26 Jul 2024 {BEFORE}x{AFTER}"


def test_one_process_of_several_is_refused(tmp_path, monkeypatch):
    from rocket_hub.options import EvaluateOptions
    from rocket_hub.pipeline.standalone import ExpertPlan, make_expert, measure_models
    from rocket_hub.tasks import GSM8K

    # what torchrun --nproc-per-node 2 sets
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    kshot, recipe, api = write_kshot(tmp_path), Recipe("gsm8k", "nobody/nothing"), HfApi()
    for call in (
        lambda: build(recipe, kshot, tmp_path / "run"),
        lambda: make_expert(api, ExpertPlan(str(kshot)), recipe, tmp_path / "run", Silent()),
        lambda: measure_models(api, GSM8K, "nobody/nothing", [], EvaluateOptions(), reporter=Silent()),
    ):
        with pytest.raises(InputError, match=r"this launch has 2 \(WORLD_SIZE\): start it without torchrun .*"
                           r"score_adapters .*select_instructions.*SFTTrainer"):  # fmt: skip
            call()
    assert not (tmp_path / "run").exists()
