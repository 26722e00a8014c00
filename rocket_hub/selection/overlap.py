"""Normal forms of texts, and long texts found inside others by the n-grams that they share."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

NGRAM = 8
"""Words of an n-gram; shorter texts stand in others by chance."""
SHARE = 0.7
"""Share of a text's n-grams that another has to hold."""
_EVERY = 3  # of a text's n-grams, counted from its end, this one is remembered; below 1 / (1 - SHARE) none is missed

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_SIGN_IN_NUMBER = re.compile(r"[.,](?<=\d.)(?=\d)")
_WORD = re.compile(r"[^\W_]+")
_ASCII_SIGNS = {code: " " for code in range(128) if not chr(code).isalnum()}
_SIGN_INSIDE = re.compile(r"(?<=\w)[^\w\s]+(?=\w)")
_ENDS = re.compile(r"[?!;\n\r\t\"“”«»()\[\]{}<>|]+|\.(?!\w)|:(?!\d)")
_OPTIONS = re.compile(
    r"\n[ \t]*(?:answer |possible )?(?:options|choices)[ \t]*[:\n]"
    r"|\s\(?[Aa][).:]\s.{1,300}?\s\(?[Bb][).:]\s"
    r"|(?:\n[ \t]*|\s\()1[).:]\s.{1,300}?(?:\n[ \t]*|\s\()2[).:]\s"
    r"|\n[ \t]*[-*•][ \t].{1,300}?\n[ \t]*[-*•][ \t]",
    re.IGNORECASE | re.DOTALL,
)
_NUMBER_WORDS = frozenset(
    re.findall(
        r"\w+",
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety "
        "hundred thousand million billion",
    )
)

Gram = tuple[str, ...]


def plain(text: str) -> str:
    """Fold what is written in several ways: letter case, compatible characters, invisible ones, 1,000 as 1000."""
    if not text.isascii():
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    return _SIGN_IN_NUMBER.sub("", text.casefold())


def words_of(text: str) -> list[str]:
    """Split a plain text at white space and punctuation."""
    return text.translate(_ASCII_SIGNS).split() if text.isascii() else _WORD.findall(text)


def normalise(text: str) -> str:
    """Bring a text into the form that is compared: plain words, one space for any punctuation and white space."""
    return " ".join(words_of(plain(text)))


def forms(text: str) -> tuple[str, ...]:
    """Write a text in all ways that the signs inside its words can be lost.

    `120-page 3.50` becomes `120 page 350` as other texts are read, `120page 350` and `120 page 3 50`.
    """
    return tuple(dict.fromkeys(map(normalise, (text, _SIGN_INSIDE.sub("", text), _SIGN_INSIDE.sub(" ", text)))))


@lru_cache(maxsize=1 << 16)
def without_number(word: str) -> str:
    """Return `0` for a number, in digits or as a word, and any other word as it is."""
    return "0" if word[0].isdigit() or word in _NUMBER_WORDS else word


def stem(text: str) -> str:
    """Return what stands before the block of options; the whole text if there is none, or nothing before it."""
    options = _OPTIONS.search(text)
    head = text[: options.start()] if options else text
    return head if _WORD.search(head) else text


def segments(text: str) -> list[str]:
    """Split a plain text where a sentence, a line, a quotation or a bracket ends; each part in normal form."""
    return [" ".join(words) for part in _ENDS.split(text) if (words := words_of(part))]


def opening(text: str) -> str:
    """Return what stands before the first end of a sentence, a line, a quotation or a bracket."""
    return _ENDS.split(text.lstrip(), maxsplit=1)[0]


def short_runs(text: str, most: int) -> Iterator[str]:
    """Join neighbouring segments of a plain text in all ways that have at most so many characters."""
    open_runs: list[str] = []
    for part in _ENDS.split(text):
        if len(part) > 2 * most:  # most of a text is in such parts, and splitting them into words takes longest
            open_runs = []
        elif words := words_of(part):
            segment = " ".join(words)
            open_runs = [run for start in ("", *open_runs) if len(run := f"{start} {segment}".strip()) <= most]
            yield from open_runs


@dataclass(frozen=True)
class Held:
    """What a text holds of another.

    Attributes:
        text: The other text, in normal form.
        share: Share of its n-grams, from `SHARE` to 1.
        same_numbers: Whether its numbers are the same; if not, the share counts all numbers as alike.
    """

    text: str
    share: float = 1.0
    same_numbers: bool = True


class LongTexts:
    """Texts of eight words or more, to be found in others.

    Only every third n-gram of a text is remembered, so that memory is a fraction of the texts' own n-grams. Nothing is
    missed: a text that is held whole, or to `SHARE`, has one of them in the other. The n-grams are remembered without
    their numbers, so that one look-up serves texts whose numbers were changed as well.

    Args:
        texts: In normal form.
        partly_from: Words from which a text is also found by its share alone.
    """

    def __init__(self, texts: Iterable[str], partly_from: int) -> None:
        self._texts = list(dict.fromkeys(texts))
        self._partly_from = partly_from
        self._anchors: defaultdict[Gram, list[int]] = defaultdict(list)
        for number, text in enumerate(self._texts):
            for gram in list(_grams([without_number(word) for word in text.split()]))[::-_EVERY]:
                self._anchors[gram].append(number)

    def find(self, words: Sequence[str]) -> Held | None:
        """Find the longest text that is held, else the one that is held to the largest share, else one less numbers.

        Args:
            words: The other text, in normal form.
        """
        masked = list(map(without_number, words))
        near = self._anchors.keys() & _grams(masked)
        if not near:
            return None
        candidates = [self._texts[number] for number in sorted({n for gram in near for n in self._anchors[gram]})]
        joined = f" {' '.join(words)} "
        if held := max((text for text in candidates if f" {text} " in joined), key=len, default=None):
            return Held(held)
        known = set(_grams(words))
        shares = [(_share(text, known), text) for text in candidates if text.count(" ") + 1 >= self._partly_from]
        share, best = max(shares, key=lambda found: found[0], default=(0.0, ""))
        if share >= SHARE:
            return Held(best, share)
        joined = f" {' '.join(masked)} "
        return next((Held(text, same_numbers=False) for text in candidates if _stands_in(text, joined)), None)


def _grams(words: Sequence[str]) -> Iterator[Gram]:
    """Go through the n-grams of a text."""
    return zip(*(words[i:] for i in range(NGRAM)), strict=False)


def _share(text: str, known: set[Gram]) -> float:
    """Compute the share of a text's n-grams that are known."""
    grams = list(_grams(text.split()))
    return sum(gram in known for gram in grams) / len(grams)


def _stands_in(text: str, masked: str) -> bool:
    """Tell whether a text, less its numbers, stands in another; it has to have an n-gram's worth of other words."""
    words = [without_number(word) for word in text.split()]
    return len(words) - words.count("0") >= NGRAM and f" {' '.join(words)} " in masked
