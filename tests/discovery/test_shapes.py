import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocket_hub.discovery.shapes import detect_shape, to_prompt_completion

ROWS = [
    ({"prompt": "p", "completion": "c"}, "prompt_completion", ("p", "c")),
    ({"prompt": "p", "response": "c"}, "prompt_completion", ("p", "c")),
    ({"instruction": "i", "input": "x", "output": "o"}, "alpaca", ("i\n\nx", "o")),
    ({"instruction": "i", "input": "", "output": "o"}, "alpaca", ("i", "o")),
    ({"Instruction": "i", "Response": "o"}, "alpaca", ("i", "o")),
    ({"question": "q", "answer": "a"}, "question_answer", ("q", "a")),
    ({"question": "q", "answer": "#### 4", "rationale": "2+2"}, "question_answer", ("q", "2+2\n#### 4")),
    ({"question": "q", "answer": 7}, "question_answer", ("q", "7")),
    ({"question": "q", "passage": "text", "answer": True}, "question_answer", ("text\n\nq", "yes")),
    ({"problem": "p", "solution": "s", "answer": "4"}, "question_answer", ("p", "s")),
    ({"query": "q", "response": "r", "type": "x"}, "question_answer", ("q", "r")),
    (
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "u"},
                {"role": "assistant", "content": "a"},
                {"role": "user", "content": "more"},
            ]
        },
        "messages",
        ("s\n\nu", "a"),
    ),
    (
        {"conversations": [{"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}]},
        "sharegpt",
        ("h", "g"),
    ),
    (
        {"question": "q", "choices": ["x", "y"], "answer": 1},
        "multiple_choice",
        ("q\nA. x\nB. y", "B. y"),
    ),
    (
        {"question": "q", "choices": {"text": ["x", "y", "z"], "label": ["1", "2", "3"]}, "answerKey": "3"},
        "multiple_choice",
        ("q\nA. x\nB. y\nC. z", "C. z"),
    ),
    (
        {"question": "q", "options": ["A)21", "B)22"], "correct": "A", "rationale": "because"},
        "multiple_choice",
        ("q\nA. 21\nB. 22", "because\nA. 21"),
    ),
    ({"question": "q", "options": {"A": "x", "B": "y"}, "answer": "y"}, "multiple_choice", ("q\nA. x\nB. y", "B. y")),
]


@pytest.mark.parametrize(("row", "shape", "expected"), ROWS)
def test_a_row_of_each_shape_becomes_prompt_and_completion(row, shape, expected):
    assert detect_shape(row) == shape
    assert to_prompt_completion(shape, row) == expected


@pytest.mark.parametrize(
    ("shape", "row"),
    [
        ("prompt_completion", {"prompt": "  ", "completion": "c"}),
        ("prompt_completion", {"prompt": "p", "completion": None}),
        ("question_answer", {"question": "q", "answer": {"text": ["a"]}}),
        ("messages", {"messages": [{"role": "user", "content": "no answer"}]}),
        ("messages", {"messages": [{"role": "assistant", "content": "no question"}]}),
        ("messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
        ("messages", {"messages": "text"}),
        ("multiple_choice", {"question": "q", "choices": ["x", "y"], "answer": -1}),
        ("multiple_choice", {"question": "q", "choices": ["x", "y"], "answer": "Z"}),
        ("multiple_choice", {"question": "q", "choices": ["x"], "answer": 0}),
        ("alpaca", {}),
    ],
)
def test_a_row_without_prompt_or_completion_gives_none(shape, row):
    assert to_prompt_completion(shape, row) is None


@pytest.mark.parametrize("columns", [(), ("text",), ("question",), ("image", "label"), ("chosen", "rejected")])
def test_unknown_columns_have_no_shape(columns):
    assert detect_shape(columns) is None


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
SHAPES = ("messages", "sharegpt", "multiple_choice", "alpaca", "prompt_completion", "question_answer")
COLUMNS = "messages conversations question answer choices options prompt completion instruction input output label"


@given(st.sampled_from(SHAPES), st.dictionaries(st.sampled_from(COLUMNS.split()), anything))
def test_no_row_crashes_and_what_comes_out_is_never_empty(shape, row):
    detect_shape(row)
    pair = to_prompt_completion(shape, row)
    assert pair is None or all(isinstance(text, str) and text.strip() for text in pair)
