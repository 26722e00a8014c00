"""METEOR's stages: what each learns, from what, and that a killed run goes on without asking or training again."""

import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from peft import PeftModel

from rocket_hub.cli import main
from rocket_hub.cli.generate import _adjusted, bill_in_words, table, write_results
from rocket_hub.errors import InputError, LicenceError, NothingLeftError
from rocket_hub.generation.meteor import Cost, cost
from rocket_hub.generation.prompts import ASPECTS, answer_prompt
from rocket_hub.generation.student import Pair, Student, dpo, dpo_trainer
from rocket_hub.generation.teachers import EndpointTeacher, find_teacher
from rocket_hub.inference import completion_nll
from rocket_hub.inference.models import load_base
from rocket_hub.options import ComputeOptions, MeteorOptions
from rocket_hub.pipeline.generate import check_licences
from rocket_hub.pipeline.generated import find_generated, read_generated
from rocket_hub.recipe import Recipe
from rocket_hub.records import Pinned
from rocket_hub.runs import KeptResults, Silent
from rocket_hub.tasks import GSM8K
from tests.helping import Heard

from .meteor_world import DISTILLED, OPTIONS, QUESTIONS, RIGHT, WRONG, Replies, answer_in, say


def likelihood(model, adapter, completion):
    base, tokenizer = load_base(str(model), None)
    pairs = [(GSM8K.prompt(question), completion) for question in QUESTIONS]
    return float(completion_nll(PeftModel.from_pretrained(base, str(adapter)), tokenizer, pairs)[0].mean())


def test_each_stage_learns_and_the_teacher_sees_the_guideline(script, tiny_model, tmp_path, run):
    options = replace(OPTIONS, stages=("distilled", "refined", "evolved"))
    steps = Heard()
    made = run(".", options, progress=steps)
    assert [name for name, _ in steps.stages] == ["start", "distilled", "refined", "evolved"]
    texts = [
        entry["result"]["text"].strip()
        for entry in map(json.loads, (tmp_path / "texts.jsonl").read_text().splitlines())
    ]
    asked = [prompt for prompt in script.prompts() if prompt.startswith("Answer")]
    assert sorted(asked) == sorted(set(asked)) and len(asked) == len(QUESTIONS)
    assert all(any(answer_prompt(question, text) in asked for text in texts) for question in QUESTIONS)
    learned = likelihood(tiny_model, made.adapters["distilled"], " the answer is #### 5")
    assert learned < likelihood(tiny_model, tmp_path / "start" / "adapter", " the answer is #### 5") - 1
    counts = made.counts
    assert counts["distilled"] == {"guidelines": 16, "answered": 16, "rows": 16}
    right = counts["refined"]["rows"]
    assert right == counts["refined"].get("right_at_once", 0) + counts["refined"].get("right_after_advice", 0) > 0
    assert counts["refined"]["trainings"] == -(-right // OPTIONS.collect)
    own = made.generated.rows[16:]
    assert len(own) <= right and all(GSM8K.extract(row.completion) == "5" for row in own)
    assert {row.source for row in made.generated.rows} == {"generated:meteor"}
    assert [row.index for row in made.generated.rows] == list(range(len(made.generated.rows)))
    assert sum(counts["evolved"].values()) == len(QUESTIONS)
    again = Heard()
    same = run(".", options, progress=again)
    assert [note for _, note in again.stages] == ["done earlier"] * 4
    assert (same.generated.rows, same.adapters) == (made.generated.rows, made.adapters)


def test_without_guideline_the_teacher_sees_the_question_alone(script, tmp_path, run):
    made = run(".", replace(DISTILLED, guideline=False, epochs=1))
    assert sorted(script.prompts()) == sorted(answer_prompt(question) for question in QUESTIONS)
    assert list(made.adapters) == ["distilled"] and not (tmp_path / "texts.jsonl").exists()


def test_advice_is_followed_by_another_try_and_what_stays_wrong_is_not_learned(script, run):
    taught = run("a", DISTILLED)
    script.seen.clear()
    script.answers = Replies(lambda prompt: WRONG)
    made = run("b", replace(OPTIONS, stages=("refined",)), QUESTIONS[:4],
               adapter=Path(taught.adapters["distilled"]))  # fmt: skip
    assert made.generated.rows == () and made.adapters["refined"] == taught.adapters["distilled"]
    lost = {each.item: (each.reason, each.detail) for each in made.generated.rejected}
    wrong = [item for item, why in lost.items() if why == ("still_wrong", "the answer is 5")]
    assert len(lost) == 4 and len(wrong) >= 2 and {why for why, _ in lost.values()} <= {"still_wrong", "empty"}
    assert made.counts["refined"]["judged"] >= 3 * len(wrong)
    assert len(script.seen) == len(set(script.prompts())) <= 12  # equal answers are judged once, and cost once
    first = Replies(lambda prompt: RIGHT if answer_in(prompt) != tries[prompt.splitlines()[2]] else WRONG)
    tries = {prompt.splitlines()[2]: answer_in(prompt) for prompt in reversed(script.prompts())}
    script.answers = first
    after = run("c", replace(OPTIONS, stages=("refined",)), QUESTIONS[:4],
                adapter=Path(taught.adapters["distilled"]))  # fmt: skip
    assert all(row.completion != tries[f"> {row.prompt}"] for row in after.generated.rows)


def kill_at(script, number, process):
    """Kill the process while the server holds its request."""
    count = iter(range(10**6))

    def reply(prompt):
        if next(count) == number:
            time.sleep(1)  # what else was asked at once is answered by now, and the answers are on disk
            process[0].kill()
            process[0].wait()
            raise ConnectionError("whoever asked is dead")
        answered[prompt] += 1
        return say(prompt)

    answered = Counter()
    script.answers = Replies(reply)
    script.tokens = 0
    process.append(answered)


def test_a_killed_run_asks_nothing_twice(script, tiny_model, tmp_path, run):
    number, process = 21, list[Any]()  # in the second stage, when the first has been trained
    command = [sys.executable, "-m", "tests.generation.meteor_world", script.url, str(tiny_model), str(tmp_path), "8"]
    root = Path(__file__).parents[2]
    process.append(subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    kill_at(script, number, process)
    process[0].wait(timeout=400)
    assert process[0].returncode == -9
    answered = process[1]
    before = set(answered)
    assert number <= len(before) <= number + 7
    steps = Heard()
    trained = (tmp_path / "distilled" / "training" / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
    made = run(progress=steps)
    assert set(answered.values()) == {1} and before < set(answered)
    asked = Counter(script.prompts())
    assert sorted(asked.values())[-2:] == [1, 2]  # the one whose answer never came
    assert made.bill["calls"] == len(script.seen) - 1 and made.counts["distilled"]["rows"] == 16
    assert dict(steps.stages) == {
        "start": "done earlier", "distilled": "done earlier", "refined": "goes on where it was stopped"
    }  # fmt: skip
    assert (tmp_path / "distilled/training/adapter/adapter_model.safetensors").stat().st_mtime_ns == trained


def test_preferences_are_learned_over_the_adapter_before(tiny_model, lora_bank, tmp_path):
    base, tokenizer = load_base(str(tiny_model), None)
    weights = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    options = MeteorOptions(evolve_learning_rate=1e-2, evolve_epochs=8, batch_size=4)
    student = Student(base, tokenizer, GSM8K, options, KeptResults(tmp_path / "texts"), Silent())
    pairs = [Pair(GSM8K.prompt(question), " the answer #### 3", " 7 7 7 #### 8") for question in QUESTIONS[:8]]
    model = PeftModel.from_pretrained(base, str(lora_bank[0]), is_trainable=True)
    trainer = dpo_trainer(student, model, pairs, tmp_path / "look")
    loss = trainer.compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())))
    assert abs(float(loss.detach()) - math.log(2)) < 1e-5  # before the first step it is its own reference
    model.unload()
    dpo(student, pairs, lora_bank[0], tmp_path / "adapter")
    margins = [likelihood(tiny_model, adapter, pairs[0].rejected) - likelihood(tiny_model, adapter, pairs[0].chosen)
               for adapter in (lora_bank[0], tmp_path / "adapter")]  # fmt: skip
    assert margins[1] > margins[0] + 0.5
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir() if "adapter" in path.name) == [
        "adapter_config.json", "adapter_model.safetensors"
    ]  # fmt: skip
    assert not (tmp_path / "adapter" / "ref").exists()
    assert base.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in base.state_dict().items())


