"""What is wrong with a text that a model made, and what new questions must look like."""

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.generation.filters import (
    EmbeddingNovelty,
    Lengths,
    RougeNovelty,
    common_with,
    repeats,
    rouge_l,
    text_fault,
    vote_fault,
)
from rocket_hub.generation.questions import QuestionForm, question_prompt, read_question
from rocket_hub.generation.self_specialization import form_fault
from rocket_hub.inference import Continuation
from rocket_hub.records import Example
from rocket_hub.tasks import ARC_EASY, BOOLQ, GSM8K, MBPP
from tests.helping import table

LENGTHS = Lengths.like(["one two three four", " ".join("abcdefghij")])


@pytest.mark.parametrize(("text", "ended", "reason"), table("generation/text_faults.jsonl"))
def test_what_a_text_shows_by_itself(text, ended, reason):
    found = text_fault(Continuation(text, ended), LENGTHS)
    assert (found and found[0]) == reason


def test_worked_steps_are_no_repetition():
    assert not repeats("12 + 30 = 42 . 42 - 20 = 22 . 22 * 2 = 44 . #### 44".split())  # noqa: SIM905
    assert repeats("1 + 1 = 2 . 1 + 1 = 2 . 1 + 1 = 2 . 1 + 1 = 2 .".split())  # noqa: SIM905


def plain_lcs(one, other):
    table = np.zeros((len(one) + 1, len(other) + 1), dtype=int)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    return table[-1, -1]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=70), st.lists(st.sampled_from("abcde"), max_size=70))
def test_the_common_subsequence_is_that_of_the_plain_table(one, other):
    assert common_with(one)(other) == plain_lcs(one, other)


def test_rouge_l_as_published():
    # Lin (2004), 3.1: "police killed the gunman" against two candidates with the same words
    assert rouge_l("police kill the gunman", "police killed the gunman") == pytest.approx(0.75)
    assert rouge_l("the gunman kill police", "police killed the gunman") == pytest.approx(0.5)
    assert rouge_l("The GUNMAN, killed!", "the gunman killed") == 1
    assert rouge_l("", "") == rouge_l("a", "b") == 0


def test_the_nearest_of_many_is_found():
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abcdefg", k=rng.randint(1, 12))) for _ in range(200)]
    novelty = RougeNovelty(texts[:50])
    for text in texts[50:]:
        similarity, nearest = novelty.nearest(text)
        assert similarity == pytest.approx(max(rouge_l(text, known) for known in texts[: texts.index(nearest) + 1]))
        assert similarity == pytest.approx(rouge_l(text, nearest))
        novelty.add(text)


class Letters:
    """An encoder that counts letters."""

    def encode(self, texts):
        counts = np.array([[text.count(letter) for letter in "abcd"] for text in texts], dtype=np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_novelty_by_meaning():
    novelty = EmbeddingNovelty(["aab"], Letters())
    assert novelty.nearest("baa") == (pytest.approx(1), "aab")
    assert novelty.nearest("cd")[0] == 0
    novelty.add("cdd")
    assert novelty.nearest("cd") == (pytest.approx(3 / 10**0.5), "cdd")


@pytest.mark.parametrize(
    ("votes", "sound"),
    [(["7", "7", "8"], True), (["7", "8"], False), (["7", "", ""], False), (["8", "8", "8"], False), (["7"], True)],
)
def test_more_than_half_of_the_votes_decide(votes, sound):
    found = vote_fault("7", votes)
    assert (found is None) == sound
    assert sound or found[0] == "inconsistent"


def test_an_answer_must_be_one_of_the_options():
    example = ARC_EASY.example(Example("Which?\nA. tin\nB. air", "The answer is B.", ""))
    assert form_fault(example) is None and example.answer == "B"
    assert form_fault(replace(example, answer="E"))[0] == "unparsable"
    assert form_fault(ARC_EASY.example(Example("Which?\nA. tin\nB. air", "Who knows.", "")))[0] == "unparsable"


SEEDS = {
    "gsm8k": (GSM8K, [Example("Tom has 3 cups. He buys 4. How many?", "3 + 4 = 7.\n#### 7", ""),
                      Example("Ann has 9 pens and loses 2. How many?", "9 - 2 = 7.\n#### 7", "")]),
    "arc": (ARC_EASY, [Example("What is a metal?\nA. tin\nB. air", "The answer is A.", ""),
                       Example("What is a gas?\nA. tin\nB. air\nC. salt", "The answer is B.", "")]),
    "boolq": (BOOLQ, [Example("Cats eat fish.\nQuestion: do cats eat?", "The answer is yes.", ""),
                      Example("Mars is red.\nQuestion: is mars blue?", "The answer is no.", "")]),
    "mbpp": (MBPP, [Example("Write f.", "def f(): return 1", "", tests=("assert f() == 1",)),
                    Example("Write g.", "def g(): return 2", "", tests=("assert g() == 2",))]),
}  # fmt: skip


def formed(name):
    task, raw = SEEDS[name]
    seeds = [task.example(each) for each in raw]
    return task, QuestionForm.of(task, seeds), [task.question_of(seed) for seed in seeds]


@pytest.mark.parametrize("name", SEEDS)
def test_a_seed_has_the_form_of_the_seeds_and_ends_where_the_next_begins(name):
    bare_tokenizer = SimpleNamespace(chat_template=None)
    task, form, questions = formed(name)
    prompt = question_prompt(task, form, bare_tokenizer, questions)
    assert all(form.fault_of(question) is None for question in questions)
    assert not any(mark in question for mark in form.stop for question in questions)
    assert all(question in prompt for question in questions)
    # what follows in the same way is cut where the question ends
    going_on = question_prompt(task, form, bare_tokenizer, [*questions, questions[0]])
    new = going_on.removeprefix(prompt)
    cut = min(at for mark in form.stop if (at := new.find(mark)) >= 0)
    assert new[:cut].strip() == questions[0]


@pytest.mark.parametrize("name", SEEDS)
def test_a_chat_model_is_given_an_order(name, chat_tokenizer):
    task, form, questions = formed(name)
    prompt = question_prompt(task, form, chat_tokenizer, questions)
    assert prompt.startswith("<user>") and prompt.endswith("Problem 3:</user><assistant>")
    assert task.description in prompt and all(question in prompt for question in questions)
    assert ("options" in prompt.split("Problem 1:")[0]) == (name == "arc")


@pytest.mark.parametrize(("name", "question", "reason"), table("generation/question_forms.jsonl"))
def test_questions_without_the_form_are_rejected(name, question, reason):
    found = formed(name)[1].fault_of(question)
    assert (found and found[0]) == reason


def test_a_repeated_heading_is_no_part_of_a_question():
    assert read_question(" Problem 4: How many? ") == read_question("**Problem 4:** How many?") == "How many?"
    assert read_question("4. How many?") == read_question("How many?") == "How many?"
    assert read_question("4.5 cups are there. How many?") == "4.5 cups are there. How many?"
    assert read_question("Question: q") == "q"


@pytest.fixture
def chat_tokenizer(tiny_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = (
        "<user>{{ messages[0].content }}</user>{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return tokenizer
