"""What the Hub is searched for, and which listed adapters and data sets are read first: the K-shot decides."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from rocket_hub.discovery.listing import Listed, ListedDataset, Query

if TYPE_CHECKING:
    from rocket_hub.inference.models import Encoder


ALIKE = 3.0
"""Weight of the cosine, which is seldom above 0.5 between a short card and a problem."""
DECADES = 6
"""Decades of downloads that are worth as much as one year of age."""
MOST_SHOTS = 64
YEAR = 365 * 24 * 3600.0
TAGS = (
    "task_categories:text-generation", "task_categories:question-answering", "task_categories:multiple-choice",
    "instruction-tuning", "instruction-finetuning", "sft",
)  # fmt: skip
MOST_WORDS = 4
DOWNLOADS = 0.02
"""What ten times as many downloads count, in units of similarity: a million of them make up for 0.12."""

_WORD = re.compile(r"[a-z][a-z0-9]{2,30}")
_STOP = frozenset(
    """
    about above after again all also although always and another answer answers any are ask asked based because
    been before being below between both but call called can choose choice choices come correct could data
    dataset did does doing done down each either else end enough even every exactly example examples explain few
    find first five following for form found four from gave get gets give given gives goes going got had has
    have her here him his how however into its itself just keep know last least left less let like likely look
    made make makes many may mean means might more most much must name need needs never new next not nothing now
    number numeric off often old once one only option options other others our out over own part passage people
    per person please possible problem problems put question questions read reads right said same say says
    second see sentence sentences set several she should show since six some someone something statement still
    such take takes task tasks tell ten text than that the their them then there these they thing things think
    this those three through time times total turn two under until use used uses using very want wants was way
    well went were what when where whether which while who whole whom whose why will with without word words
    would write written year years yes yet you your day days week month hour hours minute minutes money
    """.split()  # noqa: SIM905
)
# As names of repositories write it.
_SHORT = {"mathematics": "math", "mathematical": "math", "programming": "code", "biomedical": "medical"}


def prior(adapters: Sequence[Listed], shots: Sequence[str] = (), encoder: Encoder | None = None) -> list[float]:
    """Estimate how likely n adapters are to help, from what the list says about them; n numbers, larger is likelier.

        prior = 3 cos(card, K-shot) + log10(1 + downloads) / 6 + 0.5 ** (years since the newest of them was changed)

    `cos` is the mean over the K-shot's texts (at most `MOST_SHOTS`) and 0 without an encoder. Age is counted from the
    newest adapter, so that the same list gives the same order on every day; one without a date counts as old. The
    weights are chosen by hand: this only decides which are tried, and the K-shot decides among them.
    """
    if encoder and shots and adapters:
        similar = _cosines([item.text for item in adapters], shots, encoder, unit=False)
    else:
        similar = [0.0] * len(adapters)
    changed = [_seconds(item.modified) for item in adapters]
    newest = max(changed, default=0.0)
    return [
        ALIKE * cosine + math.log10(1 + item.downloads) / DECADES + 0.5 ** ((newest - moment) / YEAR)
        for item, cosine, moment in zip(adapters, similar, changed, strict=True)
    ]


def _cosines(texts: Sequence[str], shots: Sequence[str], encoder: Encoder, *, unit: bool) -> list[float]:
    """Return the mean cosine of each text with the shots; `unit`: the cosine with the shots' mean."""
    centre = encoder.encode(list(shots[:MOST_SHOTS])).mean(axis=0)  # [d]
    values = encoder.encode(list(texts)) @ centre  # [n, d] @ [d] -> [n]
    if unit:
        values = values / max(float(centre @ centre) ** 0.5, 1e-12)
    return [float(value) if math.isfinite(value) else 0.0 for value in values]


def _seconds(moment: str) -> float:
    """Read a date of the Hub as seconds since 1970; 0 if it is none."""
    try:
        read = datetime.fromisoformat(moment.replace("Z", "+00:00"))
        return max(0.0, (read if read.tzinfo else read.replace(tzinfo=timezone.utc)).timestamp())
    except (ValueError, OverflowError, OSError):
        return 0.0


def search_words(name: str, description: str, prompts: Sequence[str], limit: int = MOST_WORDS) -> tuple[str, ...]:
    """Choose at most `limit` words to search the Hub for, in lower case, the best first.

    A word counts once for each of the K-shot's prompts that it occurs in, as a share of all prompts, and one more if it
    stands in the task's name or description: these say what the task is, while the shots say what it is about. Stop
    words (`the`, `answer`, `many`, ...) do not count; of equal words the longer is taken, then the first in the
    alphabet.
    """
    counts: Counter[str] = Counter()
    for prompt in prompts[:MOST_SHOTS]:
        counts.update(_content(prompt))
    told = _content(f"{name.replace('_', ' ')} {description}")
    scores = {word: counts[word] / max(1, len(prompts)) + (word in told) for word in {*counts, *told}}
    usable = [word for word in scores if word in told or counts[word] > 1]
    return tuple(sorted(usable, key=lambda word: (-scores[word], -len(word), word))[:limit])


def queries_for(words: Sequence[str], languages: Sequence[str]) -> list[Query]:
    """Return the conditions of every list that is read; no languages = any.

    Most cards declare no language, so each tag is asked for with every language and without.
    """
    tagged: list[Query] = [(("filter", tag),) for tag in TAGS]
    spoken: list[Query] = [
        (("filter", tag), ("filter", f"language:{language}")) for language in languages for tag in TAGS
    ]
    return [*tagged, *spoken, *((("search", word),) for word in words)]


def likeliest_first(
    listed: Sequence[ListedDataset], words: Sequence[str], shots: Sequence[str], encoder: Encoder | None
) -> list[ListedDataset]:
    """Sort data sets by a cheap prior, so that a budget takes those that are most likely to help.

    The prior is the cosine between what a data set says of itself and the mean of the K-shot's prompts; without an
    encoder, the share of the words searched for that it says; plus `DOWNLOADS` for every factor of ten in downloads.
    Of equals the most downloaded comes first.
    """
    texts = [item.text for item in listed]
    if encoder and shots and texts:
        near = _cosines(texts, shots, encoder, unit=True)
    else:
        near = [sum(word in text.lower() for word in words) / max(1, len(words)) for text in texts]
    prior = {
        item.repo_id: similarity + DOWNLOADS * math.log10(1 + item.downloads)
        for item, similarity in zip(listed, near, strict=True)
    }
    return sorted(listed, key=lambda item: (-prior[item.repo_id], -item.downloads, item.repo_id))


def _content(text: str) -> set[str]:
    """Return the words of a text without stop words."""
    words = _WORD.findall(text[:4000].lower())
    return {_SHORT.get(word, word) for word in words if word not in _STOP and len(word) > 3}
