"""Ingredients at a commit, and what their licences allow the result to be. This is not legal advice."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from rocket_hub.discovery.hub.client import call
from rocket_hub.records import Pinned, Rejection

# Beginnings of licence identifiers, in lower case, as cards write them.
NON_COMMERCIAL = (
    "cc-by-nc", "fair-noncommercial", "intel-research", "apple-amlr", "mistral-ai-research", "mnpl", "mrl",
)  # fmt: skip
NO_DERIVATIVES = ("cc-by-nd", "cc-by-nc-nd")
SHARE_ALIKE = (
    "cc-by-sa", "gpl", "agpl", "lgpl", "gfdl", "odbl", "osl-", "eupl", "cdla-sharing", "epl-", "mpl-", "c-uda",
)  # fmt: skip
MODEL = (
    "llama", "gemma", "openrail", "bigscience-openrail", "bigcode-openrail", "creativeml-openrail", "bigscience-bloom",
    "tongyi-qianwen", "qwen", "falcon", "deepseek", "h-research", "deepfloyd",
)  # fmt: skip
PERMISSIVE = (
    "apache-2.0", "mit", "bsd", "isc", "zlib", "ncsa", "ms-pl", "afl-3.0", "artistic-2.0", "bsl-1.0", "postgresql",
    "ecl-2.0", "unlicense", "wtfpl", "cc0", "cc-by-2", "cc-by-3", "cc-by-4", "odc-by", "pddl", "cdla-permissive",
    "etalab-2.0",
)  # fmt: skip
_KINDS = {  # the first kind that matches counts
    "no_derivatives": NO_DERIVATIVES,
    "non_commercial": NON_COMMERCIAL,
    "share_alike": SHARE_ALIKE,
    "model": MODEL,
    "permissive": PERMISSIVE,
}
MEANINGS = {
    "non_commercial": "may not be used commercially",
    "no_derivatives": "may not be changed",
    "share_alike": "asks for the same licence on what is made from it",
    "model": "hands its own conditions on to the result",
    "unknown": "has terms that are not known here and have to be read",
}


@dataclass(frozen=True)
class LicenceLedger:
    """What the ingredients' licences make of the result.

    Attributes:
        result: Licence identifier for the card; `other` when no single one says it all.
        restrictions: One sentence per ingredient that restricts the result.
        rejected: Ingredients that must be left out, reason `licence`.
        unknown: Ingredients whose card declares no licence, or one not known here, reason `unknown_licence`; they are
            kept, because most adapters on the Hub declare none.
    """

    result: str
    restrictions: tuple[str, ...] = ()
    rejected: tuple[Rejection, ...] = ()
    unknown: tuple[Rejection, ...] = ()


def declared(card: Any) -> str:
    """Return the licence that card data declare: in lower case, several joined by commas, empty when there is none."""
    value = card.get("license") if card else None
    names = [item.strip().lower() for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]
    name = card.get("license_name") if card else None
    if names == ["other"] and isinstance(name, str) and name.strip():
        names = [name.strip().lower()]
    told = ",".join(name for name in names if name not in ("", "unknown"))[:200]
    return "".join(letter if letter.isprintable() else "?" for letter in told)


def kind_of(licence: str) -> str:
    """Name the kind of a licence: a key of `MEANINGS`, or `permissive`; of several, the strictest."""
    kinds = [_kind_of_one(name) for name in licence.split(",")]
    return min(kinds, key=[*MEANINGS, "permissive"].index)


def _kind_of_one(name: str) -> str:
    return next((kind for kind, starts in _KINDS.items() if name.strip().lower().startswith(starts)), "unknown")


def judge(licence: str, allow: Collection[str]) -> str | None:
    """Return `licence` if an adapter or data set must be left out, else None; `allow` holds what the user accepts."""
    accepted = {name.lower() for name in allow}
    names = [name for name in licence.split(",") if name not in accepted]
    return "licence" if any(kind_of(name) in ("non_commercial", "no_derivatives") for name in names) else None


def combine(ingredients: Sequence[Pinned], allow: Collection[str]) -> LicenceLedger:
    """Work out the licence of the result.

    The first of the ingredients is the base model, which the user chose and whose licence is always inherited; of the
    adapters and data sets after it, `allow` names the licences that the user accepts although they restrict the result.
    """
    rejected, unknown, restrictions, binding = [], [], [], []
    for position, item in enumerate(ingredients):
        kind = kind_of(item.licence)
        sentence = f"{item.repo_id} ({item.licence or 'no licence declared'}) {MEANINGS.get(kind, '')}".strip()
        if position > 0 and judge(item.licence, allow):
            hint = f"{sentence}; name '{item.licence}' in discover.allow_licences to accept that"
            rejected.append(Rejection(item.repo_id, "licence", hint))
        elif kind == "unknown":
            unknown.append(Rejection(item.repo_id, "unknown_licence", sentence))
            binding += ["other"] if item.licence else []
        elif kind != "permissive":
            restrictions.append(sentence)
            binding.append(item.licence)
    base = ingredients[0].licence if ingredients else ""
    names = list(dict.fromkeys(binding)) or [base or "other"]
    return LicenceLedger(
        result=names[0] if len(names) == 1 and "," not in names[0] else "other",
        restrictions=tuple(restrictions),
        rejected=tuple(rejected),
        unknown=tuple(unknown),
    )


def pin_model(api: HfApi, name: str) -> Pinned:
    """Pin a model, or an adapter, to its commit, with its licence; a folder has neither.

    Raises:
        HubError: There is no such model on the Hub.
    """
    if Path(name).is_dir():
        return Pinned(name, "")
    info = call(name, api.model_info, name)
    return Pinned(info.id, str(info.sha), "model", declared(info.card_data))


def named(pin: Pinned) -> str:
    """Write a model with its commit, as cards name a teacher."""
    return f"{pin.repo_id} at {pin.revision[:12]}" if pin.revision else without_place(pin).repo_id


def without_place(pin: Pinned) -> Pinned:
    """Name a folder by its last part: what is published names no path of this machine."""
    is_folder = not pin.revision and Path(pin.repo_id).is_dir()
    return replace(pin, repo_id=Path(pin.repo_id).resolve().name) if is_folder else pin
