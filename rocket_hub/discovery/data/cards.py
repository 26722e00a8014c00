"""What the card of a data set declares. Anybody writes there whatever he likes: values of any type, of any size."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rocket_hub.rows.layouts import LABELS
from rocket_hub.rows.parquet import class_names

_MANY = ("multilingual", "multi", "mul", "translation")
_NO_LANGUAGES = ("code", "und", "zxx", "unknown", "other", "python")
_NAMES = {"english": "en", "eng": "en", "chinese": "zh", "german": "de", "french": "fr", "spanish": "es"}
_MOST = 200


def strings(value: Any) -> tuple[str, ...]:
    """Return the texts in a value, one or a list, bounded."""
    values = value if isinstance(value, list) else [value]
    return tuple(entry[:_MOST] for entry in values[:_MOST] if isinstance(entry, str))


def languages_of(card: Mapping[str, Any], tags: Iterable[str]) -> tuple[str, ...]:
    """Return the languages that a card or the tags declare.

    Returns:
        Codes of two or three letters in lower case, each once; `mul` for many; nothing if nothing is declared, or only
        a language of computers.
    """
    told = [*strings(card.get("language")), *(tag.partition(":")[2] for tag in tags if tag.startswith("language:"))]
    codes = [re.split(r"[-_]", name.strip().lower())[0] for name in told]
    codes = ["mul" if code in _MANY else _NAMES.get(code, code) for code in codes]
    return tuple(dict.fromkeys(code for code in codes if code and code not in _NO_LANGUAGES))


def sources_of(card: Mapping[str, Any], tags: Iterable[str]) -> tuple[str, ...]:
    """Return the ids, in lower case, of the data sets that a data set says it was made from."""
    tagged = (tag.partition(":")[2] for tag in tags if tag.startswith("source_datasets:"))
    names = [
        name.strip().lower().removeprefix("extended|") for name in (*strings(card.get("source_datasets")), *tagged)
    ]
    return tuple(dict.fromkeys(name for name in names if name not in ("", "original", "extended")))


def label_names(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes that a card declares for the label; empty where there are none."""
    for info in _infos(card):
        features = info.get("features")
        for feature in features[:_MOST] if isinstance(features, list) else ():
            kind = feature.get("dtype") if isinstance(feature, dict) else None
            told = kind.get("class_label") if isinstance(kind, dict) else None
            if isinstance(told, dict) and str(feature.get("name")).lower() in LABELS:
                return class_names(told.get("names"))
    return ()


def declared_rows(card: Mapping[str, Any]) -> int:
    """Return how many rows a card says its train split has, 0 if it does not; to be shown, never to be trusted."""
    for info in _infos(card):
        splits = info.get("splits")
        for split in splits[:_MOST] if isinstance(splits, list) else ():
            rows = split.get("num_examples") if isinstance(split, dict) and split.get("name") == "train" else None
            if type(rows) is int and 0 <= rows < 1 << 50:
                return rows
    return 0


def _infos(card: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """Return what a card says of its configurations."""
    told = card.get("dataset_info")
    return [info for info in (told if isinstance(told, list) else [told])[:_MOST] if isinstance(info, dict)]
