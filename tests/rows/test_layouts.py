import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.rows.layouts import PAIRS, detect_shape, first_number, is_read, shapes_of, to_prompt_completion
from rocket_hub.rows.values import MAX_CHARACTERS, flat_rows

XY = "q\nA. x\nB. y"
ROWS = [
    ({"prompt": "p", "completion": "c"}, "prompt_completion", ("p", "c")),
    ({"prompt": "p", "response": "c"}, "prompt_completion", ("p", "c")),
    ({"system": "s", "prompt": "p", "response": "c"}, "prompt_completion", ("s\n\np", "c")),
    ({"instruction": "i", "input": "x", "output": "o"}, "alpaca", ("i\n\nx", "o")),
    ({"instruction": "i", "input": "", "output": "o"}, "alpaca", ("i", "o")),
    ({"Instruction": "i", "Response": "o"}, "alpaca", ("i", "o")),
    ({"instruction": "i", "context": "c", "response": "r", "category": "qa"}, "alpaca", ("i\n\nc", "r")),
    ({"definition": "d", "inputs": "x", "targets": "t"}, "alpaca", ("d\n\nx", "t")),
    ({"inputs": "x", "targets": "t"}, "input_output", ("x", "t")),
    ({"input": "x", "target": ["t", "u"]}, "input_output", ("x", "t")),
    ({"question": "q", "answer": "a"}, "question_answer", ("q", "a")),
    ({"question": "q", "answer": "#### 4", "rationale": "2+2"}, "question_answer", ("q", "2+2\n#### 4")),
    ({"question": "q", "answer": 7}, "question_answer", ("q", "7")),
    ({"question": "q", "answer": 1234567.0}, "question_answer", ("q", "1234567")),
    ({"question": "q", "answer": 0.1}, "question_answer", ("q", "0.1")),
    ({"question": "q", "passage": "text", "answer": True}, "question_answer", ("text\n\nq", "yes")),
    ({"question": "q", "passage": "text", "answer": False}, "question_answer", ("text\n\nq", "no")),
    ({"question": "q", "context": "c", "answers": {"text": ["a", "b"], "answer_start": [1, 2]}}, "question_answer",
     ("c\n\nq", "a")),
    ({"Body": "b", "Question": "q", "Equation": "1 + 1", "Answer": 2.0}, "question_answer", ("b\n\nq", "1 + 1\n2")),
    ({"QUESTION": "q", "CONTEXTS": ["c", "d"], "LONG_ANSWER": "why", "final_decision": "no"}, "question_answer",
     ("c\nd\n\nq", "why\nno")),
    ({"question": "q", "solution": "s", "answer": "4"}, "question_answer", ("q", "s\n4")),
    ({"problem": "p", "solution": "s", "answer": "4"}, "question_answer", ("p", "s")),
    ({"query": "q", "response": "r", "type": "x"}, "question_answer", ("q", "r")),
    ({"text": "sum", "code": "def f", "test_list": ["assert f()", "assert g()"]}, "code",
     ("sum\nassert f()\nassert g()", "def f")),
    ({"task_id": 1, "prompt": "def f():", "canonical_solution": "return", "test": "t"}, "code", ("def f():", "return")),
    ({"text": "good film", "label": "positive"}, "text_label", ("good film", "positive")),
    ({"premise": "p", "hypothesis": "h", "label": "neutral"}, "text_label", ("p\nh", "neutral")),
    ({"messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "more"}]}, "messages", ("s\n\nu", "a")),
    ({"prompt": "u", "messages": [{"role": "user", "content": [{"type": "text", "text": "u"}, "v"]},
                                  {"role": "assistant", "content": "a"}]}, "messages", ("u\nv", "a")),
    ({"conversations": [{"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}]}, "sharegpt", ("h", "g")),
    ({"dialog": ["hello ", "hi", "bye"]}, "dialogue", ("hello", "hi")),
    ({"dialogue": [{"speaker": "Ann", "text": "a"}, {"speaker": "Ann", "text": "b"}, {"speaker": "Bob", "text": "c"}]},
     "dialogue", ("a\n\nb", "c")),
    ({"dialogs": [["a", "b"], ["c", "d"]]}, "dialogue", ("a", "b")),
    ({"conversation": [{"human": "a", "assistant": "b"}]}, "dialogue", ("a", "b")),
    ({"conversation": {"turns": [{"content": "a"}, {"content": "b"}]}}, "dialogue", ("a", "b")),
    ({"turns": [{"user": "a", "assistant": "b"}]}, "dialogue", ("a", "b")),
    ({"chat": {"user": "a", "assistant": "b"}}, "dialogue", ("a", "b")),
    ({"message_tree_id": "1", "prompt": {"text": "a", "role": "prompter", "replies": [{"text": "b"}, {"text": "c"}]}},
     "messages", ("a", "b")),
]  # fmt: skip
CHOICES = [
    ({"question": "q", "choices": ["x", "y"], "answer": 1}, (XY, "B. y")),
    ({"question": "q", "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answerKey": "3"},
     (XY + "\nC. z", "C. z")),
    ({"question": "q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "A"}, (XY, "A. x")),
    ({"question": "q", "options": ["A)x", "B)y"], "correct": "A", "rationale": "because"}, (XY, "because\nA. x")),
    ({"question": "q", "options": ["made of DNA.", "A. Smith"], "answer": 0},
     ("q\nA. made of DNA.\nB. A. Smith", "A. made of DNA.")),
    ({"question": "q", "choices": ["Ne.", "K."], "answer": "A"}, ("q\nA. Ne.\nB. K.", "A. Ne.")),
    ({"question": "q", "options": {"A": "x", "B": "y"}, "answer": "y"}, (XY, "B. y")),
    ({"question": "q", "options": {"A": "x", "B": "y"}, "answer": "x", "answer_idx": "B"}, (XY, "A. x")),
    ({"question": "q", "A": "x", "B": "y", "answer": "B"}, (XY, "B. y")),
    ({"question": "q", "opa": "x", "opb": "y", "cop": 0}, (XY, "A. x")),
    ({"sentence": "q", "option1": "x", "option2": "y", "answer": "y"}, (XY, "B. y")),
    ({"goal": "q", "sol1": "x", "sol2": "y", "label": 0}, (XY, "A. x")),
    ({"question": "q", "choice_a": "x", "choice_b": "y", "answer": "(b)"}, (XY, "B. y")),
    ({"context": "c", "question": "q", "ans0": "x", "ans1": "y", "label": 1}, ("c\n\n" + XY, "B. y")),
    ({"context": "c", "question": "q", "answerA": "x", "answerB": "y", "label": "B"}, ("c\n\n" + XY, "B. y")),
    ({"ctx": "q", "endings": ["x", "y"], "label": "1"}, (XY, "B. y")),
    ({"article": "c", "question": "q", "options": ["x", "y"], "answer": "A"}, ("c\n\n" + XY, "A. x")),
    ({"question": "q", "choices": ["x", "y"], "labels": [0, 1]}, (XY, "B. y")),
    ({"question": "q", "choices": ["x", "y"], "answer": ["B"]}, (XY, "B. y")),
    ({"question": "q", "choices": ["x", "y"], "answer": "B. y"}, (XY, "B. y")),
    ({"Problem": "q", "Rationale": "why", "options": "a ) x , b ) y", "correct": "b"}, (XY, "why\nB. y")),
    ({"answerKey": "B", "question": {"stem": "q", "choices": [
        {"label": "A", "text": "x"}, {"label": "B", "text": "y"}]}}, (XY, "B. y")),
    ({"question": "q", "choices": ["2", "4"], "answer": "4"}, ("q\nA. 2\nB. 4", "B. 4")),
]  # fmt: skip


@pytest.mark.parametrize(("row", "shape", "expected"), ROWS + [(row, "multiple_choice", pair) for row, pair in CHOICES])
def test_a_row_of_each_shape_becomes_prompt_and_completion(row, shape, expected):
    (flat,) = flat_rows(json.loads(json.dumps(row)))
    assert detect_shape([flat]) == shape
    assert to_prompt_completion(shape, flat) == expected
    assert all(is_read(column) for column in row if column.lower() not in
               ("type", "category", "task_id", "test", "answer_start", "message_tree_id"))  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "row"),
    [
        ("prompt_completion", {"prompt": "  ", "completion": "c"}),
        ("prompt_completion", {"prompt": "p", "completion": None}),
        ("prompt_completion", {"prompt": "p", "completion": "half a character \ud83d"}),
        ("prompt_completion", {"prompt": "p" * MAX_CHARACTERS, "completion": "c"}),
        ("question_answer", {"question": "q", "answer": {"spans": ["a"]}}),
        ("question_answer", {"question": "q", "answer": float("nan")}),
        ("question_answer", {"question": "q", "answers": {"text": []}}),
        ("question_answer", {"question": "q", "answer": ["one part", "another"]}),
        ("question_answer", {"question": "q", "answer": "a", "context": ["long " * 100] * 10_000}),
        ("messages", {"messages": [{"role": "user", "content": "no answer"}]}),
        ("messages", {"messages": [{"role": "assistant", "content": "no question"}]}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
        ("messages", {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "a"}]}),
        ("messages", {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "tool_calls": ["f"]}]}),
        ("messages", {"messages": [{"role": "user", "content": "u"}, {"role": "tool", "content": "t"},
                                   {"role": "assistant", "content": "a"}]}),
        ("messages", {"messages": "text"}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "h"}, {"from": "function_call", "value": "{}"}]}),
        ("multiple_choice", {"question": "q", "choices": ["x", "y"], "answer": -1}),
        ("multiple_choice", {"question": "q", "choices": ["x", "y"], "answer": "Z"}),
        ("multiple_choice", {"question": "q", "choices": ["x", None], "answer": 0}),
        ("multiple_choice", {"question": "q", "choices": ["x", "y"], "labels": [1, 1]}),
        ("multiple_choice", {"question": "q", "choices": ["x"], "answer": 0}),
        ("multiple_choice", {"question": "q", "choices": ["x"] * 27, "answer": 0}),
        ("multiple_choice", {"question": "q", "options": "b ) x , a ) y", "answer": "a"}),
        ("text_label", {"text": "t", "label": 1}),
        ("text_label", {"text": "t", "label": "1"}),
        ("alpaca", {}),
    ],
)  # fmt: skip
def test_a_row_without_prompt_or_completion_gives_none(shape, row):
    assert to_prompt_completion(shape, row) is None


