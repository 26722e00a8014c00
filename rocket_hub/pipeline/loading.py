"""Fetch adapters, and put one on the base model for as long as a block lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rocket_hub.moe  # noqa: F401  registers the routed adapter type with PEFT
from rocket_hub.discovery.files import download
from rocket_hub.pipeline.context import Context
from rocket_hub.records import AdapterCandidate, Pinned

MAX_ADAPTER_BYTES = 2 * 2**30


@contextmanager
def adapted(base: Any, adapter: Path | None) -> Iterator[Any]:
    """Yield the base model with an adapter for inference, and give the base back unchanged; none = the bare base."""
    if adapter is None:
        yield base
        return
    from peft import PeftModel

    model = PeftModel.from_pretrained(base, str(adapter))
    model.eval()
    try:
        yield model
    finally:
        model.unload()


def adapter_folder(context: Context, candidate: AdapterCandidate | Pinned) -> Path:
    """Fetch an adapter's two files, pinned and checked, and return the folder that PEFT loads them from."""
    paths = [
        download(context.api, candidate.repo_id, candidate.revision, file, max_bytes=MAX_ADAPTER_BYTES)
        for file in ("adapter_model.safetensors", "adapter_config.json")
    ]
    return paths[-1].parent
