import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.records import Example
from rocket_hub.selection.decontamination import EvaluationIndex, LongTexts, contaminated, neighbours, normalise

LONG = "Tom has 3 apples and buys 4 more apples. How many?"
STORY = (
    "Janet's ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her friends "
    "with four. She sells the remainder at the farmers' market for $2.50 per egg. How much does she make?"
)
SHORT = "Which planet is the largest?"


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


@pytest.mark.parametrize(
    "changed",
    [
        STORY.upper(),
        STORY.replace(" ", "\u00a0 \n"),
        STORY.replace("'", "’").replace("$", "＄"),
        STORY.replace("'", "").replace(".", "").replace("$", ""),
        STORY.replace("'", " ").replace(".", " ").replace("$", " "),
        "".join(chr(ord(c) + 0xFEE0) if c.isalnum() else c for c in STORY),
        STORY.replace("e", "e\u200b"),
    ],
)
def test_how_a_question_is_written_makes_no_difference(changed):
    assert find(STORY, changed).certain and find(STORY, f"Please:\n{changed}\nThanks!").kind == "inside"
    assert find(changed, STORY).certain


def test_signs_inside_words_may_be_lost_or_kept():
    question = "How long is a well-known 120-page book of $3.50?"
    for text in (
        "well known 120 page book of 3 50",
        "wellknown 120page book of 350",
        "well known 120 page book of 350",
    ):
        assert find(question, f"How long is a {text}").kind == "whole"


def test_a_hit_says_what_was_found_and_where():
    hit = find(STORY, f"Question: {STORY}\nAnswer:")
    assert (hit.question, hit.kind, hit.overlap, hit.place, hit.certain) == (STORY, "whole", 1.0, "prompt", True)
    assert find(STORY, f"My teacher said: {STORY} Can you help?").kind == "inside"
    assert find(STORY, "Make up a word problem.", STORY).place == "completion"
    assert find(STORY, "Make up a word problem.", f"Here you are. {STORY}").kind == "inside"


def test_a_long_question_is_found_by_most_of_its_words():
    reworded = STORY.replace("farmers' market", "village shop").replace("makes", "earns")
    hit = find(STORY, reworded)
    assert hit.kind == "ngrams" and 0.7 <= hit.overlap < 1 and hit.certain
    assert find(STORY, " ".join(STORY.split()[:20])) is None
    # In a short one a word is often the whole difference.
    cube, cone = (f"Write a function to find the lateral surface area of a {it}." for it in ("cube", "cone"))
    assert find(cube, cone) is None


def test_other_numbers_are_only_reported():
    hit = find(STORY, STORY.replace("16", "120").replace("three", "5").replace("2.50", "1"))
    assert hit.kind == "numbers_changed" and hit.overlap == 1 and not hit.certain
    asked = "Write a function to check whether the given month number contains {} days or not."
    assert find(asked.format(31), asked.format("twenty")).kind == "numbers_changed"
    assert contaminated(rows(asked.format(30)), [asked.format(31)]) == {}
    assert find("What is 3 + 4 + 5 + 6 + 7 + 8 + 9?", "What is 5 + 4 + 5 + 6 + 2 + 8 + 1?") is None


def test_a_certain_hit_comes_before_one_for_review():
    asked = "Write a function to check whether the given month number contains {} days or not."
    hit = find(asked.format(31), asked.format(30), asked.format(31))
    assert hit.certain and hit.place == "completion"


def test_a_short_question_stands_between_ends():
    for prompt in (
        f"Question: {SHORT}\nAnswer:",
        f"Here is one. {SHORT} I do not know.",
        "he asked me “which planet is the largest” and left",
        "which planet is the largest\nA. Mars\nB. Jupiter",
        "(Which planet is the largest)",
    ):
        assert find(SHORT, prompt).certain, prompt
    assert find(SHORT, "Tell me which planet is the largest one") is None
    assert find(SHORT, "Make up a quiz question.", SHORT).place == "completion"
    assert find("How to dance? Slowly.", "1. How to dance? Slowly. 2. How to sing?").kind == "inside"


def test_one_or_two_words_count_only_as_the_whole_prompt():
    for prompt in ("rubber band", "Question: Rubber band.\nAnswer:", "Rubber band\n(A) a ring\n(B) an orchestra"):
        assert find("Rubber band", prompt).kind == "whole", prompt
    assert find("Rubber band", "What is this?\nRubber band\nAnswer:") is None
    assert find("Rubber band", "What is elastic?", "rubber band") is None
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
