"""Load a base model and its tokenizer: safetensors only, no code from the repository, quantised where asked."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from rocket_hub.errors import HubError, InputError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_base(model_id: str, revision: str | None, dtype: str, *, quantization: str | None = None) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer, from safetensors and without code from the repository.

    Args:
        model_id: Repository id or local folder.
        revision: Commit hash; None = the newest.
        dtype: `float32` or `bfloat16`.
        quantization: `4bit` (NF4, for QLoRA) or `8bit`; needs the extra `quantized`. None = as it is stored.

    Returns:
        (model in evaluation mode, tokenizer with a pad token).

    Raises:
        HubError: The repository, the revision or a file in it cannot be had.
        InputError: The folder does not exist, the weights are unusable, or the model needs code of its own.
    """
    if dtype not in _DTYPES:
        raise InputError(f"dtype: expected one of {', '.join(_DTYPES)}, found {dtype!r}")
    options: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": False}
    if quantization:
        options["quantization_config"] = _quantization(quantization, _DTYPES[dtype])
    tokenizer = load_tokenizer(model_id, revision)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            model_id, dtype=_DTYPES[dtype], use_safetensors=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _unusable(model_id, revision, "cannot be loaded as a causal language model", error) from error
    model, info = loaded
    if info["missing_keys"]:
        # transformers fills what is missing with random numbers and only warns.
        missing = sorted(info["missing_keys"])
        raise InputError(f"{model_id}: {len(missing)} weights are not in its safetensors files, first '{missing[0]}'")
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer


def load_tokenizer(model_id: str, revision: str | None) -> Any:
    """Load a model's tokenizer alone: no weights, and no code from the repository.

    Args:
        model_id: Repository id or local folder.
        revision: Commit hash; None or empty = the newest.

    Returns:
        The tokenizer, with a pad token.

    Raises:
        HubError: The repository, the revision or a file in it cannot be had.
        InputError: The folder does not exist, or its tokenizer is unusable or needs code of its own.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_id, revision=revision or "main", trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _unusable(model_id, revision, "its tokenizer cannot be loaded", error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _unusable(model_id: str, revision: str | None, what: str, error: Exception) -> HubError | InputError:
    """Say what is wrong with a model; what is the Hub's fault is told apart from what is the model's."""
    remote = isinstance(error, OSError) and not Path(model_id).is_dir()
    return (HubError if remote else InputError)(f"{model_id}@{revision or 'main'}: {what}: {error}")


def _quantization(name: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Describe how bitsandbytes shall hold the weights."""
    if find_spec("bitsandbytes") is None:
        raise InputError(f"quantization {name}: bitsandbytes is not installed; `pip install rocket-hub[quantized]`")
    if name == "4bit":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    if name == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    raise InputError(f"quantization: expected 4bit or 8bit, found {name!r}")
