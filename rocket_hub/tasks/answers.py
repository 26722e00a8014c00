from __future__ import annotations

import re
from collections.abc import Sequence

STOP = ("\nQuestion:", "</s>", "<|im_end|>")  # at which a generation is over
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
_BEFORE = re.compile(
    r"(?:\b(?:not|never|neither|nor|than|unlike|cannot)|n't)\s+"
    r"(?:be\s+|the\s+|an?\s+|option\s+|choice\s+|solution\s+|answer\s+|letter\s+|[(\"'*])*\Z",
    re.IGNORECASE,
)
_AFTER = re.compile(
    r"\A[)\]}>\"'*]*\s*(?:"
    r"(?:is|was|are|were|would|will|does|do|did|can|could|should)(?:n't|\s+not)\b|cannot\b|can't\b|won't\b"
    r"|(?:is|was|are|seems|looks|would be)\s+(?:\w+\s+)?(?:wrong|incorrect|false|bad|worse|untrue)\b)",
    re.IGNORECASE,
)
_NEAR = 40  # characters that are looked at on either side
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_OPTIONS = tuple(
    (re.compile(rf"(?:^|(?<=\s))\(?([{labels[0]}-{labels[-1]}])[.):]\s+(?=\S)"), labels)
    for labels in (LETTERS, "123456789")
)


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


def question_prompt(question: str) -> str:
    """Write lm-evaluation-harness' prompt of GSM8K, ARC and PIQA, in its zero-shot form."""
    return f"Question: {question}\nAnswer:"


def reasoned(rationale: str, answer: str) -> str:
    """Write an answer as in Table 8 of arXiv 2408.15915: the rationale, then "The answer is ..."."""
    return f"{rationale}\nThe answer is {answer}.".strip()


def statements(text: str, pattern: re.Pattern[str]) -> tuple[str, list[str]]:
    r"""Return a text without its dress and without what comes after a next question, and what it states as its answer.

    The second is what stands in each `\boxed{}`, then what comes after each match of the pattern, the last first in
    both.
    """
    part = straight(own_part(text))
    boxes = [plain(box) for box in boxed(part)]
    part = plain(part)
    return part, [*boxes, *after(pattern, part)]


def last_group(pattern: re.Pattern[str], text: str) -> str:
    """Return the group of a pattern's last match; empty when there is none."""
    found = pattern.findall(text)
    return found[-1] if found else ""


def after(pattern: re.Pattern[str], text: str) -> list[str]:
    """Return what comes after each match of a pattern, the last first."""
    ends = [match.end() for match in pattern.finditer(text)][: -_MAX_STATEMENTS - 1 : -1]
    return [text[end : end + _MAX_LENGTH] for end in ends]


def denied(text: str, start: int, end: int) -> bool:
    """Return whether what stands at a place of a text is denied there."""
    before, behind = text[max(start - _NEAR, 0) : start], text[end : end + _NEAR]
    return bool(_BEFORE.search(before) or _AFTER.match(behind))


def lettered(choices: Sequence[str]) -> str:
    """Write options as OpenCompass and ROCKET do: one a line, `A. ` before the first."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))


def split_choices(question: str) -> tuple[str, tuple[str, ...]]:
    """Part a question from the options that are written in it, one a line or in a row, as `A. `, `(A) ` or `1. `.

    Returns:
        (question without options, options); no options where there are fewer than two in order.
    """
    for pattern, labels in _OPTIONS:
        marks = list(pattern.finditer(question))
        for first in (place for place, mark in enumerate(marks) if mark[1] == labels[0]):
            run = [marks[first]]
            for mark in marks[first + 1 :]:
                if len(run) < len(labels) and mark[1] == labels[len(run)]:
                    run.append(mark)
            if len(run) > 1:
                ends = [mark.start() for mark in run[1:]] + [len(question)]
                choices = tuple(question[mark.end() : end].strip() for mark, end in zip(run, ends, strict=True))
                return question[: run[0].start()].rstrip(), choices
    return question, ()
