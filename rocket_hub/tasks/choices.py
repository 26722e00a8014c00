"""Tasks with options: ARC (Challenge and Easy) and PIQA."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rocket_hub.errors import TaskError
from rocket_hub.records import Example
from rocket_hub.tasks.choice_reading import read_choice
from rocket_hub.tasks.lettering import LETTERS, lettered, split_choices
from rocket_hub.tasks.task import Task

_OWN_FORM = re.compile(r"[Tt]he answer is:?\s*\(?([A-Z])\)?(?!\w)")
_FROM_ONE = re.compile(r"(?:^|\s)\(?1[.):]\s")
_FRAME = re.compile(r"\A\s*Question:\s*(.*?)\s*Answer:\s*\Z", re.DOTALL)


def stated_letter(text: str) -> str:
    """Read the letter after the last "The answer is"; empty when there is none."""
    found = _OWN_FORM.findall(text)
    return found[-1] if found else ""


def prompt(question: str) -> str:
    """Write lm-evaluation-harness' prompt of ARC and PIQA, here with the options below the question.

    The harness shows no options and compares the likelihoods of their texts (`Task.options` does that); OpenCompass,
    and so ROCKET, shows them with letters and reads the letter out of what the model writes. Reasoning perplexity and
    training need the second form.
    """
    return f"Question: {question}\nAnswer:"


def completion(rationale: str, answer: str) -> str:
    """Write a reasoned choice as in the paper's Table 8: the rationale, then the letter."""
    return f"{rationale}\nThe answer is {answer}.".strip()


def prepare(raw: Example) -> Example:
    """Find the options (in the example, else in its question), write them in one way, and read which is right.

    Also takes examples in the form of ROCKET's own K-shot files: "Question: … A. … B. … Answer:", then "A. …".
    """
    framed = _FRAME.match(raw.prompt)
    stem, written = split_choices(framed[1] if framed else raw.prompt)
    choices = raw.choices or written
    if not choices:
        return raw
    question = f"{stem if choices == written else raw.prompt.strip()}\n{lettered(choices)}"
    letter = _right(raw, choices, numbered=not raw.choices)
    rationale = raw.rationale or _reasons(raw.completion, choices)
    return replace(raw, prompt=question, choices=choices, answer=letter, rationale=rationale)


def _right(raw: Example, choices: tuple[str, ...], *, numbered: bool) -> str:
    """Read which option an example says is right; where its options are numbered, "1" is the first of two, too."""
    said = raw.answer or raw.completion
    if numbered and said.strip().strip("().:") == "1" and _FROM_ONE.search(raw.prompt):
        return LETTERS[0]
    return read_choice(said, choices)


def _reasons(text: str, choices: tuple[str, ...]) -> str:
    """Return what an answer says beside the option itself."""
    if stated_letter(text):
        return text.rpartition("The answer is")[0].strip()
    said = text.strip().rstrip(".")
    without_letter = re.sub(r"\A\(?(?:[A-Z][.):]?|[1-9][.):])\s*", "", said, count=1)
    bare = {choice.strip().rstrip(".") for choice in choices} | {""}
    return "" if said in bare or without_letter in bare else text.strip()


def read_arc(row: Mapping[str, Any]) -> Example:
    """Read a row of `allenai/ai2_arc`; its labels are A to E or 1 to 5."""
    options = row["choices"]
    if not isinstance(options, Mapping) or not {"text", "label"} <= set(options):
        raise TaskError(f"expected choices with text and label, found {options!r:.80}")
    texts, labels = [str(text) for text in options["text"]], [str(label) for label in options["label"]]
    if row["answerKey"] not in labels or len(texts) != len(labels):
        raise TaskError(f"the answer {row['answerKey']!r:.20} is none of the labels {', '.join(labels)}")
    letter = LETTERS[labels.index(str(row["answerKey"]))]
    return Example(str(row["question"]), completion("", letter), letter, choices=tuple(texts))


def read_piqa(row: Mapping[str, Any]) -> Example:
    """Read a row of PIQA; the label -1 (its test split) is no answer."""
    if row["label"] not in (0, 1):
        raise TaskError(f"the label {row['label']!r:.20} is neither 0 nor 1; the test split has no answers")
    letter = LETTERS[int(row["label"])]
    return Example(str(row["goal"]), completion("", letter), letter, choices=(str(row["sol1"]), str(row["sol2"])))


def _task(name: str, description: str, dataset: str, read: Callable[[Mapping[str, Any]], Example], **more: Any) -> Task:
    """Put a multiple-choice task together."""
    return Task(
        name=name, description=description, dataset=dataset, read_row=read, prompt=prompt, completion=completion,
        extract=stated_letter, guess=read_choice, prepare=prepare, mark="The answer is",
        stop=("\nQuestion:", "</s>", "<|im_end|>"), **more,
    )  # fmt: skip


_ARC: dict[str, Any] = {
    "dataset": "allenai/ai2_arc",
    "revision": "210d026faf9955653af8916fad021475a3f00453",
    "question": "question",
    "answer": "answerKey",
    "columns": ("choices",),
    "closed": ("allenai/ai2_arc", "ai2_arc"),
    "read": read_arc,
}
ARC_CHALLENGE = _task(
    "arc_challenge", "Hard grade-school science questions with (mostly) four options.", config="ARC-Challenge", **_ARC
)
ARC_EASY = _task("arc_easy", "Grade-school science questions with (mostly) four options.", config="ARC-Easy", **_ARC)
PIQA = _task(
    "piqa",
    "Everyday physical goals, each with two ways to reach it, one of which works.",
    "baber/piqa",  # the harness' copy of ybisk/piqa, which only a script of its own can read
    read_piqa,
    config=None,
    revision="142f6d7367fd9877f0fb3b5734ea6a545f54cdd1",
    split="validation",
    question="goal",
    answer="label",
    columns=("sol1", "sol2"),
    closed=("ybisk/piqa", "piqa", "baber/piqa"),
)
