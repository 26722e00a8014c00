from __future__ import annotations

import re
from fractions import Fraction

from rocket_hub.tasks.answers import after, boxed, own_part, plain, question_prompt, straight
from rocket_hub.tasks.task import Task

_UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORDS = dict(zip(_UNITS, range(20), strict=True)) | {word: 20 + 10 * i for i, word in enumerate(_TENS)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_WORD = "|".join(sorted([*_WORDS, "hundred", *_SCALES], key=len, reverse=True))  # eighteen before eight
_FIRST = "|".join(sorted(_WORDS, key=len, reverse=True))  # a scale alone belongs to digits: "1.5 million"
_IN_WORDS = re.compile(
    rf"\b(minus\s+|negative\s+)?((?:a\s+(?:hundred|thousand|million)|{_FIRST})(?:(?:[\s-]+|\s+and\s+)(?:{_WORD}))*)\b",
    re.IGNORECASE,
)
_DIGITS = r"(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)"
NUMBER = re.compile(
    rf"(?<![\w.])(?P<sign>-)?(?:[$€£¥]\s?)?(?P<minus>-)?"
    rf"(?:(?P<whole>[0-9]+)[ ](?=[0-9]+/[0-9]))?(?P<number>{_DIGITS})(?P<power>[eE][+-]?[0-9]{{1,2}}\b)?"
    rf"(?:\s?/\s?(?P<under>[0-9][0-9,]*)(?![0-9/]))?(?:\s+(?P<scale>{'|'.join(_SCALES)})\b)?"
)
_HALF = re.compile(r"\b(?:([0-9]+)\s+and\s+)?(?:a|1)\s+half\b", re.IGNORECASE)
_EUROPEAN = re.compile(r"(?<![\w.,])([0-9]{1,3}(?:\.[0-9]{3})+),([0-9]{1,2})(?![\w.,]*[0-9])")
_MAX_DIGITS = 40
_MARKED = re.compile(r"####\s*(-?[$]?[0-9][0-9,]*(?:\.[0-9]+)?)")
_STATED = re.compile(r"\banswer[\"'*]*(?:\s+(?:to|for)\b[^.\n:]{0,80}?)?\s*(?:(?:is|was|=|equals|:)+(?:\s*:)?|>)", re.I)
_SPACED = re.compile(r"(?<![\d.,])(\d{1,3})((?: \d{3})+)(?![\d,.]\d|\d)")  # 1 234 567
_OPEN = re.compile(  # "18 or 19", "1, 2 or 3"; and 5:30 is no number
    r"(?:\s*,\s*[$-]{0,2}\d+(?:\.\d+)?)*,?\s+or\s+[$-]{0,2}(\d+(?:\.\d+)?)|:\d"
)
_MAX_STATEMENT = 200  # characters after "the answer is"


def canonical(match: re.Match[str]) -> str:
    """Write a found number in the compared form: no commas, no trailing zeros, a fraction only where there is no end.

    A percentage is the number before its sign, and a currency is not part of the number.
    """
    number = match["number"].strip(",").replace(",", "")
    if len(match[0]) > _MAX_DIGITS:
        return number
    value = Fraction(number + (match["power"] or ""))
    under = Fraction((match["under"] or "1").replace(",", ""))
    if under:
        value /= under
    value = (value + int(match["whole"] or 0)) * _SCALES.get(match["scale"] or "", 1)
    return written(-value if match["sign"] or match["minus"] else value)


def written(value: Fraction) -> str:
    """Write a value as a whole number, else a decimal where it ends, else a fraction in lowest terms."""
    below = value.denominator
    places = 0
    while below % 10 == 0 or below % 2 == 0 or below % 5 == 0:
        below //= 10 if below % 10 == 0 else 2 if below % 2 == 0 else 5
        places += 1
    if below != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = f"{abs(int(value * 10**places)):0{places + 1}}"
    text = f"{digits[:-places]}.{digits[-places:]}".rstrip("0").rstrip(".") if places else digits
    return f"-{text}" if value < 0 else text


def in_digits(text: str) -> str:
    """Write the numbers in words as digits: `twenty-one apples` becomes `21 apples`, `two and a half` becomes `2.5`."""
    digits = _IN_WORDS.sub(lambda match: f"{'-' if match[1] else ''}{_value(match[2])}", text)
    return _HALF.sub(lambda match: f"{match[1] or 0}.5", digits)


def english(text: str) -> str:
    """Write numbers with points between thousands and a comma before the cents as in English: 1.234,50 is 1234.50."""
    return _EUROPEAN.sub(lambda match: f"{match[1].replace('.', '')}.{match[2]}", text)


def _value(words: str) -> int:
    """Add up number words: `two thousand and five` is 2005."""
    total, current = 0, 0
    for word in re.findall(_WORD, words.lower()):
        if word in _WORDS:
            current += _WORDS[word]
        elif word == "hundred":
            current = max(current, 1) * 100
        else:
            total, current = total + max(current, 1) * _SCALES[word], 0
    return total + current


def marked_number(text: str) -> str:
    r"""Read the number after `####`, without commas, signs of currency or a trailing `.0`; empty when there is none.

    This is the strict-match rule of lm-evaluation-harness (`#### (\\-?[0-9\\.\\,]+)`); the first marked number counts,
    because a model that does not stop goes on with questions of its own.
    """
    found = _MARKED.findall(text)
    if not found:
        return ""
    number = found[0].replace(",", "").replace("$", "")
    return number.rstrip("0").rstrip(".") if "." in number else number


def any_number(text: str, choices: tuple[str, ...] = ()) -> str:
    r"""Read the number that a generated text gives as its answer, however it is written; empty when there is none.

    What comes after a next question does not count. Of the rest: the number after the first `####`; else in the last
    `\boxed{}`; else after the last "answer is"; else the last number, which is the flexible-extract rule of
    lm-evaluation-harness and of OpenCompass (which ROCKET was measured with). Numbers in words count only where the
    answer is stated, or are all that is said: "so one sees" is not a number. "18 or 19" is no answer.

    Returns:
        The number in the form of `marked_number`; a fraction without an end as `1/3`.
    """
    part = english(straight(own_part(text)))
    _, mark, marked = part.partition("####")
    own = [marked.strip().partition("\n")[0][:_MAX_STATEMENT]] if mark else []
    for stated in (*own, *boxed(part)[:1], *after(_STATED, part)[:1]):
        if answer := _stated_number(stated.strip()[:_MAX_STATEMENT]):
            return answer if answer != "several" else ""
    text = plain(part)
    if numbers := list(NUMBER.finditer(text)):
        return canonical(numbers[-1])
    return _stated_number(text) if len(text.split()) < 10 else ""


def _stated_number(statement: str) -> str:
    """Read the first number of a statement, or what its equation comes to; "several" where it leaves open which."""
    text = _SPACED.sub(lambda match: match[0].replace(" ", ""), in_digits(plain(statement)))
    _, equals, result = text.partition("\n")[0].rpartition("=")
    if equals and NUMBER.search(result):
        text = result
    found = NUMBER.search(text)
    if not found:
        return ""
    other = _OPEN.match(text, found.start() + len(found[0].rstrip(",")))
    return "several" if other and other[1] != found["number"] else canonical(found)


def completion(rationale: str, answer: str) -> str:
    """Write a solution in GSM8K's form."""
    return f"{rationale}\n#### {answer}".strip()


GSM8K = Task(
    name="gsm8k",
    description="Grade-school mathematics word problems with a numeric answer.",
    dataset="openai/gsm8k",
    config="main",
    revision="740312add88f781978c0658806c59bc2815b9866",
    question="question",
    answer="answer",
    prompt=question_prompt,
    completion=completion,
    extract=marked_number,
    guess=any_number,
    mark="####",
    stop=("Question:", "</s>", "<|im_end|>"),
    closed=("openai/gsm8k", "gsm8k"),
)
