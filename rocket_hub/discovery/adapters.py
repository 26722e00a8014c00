from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING

from huggingface_hub import HfApi
from huggingface_hub.utils import build_hf_headers, httpx  # type: ignore[attr-defined]

from rocket_hub.discovery.bases import Described, describe, known_copies, read_shapes
from rocket_hub.discovery.crawl import Verdicts, by_configuration, by_weights, is_config_kept
from rocket_hub.discovery.hub.answers import FIRST_READ, is_kept
from rocket_hub.discovery.hub.client import PACER
from rocket_hub.discovery.listing import WEIGHTS, Listed, check_listed, list_adapters
from rocket_hub.discovery.ranking import prior
from rocket_hub.options import DiscoverOptions
from rocket_hub.records import AdapterDiscovery

if TYPE_CHECKING:
    from rocket_hub.inference.models import Encoder


CONFIG_BYTES = 1_500
"""What PEFT writes has about so many."""
FAILING = 1.5
"""Headers that are read for each adapter that fits, where there are enough."""
SECONDS = 0.15
"""Of one request."""
ANONYMOUS, SIGNED_IN = (3_000, 300.0), (5_000, 300.0)
"""Requests for files per window and the window's seconds (https://huggingface.co/docs/hub/rate-limits, July 2026)."""


@dataclass(frozen=True)
class CrawlPlan:
    """What a crawl will cost."""

    listed: int  # adapters that were listed
    configs: int  # configurations that have to be read from the Hub; the others are kept here, or not needed
    headers: int  # at most about so many headers of weights
    bytes: int  # of both together
    minutes: float  # under the Hub's rate limit

    @property
    def requests(self) -> int:
        """Requests that are still to be sent."""
        return self.configs + self.headers

    def __str__(self) -> str:
        return (
            f"{self.listed:,} adapters listed; reading them takes {self.configs:,} requests for configurations and at "
            f"most about {self.headers:,} for headers of weights: {self.bytes / 1e6:,.1f} MB, "
            f"{self.minutes:,.1f} minutes under the Hub's rate limit"
        )


