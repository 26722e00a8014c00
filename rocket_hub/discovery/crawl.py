"""Read listed adapters: every configuration, then headers of weights, likeliest first, until the budget is full."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from rocket_hub.discovery.bases import LAYER, BaseShapes, Described, with_copies
from rocket_hub.discovery.hub.answers import Header, load, read_header, recall, remember, save
from rocket_hub.discovery.hub.client import for_each, reason_of
from rocket_hub.discovery.hub.download import fetch
from rocket_hub.discovery.listing import CONFIG, HUB_ID, WEIGHTS, Listed
from rocket_hub.errors import AdapterError, HubError
from rocket_hub.lora.config import MAX_CONFIG_BYTES, MUTATING, check_config, parse_config, short
from rocket_hub.lora.tensors import Tensor, check_tensors
from rocket_hub.records import AdapterCandidate, Rejection

T = TypeVar("T")
R = TypeVar("R")

USABLE = "usable"
GIVE_UP = 8
"""Outages in a row after which the Hub is taken to be down."""
OUTAGES = ("unreachable", "rate_limited", "hub_error")


class Verdicts:
    """Collects what was decided of each adapter, and tells the Hub's outages from faults of the adapters.

    Args:
        total: How many adapters get a verdict.
        progress: Called with (adapters with a verdict, all).
        verdict: Called with (repository id, reason or `usable`).

    Attributes:
        rejected: Repository id -> why it was not taken.
    """

    def __init__(
        self,
        total: int,
        progress: Callable[[int, int], None] | None = None,
        verdict: Callable[[str, str], None] | None = None,
    ) -> None:
        self.rejected: dict[str, Rejection] = {}
        self._total, self._progress, self._verdict = total, progress, verdict
        self._told = self._in_a_row = 0

    def tell(self, repo_id: str, reason: str = USABLE) -> None:
        """Say that a verdict is final."""
        self._told += 1
        if self._verdict:
            self._verdict(repo_id, reason)
        if self._progress:
            self._progress(self._told, self._total)

    def reject(self, repo_id: str, error: AdapterError | HubError) -> None:
        """Reject an adapter."""
        reason = error.reason if isinstance(error, AdapterError) else reason_of(error)
        self._in_a_row = self._in_a_row + 1 if reason in OUTAGES else 0
        if self._in_a_row >= GIVE_UP:
            raise error
        self.rejected[repo_id] = Rejection(repo_id, reason, str(error))
        self.tell(repo_id, reason)

    def attempt(self, repo_id: str, function: Callable[[], R]) -> R | None:
        """Call a function; if it refuses, reject the adapter and return None."""
        try:
            return function()
        except AdapterError as error:
            self.reject(repo_id, error)
            return None

    def attempt_all(
        self, items: Sequence[T], name: Callable[[T], str], function: Callable[[T], R], workers: int
    ) -> list[R | None]:
        """Call a function on each item in threads; returns the results, None where an item is rejected."""
        results: list[R | None] = [None] * len(items)

        def attempt(item: T) -> R | AdapterError | HubError:
            try:
                return function(item)
            except (AdapterError, HubError) as error:
                return error

        def receive(position: int, result: R | AdapterError | HubError) -> None:
            if isinstance(result, (AdapterError, HubError)):
                self.reject(name(items[position]), result)
            else:
                self._in_a_row = 0
                results[position] = result

        for_each(attempt, items, workers, receive)
        return results


REFUSED_FOR = 3600.0
"""Seconds for which it is remembered, for one token, that the Hub gave no access."""


def read_config(api: HfApi, item: Listed) -> dict[str, Any]:
    """Read the configuration of an adapter that `check_listed` has passed, with at most one request.

    Raises:
        AdapterError: `broken_config`; or `gated`, as the Hub said less than an hour ago.
        HubError: It cannot be read; `reason_of` names the fault.
    """
    part = load(api, "file", item.repo_id, item.revision, CONFIG)
    if part is None:
        if (refused := _refused(api, item)) is not None:
            raise AdapterError("gated", refused)
        try:
            part = fetch(api, item.repo_id, item.revision, CONFIG, length=MAX_CONFIG_BYTES + 1)
        except HubError as error:
            if isinstance(error.__cause__, GatedRepoError):
                remember(api, str(error), *_refusal(api, item))
            raise
        part = part._replace(size=max(part.size, len(part.data)))
        if part.size > MAX_CONFIG_BYTES:
            part = part._replace(data=b"")  # nothing of it counts but its size
        if part.hash:  # else it is not certain that the Hub said it
            save(api, part, "file", item.repo_id, item.revision, CONFIG)
    return parse_config(part.data, part.size)


def is_config_kept(api: HfApi, item: Listed) -> bool:
    """Return whether reading the configuration costs no request."""
    kept = load(api, "file", item.repo_id, item.revision, CONFIG)
    return kept is not None or _refused(api, item) is not None


def _refused(api: HfApi, item: Listed) -> str | None:
    """Return what the Hub said when it gave no access, None if it did not in the last hour."""
    kept = recall(api, *_refusal(api, item))
    if kept is None or not 0 <= time.time() - kept[0] < REFUSED_FOR:
        return None
    minutes = (time.time() - kept[0]) / 60
    return f"{kept[1]} (said {minutes:.0f} minutes ago; the Hub is asked again after {REFUSED_FOR / 60:.0f})"


def _refusal(api: HfApi, item: Listed) -> tuple[str, ...]:
    """Name the refusal of one adapter to one user."""
    who = build_hf_headers(token=api.token).get("authorization", "")
    return ("refusal", hashlib.sha256(who.encode()).hexdigest(), item.repo_id, item.revision)


# Flags of adapters that fit.
FOLDED = "folded_with_base"
"""It changes the base weights, which has to be folded into it first."""
WHOLE = "whole_tensors"
"""It holds whole tensors, or biases, of the base's shapes: only their values tell whether they are the base's own."""
_CACHED = re.compile(r"(?:.*/)?models--([^/]+)--([^/]+)(?:/snapshots/[^/]+)?")
_ADDRESS = re.compile(r"https?://[^/]+/([^/]+/[^/?#]+).*")


def check_kind(config: Mapping[str, Any]) -> str:
    """Check a configuration without regard to the base model; returns and raises as `lora.config.check_config`."""
    kind = check_config(config)
    if kind == "mlx":
        raise AdapterError("not_lora", "saved by mlx-lm under names that are not downloaded; convert it to PEFT's form")
    return kind


def claimed_base(config: Mapping[str, Any]) -> str:
    """Return the id of the base model that a configuration names; empty if it names none on the Hub."""
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str):
        return ""
    name = _ADDRESS.sub(r"\1", _CACHED.sub(r"\1/\2", name.rstrip("/")))
    return name if HUB_ID.fullmatch(name) else ""


def check_base(config: Mapping[str, Any], base: BaseShapes) -> tuple[str, ...]:
    """Compare the base model that a configuration, which `check_kind` has passed, names with the one at hand.

    Returns:
        Flags: `base_unverified` if the configuration does not name a base model on the Hub, `mirror_base` if it names
        a copy that was proven to be one, `quantized_base` if that copy is quantised, `folded_with_base` if PEFT changes
        the base weights when it loads the adapter.
    """
    folded = (FOLDED,) if check_kind(config) in MUTATING else ()
    told, name = config.get("base_model_name_or_path"), claimed_base(config).lower()
    if not name and (told is None or isinstance(told, str)):
        return ("base_unverified", *folded)
    if name != base.repo_id.lower() and name not in base.copies:
        why = f" ({base.others[name]})" if base.others.get(name) else ""
        raise AdapterError("wrong_base", f"made for {short(told)}, not for {base.repo_id}{why}")
    return (*base.copies.get(name, ()), *folded)


@dataclass(frozen=True)
class LoraFacts:
    """What the header says about an adapter that fits."""

    rank: int  # the largest rank of any module
    target_modules: tuple[str, ...]  # last names of the adapted modules, sorted
    flags: tuple[str, ...] = ()  # what is odd about it


def check_header(
    header: Mapping[str, Tensor], config: Mapping[str, Any], base: BaseShapes, *, verified: bool = True
) -> LoraFacts:
    """Check the names and shapes of an adapter's tensors.

    Where its configuration does not name this base model (not `verified`), an adapter of fewer layers is refused too.
    """
    layout = check_tensors(header, config, check_kind(config), base.shape)
    layers = {int(number) for module in layout.modules for number in LAYER.findall(f"{module}.")}
    depth = max(layers, default=-1) + 1
    if not verified and not config.get("layers_to_transform") and depth < base.num_layers:
        detail = f"adapts {depth} of {base.num_layers} layers and does not say for which base model"
        raise AdapterError("depth_mismatch", detail)
    targets = tuple(sorted({module.rpartition(".")[2] for module in layout.ranks}))
    flags = (WHOLE,) if layout.whole or layout.biases else ()
    return LoraFacts(max(layout.ranks.values()), targets, flags)


SMALLEST_WAVE, LARGEST_WAVE = 8, 64
"""Headers that are read at once before they are judged in order."""
# What, beside the weights, decides what an adapter adds to the base.
_DECISIVE = ("alpha_pattern", "fan_in_fan_out", "init_lora_weights", "init_r", "kasa_config", "lora_alpha", "peft_type",
             "r", "rank_pattern", "use_rslora")  # fmt: skip


@dataclass(frozen=True)
class Survivor:
    """An adapter whose configuration fits."""

    item: Listed  # as it was listed
    config: Mapping[str, Any] = field(repr=False)  # its configuration
    flags: tuple[str, ...]  # what is odd about it so far


def by_configuration(
    api: HfApi,
    model: Described,
    shapes: BaseShapes,
    alive: Sequence[tuple[Listed, tuple[str, ...]]],
    likely: Sequence[str],
    workers: int,
    verdicts: Verdicts,
) -> tuple[list[Survivor], BaseShapes]:
    """Read and judge the configurations of adapters that passed `check_listed`, given with their flags.

    Returns:
        Those that fit, in the given order; and the shapes with what was found out about `likely` copies of the base.
    """
    items = [item for item, _ in alive]
    read = verdicts.attempt_all(items, lambda item: item.repo_id, partial(read_config, api), workers)
    told = {item: config for item, config in zip(items, read, strict=True) if config is not None}
    # Which other names are the base's is found out for what would fit otherwise, not for any name in a card.
    sound = [item for item in told if verdicts.attempt(item.repo_id, partial(check_kind, told[item]))]
    names = (claimed_base(told[item]) for item in sound)
    shapes = with_copies(api, model, shapes, [name for name in names if name], likely)
    flags, survivors = dict(alive), []
    for item in sound:
        more = verdicts.attempt(item.repo_id, partial(check_base, told[item], shapes))
        if more is not None:
            survivors.append(Survivor(item, told[item], (*more, *flags[item])))
    return survivors, shapes


def by_weights(
    api: HfApi,
    ranked: Sequence[tuple[Survivor, float]],
    shapes: BaseShapes,
    max_adapters: int,
    max_bytes: int,
    workers: int,
    verdicts: Verdicts,
) -> list[AdapterCandidate]:
    """Read headers, likeliest adapters first, until enough of them fit; returns these in the given order.

    Args:
        api: Where the Hub is, and who asks.
        ranked: Adapters and their prior, the likeliest first.
        shapes: The base model's shapes.
        max_adapters: At most this many are taken.
        max_bytes: Adapters whose weights are larger are rejected.
        workers: How many are read at once.
        verdicts: Where rejections go.
    """
    selected: list[AdapterCandidate] = []
    first: dict[str, str] = {}
    at = 0
    while at < len(ranked) and len(selected) < max_adapters:
        # The size of a wave depends on neither the threads' number nor their timing, and so neither do the verdicts.
        wave = ranked[at : at + max(SMALLEST_WAVE, min(LARGEST_WAVE, max_adapters - len(selected)))]
        read = partial(_read, api, shapes, max_bytes)
        found = verdicts.attempt_all([survivor for survivor, _ in wave], lambda one: one.item.repo_id, read, workers)
        for (survivor, score), facts in zip(wave, found, strict=True):
            if facts is not None and len(selected) >= max_adapters:
                _over_budget(survivor, max_adapters, verdicts)
            elif facts is not None and not _is_double(survivor, facts[0], first, verdicts):
                selected.append(_candidate(survivor, *facts, score))
                verdicts.tell(survivor.item.repo_id)
        at += len(wave)
    for survivor, _ in ranked[at:]:
        _over_budget(survivor, max_adapters, verdicts)
    return selected


def _read(api: HfApi, shapes: BaseShapes, max_bytes: int, survivor: Survivor) -> tuple[Header, LoraFacts]:
    """Read and judge the header of one adapter's weights."""
    header = read_header(api, survivor.item.repo_id, survivor.item.revision, WEIGHTS)
    if header.size > max_bytes:
        raise AdapterError("too_large", f"{WEIGHTS} has {header.size:,} bytes, more than {max_bytes:,}")
    verified = "base_unverified" not in survivor.flags
    return header, check_header(header.tensors, survivor.config, shapes, verified=verified)


