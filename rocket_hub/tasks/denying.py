"""What a text names only to deny it: "not option A", "A is wrong"."""

from __future__ import annotations

import re

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


def denied(text: str, start: int, end: int) -> bool:
    """Say whether what stands at a place of a text is only named to be denied."""
    before, behind = text[max(start - _NEAR, 0) : start], text[end : end + _NEAR]
    return bool(_BEFORE.search(before) or _AFTER.match(behind))
