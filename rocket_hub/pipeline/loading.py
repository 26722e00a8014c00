"""Put an adapter on the base model for as long as a block lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rocket_hub.moe  # noqa: F401  registers the routed adapter type with PEFT


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
