"""What the Hub derives from a repository's card and files (tags, relation, parameter counts), and its lists.

Where the real Hub's rule is not published (the relation, the computed tags) this is a model of it, not a copy.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml

from rocket_hub.localhub.messages import Request, Response, json_response, text_of
from rocket_hub.localhub.store import Entry, RefusedError, Repository, Store, Tree

LARGEST_CARD = 2**20
LARGEST_DATA = 100_000
"""Values in a card: YAML's aliases let a short text stand for more than any memory holds."""

RELATIONS = ("adapter", "merge", "quantized", "finetune")

_FRONT = re.compile(r"^\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)
_ARXIV = re.compile(r"arxiv\.org/(?:abs|pdf)/(\d{4}\.\d{4,5})")


@lru_cache(maxsize=4096)
def read_card(blob: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Read a README.md of the store: its data, and the arXiv numbers that its text links to.

    Broken YAML counts as none: a list must not fail because of one bad card.
    """
    with blob.open("rb") as file:
        text = file.read(LARGEST_CARD).decode("utf-8", "replace")
    try:
        data = _front_matter(text)
    except yaml.YAMLError:
        data = None
    return (data if isinstance(data, dict) else {}), tuple(dict.fromkeys(_ARXIV.findall(text)))


def check_card(text: str) -> list[str]:
    """Check the text of a README.md as the Hub does before it lets one in, and return the warnings."""
    try:
        data = _front_matter(text)
    except yaml.YAMLError as error:
        raise _invalid([f"YAML parse error: {error}"]) from error
    if data is None:
        return ["empty or missing yaml metadata in repo card"]
    if not isinstance(data, dict):
        raise _invalid(["the metadata must be a mapping"])
    errors = [
        f'"{key}" must be a string or an array'
        for key in ("base_model", "tags", "datasets", "language")
        if not isinstance(data.get(key), (str, list, type(None)))
    ]
    if data.get("base_model_relation") not in (None, *RELATIONS):
        errors.append(f'"base_model_relation" must be one of [{", ".join(RELATIONS)}]')
    if errors:
        raise _invalid(errors)
    needs_name = data.get("license") == "other" and not data.get("license_name")
    return ["license: other needs license_name"] if needs_name else []


def validate(request: Request) -> Response:
    """Answer `POST /api/validate-yaml`."""
    warnings = check_card(text_of(request.json(), "content"))
    return json_response({"errors": [], "warnings": [{"message": warning} for warning in warnings]})


def load_yaml(text: str | bytes) -> Any:
    """Parse YAML from anybody into what JSON can say: dates become text."""
    values = 0

    def plain(value: Any) -> Any:
        nonlocal values
        values += 1
        if values > LARGEST_DATA:
            raise yaml.YAMLError("the metadata is too large")
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple, set)):
            return [plain(item) for item in value]
        text = str(value)  # fails for a number of many thousand digits, which JSON could not write either
        return value if isinstance(value, (str, int, float, type(None))) else text

    try:
        return plain(yaml.safe_load(text))
    except (ValueError, TypeError, RecursionError) as error:  # an impossible date, an alias to itself, a huge number
        raise yaml.YAMLError(str(error)) from error


def _front_matter(text: str) -> Any:
    match = _FRONT.match(text[:LARGEST_CARD])
    return load_yaml(match[1]) if match else None


def _invalid(errors: list[str]) -> RefusedError:
    body = {"error": "; ".join(errors), "errors": [{"message": error} for error in errors], "warnings": []}
    return RefusedError(400, "; ".join(errors), body=body)


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
        """The library that loads it, for example `peft`."""
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
    """Count the numbers in a safetensors file of the store, by type; nothing if its header is broken."""
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


Field = Callable[[View], Any]


def _setting(key: str) -> Field:
    return lambda view: view.repository.settings[key]


def _unknown(view: View) -> None:
    """Stand for what the real Hub fills from services that a folder does not have."""


COMMON: dict[str, Field] = {
    **{key: _setting(key) for key in ("createdAt", "private", "gated", "downloads", "likes", "trendingScore")},
    "author": lambda view: view.repository.namespace,
    "sha": lambda view: view.sha,
    "lastModified": lambda view: view.repository.commits[view.sha].date,
    "disabled": lambda view: False,
    "downloadsAllTime": _setting("downloads"),
    "tags": lambda view: view.tags,
    "cardData": lambda view: view.card,
    "siblings": lambda view: view.siblings(),
    "usedStorage": lambda view: sum(entry.size for entry in view.tree.values()),
    "resourceGroup": _unknown,
}
MODEL: dict[str, Field] = {
    **COMMON,
    "pipeline_tag": lambda view: view.card.get("pipeline_tag"),
    "library_name": lambda view: view.library,
    "config": lambda view: view.config(),
    "baseModels": lambda view: (
        {"relation": view.relation, "models": [{"id": base} for base in view.bases]} if view.bases else None
    ),
    "model-index": lambda view: view.card.get("model-index"),
    "safetensors": lambda view: view.parameters(),
    "evalResults": lambda view: view.evaluations(),
    "spaces": lambda view: [],
    **dict.fromkeys(("childrenModelCount", "gguf", "inference", "inferenceProviderMapping"), _unknown),
    **dict.fromkeys(("mask_token", "transformersInfo", "widgetData"), _unknown),
}
DATASET: dict[str, Field] = {
    **COMMON,
    "description": lambda view: view.card.get("description"),
    "mainSize": lambda view: sum(entry.size for entry in view.tree.values()),
    **dict.fromkeys(("citation", "paperswithcode_id"), _unknown),
}
NOT_IN_LISTS = frozenset({"baseModels", "childrenModelCount", "usedStorage"})
SHORT = {"private", "downloads", "likes", "tags", "pipeline_tag", "library_name", "createdAt", "trendingScore"}
FULL = SHORT | {"author", "sha", "lastModified", "gated", "disabled", "siblings"}
DATASETS = (FULL - {"siblings"}) | {"cardData", "description"}
SORTS = {key: COMMON[key] for key in ("downloads", "likes", "trendingScore", "createdAt", "lastModified")}


def describe(view: View, fields: Collection[str] | None = None) -> dict[str, Any]:
    """Return the info record of a repository, of all fields or of some; those without a value are left out.

    Raises:
        RefusedError: If a field does not exist (400).
    """
    repository = view.repository
    known = MODEL if repository.kind == "model" else DATASET
    if unknown := sorted(set(fields or ()) - set(known)):
        raise RefusedError(400, f'"expand" contains an invalid value: {unknown}')
    number = hashlib.sha256(f"{repository.kind}/{repository.id}".encode()).hexdigest()[:24]
    record: dict[str, Any] = {"_id": number, "id": repository.id}
    if repository.kind == "model":
        record["modelId"] = repository.id
    values = {field: known[field](view) for field in known if fields is None or field in fields}
    return record | {field: value for field, value in values.items() if value is not None}


def list_repositories(request: Request, kind: str) -> Response:
    """Answer `GET /api/{kind}s`: filtered, sorted, one page."""
    sort = request.value("sort") or "trendingScore"
    if sort not in SORTS:
        raise RefusedError(400, f"Invalid sort: {sort}")
    fields = _fields(request, kind)
    found = [view for view in _seen(request, kind) if _matches(request, view)]
    found.sort(key=SORTS[sort], reverse=request.value("direction") != "1")  # stable, so equals stay sorted by id
    page, headers = request.page(found, min(request.number("limit", request.site.page), request.site.page))
    return json_response([describe(view, fields) for view in page], headers=headers)


def show(request: Request, kind: str, repo: str, rev: str = "main") -> Response:
    """Answer `GET /api/{kind}s/{id}` and `.../revision/{rev}`."""
    repository = request.visible(kind, repo)
    view = View(request.store, repository, repository.resolve(rev))
    expand = request.values("expand")
    if expand:
        return json_response(describe(view, expand))
    record = describe(view)
    if request.flag("blobs"):
        record["siblings"] = view.siblings(sizes=True)
    if request.flag("securityStatus"):
        record["securityRepoStatus"] = view.unsafe_files()
    return json_response(record)


def _seen(request: Request, kind: str) -> list[View]:
    return [
        _view(request.store, repository)
        for repository in request.store.all(kind)
        if not repository.settings["private"] or request.may_read(repository)
    ]


@lru_cache(maxsize=8192)
def _view(store: Store, repository: Repository) -> View:
    """Return the head of the main branch; the store hands out the same object as long as a repository is the same."""
    return View(store, repository, repository.resolve("main"))


def _matches(request: Request, view: View) -> bool:
    repository = view.repository
    name = repository.id.lower()
    if request.value("author") not in (None, repository.namespace):
        return False
    if not all(word.lower() in name for word in request.values("search")):
        return False
    if request.value("gated") is not None and bool(repository.settings["gated"]) != request.flag("gated"):
        return False
    wanted = {tag for value in request.values("filter") for tag in value.split(",")}
    return (wanted | set(request.values("pipeline_tag"))) <= set(view.tags)


def _fields(request: Request, kind: str) -> set[str]:
    expand = set(request.values("expand"))
    if forbidden := sorted(expand & NOT_IN_LISTS):
        raise RefusedError(400, f'"expand" contains an invalid value: {forbidden} (known for a single repository only)')
    if expand:
        return expand
    fields = DATASETS if kind == "dataset" else SHORT
    if request.flag("full"):
        fields = fields | FULL
    if kind == "model":
        return fields | {key for key in ("cardData", "config") if request.flag(key)}
    return fields - {"pipeline_tag", "library_name"}
