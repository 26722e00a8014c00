"""Write reasoning for shots that have only an option or a label, so that reasoning perplexity (Eq. 2) can be computed.

As in the paper a model is shown question and answer (Fig. 3). But here the reasoning comes before the answer, as it is
scored and trained, and reasoning that contradicts the right answer is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rocket_hub.errors import InputError
from rocket_hub.inference import generate
from rocket_hub.records import Example, Rejection

Teacher = Callable[[Sequence[str]], list[str]]  # prompts -> what it writes after each

MAX_CHARACTERS = 600
_ASKED = (
    "{prompt} {answer}\n\nThe answer above is right. Explain in at most three short sentences how to get to it from "
    "the question, step by step, and name the answer only at the end.\nReasoning:"
)
_END = re.compile(r"\n\s*\n|\n(?:Question|Q|Problem|Instruction|Input)\b")  # it goes on with something else
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n")
_LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_IS = r"(?:is|are|must be|should be|would be|will be|has to be|=|:)"
_NAMED = re.compile(rf"\b(?:answer|option|choice|solution)s?\b\s*{_IS}?\s*[\"'(\[*]*([^\n]{{1,200}})", re.IGNORECASE)
_HENCE = r"(?:therefore |thus |hence |clearly )?(?:the |most )*"
_PRAISED = re.compile(
    rf"([^\n.!?]{{1,200}}?)[\"')\]*]*\s+(?:is|must be|would be)\s+{_HENCE}(?:correct|right|best|true)\b", re.IGNORECASE
)


@dataclass(frozen=True)
class Rationales:
    """A K-shot with reasoning.

    Attributes:
        examples: The shots, in their order.
        sources: Where the reasoning of each comes from: `given`, `generated`, or `none` (the plain answer is scored).
        rejected: Reasoning that was written and not taken, `empty` or `contradicts`.
    """

    examples: tuple[Example, ...]
    sources: tuple[str, ...]
    rejected: tuple[Rejection, ...] = ()

    def in_words(self) -> str:
        """Write the counts of the sources, for the screen and the card."""
        counts = {source: self.sources.count(source) for source in ("given", "generated", "none")}
        words = {
            "given": "given",
            "generated": "written by a model",
            "none": "none, so that the plain answer is scored",
        }
        return "reasoning: " + ", ".join(f"{n} {words[source]}" for source, n in counts.items() if n)


def from_model(model: Any, tokenizer: Any, *, batch_size: int = 16, max_new_tokens: int = 128) -> Teacher:
    """Make a teacher of a causal language model, for example the base model itself."""

    def teacher(prompts: Sequence[str]) -> list[str]:
        return generate(model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)

    return teacher


def with_rationales(
    shots: Sequence[Example], teacher: Teacher, *, completion: Callable[[str, str], str], extract: Callable[[str], str]
) -> Rationales:
    """Give reasoning to the shots that have none.

    Args:
        shots: K examples in the task's form; those with a rationale are left as they are.
        teacher: Writes after prompts; each shows a question with its right answer.
        completion: Turns (rationale, answer) into what a model should write, as in `Task`.
        extract: Reads the answer out of a completion.

    Raises:
        InputError: The teacher's texts are not one a prompt.
    """
    bare = [i for i, shot in enumerate(shots) if not shot.rationale]
    texts = teacher([_ASKED.format(prompt=shots[i].prompt, answer=shots[i].answer) for i in bare]) if bare else []
    if len(texts) != len(bare):
        raise InputError(f"the teacher wrote {len(texts)} texts for {len(bare)} prompts; it has to write one for each")
    examples, sources = list(shots), ["given" if shot.rationale else "none" for shot in shots]
    rejected = []
    for i, text in zip(bare, texts, strict=True):
        rationale = _tidy(text, extract, shots[i].answer)
        whole = completion(rationale, shots[i].answer)
        fault = _fault(rationale, extract(whole), shots[i])
        if fault:
            rejected.append(Rejection(f"shot {i + 1}", *fault))
        else:
            lead = shots[i].completion[: -len(shots[i].completion.lstrip()) or None]
            examples[i] = replace(shots[i], completion=f"{lead}{whole.strip()}", rationale=rationale)
            sources[i] = "generated"
    return Rationales(tuple(examples), tuple(sources), tuple(rejected))


def _tidy(text: str, extract: Callable[[str], str], answer: str) -> str:
    """Cut the text after the reasoning, and sentences at its end that only repeat the answer."""
    text = _END.split(text.strip(), maxsplit=1)[0].strip()
    sentences = [sentence.strip() for sentence in _SENTENCES.split(text[: MAX_CHARACTERS + 1]) if sentence.strip()]
    if len(text) > MAX_CHARACTERS:
        sentences = sentences[:-1]  # the last one is cut off
    while sentences and extract(" ".join(sentences)) == answer and len(sentences) > 1:
        sentences.pop()
    return " ".join(sentences)


def _fault(rationale: str, found: str, shot: Example) -> tuple[str, str] | None:
    """Return why reasoning is not taken: (reason, detail)."""
    if not rationale:
        return "empty", "nothing was written"
    other = found if found != shot.answer else _other_option(rationale, shot)
    if other is None:
        return None
    return "contradicts", f"it answers {other!r}, right is {shot.answer!r}: {rationale:.80}"


def _other_option(rationale: str, shot: Example) -> str | None:
    """Find a wrong option that is called the answer, by its letter or its text."""
    named = [match[1] for match in _NAMED.finditer(rationale)]
    praised = [match[1] for match in _PRAISED.finditer(rationale)]
    for label, option in zip(_LABELS, shot.choices, strict=False):
        if shot.answer in (label, option):
            continue
        text = re.escape(option.strip())
        starts = re.compile(rf"(?i:{text})(?!\w)|{label}(?![\w'])")
        ends = re.compile(rf"(?<!\w)(?i:{text})$|(?:^|[\s(\[\"'*]){label}$")
        if any(starts.match(after) for after in named) or any(ends.search(before) for before in praised):
            return option
    return None
