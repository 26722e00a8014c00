from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rocket_hub.records import Example

NGRAM = 8  # words of an n-gram; shorter texts stand in others by chance
SHARE = 0.7  # of a text's n-grams that another has to hold
LONG = 20  # words from which a question stays the same question when a few of its words are changed
SHORTEST_INSIDE = 3  # words that a question needs to be looked for inside a longer text at all

# Cosine from which a row is reported as a neighbour of an evaluation question. With potion-base-4m, prompts against the
# questions of GSM8K: more than 95 % of the test questions are above it with one word in seven left out; so are 32 of
# 7,473 training questions, and 2 of 101,140 rows of 74 other sets. Encoders differ.
NEIGHBOUR = 0.9

_EVERY = 3  # only each third n-gram of a text, from its end, is indexed; below 1 / (1 - SHARE) no text is missed
_HEAD = 500  # characters that a question of one or two words, its frames and its first options fit into
_BLOCK = 1 << 22  # cosines computed at once

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
_FRAME = frozenset(
    re.split(
        r"\s*/\s*",
        "question / q / problem / goal / task / instruction / input / context / user / human / answer / a / response / "
        "output / assistant / explain / solve / options / choices / answer the question / answer this question / "
        "answer the following / answer the following question / please answer the question / "
        "please answer the following question / solve this problem / solve the problem / solve the following problem / "
        "let s think step by step / think step by step",
    )
)
_LONGEST_FRAME = max(map(len, _FRAME))

Gram = tuple[str, ...]


def plain(text: str) -> str:
    """Fold letter case and compatible characters, drop invisible ones, and write 1,000 as 1000."""
    if not text.isascii():
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    return _SIGN_IN_NUMBER.sub("", text.casefold())


def words_of(text: str) -> list[str]:
    """Split a plain text at white space and punctuation."""
    return text.translate(_ASCII_SIGNS).split() if text.isascii() else _WORD.findall(text)


def normalise(text: str) -> str:
    """Return the form in which texts are compared: plain words, one space for any punctuation and white space."""
    return " ".join(words_of(plain(text)))


def forms(text: str) -> tuple[str, ...]:
    """List the normal forms with signs inside words read as usual, dropped, or as spaces: `3.50`: `350`, `3 50`."""
    return tuple(dict.fromkeys(map(normalise, (text, _SIGN_INSIDE.sub("", text), _SIGN_INSIDE.sub(" ", text)))))


@lru_cache(maxsize=1 << 16)
def without_number(word: str) -> str:
    """Return `0` for a number, in digits or as a word, and any other word as it is."""
    return "0" if word[0].isdigit() or word in _NUMBER_WORDS else word


def stem(text: str) -> str:
    """Return the text before the block of options; the whole text if there is none, or nothing before it."""
    options = _OPTIONS.search(text)
    head = text[: options.start()] if options else text
    return head if _WORD.search(head) else text


def segments(text: str) -> list[str]:
    """Split a plain text where a sentence, a line, a quotation or a bracket ends; each part in normal form."""
    return [" ".join(words) for part in _ENDS.split(text) if (words := words_of(part))]


def opening(text: str) -> str:
    """Return the text before the first end of a sentence, a line, a quotation or a bracket."""
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
    """A text found in another: in normal form; the share of its n-grams, numbers alike unless `same_numbers`."""

    text: str
    share: float = 1.0
    same_numbers: bool = True


class LongTexts:
    """An n-gram index of texts in normal form, of eight words or more, to find them in others.

    Only every third n-gram of a text is indexed, which saves memory and misses nothing: a text that is held whole, or
    to `SHARE`, has one of them in the other. The n-grams are indexed without their numbers, so that one look-up also
    serves texts whose numbers were changed. From `partly_from` words on a text is also found by its share alone.
    """

    def __init__(self, texts: Iterable[str], partly_from: int) -> None:
        self._texts = list(dict.fromkeys(texts))
        self._partly_from = partly_from
        self._anchors: defaultdict[Gram, list[int]] = defaultdict(list)
        for number, text in enumerate(self._texts):
            for gram in list(_grams([without_number(word) for word in text.split()]))[::-_EVERY]:
                self._anchors[gram].append(number)

    def find(self, words: Sequence[str]) -> Held | None:
        """Find the longest text held by these words (in normal form), else the largest share, else one less numbers."""
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
    return zip(*(words[i:] for i in range(NGRAM)), strict=False)


def _share(text: str, known: set[Gram]) -> float:
    grams = list(_grams(text.split()))
    return sum(gram in known for gram in grams) / len(grams)


def _stands_in(text: str, masked: str) -> bool:
    """Return whether a text of at least `NGRAM` words besides its numbers stands in another, numbers apart."""
    words = [without_number(word) for word in text.split()]
    return len(words) - words.count("0") >= NGRAM and f" {' '.join(words)} " in masked


@dataclass(frozen=True)
class Hit:
    """An evaluation question in a training row.

    Attributes:
        question: The question as it was given.
        kind: `whole` (the row's text is the question), `inside` (it holds it), `ngrams` (it holds most of its n-grams)
            or `numbers_changed` (it holds it with other numbers).
        overlap: Share of the question's n-grams that the row holds; of `numbers_changed`, with all numbers alike.
        place: `prompt` or `completion`.
    """

    question: str
    kind: str
    overlap: float
    place: str

    @property
    def certain(self) -> bool:
        """Whether the row is rejected; other hits are only reported."""
        return self.kind != "numbers_changed"