@pytest.mark.parametrize(
    "columns",
    [
        (), ("text",), ("question",), ("image", "label"), ("chosen", "rejected"), ("original", "disfluent"),
        ("ID", "Text", "Pronoun", "A", "A-coref", "B", "B-coref", "URL"), ("id", "explanation"), ("source", "target"),
    ],
)  # fmt: skip
def test_unknown_columns_have_no_shape(columns):
    assert shapes_of(columns) == []
    assert detect_shape([dict.fromkeys(columns, "x")]) is None


def test_a_shape_is_one_in_which_a_row_can_be_read():
    assert detect_shape([{"messages": None, "prompt": "p", "response": "r"}]) == "prompt_completion"
    assert detect_shape([{"prompt": "", "response": "r"}, {"prompt": "p", "response": "r"}]) == "prompt_completion"
    assert detect_shape([{"question": "q", "choices": [], "answer": "a"}]) == "question_answer"
    assert detect_shape([{"text": "t", "label": 1}]) is None
    assert detect_shape([]) is None


def test_numbers_of_classes_become_their_names():
    row, names = {"text": "t", "label": 1}, ("negative", "positive")
    assert detect_shape([row], names) == "text_label"
    assert to_prompt_completion("text_label", row, names) == ("t\n\nOne of: negative, positive.", "positive")
    assert to_prompt_completion("text_label", {"text": "t", "label": 2}, names) is None
    assert to_prompt_completion("text_label", {"text": "t", "label": -1}, names) is None
    many = [f"intent {n}" for n in range(77)]
    assert to_prompt_completion("text_label", {"text": "t", "label": 3}, many) == ("t", "intent 3")
    boolq = {"question": "q", "passage": "p", "label": 0}
    assert to_prompt_completion("text_label", boolq, ("no", "yes")) == ("p\n\nq\n\nOne of: no, yes.", "no")


