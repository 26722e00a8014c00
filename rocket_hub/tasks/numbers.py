r"""Numbers as people and models write them: `1,234.50`, `$18`, `\frac{7}{2}`, `twenty-one`."""

from __future__ import annotations

import re
from fractions import Fraction

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
