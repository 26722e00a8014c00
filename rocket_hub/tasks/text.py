"""What is common to reading answers out of generated text."""

from __future__ import annotations

import re

MAX_CHARACTERS = 20_000  # of a generated text; no answer is longer
_MAX_STATEMENTS, _MAX_LENGTH = 20, 2_000  # of an answer in one text, so that the work is bounded
_NEXT_QUESTION = re.compile(r"\n\s*(?:\*\*)?(?:Question|Problem|Q|Human|User|Instruction)\s*\d*\s*:|<\|im_end\|>|</s>")
_DRESS = re.compile(r"\*\*|__|`+(?:\w+\n)?|\\[()\[\]]")
_LATEX = (
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"\1/\2"),
    (re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\s*\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\([$%&#_{}])"), r"\1"),
    (re.compile(r"(?<=\d)(?:\\[,;: ]|[\u00a0\u2009\u202f])(?=\d{3}\b)"), ""),
    (re.compile(r"\\[,;:! ]|[\u00a0\u2009\u202f]"), " "),
)
_STRAIGHT = str.maketrans("“”„‘’：（）", '"""\'\':()')
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")


def own_part(text: str) -> str:
    """Cut where a model that does not stop goes on with a question of its own."""
    return _NEXT_QUESTION.split(text[:MAX_CHARACTERS].replace("\r\n", "\n"), maxsplit=1)[0]


def plain(text: str) -> str:
    r"""Take off Markdown and LaTeX that does not change what is said (`**`, backticks, `\text{}`, `\frac{}{}`)."""
    text = _DRESS.sub("", text).replace("\u2212", "-")
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    return text


def straight(text: str) -> str:
    """Write typographic quotation marks, colons and brackets as they are on a keyboard."""
    return text.translate(_STRAIGHT)


def boxed(text: str) -> list[str]:
    r"""Return what stands in each `\boxed{}`, the last first."""
    found = []
    for start in list(_BOXED.finditer(text))[: -_MAX_STATEMENTS - 1 : -1]:
        depth = 1
        for at in range(start.end(), min(start.end() + _MAX_LENGTH, len(text))):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if not depth:
                found.append(text[start.end() : at])
                break
    return found


def after(pattern: re.Pattern[str], text: str) -> list[str]:
    """Return what comes after each match of a pattern, the last first."""
    ends = [match.end() for match in pattern.finditer(text)][: -_MAX_STATEMENTS - 1 : -1]
    return [text[end : end + _MAX_LENGTH] for end in ends]