@pytest.mark.parametrize(
    ("answers", "first"),
    [
        ((0, 1, 2), 0),
        ((1, 2, 3), 1),
        (("1", "2", "3"), 1),
        ((1, 2), 0),
        ((0, 3), 0),
        (("A", "B"), 0),
        ((), 0),
        ((None,), 0),
    ],
)
def test_the_first_number_is_decided_from_the_data(answers, first):
    rows = [{"question": "q", "option1": "x", "option2": "y", "option3": "z", "answer": answer} for answer in answers]
    assert first_number(rows) == first


def test_numbers_that_are_labels_or_texts_say_nothing_about_the_first_number():
    arc = {"question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerkey": "2"}
    numbers = {"question": "1 + 1?", "choices": ["1", "2"], "answer": "2"}
    assert first_number([arc, numbers]) == 0
    assert to_prompt_completion("multiple_choice", arc) == (XY, "B. y")
    assert to_prompt_completion("multiple_choice", numbers) == ("1 + 1?\nA. 1\nB. 2", "B. 2")


def test_numbers_from_one():
    row = {"sentence": "q", "option1": "x", "option2": "y", "answer": "2"}
    assert to_prompt_completion("multiple_choice", row, first=1) == (XY, "B. y")
    assert to_prompt_completion("multiple_choice", row | {"answer": "1"}, first=1) == (XY, "A. x")
    assert to_prompt_completion("multiple_choice", row) is None


