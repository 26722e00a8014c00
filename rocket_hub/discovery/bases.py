"""Copies of a base model under other ids: which may exist, and the proof that one is a copy.

Names prove nothing. A copy has the same configuration, the same tokenizer, and the same tensors: equal SHA-256 of its
weight files, or else equal names and shapes of all tensors. The weights of a quantised copy (bitsandbytes) are packed
and so cannot be compared with the base's; it must pack exactly its tensors.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from huggingface_hub import HfApi

from rocket_hub.discovery.hub.answers import files_of, load, model_record, read_header, save
from rocket_hub.discovery.hub.client import reason_of
from rocket_hub.discovery.hub.download import fetch, is_plain_path
from rocket_hub.discovery.licences import declared
from rocket_hub.discovery.listing import COMMIT, HUB_ID
from rocket_hub.errors import AdapterError, HubError, HubUnreachableError, InputError
from rocket_hub.lora.tensors import Tensor
from rocket_hub.records import Pinned

MAX_JSON_BYTES = 10_000_000
MAX_SHARDS = 500
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d{1,5})\.")
"""The number of a layer in the name of a module, with a dot after it."""
INNER = ("model.", "transformer.", "gpt_neox.")
"""How causal language models name the model inside them; checkpoints of that alone (GPT-2) leave it out."""


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

    def shape(self, parameter: str) -> tuple[int, ...] | None:
        """Return the shape of a parameter of the loaded model; None if there is none of this name."""
        layer = LAYER.search(parameter)
        if layer and int(layer[1]) >= self.num_layers:
            module = parameter.removesuffix(".weight")
            raise AdapterError("depth_mismatch", f"adapts {module}, {self.repo_id} has {self.num_layers} layers")
        found = self.shapes.get(parameter)
        if found is None and parameter.startswith(INNER) and not any(name.startswith(INNER) for name in self.shapes):
            return self.shapes.get(parameter.partition(".")[2])
        return found


@dataclass(frozen=True)
class Described:
    """A model as the Hub's record of it shows it."""

    pinned: Pinned  # the model at its present commit
    files: Mapping[str, str]  # path -> SHA-256 of an LFS file, git's SHA-1 of another
    asked: float  # when the record was asked for (seconds since 1970); 0 = now


def describe(api: HfApi, repo_id: str) -> Described:
    """Pin a model and list its files, with one request."""
    record, asked = model_record(api, repo_id)
    name, sha, card = record["id"], record["sha"], record["cardData"]
    if not (isinstance(name, str) and HUB_ID.fullmatch(name) and isinstance(sha, str) and COMMIT.fullmatch(sha)):
        raise HubError(f"base model {repo_id}: the Hub tells no id and commit for it; check HF_ENDPOINT")
    licence = declared(card if isinstance(card, dict) else None)
    return Described(Pinned(name, sha, "model", licence), files_of(record), asked)


def read_shapes(api: HfApi, model: Described) -> BaseShapes:
    """Read the shapes of a model that adapters can be merged for, from `config.json` and the headers of its weights."""
    config = read_json(api, model, "config.json")
    if config.get("quantization_config"):
        found = f"base model {model.pinned.repo_id}: its weights are quantised"
        raise InputError(f"{found}; name the model it was made from")
    shapes = {name: tensor.shape for name, tensor in read_tensors(api, model).items()}
    if "model.embed_tokens.weight" in shapes:  # saved once where the head shares it
        shapes.setdefault("lm_head.weight", shapes["model.embed_tokens.weight"])
    return BaseShapes(model.pinned.repo_id, _depth(model.pinned.repo_id, config, shapes), shapes)


def read_tensors(api: HfApi, model: Described) -> dict[str, Tensor]:
    """Read the headers of all weight files of a model."""
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


MOST_PROVEN = 20
"""Copies that are looked at; each costs one request, and a few more if its files differ."""
QUANTIZED = ("-bnb-4bit", "-unsloth-bnb-4bit")

