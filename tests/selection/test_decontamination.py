import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.records import Example
from rocket_hub.selection.decontamination import EvaluationIndex, LongTexts, contaminated, neighbours, normalise
from tests.helping import table

LONG = "Tom has 3 apples and buys 4 more apples. How many?"
STORY = (
    "Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her friends "
    "with four. She sells the remainder at the farmers' market for $2.50 per egg. How much does she make?"
)


def rows(*prompts):
    return [Example(prompt, "completion", source="u/data", index=i) for i, prompt in enumerate(prompts)]


def find(question, prompt, completion="completion"):
    return EvaluationIndex([question]).find(Example(prompt, completion, source="u/data", index=0))


def test_normalise():
    assert normalise("  What's   THIS,\n\tthen?! ") == "what s this then"
    assert normalise("ﬁve_cafés  ½") == "five cafés 1 2"
    assert normalise("1,000.5 co\u00adoperate\u200b") == "10005 cooperate"
    assert normalise("...") == ""


def test_a_long_question_is_found_wherever_it_stands():
    prompts = [
        "Solve this. TOM has 3 apples, and buys 4 more apples -- how many? Explain.",
        LONG,
        "Tom has 3 apples and buys 4 more apples. How much?",
        "Tom has 3 apples and buys 4 more apples. How many",
        "Phantom has 3 apples and buys 4 more apples. How manyfold?",
    ]
    assert contaminated(rows(*prompts), [LONG]) == {0: LONG, 1: LONG, 3: LONG}


@pytest.mark.parametrize("changed", table("selection/rewritten.jsonl"))
def test_how_a_question_is_written_makes_no_difference(changed):
    assert find(STORY, changed).certain and find(STORY, f"Please:\n{changed}\nThanks!").kind == "inside"
    assert find(changed, STORY).certain


@pytest.mark.parametrize("case", table("selection/hits.jsonl"), ids=lambda case: case["rule"])
def test_what_is_a_hit(case):
    hit = find(case["question"], case["prompt"], case.get("completion", "completion"))
    assert (hit and {name: getattr(hit, name) for name in case["hit"] or {"kind": ""}}) == case["hit"]


def test_a_long_question_is_found_by_most_of_its_words():
    reworded = STORY.replace("farmers' market", "village shop").replace("makes", "earns")
    hit = find(STORY, reworded)
    assert hit.kind == "ngrams" and 0.7 <= hit.overlap < 1 and hit.certain


def test_other_numbers_contaminate_nothing():
    asked = "Write a function to check whether the given month number contains {} days or not."
    assert contaminated(rows(asked.format(30)), [asked.format(31)]) == {}


def test_a_question_of_a_word_or_two_or_none():
    found = contaminated(rows("who is he", "Who is he?", "and who is he now?"), ["Who is he?", "", "?!"])
    assert found == dict.fromkeys((0, 1), "Who is he?")


@pytest.mark.parametrize("stem", ["Which of these gases do plants take in from the air?", "Which gas is this?"])
def test_the_form_of_the_options_makes_no_difference(stem):
    options = ("oxygen", "helium", "argon")
    layouts = ["\nA. {}\nB. {}\nC. {}", " (A) {} (B) {} (C) {}", "\nOptions:\n- {}\n- {}\n- {}",
               "\n1) {}\n2) {}\n3) {}", " A) {} B) {} C) {}\nAnswer:", ""]  # fmt: skip
    for asked in layouts:
        for planted in layouts:
            assert find(stem + asked.format(*options), stem + planted.format(*options)), (asked, planted)


def test_questions_that_open_alike_are_told_apart():
    opening = "Read the text and answer the question that follows:"
    questions = [f"{opening} {word}" for word in ("red", "green", "green and blue")]
    assert contaminated(rows(f"Q: {opening} green and blue!", f"{opening} black"), questions) == {0: questions[2]}


def test_nothing_in_nothing():
    assert contaminated([], [LONG]) == {} and contaminated(rows("", "a"), []) == {}
    assert contaminated(rows("", "..."), ["", "..."]) == {}


words = st.lists(st.sampled_from("ab"), max_size=24)


@settings(max_examples=60, deadline=None)
@given(st.lists(words, max_size=4), st.lists(words, max_size=4))
def test_the_rule_is_containment_word_by_word(prompts, questions):
    """Of questions below twenty words, in texts without ends of sentences."""
    questions = [question[:19] for question in questions]

    def holds(prompt, question):
        text, wanted = f" {' '.join(prompt)} ", f" {' '.join(question)} "
        return bool(question) and (text == wanted or (len(question) >= 8 and wanted in text))

    found = contaminated(rows(*(" ".join(p) for p in prompts)), [" ".join(q) for q in questions])
    # "a" alone is a frame, as in "Q: ... A: ..."
    assert {i for i in found if prompts[i] != ["a"]} == {
        i for i, p in enumerate(prompts) if p != ["a"] and any(holds(p, q) for q in questions)
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=8, max_size=60), st.data())
def test_no_share_above_the_threshold_is_missed(numbers, data):
    """Only every third n-gram is remembered; a text that holds seven tenths of them all is found nevertheless."""
    text = [f"w{number}" for number in numbers]
    changed = list(text)
    for place in data.draw(st.lists(st.integers(0, len(text) - 1), max_size=4)):
        changed[place] = "other"
    every, known = ([tuple(words[i : i + 8]) for i in range(len(words) - 7)] for words in (text, changed))
    share = sum(gram in known for gram in every) / len(every)
    held = LongTexts([" ".join(text)], partly_from=8).find(changed)
    assert (held is not None) == (share >= 0.7)
    assert held is None or held.share == share


@pytest.mark.parametrize("precision", [np.float16, np.float32, np.float64])
def test_neighbours(precision, monkeypatch):
    monkeypatch.setattr("rocket_hub.selection.decontamination._BLOCK", 8)  # two rows at a time
    rng = np.random.default_rng(0)
    vectors, questions = (rng.normal(size=(n, 16)) for n in (7, 4))
    vectors[5] = questions[2] + 0.1 * rng.normal(size=16)
    vectors[1] = questions[3]
    vectors, questions = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (vectors, questions))
    found = neighbours(vectors.astype(precision), questions.astype(precision), 0.9)
    assert list(found) == [1, 5] and found[1] == (3, pytest.approx(1, abs=1e-2)) and found[5][0] == 2
    every = neighbours(vectors, questions, -1.0)
    cosines = vectors @ questions.T
    assert {row: question for row, (question, _) in every.items()} == dict(enumerate(cosines.argmax(axis=1)))
    assert neighbours(vectors, questions[:0], -1.0) == neighbours(vectors[:0], questions, -1.0) == {}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["gsm8k", "mbpp", "arc_challenge", "arc_easy"])
def test_planted_questions_are_found_in_real_data(shared_data, task):
    from tests.benchmarks.contamination import BARRED, CHANGES, alarms, read, recall

    problems = read(shared_data, task, "test")
    golds = {problem.question: problem.gold for problem in problems}
    index = EvaluationIndex(golds)
    for kind in BARRED:
        planted, certain, _ = recall(index, problems, CHANGES[kind])
        assert certain >= 0.99 * planted, kind
    training = [
        Example(p.question, p.gold, source=task, index=i) for i, p in enumerate(read(shared_data, task, "train")[:2500])
    ]
    found, _ = alarms(index, training, golds)
    assert sum(not entry.same for entry in found) <= 5
