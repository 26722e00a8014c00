"""Prompts as lm-evaluation-harness writes them; examples before them; chat templates; options."""

from dataclasses import replace
from pathlib import Path

import pytest

from rocket_hub.errors import TaskError
from rocket_hub.inference import encode
from rocket_hub.recipe import Recipe
from rocket_hub.records import Example
from rocket_hub.rows.kshot import load_kshot
from rocket_hub.tasks import ARC_CHALLENGE, ARC_EASY, BOOLQ, GSM8K, MBPP, PIQA, get_task
from tests.helping import lines, table

FORMS = table("tasks/forms.jsonl")
COMPARED = [case for case in FORMS if "compared" in case]
ROWS = {case["task"]: case["row"] for case in FORMS}


def name_of(case):
    return str(case["task"])


@pytest.mark.parametrize("case", FORMS, ids=name_of)
def test_a_problem_in_the_tasks_form(case):
    task = get_task(case["task"])
    (problem,) = task.examples([case["row"]], "acme/set")
    assert (problem.prompt, problem.completion, problem.answer) == (case["prompt"], case["completion"], case["answer"])
    assert task.read_answer(problem.completion, problem) == problem.answer
    assert problem.rationale == ("1 + 1 = 2" if task is GSM8K else "")


def test_tests_of_a_program():
    (problem,) = MBPP.examples([{**ROWS["mbpp"], "test_setup_code": "x = 1\r\ny = 2"}], "acme/set")
    assert problem.tests == ("x = 1\ny = 2", *ROWS["mbpp"]["test_list"])
    (found,) = [MBPP.example(Example(problem.prompt.partition("task: ")[2], ROWS["mbpp"]["code"], ""))]
    assert found.tests == tuple(ROWS["mbpp"]["test_list"][:3])  # what a K-shot file has in its question


@pytest.mark.parametrize("case", COMPARED, ids=name_of)
def test_options_as_the_harness_compares_them(case):
    task, (prompt, options, right) = get_task(case["task"]), case["compared"]
    (problem,) = task.examples([case["row"]], "acme/set")
    assert task.options(problem) == (prompt, tuple(options))
    assert task.choice_index(problem) == right


def test_a_problem_without_options():
    (problem,) = GSM8K.examples([ROWS["gsm8k"]], "acme/set")
    with pytest.raises(TaskError, match="'gsm8k': a problem without options has no option likelihood"):
        GSM8K.options(problem)


def test_examples_before_the_question():
    (shot,) = GSM8K.examples([ROWS["gsm8k"]], "acme/set")
    task = GSM8K.with_shots([shot, shot])
    solved = "Question: 1 + 1?\nAnswer: 1 + 1 = 2\n#### 2\n\n"
    assert task.prompt("2 + 2?") == f"{solved}{solved}Question: 2 + 2?\nAnswer:"
    assert task.example(Example("2 + 2?", "#### 4", "")).prompt == task.prompt("2 + 2?")
    assert task.with_shots([]).prompt("2 + 2?") == GSM8K.prompt("2 + 2?")
    assert task.with_shots([shot]).prompt("2 + 2?") == f"{solved}Question: 2 + 2?\nAnswer:"
    with pytest.raises(TaskError, match="'gsm8k': expected a prompt like 'Question: …"):
        GSM8K.with_shots([Example("1 + 1?", " 2", "2")])


def test_examples_before_options_show_the_options_text():
    (shot,) = ARC_EASY.examples([ROWS["arc_easy"]], "acme/set")
    shown = ARC_EASY.with_shots([shot])
    prompt, options = shown.options(shown.examples([ROWS["arc_easy"]], "acme/set")[0])
    assert prompt == "Question: Which is red?\nAnswer: a rose\n\nQuestion: Which is red?\nAnswer:"
    assert options == (" the sky", " a rose", " grass")
    shown = BOOLQ.with_shots(BOOLQ.examples([ROWS["boolq"]], "acme/set"))
    assert shown.options(shown.examples([ROWS["boolq"]], "x")[0])[0].count("Answer: yes\n\n") == 1


