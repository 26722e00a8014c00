import resource

import numpy as np
import pytest

from rocket_hub.records import Example
from rocket_hub.selection import filters
from rocket_hub.selection.decontamination import EvaluationIndex
from rocket_hub.selection.filters import Limits
from rocket_hub.selection.screening import survey

LONG = (
    "A train leaves the station at noon with 120 people on board, and at every stop 15 of them get off while 7 others "
    "get on; how many people are on board after 6 stops?"
)
SHOT = Example(LONG.replace("train", "ferry"), "120 - 6 * 8 = 72", "72")
QUESTION = "Ann has nine red pens and gives two of them to Bob, so how many are left?"


def row(prompt, completion="forty two", source="u/data", index=0):
    return Example(prompt, completion, source=source, index=index)


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (row(f"Solve: {QUESTION.upper()}"), "contaminated"),
        (row(SHOT.prompt), "duplicate_of_kshot"),
        (row(LONG), "contaminated"),
        (row(LONG.replace("120", "240")), "contaminated"),
        (row(SHOT.prompt.replace("120", "240")), None),
        (row("What is this?", "  "), "empty"),
        (row("What is this?", "I'm sorry, but I can't help with that."), "refusal"),
        (row("What is this?", "word " * 200), "too_long"),
        (row("refused"), "not_wanted"),
        (row("What is this?", "A pen."), None),
    ],
)
def test_each_fault_is_named(candidate, reason):
    limits = Limits(max_tokens=100, count_tokens=lambda text: len(text.split()))
    found = survey(
        [candidate], [SHOT], [QUESTION, LONG], limits=limits,
        refuse=lambda row: "not_wanted" if row.prompt == "refused" else "",
    )  # fmt: skip
    assert [fault.reason for fault in found.faults.values()] == ([reason] if reason else [])
    assert found.usable.tolist() == ([] if reason else [0]) and len(found.keys) == len(found.usable)


def test_a_shot_with_other_numbers_does_not_hide_an_evaluation_question():
    both = row(f"{SHOT.prompt.replace('120', '240')} {QUESTION}")
    assert survey([both], [SHOT], [QUESTION]).faults[0].reason == "contaminated"


def test_an_uncertain_hit_is_a_doubt_and_no_fault():
    found = survey([row(QUESTION.replace("nine", "seven"))], [SHOT], [QUESTION])
    assert not found.faults
    assert [(doubt.reason, doubt.detail) for doubt in found.doubts.values()] == [("numbers_changed", QUESTION)]


def test_equal_rows_are_found_across_data_sets_and_a_row_with_a_fault_is_nobodys_duplicate():
    rows = [row("", source="u/a"), row("one", index=1), row("ONE ", source="u/b"), row("", source="u/b", index=3)]
    found = survey(iter(rows), [SHOT])
    assert [(fault.item, fault.reason, fault.detail) for fault in found.faults.values()] == [
        ("u/a#0", "empty", "no prompt"),
        ("u/b#0", "duplicate_of", "u/data#1"),
        ("u/b#3", "empty", "no prompt"),
    ]
    assert found.counts(np.array(["chosen"])) == {
        "u/a": {"read": 1, "empty": 1},
        "u/data": {"read": 1, "chosen": 1},
        "u/b": {"read": 2, "duplicate_of": 1, "empty": 1},
    }


def test_rows_that_are_known_to_be_sound_are_not_searched_again(tmp_path, monkeypatch):
    doubtful = row(QUESTION.replace("nine", "seven"), index=2)
    rows = [row("one"), row(QUESTION, index=1), doubtful, row("I", "word " * 9000, index=3), row("one", index=4)]
    first = survey(rows, [SHOT], [QUESTION], folder=tmp_path)
    assert [fault.reason for fault in first.faults.values()] == ["contaminated", "too_long", "duplicate_of"]
    searched = []
    find = EvaluationIndex.find
    monkeypatch.setattr(EvaluationIndex, "find", lambda index, row: searched.append(row) or find(index, row))
    again = survey([*rows, row("new", index=5)], [SHOT], [QUESTION], folder=tmp_path)
    assert (again.faults, again.doubts) == (first.faults, first.doubts)
    assert again.usable.tolist() == [*first.usable, 5] and again.keys[:-1].tolist() == first.keys.tolist()
    assert searched == [rows[1], doubtful, row("new", index=5)]
    searched.clear()
    assert survey(rows, [SHOT], ["One!"], folder=tmp_path).faults[0].reason == "contaminated"
    assert len(searched) == 4, "other questions are other rules"
    searched.clear()
    limits = Limits(max_tokens=1, count_tokens=lambda text: len(text.split()))
    assert survey(rows[:1], [SHOT], [QUESTION], folder=tmp_path, limits=limits).faults[0].reason == "too_long"


def test_other_code_is_other_rules_and_a_full_disk_costs_only_time(tmp_path, monkeypatch):
    survey([row("one")], [SHOT], folder=tmp_path)
    copy = tmp_path / "quality.py"
    copy.write_text("another gate")
    monkeypatch.setattr(filters, "__file__", str(copy))
    survey([row("one")], [SHOT], folder=tmp_path)
    assert len(list(tmp_path.glob("sound-*.rows"))) == 2 and not list(tmp_path.glob(".*"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
    try:
        assert not survey([row("two")], [SHOT], folder=tmp_path / "full").faults
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "full").iterdir()) == []
