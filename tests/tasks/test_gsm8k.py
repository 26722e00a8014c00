"""GSM8K as lm-evaluation-harness has it: the prompt, the completion, the number that is compared."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocket_hub.errors import TaskError
from rocket_hub.records import Example
from rocket_hub.rows.kshot import load_kshot
from rocket_hub.tasks import GSM8K
from tests.helping import table


@pytest.mark.parametrize("row", table("tasks/sloppy/gsm8k_marked.jsonl"), ids=lambda row: row["text"])
def test_the_marked_number(row):
    assert GSM8K.extract(row["text"]) == row["answer"]


@given(st.integers(-(10**9), 10**9), st.sampled_from(["{}", "{:,}", "{}.0", "{:,}.00"]))
def test_all_ways_to_write_a_number_agree(number, form):
    assert GSM8K.extract(f"reasons #### {form.format(number)}") == str(number)


@given(st.text(max_size=60))
def test_any_text_can_be_read(text):
    answer = GSM8K.extract(f"#### {text}")
    assert GSM8K.extract(f"#### {answer}") == answer  # what is compared is in the compared form already


def test_prompt_and_completion():
    assert GSM8K.prompt("What is 1 + 1?") == "Question: What is 1 + 1?\nAnswer:"
    assert GSM8K.completion("1 + 1 = 2.", "2") == "1 + 1 = 2.\n#### 2"
    assert GSM8K.completion("", "2") == "#### 2"


def shot(row, tmp_path):
    (tmp_path / "k.jsonl").write_text(row)
    return GSM8K.example(load_kshot(tmp_path / "k.jsonl")[0])


SHOTS = {
    "in one text": '{"question": " 1 + 1? ", "answer": "1 + 1 = 2. #### 2"}',
    "own rationale": '{"question": "1 + 1?", "answer": "2", "rationale": "1 + 1 = 2."}',
    "own rationale, marked answer": '{"question": "1 + 1?", "answer": "#### 2", "rationale": "1 + 1 = 2."}',
    "answer in words": '{"question": "1 + 1?", "answer": "1 + 1 = 2. The answer is 2"}',
}


@pytest.mark.parametrize("row", SHOTS.values(), ids=SHOTS)
def test_a_shot_in_the_tasks_form(row, tmp_path):
    example = shot(row, tmp_path)
    assert example.prompt == "Question: 1 + 1?\nAnswer:"
    assert example.completion.split() == ["1", "+", "1", "=", "2.", "####", "2"]
    assert example.completion.startswith(" ")
    assert (example.answer, example.rationale) == ("2", "1 + 1 = 2.")


@pytest.mark.parametrize("answer", ["1000 + 234 = 1,234. #### 1,234", "half of 9 is 4.50. #### 4.50", "3. #### 3"])
def test_the_rationale_of_a_problem_ends_before_its_mark(answer):
    (example,) = GSM8K.examples([{"question": "q", "answer": answer}], "set")
    assert example.rationale == answer.partition("####")[0].strip()


def test_an_unanswered_text_has_no_answer():
    example = GSM8K.example(Example("Who?", "Nobody.", ""))
    assert (example.answer, example.completion) == ("", " Nobody.")


def test_problems_of_an_evaluation_set():
    rows = [{"question": "1 + 1?", "answer": "1 + 1 = 2\n#### 2", "more": 0}, {"question": "3?", "answer": 3}]
    one, other = GSM8K.examples(rows, "acme/set")
    assert (one.prompt, one.completion, one.answer) == (
        "Question: 1 + 1?\nAnswer:", " 1 + 1 = 2\n#### 2", "2",
    )  # fmt: skip
    assert (other.completion, other.answer) == (" #### 3", "3")


WRONG = [
    ({"q": "1?", "a": "1"}, r"acme/set: row 1: .*'gsm8k' needs the columns 'question' and 'answer', found q, a"),
    ({"question": "1?", "answer": "one"}, r"acme/set: row 1: no answer in the form of 'gsm8k' in 'one'"),
]


@pytest.mark.parametrize(("row", "message"), WRONG)
def test_an_evaluation_set_in_another_form(row, message):
    with pytest.raises(TaskError, match=message):
        GSM8K.examples([{"question": "1?", "answer": "#### 1"}, row], "acme/set")


def test_another_evaluation_set():
    assert GSM8K.at(None, None) is GSM8K
    moved = GSM8K.at("acme/set", "easy")
    assert (moved.dataset, moved.config, moved.name) == ("acme/set", "easy", "gsm8k")
