"""Prompts as lm-evaluation-harness writes them; examples before them; chat templates; options."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rocket_hub.errors import TaskError
from rocket_hub.inference import encode
from rocket_hub.recipe import Recipe
from rocket_hub.records import Example
from rocket_hub.tasks import ARC_CHALLENGE, ARC_EASY, BOOLQ, GSM8K, MBPP, PIQA, Task, get_task

ARC_ROW = {
    "question": "Which is red?",
    "choices": {"text": ["the sky", "a rose", "grass"], "label": ["1", "2", "3"]},
    "answerKey": "2",
}
PIQA_ROW = {"goal": "boil an egg", "sol1": "put it in the fridge.", "sol2": "put it in hot water.", "label": 1}
BOOLQ_ROW = {"passage": "Roses -- Roses are red.", "question": "are roses red", "answer": True}
MBPP_ROW = {
    "text": "Write a function to add.",
    "code": "def add(a, b):\r\n    return a + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0", "assert add(1, 1) == 2", "assert add(2, 2) == 4"],
    "test_setup_code": "",
}
GSM8K_ROW = {"question": "1 + 1?", "answer": "1 + 1 = 2\n#### 2"}
LETTERED = "Question: Which is red?\nA. the sky\nB. a rose\nC. grass\nAnswer:"
FORMS: list[tuple[Task, dict[str, Any], str, str, str]] = [
    (GSM8K, GSM8K_ROW, "Question: 1 + 1?\nAnswer:", " 1 + 1 = 2\n#### 2", "2"),
    (ARC_EASY, ARC_ROW, LETTERED, " The answer is B.", "B"),
    (ARC_CHALLENGE, ARC_ROW, LETTERED, " The answer is B.", "B"),
    (PIQA, PIQA_ROW, "Question: boil an egg\nA. put it in the fridge.\nB. put it in hot water.\nAnswer:",
     " The answer is B.", "B"),
    (BOOLQ, BOOLQ_ROW, "Roses -- Roses are red.\nQuestion: are roses red?\nAnswer:", " The answer is yes.", "yes"),
    (MBPP, MBPP_ROW, "You are an expert Python programmer, and here is your task: Write a function to add. Your code "
     "should pass these tests:\n\nassert add(1, 2) == 3\nassert add(0, 0) == 0\nassert add(1, 1) == 2\n[BEGIN]\n",
     "def add(a, b):\n    return a + b\n[DONE]", "def add(a, b):\n    return a + b"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "row", "prompt", "completion", "answer"), FORMS, ids=lambda v: getattr(v, "name", ""))
def test_a_problem_in_the_tasks_form(
    task: Task, row: dict[str, Any], prompt: str, completion: str, answer: str
) -> None:
    (problem,) = task.examples([row], "acme/set")
    assert (problem.prompt, problem.completion, problem.answer) == (prompt, completion, answer)
    assert task.read_answer(problem.completion, problem) == problem.answer
    assert problem.rationale == ("1 + 1 = 2" if task is GSM8K else "")


def test_tests_of_a_program() -> None:
    (problem,) = MBPP.examples([{**MBPP_ROW, "test_setup_code": "x = 1\r\ny = 2"}], "acme/set")
    assert problem.tests == ("x = 1\ny = 2", *MBPP_ROW["test_list"])
    (found,) = [MBPP.example(Example(problem.prompt.partition("task: ")[2], MBPP_ROW["code"], ""))]
    assert found.tests == tuple(MBPP_ROW["test_list"][:3])  # what a K-shot file has in its question


LIKELIHOOD = [
    (ARC_EASY, ARC_ROW, "Question: Which is red?\nAnswer:", (" the sky", " a rose", " grass"), 1),
    (PIQA, PIQA_ROW, "Question: boil an egg\nAnswer:", (" put it in the fridge.", " put it in hot water."), 1),
    (BOOLQ, BOOLQ_ROW, "Roses -- Roses are red.\nQuestion: are roses red?\nAnswer:", (" no", " yes"), 1),
]


@pytest.mark.parametrize(
    ("task", "row", "prompt", "options", "right"), LIKELIHOOD, ids=lambda v: getattr(v, "name", "")
)
def test_options_as_the_harness_compares_them(
    task: Task, row: dict[str, Any], prompt: str, options: tuple[str, ...], right: int
) -> None:
    (problem,) = task.examples([row], "acme/set")
    assert task.options(problem) == (prompt, options)
    assert task.choice_index(problem) == right


def test_a_problem_without_options() -> None:
    (problem,) = GSM8K.examples([GSM8K_ROW], "acme/set")
    with pytest.raises(TaskError, match="'gsm8k': a problem without options has no option likelihood"):
        GSM8K.options(problem)


def test_examples_before_the_question() -> None:
    (shot,) = GSM8K.examples([GSM8K_ROW], "acme/set")
    task = GSM8K.with_shots([shot, shot])
    solved = "Question: 1 + 1?\nAnswer: 1 + 1 = 2\n#### 2\n\n"
    assert task.prompt("2 + 2?") == f"{solved}{solved}Question: 2 + 2?\nAnswer:"
    assert task.example(Example("2 + 2?", "#### 4", "")).prompt == task.prompt("2 + 2?")
    assert task.with_shots([]).prompt("2 + 2?") == GSM8K.prompt("2 + 2?")
    assert task.with_shots([shot]).prompt("2 + 2?") == f"{solved}Question: 2 + 2?\nAnswer:"
    with pytest.raises(TaskError, match="'gsm8k': expected a prompt like 'Question: …"):
        GSM8K.with_shots([Example("1 + 1?", " 2", "2")])


def test_examples_before_options_show_the_options_text() -> None:
    (shot,) = ARC_EASY.examples([ARC_ROW], "acme/set")
    prompt, options = ARC_EASY.with_shots([shot]).options(
        ARC_EASY.with_shots([shot]).examples([ARC_ROW], "acme/set")[0]
    )
    assert prompt == "Question: Which is red?\nAnswer: a rose\n\nQuestion: Which is red?\nAnswer:"
    assert options == (" the sky", " a rose", " grass")
    (yes,) = BOOLQ.examples([BOOLQ_ROW], "acme/set")
    assert (
        BOOLQ.with_shots([yes])
        .options(BOOLQ.with_shots([yes]).examples([BOOLQ_ROW], "x")[0])[0]
        .count("Answer: yes\n\n")
        == 1
    )


def test_examples_before_a_program() -> None:
    (shot,) = MBPP.examples([MBPP_ROW], "acme/set")
    assert (
        MBPP.with_shots([shot])
        .prompt("Add.")
        .startswith(f"{shot.prompt}def add(a, b):\n    return a + b\n[DONE]\n\nYou are")
    )


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}user : {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def test_a_base_model_has_no_template(tokenizer: Any) -> None:
    assert GSM8K.for_model(tokenizer) is GSM8K
    assert GSM8K.prompt_for("1 + 1?", tokenizer) == GSM8K.prompt("1 + 1?")


@pytest.mark.parametrize("task", [GSM8K, ARC_EASY, PIQA, BOOLQ, MBPP], ids=lambda task: task.name)
def test_a_chat_model_is_asked_in_its_template(task: Task, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE)
    chat = task.for_model(tokenizer)
    assert chat.prompt("X") == f"<s>user : {task.prompt('X')} assistant :" == task.prompt_for("X", tokenizer)
    row = {"gsm8k": GSM8K_ROW, "arc_easy": ARC_ROW, "piqa": PIQA_ROW, "boolq": BOOLQ_ROW, "mbpp": MBPP_ROW}[task.name]
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


def test_the_beginning_of_a_text_is_not_written_twice(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", TEMPLATE)

    class Beginning:  # a tokenizer that begins every text, as Llama's does
        chat_template, bos_token, bos_token_id = TEMPLATE, tokenizer.bos_token, tokenizer.bos_token_id
        apply_chat_template, eos_token = tokenizer.apply_chat_template, tokenizer.eos_token

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [self.bos_token_id, *tokenizer(text)["input_ids"]]}

    beginning = Beginning()
    task = GSM8K.for_model(beginning)
    ids, _ = encode(beginning, task.prompt("what is 1 + 1 ?"), " 2")
    assert ids.count(tokenizer.bos_token_id) == 1


WRONG: list[tuple[Task, dict[str, Any], str]] = [
    (ARC_EASY, {**ARC_ROW, "answerKey": "D"}, r"set: row 0: the answer 'D' is none of the labels 1, 2, 3"),
    (ARC_EASY, {**ARC_ROW, "choices": "A. x"}, r"set: row 0: expected choices with text and label, found 'A. x'"),
    (ARC_EASY, {"question": "q", "answerKey": "A"}, r"needs the columns 'question', 'answerKey' and 'choices', found"),
    (PIQA, {**PIQA_ROW, "label": -1}, r"set: row 0: the label -1 is neither 0 nor 1; the test split has no answers"),
    (BOOLQ, {**BOOLQ_ROW, "answer": "perhaps"}, r"set: row 0: expected the answer true or false, found 'perhaps'"),
    (MBPP, {**MBPP_ROW, "test_list": []}, r"set: row 0: expected a list of tests, found \[\]"),
    (MBPP, {**MBPP_ROW, "code": "no program"}, r"set: row 0: no answer in the form of 'mbpp' in 'no program'"),
]


@pytest.mark.parametrize(("task", "row", "message"), WRONG)
def test_rows_in_another_form(task: Task, row: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        task.examples([row], "set")


SHOTS = {
    "options in the question": ("Which is red?\nA. the sky\nB. a rose", "B", ""),
    "options in a row": ("Which is red? A. the sky B. a rose", "B. a rose", ""),
    "framed already": (LETTERED.replace("\nC. grass", ""), "The answer is (B).", ""),
    "by text": ("Which is red?\n(A) the sky\n(B) a rose", "a rose", ""),
    "with reasons": ("Which is red?\nA. the sky\nB. a rose", "The sky is blue. The answer is B.", "The sky is blue."),
}


@pytest.mark.parametrize(("question", "answer", "rationale"), SHOTS.values(), ids=SHOTS)
def test_a_shot_with_options(question: str, answer: str, rationale: str, tmp_path: Path) -> None:
    import json

    from rocket_hub.rows.kshot import load_kshot

    (tmp_path / "k.jsonl").write_text(json.dumps({"question": question, "answer": answer}))
    example = ARC_EASY.example(load_kshot(tmp_path / "k.jsonl")[0])
    assert example.prompt == "Question: Which is red?\nA. the sky\nB. a rose\nAnswer:"
    assert (example.answer, example.choices, example.rationale) == ("B", ("the sky", "a rose"), rationale)
    assert example.completion.split() == [*rationale.split(), "The", "answer", "is", example.completion.split()[-1]]
    assert ARC_EASY.example(example) == replace(example, completion=example.completion)  # once more changes nothing


@pytest.mark.parametrize("name", ["gsm8k", "mbpp", "arc_challenge", "arc_easy", "piqa", "boolq"])
def test_every_task_has_a_recipe(name: str) -> None:
    recipe = Recipe.from_file(Path(__file__).parents[2] / "recipes" / f"{name}.yaml")
    task = get_task(recipe.task)
    assert task.name == name and recipe.evaluate.split in (None, task.split)
    assert recipe.evaluate.dataset is None


def test_tasks_by_name() -> None:
    for task in (GSM8K, MBPP, ARC_CHALLENGE, ARC_EASY, PIQA, BOOLQ):
        assert get_task(task.name) is task
    with pytest.raises(TaskError, match=r"unknown task 'gsm8', did you mean 'gsm8k'\? Known tasks: gsm8k, mbpp, arc_"):
        get_task("gsm8")
    with pytest.raises(TaskError, match=r"unknown task 'sorting' Known tasks: .*; or give the path of a .yaml file"):
        get_task("sorting")
