"""What the Hub derives from a repository's files: tags, relation to a base model, parameter counts, the info record.

Where the real Hub's rule is not published (the relation, the computed tags) this is a model of it, not a copy.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml

from rocket_hub.localhub.cards import load_yaml, read_card
from rocket_hub.localhub.repository import Entry, Repository, Tree
from rocket_hub.localhub.store import Store

POINTER_SIZE = 134
LARGEST_HEADER = 25 * 2**20
"""Bytes of a safetensors header; the bound that the Hub's own client has."""

FORMATS = {"parquet": "parquet", "jsonl": "json", "json": "json", "csv": "csv"}


@dataclass(frozen=True)
class View:
    """One repository at one commit, and what can be read off it."""

    store: Store
    repository: Repository
    sha: str

    @cached_property
    def tree(self) -> Tree:
        """The files by path."""
        return self.repository.commits[self.sha].tree

    @cached_property
    def card(self) -> dict[str, Any]:
        """The data on top of the README.md."""
        return read_card(self.store.blob(self.tree["README.md"].sha256))[0] if "README.md" in self.tree else {}

    @property
    def library(self) -> str | None:
        """The library that loads it."""
        library = self.card.get("library_name") or ("peft" if "adapter_config.json" in self.tree else None)
        return library if isinstance(library, str) else None

    @property
    def bases(self) -> list[str]:
        """The models it was made from, as its card says."""
        return strings(self.card.get("base_model"))

    @property
    def relation(self) -> str | None:
        """How it was made from them."""
        if self.card.get("base_model_relation"):
            return str(self.card["base_model_relation"])
        if not self.bases:
            return None
        if "adapter_config.json" in self.tree or self.library == "peft":
            return "adapter"
        if any(path.endswith(".gguf") for path in self.tree):
            return "quantized"
        return "merge" if len(self.bases) > 1 else "finetune"

    @cached_property
    def tags(self) -> list[str]:
        """The tags that filters match."""
        tags = self._model_tags() if self.repository.kind == "model" else self._dataset_tags()
        tags += [f"license:{licence}" for licence in strings(self.card.get("license"))] + strings(self.card.get("tags"))
        if "README.md" in self.tree:
            tags += [f"arxiv:{number}" for number in read_card(self.store.blob(self.tree["README.md"].sha256))[1]]
        return list(dict.fromkeys([*tags, "region:us"]))

    def _model_tags(self) -> list[str]:
        tags = [self.library] if self.library else []
        tags += ["safetensors"] if any(path.endswith(".safetensors") for path in self.tree) else []
        tags += strings(self.card.get("pipeline_tag"))
        tags += [f"base_model:{base}" for base in self.bases]
        tags += [f"base_model:{self.relation}:{base}" for base in self.bases]
        tags += [f"dataset:{name}" for name in strings(self.card.get("datasets"))]
        return tags + strings(self.card.get("language"))

    def _dataset_tags(self) -> list[str]:
        keys = ("task_categories", "task_ids", "size_categories", "language", "multilinguality")
        tags = [f"{key}:{value}" for key in keys for value in strings(self.card.get(key))]
        suffixes = {path.rsplit(".", 1)[-1] for path in self.tree}
        tags += [f"format:{name}" for suffix, name in FORMATS.items() if suffix in suffixes][:1]
        return [*tags, "modality:text", "library:datasets"]

    def siblings(self, *, sizes: bool = False) -> list[dict[str, Any]]:
        """Return the files as the info record lists them."""
        return [{"rfilename": path, **(_sizes(entry) if sizes else {})} for path, entry in sorted(self.tree.items())]

    def config(self) -> dict[str, Any]:
        """Return the part of `config.json` that the Hub shows."""
        config = self._parse("config.json", json.loads)
        return {
            key: config[key] for key in ("architectures", "model_type") if isinstance(config, dict) and key in config
        }

    def parameters(self) -> dict[str, Any] | None:
        """Count the numbers in the safetensors files, by type."""
        counts: dict[str, int] = {}
        for path, entry in self.tree.items():
            if path.endswith(".safetensors"):
                for dtype, count in count_parameters(self.store.blob(entry.sha256)):
                    counts[dtype] = counts.get(dtype, 0) + count
        return {"parameters": counts, "total": sum(counts.values())} if counts else None

    def evaluations(self) -> list[dict[str, Any]] | None:
        """Return the rows of `.eval_results/`."""
        results = []
        for path in self.tree:
            if path.startswith(".eval_results/"):
                rows = self._parse(path, load_yaml)
                results += [{"filename": path, "data": row} for row in (rows if isinstance(rows, list) else [])]
        return results or None

    def unsafe_files(self) -> dict[str, Any]:
        """Return what a security scan would say."""
        found = [{"path": path, "level": level} for path, level in self.repository.settings["unsafe_files"].items()]
        return {"scansDone": True, "filesWithIssues": found}

    def _parse(self, path: str, parse: Callable[[bytes], Any]) -> Any:
        """Parse a small file; None if it is missing or broken."""
        entry = self.tree.get(path)
        if entry is None or entry.size > LARGEST_HEADER:
            return None
        try:
            return parse(self.store.read(entry))
        except (ValueError, RecursionError, yaml.YAMLError):
            return None


def strings(value: Any) -> list[str]:
    """Return a card's value, one string or a list, as a list of strings."""
    values: Iterable[Any] = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, str)]


@lru_cache(maxsize=4096)
def count_parameters(blob: Path) -> tuple[tuple[str, int], ...]:
    """Count the numbers in one safetensors file.

    Args:
        blob: The file in the store.

    Returns:
        Pairs of type and count; none if the header is broken.
    """
    with blob.open("rb") as file:
        start = file.read(8)
        size = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        header = file.read(size) if size <= LARGEST_HEADER else b""
    try:
        tensors = [tensor for name, tensor in json.loads(header).items() if name != "__metadata__"]
        return tuple((str(tensor["dtype"]), math.prod(map(int, tensor["shape"]))) for tensor in tensors)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ()


def _sizes(entry: Entry) -> dict[str, Any]:
    """Return what `files_metadata=True` adds to a file."""
    lfs = {"sha256": entry.sha256, "size": entry.size, "pointerSize": POINTER_SIZE}
    return {"size": entry.size, "blobId": entry.oid, **({"lfs": lfs} if entry.lfs else {})}
