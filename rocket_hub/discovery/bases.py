"""What a base model looks like to an adapter: depth and module shapes, read without its weights."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rocket_hub.discovery.files import is_plain_path, read_part
from rocket_hub.discovery.headers import read_header
from rocket_hub.discovery.hub import call
from rocket_hub.discovery.licences import declared
from rocket_hub.errors import AdapterError, InputError
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
    """

    repo_id: str
    num_layers: int
    shapes: Mapping[str, tuple[int, ...]]

    def linear(self, module: str) -> tuple[int, int] | None:
        """Return (out, in) of a linear module of the base model, None if there is none of this name."""
        # Some checkpoints (GPT-2) leave out the first part of the name that the loaded model has.
        for name in (module, module.partition(".")[2]):
            shape = self.shapes.get(f"{name}.weight", ())
            if len(shape) == 2:
                out, wide = shape
                return (wide, out) if name.rpartition(".")[2] in ("c_attn", "c_proj", "c_fc") else (out, wide)
        return None


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
    info = call(f"base model {base}", api.model_info, base, expand=["sha", "siblings", "cardData"])
    pinned = Pinned(info.id, str(info.sha), "model", declared(info.card_data))
    files = {sibling.rfilename for sibling in info.siblings or ()}
    config = _read_json(api, pinned, "config.json")
    if config.get("quantization_config"):
        raise InputError(f"base model {base}: its weights are quantised; name the model it was made from")
    shapes: dict[str, tuple[int, ...]] = {}
    for file in _weight_files(api, pinned, files):
        try:
            header, _ = read_header(api, pinned.repo_id, pinned.revision, file)
        except AdapterError as error:
            raise InputError(f"base model {base}: {file}: {error}; choose another base model") from error
        shapes |= {name: tensor.shape for name, tensor in header.items()}
    return pinned, BaseShapes(info.id, _depth(base, config, shapes), shapes)


def _weight_files(api: HfApi, base: Pinned, files: set[str]) -> list[str]:
    """List the files that hold the weights."""
    if WEIGHTS in files:
        return [WEIGHTS]
    if INDEX not in files:
        raise InputError(f"base model {base.repo_id}: has no {WEIGHTS}; choose a base model with safetensors weights")
    table = _read_json(api, base, INDEX).get("weight_map")
    shards = sorted({str(file) for file in table.values()}) if isinstance(table, dict) else []
    if not shards or len(shards) > MAX_SHARDS or not all(file in files and is_plain_path(file) for file in shards):
        raise InputError(f"base model {base.repo_id}: {INDEX} does not name the files of its weights")
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


def _read_json(api: HfApi, base: Pinned, filename: str) -> dict[str, Any]:
    """Read a small JSON file of the base model."""
    data, _ = read_part(api, base.repo_id, base.revision, filename, length=MAX_JSON_BYTES)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"base model {base.repo_id}: {filename} is not JSON: {str(error)[:100]}") from error
    if not isinstance(value, dict):
        raise InputError(f"base model {base.repo_id}: {filename} is no JSON object")
    return value