def test_the_cost_said_before_is_not_exceeded(script, tiny_model, tmp_path):
    tokenizer = load_base(str(tiny_model), None)[1]
    most = cost(tokenizer, QUESTIONS, OPTIONS)
    assert most.calls == 16 + 3 * 16
    assert cost(tokenizer, QUESTIONS, DISTILLED).calls == 16
    assert cost(tokenizer, QUESTIONS, replace(OPTIONS, stages=("evolved",))) == Cost(0, 0)
    fewer = cost(tokenizer, QUESTIONS, replace(OPTIONS, guideline=False))
    assert most.tokens - fewer.tokens == 16 * OPTIONS.max_guideline_tokens


def test_questions_that_cannot_be_asked_are_named(script, run):
    odd = ["what is 1 ?", " ", "what is 1 ? ", "what </s> is", "what " * 200]
    made = run(".", replace(DISTILLED, epochs=1), odd)
    assert [row.prompt for row in made.generated.rows] == ["what is 1 ?"]
    assert [(each.item, each.reason) for each in made.generated.rejected] == [
        ("questions#1", "empty"), ("questions#2", "duplicate"), ("questions#3", "control_tokens"),
        ("questions#4", "too_long"),
    ]  # fmt: skip
    with pytest.raises(NothingLeftError, match="none of 1 questions"):
        run(".", OPTIONS, [""])
    script.answers = Replies(lambda prompt: "I do not know")
    with pytest.raises(NothingLeftError, match="1 no_answer_in_form"):
        run("b", OPTIONS, ["what is 1 ?"])