def test_examples_before_a_program():
    (shot,) = MBPP.examples([ROWS["mbpp"]], "acme/set")
    prompt = MBPP.with_shots([shot]).prompt("Add.")
    assert prompt.startswith(f"{shot.prompt}def add(a, b):\n    return a + b\n[DONE]\n\nYou are")


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}user : {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


def test_a_base_model_has_no_template(tokenizer):
    assert GSM8K.for_model(tokenizer) is GSM8K
    assert GSM8K.prompt_for("1 + 1?", tokenizer) == GSM8K.prompt("1 + 1?")


@pytest.mark.parametrize("task", [GSM8K, ARC_EASY, PIQA, BOOLQ, MBPP], ids=lambda task: task.name)
def test_a_chat_model_is_asked_in_its_template(task, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE)
    chat = task.for_model(tokenizer)
    assert chat.prompt("X") == f"<s>user : {task.prompt('X')} assistant :" == task.prompt_for("X", tokenizer)
    row = ROWS[task.name]
    (plain,), (problem,) = task.examples([row], "acme/set"), chat.examples([row], "acme/set")
    assert problem.prompt == f"<s>user : {plain.prompt} assistant :"
    assert problem.completion == plain.completion.strip()  # nothing between the template and the completion
    if problem.choices:
        prompt, options = chat.options(problem)
        assert prompt == f"<s>user : {task.options(plain)[0]} assistant :"
        assert options == problem.choices
    both = chat.with_shots([plain]), task.with_shots([plain]).for_model(tokenizer)
    assert both[0].prompt("X") == both[1].prompt("X") == f"<s>user : {task.with_shots([plain]).prompt('X')} assistant :"
    assert chat.prompt("\0").count("\0") == 1  # the pipeline takes the question out of its frame so


def test_the_beginning_of_a_text_is_not_written_twice(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE)

    class Beginning:  # a tokenizer that begins every text, as Llama's does
        chat_template, bos_token, bos_token_id = TEMPLATE, tokenizer.bos_token, tokenizer.bos_token_id
        apply_chat_template, eos_token = tokenizer.apply_chat_template, tokenizer.eos_token

        def __call__(self, text, **_):
            return {"input_ids": [self.bos_token_id, *tokenizer(text)["input_ids"]]}

    beginning = Beginning()
    task = GSM8K.for_model(beginning)
    ids, _ = encode(beginning, task.prompt("what is 1 + 1 ?"), " 2")
    assert ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(("name", "row", "message"), table("tasks/row_faults.jsonl"))
def test_rows_in_another_form(name, row, message):
    with pytest.raises(TaskError, match=message):
        get_task(name).examples([row], "set")


@pytest.mark.parametrize(("question", "answer", "rationale"), [shot for _, *shot in table("tasks/shots.jsonl")])
def test_a_shot_with_options(question, answer, rationale, tmp_path):
    (tmp_path / "k.jsonl").write_text(lines([{"question": question, "answer": answer}]))
    example = ARC_EASY.example(load_kshot(tmp_path / "k.jsonl")[0])
    assert example.prompt == "Question: Which is red?\nA. the sky\nB. a rose\nAnswer:"
    assert (example.answer, example.choices, example.rationale) == ("B", ("the sky", "a rose"), rationale)
    assert example.completion.split() == [*rationale.split(), "The", "answer", "is", example.completion.split()[-1]]
    assert ARC_EASY.example(example) == replace(example, completion=example.completion)  # once more changes nothing


@pytest.mark.parametrize("name", ["gsm8k", "mbpp", "arc_challenge", "arc_easy", "piqa", "boolq"])
def test_every_task_has_a_recipe(name):
    recipe = Recipe.from_file(Path(__file__).parents[2] / "recipes" / f"{name}.yaml")
    task = get_task(recipe.task)
    assert task.name == name and recipe.evaluate.split in (None, task.split)
    assert recipe.evaluate.dataset is None


def test_tasks_by_name():
    for task in (GSM8K, MBPP, ARC_CHALLENGE, ARC_EASY, PIQA, BOOLQ):
        assert get_task(task.name) is task
    with pytest.raises(TaskError, match=r"unknown task 'gsm8', did you mean 'gsm8k'\? Known tasks: gsm8k, mbpp, arc_"):
        get_task("gsm8")
    with pytest.raises(TaskError, match=r"unknown task 'sorting' Known tasks: .*; or give the path of a .yaml file"):
        get_task("sorting")
