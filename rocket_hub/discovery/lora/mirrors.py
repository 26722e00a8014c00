"""Copies of a base model under other ids: which may exist, and the proof that one is a copy.

Names prove nothing. A copy has the same configuration, the same tokenizer, and the same tensors: equal SHA-256 of its
weight files, or else equal names and shapes of all tensors. The weights of a quantised copy (bitsandbytes) are packed
and so cannot be compared with the base's; it must pack exactly its tensors.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rocket_hub.discovery.access.headers import Tensor
from rocket_hub.discovery.access.hub import reason_of
from rocket_hub.discovery.lora.bases import BaseShapes, Described, describe, read_json, read_tensors
from rocket_hub.errors import HubError, HubUnreachableError, InputError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

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

    Args:
        base: The base model's id.

    Returns:
        Ids, without the base's own; whether they exist, and are copies, is not known.
    """
    owner, _, name = base.partition("/")
    group = next((group for group in GROUPS if base.lower() in map(str.lower, group)), (base,))
    plain = dict.fromkeys((*group, *((f"unsloth/{name}",) if owner.lower() in COPIED else ())))
    packed = [f"{copy}{end}" for copy in plain if copy.startswith("unsloth/") for end in QUANTIZED]
    return tuple(copy for copy in (*plain, *packed) if copy.lower() != base.lower())


def with_copies(
    api: HfApi, base: Described, shapes: BaseShapes, claimed: Iterable[str], likely: Sequence[str]
) -> BaseShapes:
    """Find out which of the base models that adapters name are the base at hand under another id.

    Args:
        api: Where the Hub is, and who asks.
        base: The base model.
        shapes: Its shapes.
        claimed: The id that each adapter names.
        likely: Ids that may be copies.

    Returns:
        The shapes with `copies` and `others`. Names that are neither likely nor alike are not asked about.

    Raises:
        HubUnreachableError: The Hub does not answer.
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
    """Prove that a model is a copy of the base; returns flags for adapters made on it.

    Raises:
        InputError: It is not, or the proof cannot be made.
        HubError: Its files cannot be read.
    """
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
