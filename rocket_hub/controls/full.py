"""Full fine-tuning: all parameters of a copy of the base model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any


@contextmanager
def full_model(base: Any, folder: Path, trained: bool = False) -> Iterator[Any]:
    """Yield the model that was saved in a folder; where nothing was saved yet, a copy of the base.

    Args:
        base: The base model; it is not touched.
        folder: Folder of the fine-tuned model.
        trained: Whether it is to be trained.
    """
    if (folder / "config.json").is_file():
        model = type(base).from_pretrained(str(folder), dtype=base.dtype).to(base.device)
    else:
        model = copied(base)
    yield model.requires_grad_(trained).train(trained)


def copied(base: Any) -> Any:
    """Copy a model; a training may have left it a `forward` that would call the original."""
    model = deepcopy(base)
    vars(model).pop("forward", None)
    return model
