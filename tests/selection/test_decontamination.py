from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.records import Row
from rocket_hub.selection.decontamination import contaminated, normalise

LONG = "Tom has 3 apples and buys 4 more apples. How many?"


def rows(*prompts):
    return [Row(prompt, "completion", "u/data", i) for i, prompt in enumerate(prompts)]


def test_normalise():
    assert normalise("  What's   THIS,\n\tthen?! ") == "what s this then"
    assert normalise("ﬁve_cafés  ½") == "five cafés 1 2"
    assert normalise("...") == ""


def test_a_long_question_is_found_wherever_it_stands():
    found = contaminated(
        rows(
            "Solve this. TOM has 3 apples, and buys 4 more apples -- how many? Explain.",
            LONG,
            "Tom has 3 apples and buys 4 more apples. How much?",
            "Tom has 3 apples and buys 4 more apples. How many",
            "Phantom has 3 apples and buys 4 more apples. How manyfold?",
        ),
        [LONG],
    )
    assert found == {0: LONG, 1: LONG, 3: LONG}


def test_a_short_question_counts_only_as_the_whole_prompt():
    assert contaminated(rows("who is he", "Who is he?", "and who is he now?"), ["Who is he?", "", "?!"]) == {
        0: "Who is he?",
        1: "Who is he?",
    }


def test_questions_that_open_alike_are_told_apart():
    opening = "Read the text and answer the question that follows:"
    questions = [f"{opening} {word}" for word in ("red", "green", "green and blue")]
    assert contaminated(rows(f"Q: {opening} green and blue!", f"{opening} black"), questions) == {0: questions[1]}


def test_nothing_in_nothing():
    assert contaminated([], [LONG]) == {} and contaminated(rows("", "a"), []) == {}


words = st.lists(st.sampled_from("ab"), max_size=24)


@settings(max_examples=200, deadline=None)
@given(st.lists(words, max_size=4), st.lists(words, max_size=4))
def test_the_rule_is_containment_word_by_word(prompts, questions):
    def holds(prompt, question):
        text, wanted = f" {' '.join(prompt)} ", f" {' '.join(question)} "
        return bool(question) and (text == wanted or (len(question) >= 8 and wanted in text))

    found = contaminated(rows(*(" ".join(p) for p in prompts)), [" ".join(q) for q in questions])
    assert set(found) == {i for i, p in enumerate(prompts) if any(holds(p, q) for q in questions)}
    assert all(holds(prompts[i], question.split()) for i, question in found.items())
