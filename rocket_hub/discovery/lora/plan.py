"""What a crawl will cost, before it costs anything but its list pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huggingface_hub.utils import build_hf_headers, httpx  # type: ignore[attr-defined]

from rocket_hub.discovery.access.headers import FIRST_READ, is_kept
from rocket_hub.discovery.access.pacing import PACER
from rocket_hub.discovery.lora.config_files import is_config_kept
from rocket_hub.discovery.lora.listing import WEIGHTS, Listed
from rocket_hub.options import DiscoverOptions

if TYPE_CHECKING:
    from huggingface_hub import HfApi

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
    """What a crawl will cost.

    Attributes:
        listed: Adapters that were listed.
        configs: Configurations that have to be read from the Hub; the others are kept here, or not needed.
        headers: At most about so many headers of weights.
        bytes: Of both together.
        minutes: Under the Hub's rate limit.
    """

    listed: int
    configs: int
    headers: int
    bytes: int
    minutes: float

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
    """Estimate what reading adapters will cost.

    Args:
        api: Where the Hub is, and who asks.
        adapters: Those that passed `check_listed`.
        listed: How many there were before.
        options: How many may go on, and how many are read at once.

    Returns:
        The plan.
    """
    configs = sum(not is_config_kept(api, item) for item in adapters)
    unread = sum(not is_kept(api, item.repo_id, item.revision, WEIGHTS) for item in adapters)
    headers = min(unread, round(FAILING * options.max_adapters))
    token = build_hf_headers(token=api.token).get("authorization", "")
    url = httpx.URL(f"{api.endpoint}/x/resolve/main/{WEIGHTS}")
    limit, window = PACER.limit_of(url, token) or (SIGNED_IN if token else ANONYMOUS)
    requests = configs + headers
    seconds = (requests // limit) * window + (requests % limit) * SECONDS / options.workers
    return CrawlPlan(listed, configs, headers, configs * CONFIG_BYTES + headers * FIRST_READ, seconds / 60)