class EvaluationIndex:
    """Finds the questions of an evaluation set in rows.

    Texts are compared as words: Unicode's compatible forms folded, without letter case, punctuation, white
    space and invisible characters. Of a question with a block of options, what stands before the block counts, if that
    is three words or more.

    - A question of eight words or more is found wherever it stands in a prompt or a completion, word by word.
    - One of three to seven words is found where it stands between the ends of sentences, lines, quotations or brackets.
    - A shorter one is found only as the whole prompt, less frames such as `Question:` and `Answer:`.
    - One of twenty words or more is also found by seven tenths of its 8-grams. With fewer words these are too few: on
      the train splits of six benchmarks six of seven such hits were another question (left and right, cube and cone).
    - A question of eight words or more, numbers apart, is found with other numbers. This is only reported: no training
      question of twenty words in those splits was hit, but shorter ones (`contains 30 days`, `contains 28 days`) and
      data made from templates hold many that are other problems.

    Paraphrases, translations and look-alike letters of other scripts are not found; `neighbours` shows some of them.
    Memory grows with the questions, time with the words of the rows.

    Args:
        questions: Bare questions, with or without their options.
    """

    def __init__(self, questions: Iterable[str]) -> None:
        self._given: dict[str, str] = {}  # normal form -> the question as it was given
        for question in questions:
            asked = forms(stem(question))
            tiny = asked[0].count(" ") + 1 < SHORTEST_INSIDE
            for form in (*asked, *forms(question)) if tiny else asked:
                if form:
                    self._given.setdefault(form, question)
        sizes = {form: form.count(" ") + 1 for form in self._given}
        self._tiny = {form for form, size in sizes.items() if size < SHORTEST_INSIDE}
        self._short = {form for form, size in sizes.items() if SHORTEST_INSIDE <= size < NGRAM}
        self._short_ends = {tuple(form.split()[-SHORTEST_INSIDE:]) for form in self._short}
        self._tiny_words = {word for form in self._tiny for word in form.split()}
        self._longest_short = max(map(len, self._short), default=0)
        self._long = LongTexts((form for form, size in sizes.items() if size >= NGRAM), partly_from=LONG)

    def find(self, row: Example) -> Hit | None:
        """Find the question that a row holds; a certain hit before one for review, the prompt before the completion."""
        hits = [hit for place in ("prompt", "completion") if (hit := self._find(getattr(row, place), place))]
        return next((hit for hit in hits if hit.certain), hits[0] if hits else None)

    def _find(self, text: str, place: str) -> Hit | None:
        folded = plain(text)
        words = words_of(folded)
        held = self._long.find(words)
        if held and held.same_numbers:
            kind = "ngrams" if held.share < 1 else "whole" if held.text == _core(text) else "inside"
            return Hit(self._given[held.text], kind, held.share, place)
        if form := self._find_short(words, folded) or (self._find_tiny(words, text) if place == "prompt" else None):
            return Hit(self._given[form], "whole" if form == _core(text) else "inside", 1.0, place)
        return Hit(self._given[held.text], "numbers_changed", held.share, place) if held else None

    def _find_short(self, words: list[str], folded: str) -> str | None:
        """Find the longest question of three to seven words between the ends of sentences or the like."""
        if self._short_ends.isdisjoint(zip(*(words[i:] for i in range(SHORTEST_INSIDE)), strict=False)):
            return None
        held = (run for run in short_runs(folded, self._longest_short) if run in self._short)
        return max(held, key=len, default=None)

    def _find_tiny(self, words: list[str], text: str) -> str | None:
        """Find a question of one or two words as the whole prompt."""
        head = text[:_HEAD]
        if self._tiny_words.isdisjoint(words[:_HEAD]) or len(opening(head)) > _LONGEST_FRAME:
            return None
        core = _core(head)
        return core if core in self._tiny else None


def _core(text: str) -> str:
    """Return the normal form of a prompt without its options and the usual frames around a question."""
    return " ".join(part for part in segments(plain(stem(text))) if part not in _FRAME)


def contaminated(rows: Iterable[Example], questions: Iterable[str]) -> dict[int, str]:
    """Find the rows that hold one of the questions for certain, by the rules of `EvaluationIndex`.

    Args:
        rows: Training rows, read once.
        questions: Bare questions of the evaluation set. Where they are of one or two words, add their long answers.

    Returns:
        Position in `rows` -> the question as it was given.
    """
    index = EvaluationIndex(questions)
    return {i: hit.question for i, row in enumerate(rows) if (hit := index.find(row)) and hit.certain}


def neighbours(
    row_vectors: np.ndarray, question_vectors: np.ndarray, threshold: float = NEIGHBOUR
) -> dict[int, tuple[int, float]]:
    """Find rows near an evaluation question, such as paraphrases that share no n-gram; they are reported, not dropped.

    Encode both sides alike, prompts with questions or rows with solved problems: a completion on one side only moves a
    row away from its question.

    Args:
        row_vectors: [n, d], rows of length 1, of any precision.
        question_vectors: [m, d], rows of length 1.
        threshold: Least cosine.

    Returns:
        Row -> (its nearest question, cosine), nearest row first.
    """
    found: dict[int, tuple[int, float]] = {}
    block = max(1, _BLOCK // max(len(question_vectors), 1))
    questions = np.asarray(question_vectors, dtype=np.float32)  # numpy multiplies half precision a hundred times slower
    for start in range(0, len(row_vectors) if len(questions) else 0, block):
        rows = np.asarray(row_vectors[start : start + block], dtype=np.float32)
        cosines = rows @ questions.T  # [block, d] @ [d, m]
        nearest = cosines.argmax(axis=1)
        highest = cosines[np.arange(len(cosines)), nearest]
        for row in np.flatnonzero(highest >= threshold):
            found[start + int(row)] = int(nearest[row]), float(highest[row])
    return dict(sorted(found.items(), key=lambda item: -item[1][1]))
