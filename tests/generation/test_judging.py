"""Judgements are read strictly: whatever is not the JSON that was asked for is none."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.generation.prompts import Judgement, read_judgement

RIGHT = '{"correct": true, "advice": ""}'
WRONG = '{"correct": false, "advice": "carry the one"}'


def test_what_was_asked_for_is_read() -> None:
    assert read_judgement(RIGHT) == Judgement(True)
    assert read_judgement(f" \n{WRONG}\n") == Judgement(False, "carry the one")
    assert read_judgement(f"```json\n{WRONG}\n```") == Judgement(False, "carry the one")
    assert read_judgement('{"correct": true, "advice": "well done"}') == Judgement(True)


@pytest.mark.parametrize(
    "text",
    [
        "", "Correct", "Correctness: 3/10", "Correct the second step", "true", "null", "[]", "{}", '{"correct": true}',
        '{"correct": "true", "advice": ""}', '{"correct": 1, "advice": ""}', '{"correct": true, "advice": null}',
        '{"correct": true, "advice": "", "score": 10}', '{"correct": false, "advice": " "}',
        '{"correct": false, "correct": true, "advice": "x"}', f"Sure! {RIGHT}", f"{RIGHT} {RIGHT}", f"{WRONG}\n{RIGHT}",
        f"```json\n{RIGHT}\n``` and more", f"```\n{RIGHT}", "{" * 100_000, "[" * 100_000,
        '{"correct": false, "advice": "' + "x" * 5_000 + '"}', '{"correct": NaN, "advice": ""}',
        'The answer says {"correct": true, "advice": ""} but it is wrong',
    ],
)  # fmt: skip
def test_anything_else_is_no_judgement(text: str) -> None:
    assert read_judgement(text) is None


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80) | st.recursive(st.none() | st.booleans() | st.text(max_size=9), st.lists).map(json.dumps))
def test_nothing_breaks_the_reader(text: str) -> None:
    assert read_judgement(text) is None or text.strip().startswith(("{", "```"))