def test_rows_inside_of_rows():
    natural = {"Definition": ["d"], "Positive Examples": [{"input": "no"}], "Instances": [
        {"id": 1, "input": "a", "output": ["b", "c"]}, {"id": 2, "input": "e", "output": ["f"]}]}  # fmt: skip
    flat = list(flat_rows(natural))
    assert [to_prompt_completion("alpaca", row) for row in flat] == [("d\n\na", "b"), ("d\n\ne", "f")]
    induced = {
        "metadata": {"n": 2},
        "examples": {"1": {"input": "a", "output": "b"}, "2": {"input": "c", "output": "d"}},
    }
    assert [to_prompt_completion("input_output", row) for row in flat_rows(induced)] == [("a", "b"), ("c", "d")]
    report = {
        "table": {"uid": "7", "table": [["", "2019"], ["sales", "5"]]},
        "paragraphs": [{"uid": "8", "order": 1, "text": "Sales rose."}, {"uid": "9", "order": 2, "text": "So what."}],
        "questions": [{"question": "q", "answer": ["5"], "derivation": "", "scale": ""}],
    }
    (asked,) = flat_rows(report)
    assert to_prompt_completion("question_answer", asked) == (" | 2019\nsales | 5\n\nSales rose.\nSo what.\n\nq", "5")
    assert len(list(flat_rows({"instances": [], "input": "a"}))) == 1
    assert len(list(flat_rows({"examples": ["a", {"input": 1}]}))) == 1


def test_a_value_at_any_depth_is_read_in_bounded_time():
    deep = "text"
    for _ in range(900):
        deep = {"text": [deep]}
    for column in ("question", "context", "answer", "messages", "choices", "instances"):
        row = {"question": "q", "answer": "a", column: deep}
        for flat in flat_rows(row):
            for shape in SHAPES:
                to_prompt_completion(shape, flat)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3)
    | st.sampled_from(["A", "b)", "1", "user", "assistant", "text", "0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.text(max_size=5) | st.sampled_from(["role", "content", "from", "value", "text", "label", "stem", "replies"]),
        inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
SHAPES = ("messages", "sharegpt", "dialogue", "multiple_choice", "text_label", *PAIRS)
NAMES = (
    "messages conversations dialog turns question answer choices options prompt completion instruction input output "
    "label labels text option1 option2 sol1 sol2 A B ans0 ans1 goal code test_list context passage system instances "
    "questions examples definition premise answerKey rationale"
)


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES.split()), anything, max_size=6), st.lists(st.text(max_size=3), max_size=3))
def test_no_row_crashes_and_what_comes_out_is_never_empty(row, names):
    rows = list(flat_rows(row))
    assert rows
    first = first_number(rows)
    shape = detect_shape(rows, names)
    assert shape is None or shape in SHAPES
    for flat in rows:
        for shape in SHAPES:
            pair = to_prompt_completion(shape, flat, names, first=first)
            assert pair is None or all(isinstance(text, str) and text.strip() for text in pair)
            assert pair is None or "".join(pair).encode()
