import pytest
import torch
from transformers import LlamaForCausalLM

from rocket_hub.errors import InputError
from rocket_hub.inference import generate
from rocket_hub.records import Example
from rocket_hub.selection.rationales import MAX_CHARACTERS, from_model, with_rationales
from rocket_hub.selection.shots import choices_of
from rocket_hub.tasks import GSM8K, get_task
from tests.helping import table

OPTIONS = ("dry palms", "wet palms", "palms in oil")
SUM = GSM8K.example(Example("What is 2 plus 3?", "#### 5", "5"))
REASONED = GSM8K.example(Example("What is 2 plus 2?", "2 + 2 = 4.\n#### 4", "4", "2 + 2 = 4."))


def palms(answer="A"):
    return Example("Question: Which palms?\nAnswer:", f" The answer is {answer}.", answer, choices=OPTIONS)


def say(text):
    return lambda prompts: [text] * len(prompts)


def choice(shots, teacher):
    return with_rationales(
        shots,
        teacher,
        completion=lambda rationale, answer: f"{rationale}\nThe answer is {answer}.",
        extract=lambda text: text.rpartition("The answer is ")[2].rstrip(".") if "The answer is " in text else "",
    )


def arithmetic(shots, teacher):
    return with_rationales(shots, teacher, completion=GSM8K.completion, extract=GSM8K.extract)


def test_the_teacher_is_shown_question_and_answer_for_bare_shots_only():
    asked = []
    found = arithmetic([REASONED, SUM], lambda prompts: asked.extend(prompts) or [" Two and three make five."])
    assert len(asked) == 1 and asked[0].startswith("Question: What is 2 plus 3?\nAnswer: 5\n") and "Explain" in asked[0]
    assert found.examples[0] == REASONED and found.sources == ("given", "generated") and not found.rejected
    assert found.examples[1].rationale == "Two and three make five."
    assert found.examples[1].completion == " Two and three make five.\n#### 5"
    assert (found.examples[1].prompt, found.examples[1].answer) == (SUM.prompt, "5")
    assert found.in_words() == "reasoning: 1 given, 1 written by a model"


def test_nobody_is_asked_when_all_is_given():
    found = arithmetic([REASONED], say("not called"))
    assert found.examples == (REASONED,) and arithmetic([REASONED], lambda prompts: 1 / 0).sources == ("given",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "empty"), (" \n\n", "empty"), ("2 + 3 = 6. #### 6", "contradicts"), ("#### 6", "contradicts")],
)
def test_what_is_empty_or_contradicts_is_not_taken_and_said(text, reason):
    found = arithmetic([SUM, REASONED], say(text))
    assert found.examples == (SUM, REASONED) and found.sources == ("none", "given")
    assert [(r.item, r.reason) for r in found.rejected] == [("shot 1", reason)]
    assert found.in_words() == "reasoning: 1 given, 1 none, so that the plain answer is scored"


def test_the_answer_is_not_said_twice_and_what_follows_is_cut():
    found = arithmetic([SUM], say(" Add them. 2 + 3 = 5.\n#### 5\n\nQuestion: What is 1 + 1?"))
    assert found.examples[0].completion == " Add them. 2 + 3 = 5.\n#### 5"
    found = choice([palms()], say("Friction warms dry skin. The answer is A.\nQuestion: next"))
    assert found.examples[0].completion == " Friction warms dry skin.\nThe answer is A."
    long = arithmetic([SUM], say("It is so. " * 200)).examples[0].rationale
    assert MAX_CHARACTERS - 20 < len(long) <= MAX_CHARACTERS and long.endswith("so.")


REASONING = table("selection/reasoning.jsonl")


@pytest.mark.parametrize("text", [row["text"] for row in REASONING if not row["taken"]])
def test_another_option_called_the_answer_is_a_contradiction(text):
    found = choice([palms()], say(text))
    assert found.sources == ("none",) and found.rejected[0].reason == "contradicts"
    assert "right is 'A'" in found.rejected[0].detail


@pytest.mark.parametrize("text", [row["text"] for row in REASONING if row["taken"]])
def test_other_options_may_be_spoken_of(text):
    assert choice([palms()], say(text)).sources == ("generated",)
    assert choice([palms("dry palms")], say(text.replace(" A.", " dry palms."))).sources == ("generated",)


def test_the_teacher_has_to_write_one_text_a_prompt():
    with pytest.raises(InputError, match="2 texts for 1 prompts"):
        arithmetic([SUM], lambda prompts: ["a", "b"])


def test_the_base_model_can_be_the_teacher(tiny_model, tokenizer):
    model = LlamaForCausalLM.from_pretrained(tiny_model)
    torch.manual_seed(5)
    torch.nn.init.normal_(model.lm_head.weight, std=0.5)
    shots = [Example("what is 1 plus 2 ?", " 3", "3"), Example("what is 2 plus 2 ?", " 4", "4")]
    asked = []

    def teacher(prompts):
        asked.extend(prompts)
        return from_model(model, tokenizer, batch_size=2, max_new_tokens=5)(prompts)

    found = with_rationales(shots, teacher, completion="{} #### {}".format, extract=lambda text: text.split()[-1])
    written = generate(model, tokenizer, asked, max_new_tokens=5)
    assert len(asked) == 2 and [e.rationale for e in found.examples] == [text.strip() for text in written]
    assert found.sources == ("generated", "generated") and all(written)


def test_choices_of_a_task():
    task = get_task("arc_easy")
    shot = task.example(Example("Which palms?", "The answer is B.", "B", choices=OPTIONS))
    bare = Example("Question: 1?\nAnswer:", " 1", "1")
    found = choices_of(task, [shot, bare])
    assert found[0].options == tuple(f" {option}" for option in OPTIONS) and found[0].gold == 1
    assert found[0].prompt == "Question: Which palms?\nAnswer:" and found[1] is None
