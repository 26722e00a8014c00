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
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_id, revision=options["revision"], trust_remote_code=False)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            model_id, dtype=_DTYPES[dtype], use_safetensors=True, output_loading_info=True, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        remote = isinstance(error, OSError) and not Path(model_id).is_dir()
        message = f"{model_id}@{revision or 'main'}: cannot be loaded as a causal language model: {error}"
        raise (HubError if remote else InputError)(message) from error
    model, info = loaded
    if info["missing_keys"]:
        # transformers fills what is missing with random numbers and only warns.
        missing = sorted(info["missing_keys"])
        raise InputError(f"{model_id}: {len(missing)} weights are not in its safetensors files, first '{missing[0]}'")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer


def _quantization(name: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Describe how bitsandbytes shall hold the weights."""
    if find_spec("bitsandbytes") is None:
        raise InputError(f"quantization {name}: bitsandbytes is not installed; `pip install rocket-hub[quantized]`")
    if name == "4bit":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    if name == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    raise InputError(f"quantization: expected 4bit or 8bit, found {name!r}")
