"""Which adapters are the likeliest to help, before any of them is tried: the order in which a budget takes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from rocket_hub.discovery.lora.listing import Listed

if TYPE_CHECKING:
    from rocket_hub.inference.models import Encoder

ALIKE = 3.0
"""Weight of the cosine, which is seldom above 0.5 between a short card and a problem."""
DECADES = 6
"""Decades of downloads that are worth as much as one year of age."""
MOST_SHOTS = 64
YEAR = 365 * 24 * 3600.0


def prior(adapters: Sequence[Listed], shots: Sequence[str] = (), encoder: Encoder | None = None) -> list[float]:
    """Guess how likely adapters are to help, from what the list says about them.

        prior = 3 cos(card, K-shot) + log10(1 + downloads) / 6 + 0.5 ** (years since the newest of them was changed)

    `cos` is the mean over the K-shot's texts and 0 without an encoder. Age is counted from the newest adapter, so that
    the same list gives the same order on every day; one without a date counts as old. The weights are chosen by hand:
    this only decides who is tried, and the K-shot decides among them.

    Args:
        adapters: n adapters.
        shots: The texts of the K-shot; at most `MOST_SHOTS` are used.
        encoder: Compares texts.

    Returns:
        n numbers; the larger the likelier.
    """
    similar = _similarities([item.text for item in adapters], shots, encoder)
    changed = [_seconds(item.modified) for item in adapters]
    newest = max(changed, default=0.0)
    return [
        ALIKE * cosine + math.log10(1 + item.downloads) / DECADES + 0.5 ** ((newest - moment) / YEAR)
        for item, cosine, moment in zip(adapters, similar, changed, strict=True)
    ]


def _similarities(texts: Sequence[str], shots: Sequence[str], encoder: Encoder | None) -> list[float]:
    """Return the mean cosine of each text with the shots."""
    if encoder is None or not shots or not texts:
        return [0.0] * len(texts)
    mean = encoder.encode(list(shots[:MOST_SHOTS])).mean(axis=0)  # [d]
    # [n, d] @ [d] -> [n]
    cosines = (float(value) for value in encoder.encode(list(texts)) @ mean)
    return [value if math.isfinite(value) else 0.0 for value in cosines]


def _seconds(moment: str) -> float:
    """Read a date of the Hub as seconds since 1970; 0 if it is none."""
    try:
        read = datetime.fromisoformat(moment.replace("Z", "+00:00"))
        return max(0.0, (read if read.tzinfo else read.replace(tzinfo=timezone.utc)).timestamp())
    except (ValueError, OverflowError, OSError):
        return 0.0