def plan_crawl(api: HfApi, adapters: Sequence[Listed], listed: int, options: DiscoverOptions) -> CrawlPlan:
    """Estimate what reading the adapters that passed `check_listed` will cost; `listed`: how many there were before."""
    configs = sum(not is_config_kept(api, item) for item in adapters)
    unread = sum(not is_kept(api, item.repo_id, item.revision, WEIGHTS) for item in adapters)
    headers = min(unread, round(FAILING * options.max_adapters))
    token = build_hf_headers(token=api.token).get("authorization", "")
    url = httpx.URL(f"{api.endpoint}/x/resolve/main/{WEIGHTS}")
    limit, window = PACER.limit_of(url, token) or (SIGNED_IN if token else ANONYMOUS)
    requests = configs + headers
    seconds = (requests // limit) * window + (requests % limit) * SECONDS / options.workers
    return CrawlPlan(listed, configs, headers, configs * CONFIG_BYTES + headers * FIRST_READ, seconds / 60)


MAX_ADAPTER_BYTES = 2 * 2**30


@dataclass(frozen=True)
class _Survey:
    """What the list pass found."""

    model: Described  # the base model
    likely: tuple[str, ...]  # ids that may be copies of it
    listed: tuple[Listed, ...]  # the adapters of all of them
    date: float  # when they were listed (seconds since 1970), if that was an earlier run; else 0


def plan_adapters(api: HfApi, base: str, *, options: DiscoverOptions, closed: Collection[str] = ()) -> CrawlPlan:
    """Say what `discover_adapters` would cost; asks for the list pages and one record of the base model only.

    Raises:
        HubError: The base model or a list cannot be read.
    """
    survey = _survey(api, base, options)
    alive = _by_list(survey, options, closed, Verdicts(len(survey.listed)))
    return plan_crawl(api, [item for item, _ in alive], len(survey.listed), options)


def discover_adapters(
    api: HfApi,
    base: str,
    *,
    options: DiscoverOptions,
    progress: Callable[[int, int], None] | None = None,
    max_bytes: int = MAX_ADAPTER_BYTES,
    shots: Sequence[str] = (),
    encoder: Encoder | None = None,
    closed: Collection[str] = (),
    planned: Callable[[CrawlPlan], None] | None = None,
    verdict: Callable[[str, str], None] | None = None,
) -> AdapterDiscovery:
    """Find the LoRA adapters on the Hub that fit a base model.

    Besides the list pages, an adapter costs one read of its configuration and, while the budget lasts, one of the
    header of its weights; no weights are downloaded. What was read once is not asked for again. The verdicts do not
    depend on the timing of the threads.

    Args:
        api: Where the Hub is, and who asks.
        base: The base model's repository id.
        options: How many adapters may go on, which licences are accepted, known copies of the base.
        progress: Called with (adapters with a verdict, adapters listed).
        max_bytes: Adapters whose weights are larger are rejected.
        shots: Texts of the K-shot, for the order of the adapters.
        encoder: Compares them with what the cards say; it is asked only if more adapters fit than may go on.
        closed: The task's own data sets: adapters trained on them are flagged, or rejected if the options say so.
        planned: Called with what the crawl will cost, after the list pass and before anything else is read.
        verdict: Called with (repository id, reason or `usable`), as soon as it is final.

    Returns:
        The candidates, likeliest first (see `prior`), and everything else that was listed with the reason why not,
        sorted by id.

    Raises:
        InputError: The base model cannot be used.
        HubError: The base model or a list cannot be read; what is wrong with one adapter only rejects that one.
        HubUnreachableError: The Hub does not answer.
    """
    survey = _survey(api, base, options)
    verdicts = Verdicts(len(survey.listed), progress, verdict)
    alive = _by_list(survey, options, closed, verdicts)
    if planned:
        planned(plan_crawl(api, [item for item, _ in alive], len(survey.listed), options))
    survivors, shapes = by_configuration(
        api, survey.model, read_shapes(api, survey.model), alive, survey.likely, options.workers, verdicts
    )
    contested = len(survivors) > options.max_adapters
    scores = prior([survivor.item for survivor in survivors], shots, encoder if contested else None)
    ranked = sorted(zip(survivors, scores, strict=True), key=lambda entry: (-entry[1], entry[0].item.repo_id))
    selected = by_weights(api, ranked, shapes, options.max_adapters, max_bytes, options.workers, verdicts)
    rejected = tuple(rejection for _, rejection in sorted(verdicts.rejected.items()))
    return AdapterDiscovery(survey.model.pinned, tuple(selected), rejected, _note(survey.date))


def _survey(api: HfApi, base: str, options: DiscoverOptions) -> _Survey:
    """Pin the base model and list the adapters of it and of everything that may be a copy of it."""
    model = describe(api, base)
    own = model.pinned.repo_id
    others = dict.fromkeys((base, *known_copies(own), *options.mirrors))
    likely = tuple(name for name in others if name.lower() != own.lower())
    listed, date = list_adapters(api, (own, *likely), options.workers)
    return _Survey(model, likely, listed, date or model.asked)


def _by_list(
    survey: _Survey, options: DiscoverOptions, closed: Collection[str], verdicts: Verdicts
) -> list[tuple[Listed, tuple[str, ...]]]:
    """Judge adapters by what the list says; return those that are left, with their flags."""
    alive = []
    for item in survey.listed:
        flags = verdicts.attempt(item.repo_id, partial(check_listed, item, options, closed))
        if flags is not None:
            alive.append((item, flags))
    return alive


def _note(date: float) -> str:
    """Say of what day a list is that was not asked for now."""
    if not date:
        return ""
    day = datetime.fromtimestamp(date, timezone.utc).strftime("%Y-%m-%d %H:%M")
    return f"offline (HF_HUB_OFFLINE): the list of adapters is that of {day} UTC"
