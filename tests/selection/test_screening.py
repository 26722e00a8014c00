import numpy as np
import pytest

from rocket_hub.errors import DatasetError, StorageError
from rocket_hub.records import Example, Rejection
from rocket_hub.selection.filters import Limits
from rocket_hub.selection.screening import Pool, survey
from tests.helping import files_up_to, table

LONG = (
    "A train leaves the station at noon with 120 people on board, and at every stop 15 of them get off while 7 others "
    "get on; how many people are on board after 6 stops?"
)
SHOT = Example(LONG.replace("train", "ferry"), "120 - 6 * 8 = 72", "72")
QUESTION = "Ann has nine red pens and gives two of them to Bob, so how many are left?"


def row(prompt, completion="forty two", source="u/data", index=0):
    return Example(prompt, completion, source=source, index=index)


@pytest.mark.parametrize(("prompt", "completion", "reason"), table("selection/screened.jsonl"))
def test_each_fault_is_named(prompt, completion, reason):
    limits = Limits(max_tokens=100, count_tokens=lambda text: len(text.split()))
    found = survey(
        [row(prompt, completion)], [SHOT], [QUESTION, LONG], limits=limits,
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
    assert [*found.faults.values()] == [Rejection("u/a#0", "empty", "no prompt"),
                                        Rejection("u/b#0", "duplicate_of", "u/data#1"),
                                        Rejection("u/b#3", "empty", "no prompt")]  # fmt: skip
    assert found.counts(np.array(["chosen"])) == {"u/a": {"read": 1, "empty": 1}, "u/data": {"read": 1, "chosen": 1},
                                                  "u/b": {"read": 2, "duplicate_of": 1, "empty": 1}}  # fmt: skip


ROWS = [Example(f"question\n{i} é 漢 \ud800", f"answer {i}\u2028", source="u/data", index=i) for i in range(50)]


def test_rows_come_back_as_they_were_in_any_order_and_as_often_as_wanted(tmp_path):
    with Pool(iter(ROWS), tmp_path / "made") as pool:
        assert len(pool) == 50
        assert list(pool) == ROWS and list(pool) == ROWS
        assert (pool[7], pool[0], pool[-1]) == (ROWS[7], ROWS[0], ROWS[49])
        assert ROWS[20] in pool and pool.index(ROWS[20]) == 20
        for position in (50, -51):
            with pytest.raises(IndexError):
                pool[position]
    with Pool([]) as pool:
        assert list(pool) == []


def test_nothing_is_left_in_the_folder_not_even_while_it_is_in_use(tmp_path):
    with Pool(ROWS, tmp_path) as pool:
        assert list(tmp_path.iterdir()) == []
        assert pool[1] == ROWS[1]


def test_an_error_of_whoever_gives_the_rows_goes_through(tmp_path):
    def rows():
        yield ROWS[0]
        raise DatasetError("unreadable", "cut off")

    with pytest.raises(DatasetError, match="cut off"):
        Pool(rows(), tmp_path)


def test_a_full_disk_is_said(tmp_path):
    with files_up_to(100_000), pytest.raises(StorageError, match="free some space"):
        Pool(ROWS * 200, tmp_path)