def test_a_judge_compares_the_answers_before_and_after(script, tmp_path, run):
    told = {aspect: "tie" if aspect == "coherence" else "A" for aspect in ASPECTS}
    back = {aspect: "B" if said == "A" else said for aspect, said in told.items()}

    def reply(prompt):
        taught = prompt.partition("\nAnswer A:\n")[2].startswith("> the answer is #### 5")
        return json.dumps(told if taught else back) if prompt.startswith("Compare") else say(prompt)

    script.answers = Replies(reply)
    options = replace(DISTILLED, guideline=False)
    judge = EndpointTeacher(script.url, "judge")
    made = run(".", options, judge=judge)
    compared = made.counts["compared"]
    assert compared["accuracy_better"] > 8 and compared["coherence_tie"] == 16 and compared["accuracy_none"] == 0
    assert (made.bill["calls"], made.bill["judge"]["calls"], len(script.seen)) == (16, 32, 48)
    assert run(".", options, judge=EndpointTeacher(script.url, "judge")).counts == made.counts
    assert len(script.seen) == 48
    with pytest.raises(InputError, match="the judge is the teacher, wise at"):
        run("b", options, judge=EndpointTeacher(script.url, "wise"))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((), "give --teacher MODEL"), (("--teacher", "x"), "give --questions FILE"),
     (("--calls", "0"), "0 is not in the range")],
)  # fmt: skip
def test_what_is_missing_is_said(arguments, said, capsys):
    with pytest.raises(SystemExit) as left:
        main(["generate", "meteor", "--task", "gsm8k", *arguments])
    assert left.value.code == 2 and said in capsys.readouterr().err


def test_the_teacher_that_is_named(script, tiny_model, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")
    api = HfApi()
    found = find_teacher(api, f"endpoint:{script.url}#wise", ComputeOptions(), "MY_KEY")
    assert found.origin == Pinned("wise at 127.0.0.1", "", "teacher", "other")
    from rocket_hub.generation.teachers import Decoding

    assert found.open().answer(["one"], Decoding(5))[0].text == "answer to one"
    assert script.headers[0]["Authorization"] == "Bearer sk-secret" and "sk-secret" not in str(found.origin)
    local = find_teacher(api, str(tiny_model), ComputeOptions())
    assert local.open().name == local.origin.repo_id == tiny_model.name
    for text, key, said in (
        ("endpoint:http://localhost:1/v1", None, "expected endpoint:URL#MODEL"),
        ("endpoint:#m", None, "expected endpoint:URL#MODEL"),
        ("endpoint:ftp://x#m", None, "expected the http"),
        (f"endpoint:{script.url}#wise", "NO_SUCH_KEY", "environment variable NO_SUCH_KEY is empty"),
        (str(tiny_model), "MY_KEY", "only endpoint:URL#MODEL"),
    ):
        with pytest.raises(InputError, match=said):
            find_teacher(api, text, ComputeOptions(), key)
    assert "NO_SUCH_KEY" not in os.environ


def test_the_command_line_goes_over_the_recipe():
    recipe = Recipe(task="gsm8k", base="x/y", seed=7)
    assert _adjusted(recipe, {"option": ()}).generation.meteor == MeteorOptions(seed=7)
    more = ("generation.meteor.rounds=2", "generation.meteor.guideline=false")
    found = _adjusted(recipe, {"stages": ("distilled", "evolved"), "seed": 1, "calls": 9, "option": more})
    assert found.generation.meteor == MeteorOptions(("distilled", "evolved"), guideline=False, rounds=2, seed=1)
    assert (found.generation.calls, found.seed) == (9, 7)
    with pytest.raises(LicenceError, match="--allow-licence cc-by-nc-4"):
        check_licences([Pinned("x/y", "", "dataset", "cc-by-nc-4.0")], ())
    check_licences([Pinned("x/y", "", "dataset", "cc-by-nc-4.0")], ("cc-by-nc-4.0",))


def test_what_is_left_can_be_read_and_published(script, tmp_path, run):
    from dataclasses import replace

    script.answers = Replies(say)
    options = replace(DISTILLED, epochs=1)
    made = run(".", options, QUESTIONS[:3])
    write_results(
        made, tmp_path, [Pinned("x/y", "0" * 40), Pinned("wise", "", "teacher", "other")], "gsm8k", options, 1.0
    )
    folder, facts = find_generated(tmp_path)
    assert tuple(read_generated(folder, facts)) == made.generated.rows
    assert facts.bill["calls"] == 3 and facts.stages["distilled"]["rows"] == 3
    kept = {path.name for path in (tmp_path / "adapters" / "distilled").iterdir()}
    assert kept == {"adapter_config.json", "adapter_model.safetensors"}
    assert bill_in_words(made.bill).startswith("bill: 3 calls, ")
    assert bill_in_words({"calls": 2, "unmetered": 1, "faults": {"timeout": 1}}) == (
        "bill: 2 calls, 0 tokens in, 0 tokens out, 1 calls without a count of tokens (failed: 1 timeout)"
    )
    assert table(made, 1.0).row_count == 2
