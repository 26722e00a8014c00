from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rocket_hub.errors import TaskError
from rocket_hub.records import Example
from rocket_hub.tasks.answers import (
    LETTERS,
    STOP,
    denied,
    last_group,
    lettered,
    question_prompt,
    reasoned,
    split_choices,
    statements,
    straight,
)
from rocket_hub.tasks.task import Task

_STATED = re.compile(
    r"\b(?:answer|ans|choice|option|solution)\b[\"'*]*(?:\s+(?:to|for|here|choice|option)\b[^.\n:]{0,60}?)?"
    r"\s*(?:(?:is(?!n't)|was|=|:|would be|should be|must be)+(?:\s*:)?|>)|\bans\.|####",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"\A(?:[\s\"'*_>=-]|\b(?:the|option|choice|solution|letter|answer|number|clearly|therefore|probably)\b)+",
    re.IGNORECASE,
)
_LETTER = re.compile(r"\A[(\[{<\"']*([A-Za-z])(?:(?P<end>[)\]}<>\"'.,:;!?/]|\s*\Z|\s*\n|\s+[-–—:=])|(?=\s))")
_NUMBERED = re.compile(r"\A\(?[1-9][.):]\s+(?=\D)")  # "2. grass"
_DIGIT = re.compile(r"\A\(?([1-9])[).:]?\s*(?:\Z|\n)")
_PLACES = (("first", "1st", "one", "1"), ("second", "2nd", "two", "2"), ("third", "3rd", "three", "3"),
           ("fourth", "4th", "four", "4"), ("fifth", "5th", "five", "5"))  # fmt: skip
_ORDINAL = r"(first|second|third|fourth|fifth|[1-5](?:st|nd|rd|th)|last|former|latter)"
_THING = r"(?:option|choice|one|answer|solution|way|method|approach|alternative|statement)"
_PLACE = re.compile(rf"\A{_ORDINAL}(?:\s+{_THING}\b|\W*(?:\Z|\n))", re.IGNORECASE)
_NUMBER = r"[#(]?([1-9]|one|two|three|four|five)(?!\w|\.\d)"
_COUNT = (  # "Solution 1"; but "Solution 1 has more salt" is a sentence
    rf"(?:option|choice|solution|sol|answer)\s*(?:number\s+|no\.\s*)?{_NUMBER}"
    r"(?=[)\]\"'*]*\s*(?:\Z|[.,:;!?\n–—-]|(?:is|would|works|because|since|as|and|or)\b))"
)
_COUNTED = re.compile(rf"\A\W*(?:(?:the|correct|right|best|better)\s+)*{_COUNT}", re.IGNORECASE)
_MORE_COUNTED = re.compile(rf"\W*(?:,|/|&|\band\b|\bor\b)\s*(?:option|choice|solution|sol)?\s*{_NUMBER}", re.IGNORECASE)
_MORE = re.compile(r"\s*(?:,|/|&|\band\b|\bor\b)\s*(?:option\s+|choice\s+)?[(\[]?[A-Z](?:[)\].,\s]|\Z)")
_ANOTHER = re.compile(r"[).\]:]*\s+\(?[A-Z]\)?[.!]?\s*\Z")  # "A: B" is an answer B, or an option A
_MENTIONED = re.compile(
    r"\(([A-Z])\)|\b(?i:option|choice|choose|pick|select|solution)\s+\(?([A-Z])\b"
    r"|\b(?i:so|therefore|thus|hence|sorry|sure|i think|it(?:'s| is| must be| should be))[,:]?\s+([A-Z])"
    r"(?=[.,;!)]|\s*\Z|\s+(?:is|must|would|because|since|as)\b)"
    rf"|\b(?i:{_COUNT})|\b(?i:{_ORDINAL}\s+(?:option|choice|answer|solution))\b"
)
stated_letter = partial(last_group, re.compile(r"[Tt]he answer is:?\s*\(?([A-Z])\)?(?!\w)"))
_FROM_ONE = re.compile(r"(?:^|\s)\(?1[.):]\s")
_FRAME = re.compile(r"\A\s*Question:\s*(.*?)\s*Answer:\s*\Z", re.DOTALL)
_CONNECTIVES = frozenset(("because", "since", "as", "and", "or", "is", "was", "for", "so", "which", "due", "with"))


