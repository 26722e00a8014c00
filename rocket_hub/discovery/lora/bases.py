"""What a base model looks like to an adapter: depth and module shapes, read without its weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rocket_hub.discovery.access.answers import files_of, model_record
from rocket_hub.discovery.access.cache import load, save
from rocket_hub.discovery.access.files import fetch, is_plain_path
from rocket_hub.discovery.access.headers import Tensor, read_header
from rocket_hub.discovery.licences import declared
from rocket_hub.discovery.lora.listing import COMMIT, HUB_ID
from rocket_hub.errors import AdapterError, HubError, InputError
from rocket_hub.records import Pinned

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MAX_JSON_BYTES = 10_000_000
MAX_SHARDS = 500
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d{1,5})\.")
"""The number of a layer in the name of a module, with a dot after it."""


@dataclass(frozen=True)
class BaseShapes:
    """What a base model offers to adapters.

    Attributes:
        repo_id: Its id on the Hub.
        num_layers: Its depth.
        shapes: Tensor name -> shape, for example `model.layers.0.self_attn.q_proj.weight` -> (out, in).
        copies: Other ids (in lower case) that were proven to be this model -> flags for adapters made on them.
        others: Other ids (in lower case) that might have been -> why they are not, or could not be proven to be.
    """

    repo_id: str
    num_layers: int
    shapes: Mapping[str, tuple[int, ...]]
    copies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)

    def linear(self, module: str) -> tuple[int, int] | None:
        """Return (out, in) of a linear module of the base model, None if there is none of this name."""
        # Some checkpoints (GPT-2) leave out the first part of the name that the loaded model has.
        for name in (module, module.partition(".")[2]):
            shape = self.shapes.get(f"{name}.weight", ())
            if len(shape) == 2:
                out, wide = shape
                return (wide, out) if name.rpartition(".")[2] in ("c_attn", "c_proj", "c_fc") else (out, wide)
        return None


@dataclass(frozen=True)
class Described:
    """A model as the Hub's record of it shows it.

    Attributes:
        pinned: The model at its present commit.
        files: Path -> SHA-256 of an LFS file, git's SHA-1 of another.
        asked: When the record was asked for (seconds since 1970); 0 = now.
    """

    pinned: Pinned
    files: Mapping[str, str]
    asked: float


def describe(api: HfApi, repo_id: str) -> Described:
    """Pin a model and list its files, with one request.

    Raises:
        HubError: It does not exist, the Hub's answer names no commit, or the Hub does not answer.
    """
    record, asked = model_record(api, repo_id)
    name, sha, card = record["id"], record["sha"], record["cardData"]
    if not (isinstance(name, str) and HUB_ID.fullmatch(name) and isinstance(sha, str) and COMMIT.fullmatch(sha)):
        raise HubError(f"base model {repo_id}: the Hub tells no id and commit for it; check HF_ENDPOINT")
    licence = declared(card if isinstance(card, dict) else None)
    return Described(Pinned(name, sha, "model", licence), files_of(record), asked)


def read_base(api: HfApi, base: str) -> tuple[Pinned, BaseShapes]:
    """Pin a base model and read its shapes from `config.json` and the headers of its weights.

    Args:
        api: Where the Hub is, and who asks.
        base: Repository id.

    Returns:
        The base model at its present commit, and its shapes.

    Raises:
        InputError: It has no safetensors weights, is quantised, or its files cannot be understood.
        HubError: It does not exist, is gated, or the Hub does not answer.
    """
    model = describe(api, base)
    return model.pinned, read_shapes(api, model)


def read_shapes(api: HfApi, model: Described) -> BaseShapes:
    """Read the shapes of a model that adapters can be merged for; raises as `read_base`."""
    config = read_json(api, model, "config.json")
    if config.get("quantization_config"):
        found = f"base model {model.pinned.repo_id}: its weights are quantised"
        raise InputError(f"{found}; name the model it was made from")
    shapes = {name: tensor.shape for name, tensor in read_tensors(api, model).items()}
    return BaseShapes(model.pinned.repo_id, _depth(model.pinned.repo_id, config, shapes), shapes)


def read_tensors(api: HfApi, model: Described) -> dict[str, Tensor]:
    """Read the headers of all weight files of a model.

    Raises:
        InputError: It has no safetensors weights, or they are broken.
        HubError: They cannot be read.
    """
    tensors: dict[str, Tensor] = {}
    for file in _weight_files(api, model):
        try:
            tensors |= read_header(api, model.pinned.repo_id, model.pinned.revision, file).tensors
        except AdapterError as error:
            where = f"base model {model.pinned.repo_id}: {file}"
            raise InputError(f"{where}: {error}; choose another base model") from error
    return tensors


def read_json(api: HfApi, model: Described, filename: str) -> dict[str, Any]:
    """Read a small JSON file of a model; the same commit costs no request again.

    Raises:
        InputError: It is no JSON object.
        HubError: It cannot be read.
    """
    where, name = f"base model {model.pinned.repo_id}", (model.pinned.repo_id, model.pinned.revision, filename)
    part = load(api, "file", *name)
    if part is None:
        part = fetch(api, *name, length=MAX_JSON_BYTES + 1)
        if len(part.data) > MAX_JSON_BYTES:
            raise InputError(f"{where}: {filename} has more than the {MAX_JSON_BYTES:,} bytes that are read here")
        if part.hash:  # else it is not certain that the Hub said it
            save(api, part, "file", *name)
    try:
        value = json.loads(part.data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: {filename} is not JSON: {str(error)[:100]}") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: {filename} is no JSON object")
    return value


def _weight_files(api: HfApi, model: Described) -> list[str]:
    """List the files that hold the weights."""
    where = f"base model {model.pinned.repo_id}"
    if WEIGHTS in model.files:
        return [WEIGHTS]
    if INDEX not in model.files:
        raise InputError(f"{where}: has no {WEIGHTS}; choose a base model with safetensors weights")
    table = read_json(api, model, INDEX).get("weight_map")
    shards = sorted({str(file) for file in table.values()}) if isinstance(table, dict) else []
    named = all(file in model.files and is_plain_path(file) for file in shards)
    if not shards or len(shards) > MAX_SHARDS or not named:
        raise InputError(f"{where}: {INDEX} does not name the files of its weights")
    return shards


def _depth(base: str, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> int:
    """Return the number of layers, the same in the configuration and in the weights."""
    found = [int(match[1]) for name in shapes if (match := LAYER.search(name))]
    counted = max(found, default=-1) + 1
    text = config.get("text_config")
    told = (text if isinstance(text, dict) else config).get("num_hidden_layers", config.get("n_layer", counted))
    if counted == 0 or told != counted:
        raise InputError(f"base model {base}: config.json says {told!r} layers, its weights have {counted}")
    return counted
