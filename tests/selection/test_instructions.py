import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from rocket_hub.encoder import RETRIEVAL_PREFIX, load_encoder
from rocket_hub.errors import InputError, NothingLeftError
from rocket_hub.options import InstructionOptions
from rocket_hub.records import Example, Row
from rocket_hub.selection.instructions import select_instructions


class WordCounts:
    """An encoder that can be followed by hand: one dimension a word, in order of first sight."""

    def __init__(self):
        self.words = {}
        self.texts = []

    def encode(self, texts):
        self.texts += texts
        vectors = np.zeros((len(texts), 500), dtype=np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in re.findall(r"\w+", text.removeprefix(RETRIEVAL_PREFIX)):
                vector[self.words.setdefault(word, len(self.words))] += 1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


SHOTS = [Example("add apples and pears", "first second sum", "sum"), Example("take coins away", "rest", "rest")]


def rows(*texts, source="u/data"):
    return [Row(*text.split(" | "), source, i) for i, text in enumerate(texts)]


def select(pool, questions=(), **options):
    return select_instructions(WordCounts(), SHOTS, pool, InstructionOptions(**options), evaluation_questions=questions)


def names(selection):
    return [row.index for row in selection.selected]


def test_rows_come_in_the_order_of_their_largest_similarity_to_any_shot():
    pool = rows("sing a song | la", "take coins now | rest", "add apples and plums | first second sum", "x | y")
    selection = select(pool)
    assert names(selection) == [2, 1, 0, 3]
    assert selection.scores == pytest.approx((6 / 7, 3 / 4, 0, 0))
    assert selection.considered == 4 and selection.per_source == {"u/data": 4} and not selection.rejected


def test_prompt_and_completion_are_encoded_behind_the_papers_prefix():
    encoder = WordCounts()
    select_instructions(encoder, SHOTS, rows("p q | r"), InstructionOptions())
    assert encoder.texts[0] == f"{RETRIEVAL_PREFIX}p q\nr"
    assert encoder.texts[1] == f"{RETRIEVAL_PREFIX}add apples and pears\nfirst second sum"


def test_of_two_near_duplicates_the_one_nearer_to_the_kshot_stays_and_the_next_row_takes_the_place():
    pool = rows(
        "one two three four five six seven eight nine ten add zz | q",
        "one two three four five six seven eight nine ten add apples | q",
        "take a pen | now",
        "far off | text",
    )
    selection = select(pool, max_rows=2)
    assert names(selection) == [2, 1] and selection.considered == 4
    selection = select(pool, max_rows=3)
    assert names(selection) == [2, 1, 3]
    assert [(r.item, r.reason, r.detail) for r in selection.rejected] == [("u/data#0", "near_duplicate_of", "u/data#1")]


def test_rows_that_may_not_be_taken_are_named_with_their_reason():
    question = "Ann has nine red pens and gives two of them to Bob."
    pool = [
        *rows(f"Solve: {question} | 7", "Add apples and pears! | other words", "same | text", "same | text"),
        *rows("same | text", "other | text", source="u/more"),
    ]
    selection = select(pool, [question])
    assert [(r.item, r.reason) for r in selection.rejected] == [
        ("u/data#0", "contaminated"),
        ("u/data#1", "duplicate_of_kshot"),
        ("u/data#3", "duplicate_of"),
        ("u/more#0", "duplicate_of"),
    ]
    assert selection.rejected[0].detail == question and selection.rejected[3].detail == "u/data#2"
    assert selection.considered == 2 and selection.per_source == {"u/data": 1, "u/more": 1}


def test_the_least_similarity_is_a_limit_and_nothing_left_says_why():
    pool = rows("take coins | rest", "x | y", "same | text", "same | text")
    assert names(select(pool, min_similarity=0.5)) == [0]
    with pytest.raises(NothingLeftError, match=r"4 rows \(1 duplicate_of; 3 below instructions.min_similarity 0.99"):
        select(pool, min_similarity=0.99)
    with pytest.raises(NothingLeftError, match="0 rows"):
        select([])
    with pytest.raises(InputError, match="K-shot is empty"):
        select_instructions(WordCounts(), [], pool, InstructionOptions())


def test_equal_similarity_keeps_the_order_of_the_rows():
    pool = rows(*(f"word{i} | text{i}" for i in range(200)))
    assert names(select(pool, max_rows=150)) == list(range(150))


@pytest.mark.slow
def test_a_real_encoder_finds_the_sums_among_other_text(shared_data):
    folder = shared_data / "instructions"
    pool = [
        Row(row["instruction"], row["output"], name, i)
        for name in ("aqua_rat", "gpteacher_roleplay")
        for i, row in enumerate(pq.read_table(folder / f"{name}.parquet").slice(0, 150).to_pylist())
    ]
    shots = [
        Example("A train runs 60 km in 2 hours. How fast is it?", "60 / 2 = 30 km per hour. #### 30", "30"),
        Example("Ann buys 3 pens at $2 each. What does she pay?", "3 * 2 = 6 #### 6", "6"),
    ]
    encoder = load_encoder(str(shared_data / "models" / "potion-base-4m"), None)
    options = InstructionOptions(max_rows=80)
    selection = select_instructions(encoder, shots, pool, options)
    assert len(selection.selected) == 80 and selection.per_source["aqua_rat"] >= 72
    assert list(selection.scores) == sorted(selection.scores, reverse=True)
    assert select_instructions(encoder, shots, pool, options) == selection