# Ids of one model. Where a name follows a rule, `known_copies` knows the rule and it is not listed.
GROUPS = (
    ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B-Instruct",
     "unsloth/Meta-Llama-3.1-8B-Instruct", "NousResearch/Meta-Llama-3.1-8B-Instruct"),
    ("meta-llama/Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-8B",
     "unsloth/Meta-Llama-3.1-8B", "NousResearch/Meta-Llama-3.1-8B"),
    ("meta-llama/Meta-Llama-3-8B-Instruct", "unsloth/llama-3-8b-Instruct", "NousResearch/Meta-Llama-3-8B-Instruct"),
    ("meta-llama/Meta-Llama-3-8B", "unsloth/llama-3-8b", "NousResearch/Meta-Llama-3-8B"),
    ("meta-llama/Llama-2-7b-hf", "unsloth/llama-2-7b", "NousResearch/Llama-2-7b-hf"),
    ("meta-llama/Llama-2-7b-chat-hf", "unsloth/llama-2-7b-chat", "NousResearch/Llama-2-7b-chat-hf"),
    ("meta-llama/Llama-2-13b-hf", "unsloth/llama-2-13b", "NousResearch/Llama-2-13b-hf"),
    ("mistralai/Mistral-7B-v0.1", "unsloth/mistral-7b"),
    ("mistralai/Mistral-7B-v0.3", "unsloth/mistral-7b-v0.3"),
    ("mistralai/Mistral-7B-Instruct-v0.2", "unsloth/mistral-7b-instruct-v0.2"),
    ("mistralai/Mistral-7B-Instruct-v0.3", "unsloth/mistral-7b-instruct-v0.3"),
    ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "unsloth/tinyllama-chat"),
)  # fmt: skip
COPIED = frozenset(("google", "huggingfacetb", "meta-llama", "mistralai", "qwen"))
"""Owners whose models Unsloth uploads again under the same name."""

# What a configuration may say differently in a copy: who wrote it and how, and what only text generation reads.
_IGNORED = frozenset((
    "_name_or_path", "auto_map", "bos_token_id", "dtype", "eos_token_id", "max_position_embeddings", "pad_token_id",
    "quantization_config", "torch_dtype", "transformers_version", "unsloth_fixed", "unsloth_version", "use_cache",
))  # fmt: skip
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")


def known_copies(base: str) -> tuple[str, ...]:
    """List the ids under which a popular base model is on the Hub too, by what is known about names.

    Its own is not among them; whether they exist, and are copies, is not known.
    """
    owner, _, name = base.partition("/")
    group = next((group for group in GROUPS if base.lower() in map(str.lower, group)), (base,))
    plain = dict.fromkeys((*group, *((f"unsloth/{name}",) if owner.lower() in COPIED else ())))
    packed = [f"{copy}{end}" for copy in plain if copy.startswith("unsloth/") for end in QUANTIZED]
    return tuple(copy for copy in (*plain, *packed) if copy.lower() != base.lower())


def with_copies(
    api: HfApi, base: Described, shapes: BaseShapes, claimed: Iterable[str], likely: Sequence[str]
) -> BaseShapes:
    """Find out which of the base models that adapters name (`claimed`) are the base at hand under another id.

    Returns:
        The shapes with `copies` and `others`. Names that are neither `likely` copies nor alike are not asked about.
    """
    own, likely = base.pinned.repo_id.lower(), [name.lower() for name in likely]
    counted = Counter(name for name in claimed if name.lower() != own)
    asked: dict[str, str] = {}
    for name, _ in sorted(counted.items(), key=lambda entry: (-entry[1], entry[0])):
        if name.lower() in likely or _is_alike(name.lower(), own):
            asked.setdefault(name.lower(), name)
    copies: dict[str, tuple[str, ...]] = {}
    others: dict[str, str] = {}
    for key, name in list(asked.items())[:MOST_PROVEN]:
        try:
            copies[key] = _prove(api, base, describe(api, name))
        except (HubError, InputError) as error:
            if isinstance(error, HubUnreachableError) and reason_of(error) != "not_cached":
                raise  # an outage proves nothing
            others[key] = str(error)
    return replace(shapes, copies=copies, others=others)


