import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from rocket_hub.errors import InputError, NothingLeftError, RecipeError
from rocket_hub.inference.models import RETRIEVAL_PREFIX, DeferredEncoder
from rocket_hub.options import InstructionOptions
from rocket_hub.recipe import Recipe
from rocket_hub.records import Example, Rejection
from rocket_hub.selection.instructions import select_instructions


class WordCounts:
    """An encoder that can be followed by hand: one dimension a word, in order of first sight."""

    def __init__(self):
        self.words = {}
        self.texts = []

    def encode(self, texts):
        self.texts += texts
        vectors = np.zeros((len(texts), 800), dtype=np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in re.findall(r"\w+", text.removeprefix(RETRIEVAL_PREFIX)):
                vector[self.words.setdefault(word, len(self.words))] += 1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


SHOTS = [Example("add apples and pears", "first second sum", "sum"), Example("take coins away", "rest", "rest")]


def rows(*texts, source="u/data"):
    return [Example(*text.split(" | "), source=source, index=i) for i, text in enumerate(texts)]


def select(pool, questions=(), **options):
    return select_instructions(WordCounts(), SHOTS, pool, InstructionOptions(**options), evaluation_questions=questions)


def names(selection):
    return [row.index for row in selection.selected]


def accounted(selection):
    """Whether every row of every data set became something."""
    return all(count["read"] == sum(count.values()) - count["read"] for count in selection.counts.values())


def test_rows_come_in_the_order_of_their_largest_similarity_to_any_shot():
    pool = rows("sing a song | la", "take coins now | rest", "add apples and plums | first second sum", "x | y")
    selection = select(pool)
    assert names(selection) == [2, 1, 0, 3]
    assert selection.scores == pytest.approx((6 / 7, 3 / 4, 0, 0))
    assert selection.considered == 4 and selection.per_source == {"u/data": 4} and not selection.rejected


def test_prompt_and_completion_are_encoded_behind_the_papers_prefix():
    encoder = WordCounts()
    pool = [Example(" p q ", "r\ud800 ", source="u/data", index=0)]
    select_instructions(encoder, [*SHOTS, Example("long", "x " * 40_000, "x")], pool, InstructionOptions())
    assert f"{RETRIEVAL_PREFIX}p q\nr?" in encoder.texts
    assert f"{RETRIEVAL_PREFIX}add apples and pears\nfirst second sum" in encoder.texts
    assert max(map(len, encoder.texts)) == 32_768


def test_of_two_near_duplicates_the_one_nearer_to_the_kshot_stays_and_the_next_row_takes_the_place():
    count = "one two three four five six seven eight nine ten add"
    pool = rows(f"{count} zz | q", f"{count} apples | q", "take a pen | now", "far off | text")
    selection = select(pool, max_rows=2)
    assert names(selection) == [2, 1] and selection.considered == 4
    selection = select(pool, max_rows=3)
    assert names(selection) == [2, 1, 3]
    assert [*selection.rejected] == [Rejection("u/data#0", "near_duplicate_of", "u/data#1")]


@pytest.mark.parametrize("option", ["similarity: most", "max_tokens: 0", "kde_gamma: 0"])
def test_a_recipe_with_an_impossible_option_is_refused_at_once(option):
    key = option.split(":")[0]
    with pytest.raises(RecipeError, match=rf"r.yaml: instructions.{key}: expected"):
        Recipe.from_yaml(f"task: gsm8k\nbase: u/base\ninstructions: {{{option}}}\n", "r.yaml")


@pytest.mark.parametrize("mode", ["mean", "kde", "round_robin"])
def test_the_other_ways_to_compare_are_asked_for_by_name(mode):
    pool = rows("sing a song | la", "take coins now | rest", "add apples and plums | first second sum", "x | y")
    assert names(select(pool, similarity=mode))[:2] == [2, 1]
    with pytest.raises(InputError, match="expected one of max, mean"):
        select(pool, similarity=mode.upper())


def test_every_row_is_accounted_for():
    pool = [
        *rows("add apples | sum", "add apples | sum", "Add apples and pears | no", "take coins away | rest"),
        *rows("add apples now | sum", "zz | yy", "take all coins | rest", "bad | row", source="u/more"),
    ]
    found = select_instructions(
        WordCounts(), SHOTS, iter(pool), InstructionOptions(max_rows=3, min_similarity=0.1, threshold=0.8),
        refuse=lambda row: "without_answer" if row.prompt == "bad" else "",
    )  # fmt: skip
    assert found.counts == {
        "u/data": {"read": 4, "chosen": 1, "duplicate_of": 1, "duplicate_of_kshot": 2},
        "u/more": {
            "read": 4, "chosen": 1, "near_duplicate_of": 1, "below_min_similarity": 1, "without_answer": 1,
        },
    }  # fmt: skip
    assert accounted(found) and found.considered == 4
    assert [r.item for r in found.rejected if r.reason == "without_answer"] == ["u/more#3"]
    few = select(pool, max_rows=1)
    assert accounted(few) and few.counts["u/more"]["beyond_budget"] == 3


def test_a_budget_of_tokens_counts_or_estimates():
    sums = "add apples and plums | first second sum"
    pool = rows(sums, "take coins now | rest", "x | y", "add apples | " + "a" * 500)
    counted = select_instructions(
        WordCounts(), SHOTS, pool, InstructionOptions(max_tokens=11), count_tokens=lambda text: len(text.split())
    )
    assert names(counted) == [0, 1] and counted.tokens == 11
    estimated = select(pool, max_tokens=15)
    assert names(estimated) == [0, 1] and estimated.tokens == 10 + 5
    assert [*estimated.rejected] == [Rejection("u/data#3", "over_token_budget", "max_tokens is 15")]
    assert accounted(estimated) and select(pool).tokens == 0


def test_rows_may_come_as_a_stream_and_vectors_are_kept(tmp_path):
    pool = rows(*(f"word{i} apples | text{i % 7}" for i in range(60)))
    seen, options = [], InstructionOptions(max_rows=20)
    kept = {"cache": tmp_path, "progress": lambda *said: seen.append(said)}
    first = select_instructions(WordCounts(), SHOTS, iter(pool), options, **kept)
    assert first == select(pool, max_rows=20) and seen == [("encoding rows", 60, 60)]
    again = select_instructions(None, SHOTS, iter(pool), options, **kept)
    assert again == first and len(seen) == 1, "an encoder is not needed for what is in the cache"


def test_rows_that_may_not_be_taken_are_named_with_their_reason():
    question = "Ann has nine red pens and gives two of them to Bob."
    pool = [
        *rows(f"Solve: {question} | 7", "Add apples and pears! | other words", "same | text", "same | text"),
        *rows("same | text", "other | text", source="u/more"),
    ]
    selection = select(pool, [question])
    assert {r.item: r.reason for r in selection.rejected} == {
        "u/data#0": "contaminated", "u/data#1": "duplicate_of_kshot", "u/data#3": "duplicate_of",
        "u/more#0": "duplicate_of",
    }  # fmt: skip
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


def test_chosen_rows_that_may_be_of_the_evaluation_set_are_flagged():
    question = "Ann has nine red pens and gives two of them to Bob, so how many are left?"
    pool = rows(
        "Ann has ten red pens and gives four of them to Bob, so how many are left? | 6",
        "Bob has red pens and gives nine of them to Ann, so how many are left? | 2",
        "sing a song | la",
    )
    found = select(pool, [question])
    assert sorted(names(found)) == [0, 1, 2]
    flagged = {doubt.item: doubt.reason for doubt in found.flagged}
    assert flagged == {"u/data#0": "numbers_changed", "u/data#1": "near_evaluation_question"}
    assert found.flagged[1].detail.startswith("cosine 0.9") and found.flagged[1].detail.endswith(question)
    assert not select(pool).flagged


def test_languages_and_the_longest_row_are_limits():
    german = "Wie viele Äpfel haben wir heute noch auf dem Tisch liegen, wenn jeder von uns einen davon isst? | "
    pool = rows("add apples | sum", german + "Es sind noch drei, denn zwei haben wir gegessen und einer ist nicht da.")
    assert names(select(pool)) == [0] and names(select(pool, languages=())) == [0, 1]
    found = select_instructions(WordCounts(), SHOTS, pool, InstructionOptions(languages=()), longest=10)
    assert [(r.item, r.reason) for r in found.rejected] == [("u/data#1", "too_long")]


@pytest.mark.slow
def test_a_real_encoder_finds_the_sums_among_other_text(shared_data):
    folder = shared_data / "instructions"
    pool = [
        Example(row["instruction"], row["output"], source=name, index=i)
        for name in ("aqua_rat", "gpteacher_roleplay")
        for i, row in enumerate(pq.read_table(folder / f"{name}.parquet").slice(0, 150).to_pylist())
    ]
    shots = [
        Example("A train runs 60 km in 2 hours. How fast is it?", "60 / 2 = 30 km per hour. #### 30", "30"),
        Example("Ann buys 3 pens at $2 each. What does she pay?", "3 * 2 = 6 #### 6", "6"),
    ]
    encoder = DeferredEncoder(str(shared_data / "models" / "potion-base-4m"), None)
    options = InstructionOptions(max_rows=80)
    selection = select_instructions(encoder, shots, pool, options)
    assert len(selection.selected) == 80 and selection.per_source["aqua_rat"] >= 72
    assert list(selection.scores) == sorted(selection.scores, reverse=True)
    assert select_instructions(encoder, shots, pool, options) == selection
