import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rocket_hub.rows.layouts import PAIRS, detect_shape, first_number, is_read, shapes_of, to_prompt_completion
from rocket_hub.rows.values import MAX_CHARACTERS, flat_rows
from tests.helping import table

TABLE = table("rows/layouts.jsonl")
READ, NOTHING = ([case for case in TABLE if bool(case["expected"]) == read] for read in (True, False))


@pytest.mark.parametrize("case", READ, ids=str)
def test_a_row_of_each_shape_becomes_prompt_and_completion(case):
    row, shape = case["row"], case["shape"]
    (flat,) = flat_rows(row)
    assert detect_shape([flat]) == shape
    assert to_prompt_completion(shape, flat) == tuple(case["expected"])
    assert all(is_read(column) for column in row if column.lower() not in
               ("type", "category", "task_id", "test", "answer_start", "message_tree_id"))  # fmt: skip


LONG = [
    {"row": {"prompt": "p" * MAX_CHARACTERS, "completion": "c"}, "shape": "prompt_completion"},
    {"row": {"question": "q", "answer": "a", "context": ["long " * 100] * 10_000}, "shape": "question_answer"},
]


@pytest.mark.parametrize("case", [*NOTHING, *LONG])
def test_a_row_without_prompt_or_completion_gives_none(case):
    assert to_prompt_completion(case["shape"], case["row"]) is None


@pytest.mark.parametrize("columns", table("rows/unknown_columns.jsonl"))
def test_unknown_columns_have_no_shape(columns):
    assert shapes_of(columns) == []
    assert detect_shape([dict.fromkeys(columns, "x")]) is None


def test_a_shape_is_one_in_which_a_row_can_be_read():
    assert detect_shape([{"messages": None, "prompt": "p", "response": "r"}]) == "prompt_completion"
    assert detect_shape([{"prompt": "", "response": "r"}, {"prompt": "p", "response": "r"}]) == "prompt_completion"
    assert detect_shape([{"question": "q", "choices": [], "answer": "a"}]) == "question_answer"
    assert detect_shape([{"text": "t", "label": 1}]) is None
    assert detect_shape([]) is None


@pytest.mark.parametrize("case", table("rows/told_layouts.jsonl"), ids=str)
def test_names_of_classes_and_the_first_number_are_told(case):
    options = {"first": case["first"]} if "first" in case else {}
    found = to_prompt_completion(case["shape"], case["row"], case.get("names", ()), **options)
    assert found == (case["expected"] and tuple(case["expected"]))


def test_named_classes_are_a_shape():
    assert detect_shape([{"text": "t", "label": 1}], ("negative", "positive")) == "text_label"


@pytest.mark.parametrize(("answers", "first"), table("rows/first_numbers.jsonl"))
def test_the_first_number_is_decided_from_the_data(answers, first):
    rows = [{"question": "q", "option1": "x", "option2": "y", "option3": "z", "answer": answer} for answer in answers]
    assert first_number(rows) == first


def test_numbers_that_are_labels_or_texts_say_nothing_about_the_first_number():
    arc = {"question": "q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerkey": "2"}
    assert first_number([arc, {"question": "1 + 1?", "choices": ["1", "2"], "answer": "2"}]) == 0


@pytest.mark.parametrize("case", table("rows/inner_rows.jsonl"), ids=lambda case: case["shape"])
def test_rows_inside_of_rows(case):
    found = [to_prompt_completion(case["shape"], row) for row in flat_rows(case["row"])]
    assert found == [tuple(pair) for pair in case["expected"]]


def test_what_looks_like_rows_inside_of_rows():
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
@example({"choices": "0"}, [])  # a text without letters is no list of options
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