def read_choice(text: str, choices: Sequence[str] = ()) -> str:
    r"""Read which option a generated text chooses: its letter; empty when none, or more than one ("A or B").

    What comes after a next question does not count. Of the rest, in this order: the last `\boxed{…}`; else the last
    explicit statement ("the answer is …", "Answer: …"); else the beginning of the text; else its last line; else the
    only option whose words occur; else the only one that is mentioned by letter or place. An option is named by its
    words, its letter (any capital, where there are no `choices`) or its place ("the second", "solution 2"); of two
    options a bare "1" is neither, for it is the second's label in PIQA. What is denied ("A is wrong", "not option A")
    is not chosen, nor is what is left then. OpenCompass, which ROCKET was measured with, takes the first capital letter
    of the text.
    """
    part, claimed = statements(text, _STATED)
    part = part.strip()
    for named in claimed:
        if letter := _named(named, choices):
            return letter if letter in LETTERS else ""
    last = part.splitlines()[-1] if part else ""
    letter = _named(part, choices) or _named(last, choices)
    return (letter if letter in LETTERS else "") or _only(_occurring(part, choices)) or _only(_mentioned(part, choices))


def _named(text: str, choices: Sequence[str]) -> str:
    """Read the option at the very beginning of a text; "several" when there are two at once."""
    text = text.strip()
    filler = _FILLER.match(text)
    starts = [text, text[filler.end() :]] if filler else [text]
    starts.append(_NUMBERED.sub("", starts[-1], count=1))
    found = [_by_words(start, choices) for start in starts] + [_by_letter(start) for start in starts]
    found += [_by_count(starts[0], choices), _by_place(starts[-2], choices)]
    letter = next((each for each in found if each), "")
    return letter if letter == "several" or (letter and LETTERS.index(letter) < (len(choices) or 26)) else ""


def _by_words(text: str, choices: Sequence[str]) -> str:
    """Return the letter of the longest option that a text begins with, as it is written or else in any case."""
    for form in (_trimmed, _normal, _bare):
        said = form(text[:2000])
        fits = [
            (len(words), letter)
            for letter, words in zip(LETTERS, map(form, choices), strict=False)
            if _is_words(words, choices) and _begins(said, words) and not denied(said, 0, len(words))
        ]
        longest = max(fits, default=(0, ""))[0]
        if letter := _only({letter for length, letter in fits if length == longest}):
            return letter
    return ""


def _is_words(words: str, choices: Sequence[str]) -> bool:
    return bool(words) and words.upper() not in tuple(LETTERS[: len(choices)])


def _begins(said: str, words: str) -> bool:
    """Say whether a text begins with an option's words; one that is a single letter must be all of it ("I think")."""
    if len(words) == 1 and words.isalpha():
        return said == words
    return said.startswith(words) and not said[len(words) :][:1].isalnum()


def _by_letter(text: str) -> str:
    """Return the letter that a text begins with, where it is no word of its sentence."""
    found = _LETTER.match(text)
    if not found:
        return ""
    letter, rest = found[1], text[found.end(1) :]
    if denied(text, 0, found.end(1)):
        return ""
    if letter.isupper() and (_MORE.match(rest.lstrip(")].\"'")) or _ANOTHER.match(rest)):
        return "several"
    if found["end"] is not None or (letter.isupper() and letter not in "AI"):
        return letter.upper()
    following = rest.split(maxsplit=1)[0].strip(",").lower()  # "A planet", "a planet", "I think"; but "A because"
    return letter if letter == "A" and following in _CONNECTIVES else ""


