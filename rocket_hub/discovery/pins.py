from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rocket_hub.discovery.hub.client import call
from rocket_hub.discovery.licences import declared
from rocket_hub.records import Pinned

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def pin_model(api: HfApi, name: str) -> Pinned:
    """Pin a model, or an adapter, to its commit, with its licence; a folder has neither.

    Raises:
        HubError: There is no such model on the Hub.
    """
    if Path(name).is_dir():
        return Pinned(name, "")
    info = call(name, api.model_info, name)
    return Pinned(info.id, str(info.sha), "model", declared(info.card_data))


def named(pin: Pinned) -> str:
    """Write a model with its commit, as cards name a teacher."""
    return f"{pin.repo_id} at {pin.revision[:12]}" if pin.revision else without_place(pin).repo_id


def without_place(pin: Pinned) -> Pinned:
    """Name a folder by its last part: what is published names no path of this machine."""
    is_folder = not pin.revision and Path(pin.repo_id).is_dir()
    return replace(pin, repo_id=Path(pin.repo_id).resolve().name) if is_folder else pin