def _is_alike(name: str, own: str) -> bool:
    """Return whether a base might be a renamed one or a copy: the same owner, or the same name but for its packing."""
    owner, _, model = name.partition("/")
    own_owner, _, own_model = own.partition("/")
    plain = model.removesuffix("-bnb-4bit").removesuffix("-unsloth")
    return owner == own_owner or plain == own_model


def _prove(api: HfApi, base: Described, copy: Described) -> tuple[str, ...]:
    """Prove that a model is a copy of the base; returns flags for adapters made on it."""
    if copy.pinned.repo_id == base.pinned.repo_id:  # the Hub led on to it: it was renamed
        return ()
    shared = [file for file in _TOKENIZERS if base.files.get(file) and copy.files.get(file)]
    if different := [file for file in shared if base.files[file] != copy.files[file]]:
        raise InputError(f"its {different[0]} is another one than that of {base.pinned.repo_id}")
    if not shared:
        raise InputError(f"it has no tokenizer file that could be compared with one of {base.pinned.repo_id}")
    packed = False
    if not base.files.get("config.json") or base.files["config.json"] != copy.files.get("config.json"):
        config = read_json(api, copy, "config.json")
        _compare_configs(read_json(api, base, "config.json"), config)
        packed = bool(config.get("quantization_config"))
    weights = _weights(base)
    if packed or not weights or weights != _weights(copy):
        _compare_tensors(read_tensors(api, base), read_tensors(api, copy), packed)
    return ("mirror_base", "quantized_base") if packed else ("mirror_base",)


def _weights(model: Described) -> frozenset[str]:
    """Return the hashes of a model's weight files; empty if one of them is not known."""
    names = [file for file in model.files if file.startswith("model") and file.endswith(".safetensors")]
    hashes = frozenset(model.files[file] for file in names)
    return hashes if all(len(sha256) == 64 for sha256 in hashes) else frozenset()


def _compare_configs(base: Mapping[str, Any], copy: Mapping[str, Any]) -> None:
    """Refuse a configuration that describes another model; what only one of the two says is its default or new."""
    for key in sorted((base.keys() & copy.keys()) - _IGNORED):
        if base[key] != copy[key]:
            raise InputError(f"its config.json has {key} {copy[key]!r:.60}, the base has {base[key]!r:.60}")


def _compare_tensors(base: Mapping[str, Tensor], copy: Mapping[str, Tensor], packed: bool) -> None:
    """Refuse a copy that has not exactly the base's tensors, packed or as they are."""
    for name, tensor in base.items():
        found = copy.get(name)
        same = found is not None and (found.shape == tensor.shape or (packed and _is_packed(found, tensor)))
        if not same:
            shape = f"shape {list(found.shape)}" if found else "no such tensor"
            raise InputError(f"its weights have {shape} for {name[:100]}, the base has {list(tensor.shape)}")
    for name in sorted(copy.keys() - base.keys()):
        # What bitsandbytes needs to unpack a weight has the module's name before it.
        module = name.partition(".weight")[0].removesuffix(".SCB")
        if not packed or f"{module}.weight" not in base:
            raise InputError(f"its weights have {name[:100]}, which the base has not")


def _is_packed(found: Tensor, tensor: Tensor) -> bool:
    """Return whether a tensor can be another one in 4 bits (two numbers a byte) or 8 bits."""
    bytes_, numbers = math.prod(found.shape), math.prod(tensor.shape)
    return (found.dtype == "U8" and bytes_ == (numbers + 1) // 2) or (found.dtype == "I8" and bytes_ == numbers)