def _is_double(survivor: Survivor, header: Header, first: dict[str, str], verdicts: Verdicts) -> bool:
    """Reject an adapter that adds the same to the base as a likelier one; the hash of its weights is told for free."""
    if not header.sha256:
        return False
    decisive = {key: survivor.config.get(key) for key in _DECISIVE}
    key = header.sha256 + json.dumps(decisive, sort_keys=True, default=str)
    original = first.setdefault(key, survivor.item.repo_id)
    if original != survivor.item.repo_id:
        error = AdapterError("duplicate_of", f"the same weights as {original}")
        verdicts.reject(survivor.item.repo_id, error)
    return original != survivor.item.repo_id


def _over_budget(survivor: Survivor, max_adapters: int, verdicts: Verdicts) -> None:
    """Reject an adapter for which there is no room."""
    detail = f"{max_adapters} likelier adapters fit; raise discover.max_adapters (--max-adapters) to have it too"
    verdicts.reject(survivor.item.repo_id, AdapterError("over_budget", detail))


def _candidate(survivor: Survivor, header: Header, facts: LoraFacts, score: float) -> AdapterCandidate:
    """Say what is known of an adapter that fits."""
    item = survivor.item
    return AdapterCandidate(
        repo_id=item.repo_id,
        revision=item.revision,
        licence=item.licence,
        rank=facts.rank,
        target_modules=facts.target_modules,
        size=header.size,
        downloads=item.downloads,
        datasets=item.datasets,
        flags=(*facts.flags, *survivor.flags),
        description=item.text,
        prior=round(score, 4),
    )
