"""One matcher for a task's own data, by every way that lists and cards name it."""

import pytest

from rocket_hub.discovery.known_data import own_data

SAME = (
    "openai/gsm8k", "gsm8k", "GSM8K", "someone/gsm8k-main", "openai-gsm8k", "datasets/openai/gsm8k",
    "https://huggingface.co/datasets/openai/gsm8k", "openai/gsm8k@0123abc", "someone/GSM-8K_train",
)  # fmt: skip
OTHERS = ("u/gsm8k-cot", "gsm", "openai/humaneval", "openai", "main", "", "/", "openai/data")


def test_copies_under_any_usual_name() -> None:
    found = own_data([*OTHERS, *SAME], ["openai/gsm8k"], copies=True)
    assert tuple(found) == SAME and set(found.values()) == {"openai/gsm8k"}
    arc = own_data(["allenai/ai2_arc", "u/AI2-ARC"], {"ai2_arc"}, copies=True)
    assert arc == {"allenai/ai2_arc": "ai2_arc", "u/AI2-ARC": "ai2_arc"}


def test_exact_names() -> None:
    found = own_data([*OTHERS, *SAME], ["openai/gsm8k", "gsm8k"])
    assert found == {"openai/gsm8k": "openai/gsm8k", "gsm8k": "gsm8k", "GSM8K": "gsm8k"}
    assert own_data(["GSM8K"], ["openai/gsm8k"]) == {"GSM8K": "openai/gsm8k"}


@pytest.mark.parametrize("copies", [False, True])
def test_nothing_is_closed_or_named(copies: bool) -> None:
    assert own_data(SAME, [], copies=copies) == own_data([], SAME, copies=copies) == {}
