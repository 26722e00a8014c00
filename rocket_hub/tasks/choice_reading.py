"""Which option a generated text chooses."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rocket_hub.tasks.lettering import LETTERS
from rocket_hub.tasks.text import after, boxed, own_part, plain

_STATED = re.compile(
    r"\b(?:answer|choice|option|solution)(?:\s+(?:to|for|here|choice|option)\b[^.\n:]{0,60}?)?"
    r"\s*(?:is|was|=|:|would be|should be|must be)+(?:\s*:)?",
    re.IGNORECASE,
)
_FILLER = re.compile(
    r"\A(?:[\s\"'*_>=-]|\b(?:the|option|choice|solution|letter|answer|number|clearly|therefore|probably)\b)+",
    re.IGNORECASE,
)
_LETTER = re.compile(r"\A[(\[{<\"']*([A-Za-z])(?:(?P<end>[)\]}>\"'.,:;!?/]|\s*\Z|\s*\n|\s+[-–—:=])|(?=\s))")
_NUMBERED = re.compile(r"\A\(?[1-9][.):]\s+(?=\D)")  # "2. grass"
_DIGIT = re.compile(r"\A\(?([1-9])[).:]?\s*(?:\Z|\n)")
_PLACE = re.compile(r"\A(first|second|third|fourth|fifth|last)(?:\s+(?:option|choice|one|answer)\b|\W*(?:\Z|\n))", re.I)
_PLACES = ("first", "second", "third", "fourth", "fifth")
_MORE = re.compile(r"\s*(?:,|/|&|\band\b|\bor\b)\s*(?:option\s+|choice\s+)?[(\[]?[A-Z](?:[)\].,\s]|\Z)")
_MENTIONED = re.compile(r"\(([A-Z])\)|\b(?:[Oo]ption|[Cc]hoice|[Cc]hoose|[Pp]ick|[Ss]elect)\s+\(?([A-Z])\b")
_CONNECTIVES = frozenset(("because", "since", "as", "and", "or", "is", "was", "for", "so", "which", "due", "with"))


def read_choice(text: str, choices: Sequence[str] = ()) -> str:
    r"""Read which option a generated text chooses; empty when none, or more than one at once ("A or B").

    What comes after a next question does not count. Of the rest, in this order: the last `\boxed{…}`; else the last
    explicit statement ("the answer is …", "Answer: …"); else the beginning of the text; else its last line; else the
    only option whose words occur; else the only letter that is mentioned as an option. An option is named by its words,
    its letter or its place. OpenCompass, which ROCKET was measured with, takes the first capital letter of the text.

    Args:
        text: What the model wrote.
        choices: Texts of the options; empty = any letter.

    Returns:
        A capital letter.
    """
    part = own_part(text)
    boxes = [plain(box) for box in boxed(part)]
    part = plain(part).strip()
    for named in (*boxes, *after(_STATED, part)):
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
    letter = next((each for each in found if each), "") or _by_place(starts[-2], choices)
    return letter if letter == "several" or (letter and LETTERS.index(letter) < (len(choices) or 26)) else ""


def _by_words(text: str, choices: Sequence[str]) -> str:
    """Return the letter of the longest option that a text begins with, as it is written or else in any case."""
    for form in (_trimmed, _normal):
        said = form(text[:2000])
        fits = [
            (len(words), letter)
            for letter, words in zip(LETTERS, map(form, choices), strict=False)
            if _is_words(words, choices) and _begins(said, words)
        ]
        longest = max(fits, default=(0, ""))[0]
        if letter := _only({letter for length, letter in fits if length == longest}):
            return letter
    return ""


def _is_words(words: str, choices: Sequence[str]) -> bool:
    """Say whether an option's text is something else than the letter of an option."""
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
    if letter.isupper() and _MORE.match(rest.lstrip(")].\"'")):
        return "several"
    if found["end"] is not None or (letter.isupper() and letter not in "AI"):
        return letter.upper()
    following = rest.split(maxsplit=1)[0].strip(",").lower()  # "A planet", "a planet", "I think"; but "A because"
    return letter if letter == "A" and following in _CONNECTIVES else ""


def _by_place(text: str, choices: Sequence[str]) -> str:
    """Return the letter of "2", or of "the second option"."""
    if found := _DIGIT.match(text):
        return LETTERS[int(found[1]) - 1]
    if found := _PLACE.match(text):
        word = found[1].lower()
        return LETTERS[_PLACES.index(word) if word in _PLACES else len(choices) - 1]
    return ""


def _occurring(text: str, choices: Sequence[str]) -> set[str]:
    """Return the letters of the options whose words occur in a text, but not only as part of a longer one's."""
    said, found = _normal(text), set()
    for words, letter in sorted(zip(map(_normal, choices), LETTERS, strict=False), key=lambda pair: -len(pair[0])):
        place = re.compile(rf"(?<!\w){re.escape(words)}(?!\w)")
        if (len(words) > 1 or words.isdigit()) and place.search(said):
            found.add(letter)
            said = place.sub(" ", said)
    return found


def _mentioned(text: str, choices: Sequence[str]) -> set[str]:
    """Return the letters that are mentioned as options."""
    return {one or other for one, other in _MENTIONED.findall(text)} & set(LETTERS[: len(choices) or 26])


def _only(letters: set[str]) -> str:
    """Return the only one, if there is only one."""
    return next(iter(letters)) if len(letters) == 1 else ""


def _trimmed(text: str) -> str:
    """Write a text with single spaces and no punctuation around it."""
    return " ".join(text.split()).strip(" .,;:!?\"'()[]")


def _normal(text: str) -> str:
    """Write a text for comparison: trimmed and in lower case."""
    return _trimmed(text).lower()