def _by_count(text: str, choices: Sequence[str]) -> str:
    found = _COUNTED.match(text)
    if not found or denied(text, 0, found.end()):
        return ""
    return "several" if _MORE_COUNTED.match(text, found.end()) else _at(found[1], choices)


def _by_place(text: str, choices: Sequence[str]) -> str:
    """Return the letter of "2", or of "the second option"."""
    if found := _DIGIT.match(text):
        return "" if len(choices) == 2 and found[1] == "1" else LETTERS[int(found[1]) - 1]
    found = _PLACE.match(text)
    return _at(found[1], choices) if found and not denied(text, 0, found.end()) else ""


def _at(place: str, choices: Sequence[str]) -> str:
    """Return the letter of a place: `first`, `2nd`, `three`, `4`, or the last of the options, the former of two."""
    word = place.lower()
    if word in ("last", "former", "latter"):
        known = len(choices) == 2 or (word == "last" and choices)
        return LETTERS[0 if word == "former" else len(choices) - 1] if known else ""
    return next((letter for letter, words in zip(LETTERS, _PLACES, strict=False) if word in words), "")


def _occurring(text: str, choices: Sequence[str]) -> set[str]:
    """Return the letters of the options whose words occur in a text, but not only as part of a longer one's."""
    said, found = _normal(text), set()
    for words, letter in sorted(zip(map(_normal, choices), LETTERS, strict=False), key=lambda pair: -len(pair[0])):
        place = re.compile(rf"(?<!\w){re.escape(words)}(?!\w)")
        if len(words) > 1 or words.isdigit():
            found |= {letter for match in place.finditer(said) if not denied(said, *match.span())}
            said = place.sub(" ", said)
    return found


def _mentioned(text: str, choices: Sequence[str]) -> set[str]:
    found = set()
    for match in _MENTIONED.finditer(text):
        if not denied(text, *match.span()):
            *letters, count, place = match.groups()
            found.add(next(filter(None, letters), "") or _at(count or place, choices))
            if count and (other := _MORE_COUNTED.match(text, match.end())):
                found.add(_at(other[1], choices))
    return found & set(LETTERS[: len(choices) or 26])


def _only(letters: set[str]) -> str:
    return next(iter(letters)) if len(letters) == 1 else ""


def _trimmed(text: str) -> str:
    return " ".join(straight(text).split()).strip(" .,;:!?\"'()[]")


def _normal(text: str) -> str:
    """Write a text for comparison: trimmed and in lower case."""
    return _trimmed(text).lower()


def _bare(text: str) -> str:
    """Write a text for comparison without an article before it."""
    return re.sub(r"\A(?:an?|the)\s+", "", _normal(text))


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
    return Example(str(row["question"]), reasoned("", letter), letter, choices=tuple(texts))


def read_piqa(row: Mapping[str, Any]) -> Example:
    """Read a row of PIQA; the label -1 (its test split) is no answer."""
    if row["label"] not in (0, 1):
        raise TaskError(f"the label {row['label']!r:.20} is neither 0 nor 1; the test split has no answers")
    letter = LETTERS[int(row["label"])]
    return Example(str(row["goal"]), reasoned("", letter), letter, choices=(str(row["sol1"]), str(row["sol2"])))


def _task(name: str, description: str, dataset: str, read: Callable[[Mapping[str, Any]], Example], **more: Any) -> Task:
    """Return a multiple-choice task.

    Its prompt shows the options with letters below the question, as OpenCompass and so ROCKET do, and the letter is
    read out of what the model writes. The harness shows none and compares the likelihoods of their texts;
    `Task.options` does that. Reasoning perplexity and training need the first form.
    """
    return Task(
        name=name, description=description, dataset=dataset, read_row=read, prompt=question_prompt,
        completion=reasoned, extract=stated_letter, guess=read_choice, prepare=prepare,
        mark="The answer is", stop=STOP, **more,
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
