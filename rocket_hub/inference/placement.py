"""Where, and in which precision, a base model is computed: one decision for every stage."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import get_max_memory

from rocket_hub.errors import InputError
from rocket_hub.options import ComputeOptions

GIB = 2**30
# Bytes of one parameter in memory, with the constants of its block; bitsandbytes quantises linear layers only.
QUANTIZED = {"4bit": 0.6, "8bit": 1.1}
ROOM = 1.1  # what a model takes beside its weights before the first batch


@dataclass(frozen=True)
class Placement:
    """Where a model goes."""

    device: torch.device
    dtype: torch.dtype
    quantize: str = "none"
    attention: str = "auto"

    @property
    def precision(self) -> str:
        """Name what changes the numbers: `float32`, `bfloat16`, `bfloat16 4bit`."""
        name = str(self.dtype).removeprefix("torch.")
        return name if self.quantize == "none" else f"{name} {self.quantize}"

    @property
    def arguments(self) -> dict[str, Any]:
        """What `from_pretrained` is told."""
        told: dict[str, Any] = {"dtype": self.dtype}
        if self.attention != "auto":
            told["attn_implementation"] = self.attention
        if self.quantize != "none":
            from transformers import BitsAndBytesConfig

            told["quantization_config"] = (
                BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=self.dtype)
                if self.quantize == "4bit"
                else BitsAndBytesConfig(load_in_8bit=True)
            )
        return told


def place(options: ComputeOptions) -> Placement:
    """Choose device and precision; in a launch of several processes each gets the device of its local rank.

    InputError if the device is not there, or cannot do what is asked.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    kind = options.device if options.device != "auto" else found.type if found else "cpu"
    if kind != "cpu" and (found is None or found.type != kind):
        raise InputError(
            f"compute.device: {kind} is asked for, and torch {torch.__version__} finds "
            f"{found.type if found else 'no accelerator'} here; leave it out, or install torch for {kind}"
        )
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if kind != "cpu" and number >= torch.accelerator.device_count():
        raise InputError(f"this machine has {torch.accelerator.device_count()} devices of the kind {kind}, and process "
                         f"{number + 1} of the launch needs one of its own; start fewer processes")  # fmt: skip
    device = torch.device("cpu") if kind == "cpu" else torch.device(kind, number)
    half = prefers_bfloat16(device) if options.dtype == "auto" else options.dtype == "bfloat16"
    if options.quantize != "none":
        if kind == "mps":
            raise InputError(f"compute.quantize: {options.quantize} needs bitsandbytes, which has no form for mps; "
                             "leave it out, or take a smaller base")  # fmt: skip
        if find_spec("bitsandbytes") is None:
            raise InputError(f"compute.quantize: {options.quantize} needs bitsandbytes, which is not installed; "
                             "`pip install rocket-hub[quantized]`")  # fmt: skip
    return Placement(device, torch.bfloat16 if half else torch.float32, options.quantize, options.attention)


def prefers_bfloat16(device: torch.device) -> bool:
    """Return whether `auto` is bfloat16: on an accelerator that computes in it; on CPUs all then find the same."""
    if device.type == "cuda":
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type != "cpu"


def weights_bytes(model_id: str, revision: str | None, placement: Placement) -> int:
    """Compute how much memory the weights take, from the headers of the safetensors files; 0 = they have none."""
    from huggingface_hub import HfApi, get_local_safetensors_metadata
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    try:
        if Path(model_id).is_dir():
            counts = get_local_safetensors_metadata(model_id).parameter_count
        else:
            counts = HfApi().get_safetensors_metadata(model_id, revision=revision).parameter_count
    except (OSError, ValueError, httpx.HTTPError, NotASafetensorsRepoError, SafetensorsParsingError):
        return 0  # loading says what is wrong with it
    size = QUANTIZED.get(placement.quantize, placement.dtype.itemsize)
    return round(sum(count * (size if kind in ("F64", "F32", "F16", "BF16") else 1) for kind, count in counts.items()))


def where_it_fits(model_id: str, revision: str | None, placement: Placement) -> str | torch.device | None:
    """Decide where a model goes by its size and this machine's free memory; see `device_map`."""
    return device_map(weights_bytes(model_id, revision, placement), placement, get_max_memory())


def device_map(needed: int, placement: Placement, memory: dict[Any, int]) -> str | torch.device | None:
    """Decide where a model with weights of so many bytes goes: to one device, or, where it does not fit, to all.

    `memory` holds the free bytes of each device by its number, and of `cpu`, as `accelerate.utils.get_max_memory` does.
    Returns `device_map` of `from_pretrained`; None = main memory. InputError if it is larger than all memory.
    """
    needed = round(needed * ROOM)
    own = "cpu" if placement.device.type == "cpu" else placement.device.index
    if needed <= memory.get(own, needed):
        return None if own == "cpu" else placement.device
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    devices = sum(size for name, size in memory.items() if name != "cpu")
    if own != "cpu" and alone and needed <= devices:
        return "auto"
    raise InputError(
        f"the base needs {needed / GIB:.1f} GiB in {placement.precision}, and this machine has "
        f"{memory.get(own, 0) / GIB:.1f} GiB free on {placement.device} and {devices / GIB:.1f} GiB on all its "
        "accelerators; take compute.quantize: 4bit, or a smaller base"
    )
