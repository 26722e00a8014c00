from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rocket_hub.moe  # noqa: F401  registers the routed adapter type with PEFT
from rocket_hub.discovery.adapters import MAX_ADAPTER_BYTES
from rocket_hub.discovery.hub.download import download
from rocket_hub.lora.attach import ADAPTER
from rocket_hub.lora.config import CONFIG, changes_base, read_config
from rocket_hub.lora.expert import Expert, read_expert
from rocket_hub.lora.write import rewrite_lora
from rocket_hub.pipeline.context import Context
from rocket_hub.records import AdapterCandidate, Pinned
from rocket_hub.runs import digest

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def fetch_adapter(api: HfApi, repo_id: str, revision: str, *, max_bytes: int = MAX_ADAPTER_BYTES) -> Path:
    """Download an adapter's two files, pinned and checked, and return the folder that PEFT loads them from."""
    paths = [download(api, repo_id, revision, file, max_bytes=max_bytes) for file in ADAPTER]
    return paths[0].parent


def adapter_folder(context: Context, candidate: AdapterCandidate | Pinned) -> Path:
    """Fetch an adapter that discovery found; see `fetch_adapter`."""
    return fetch_adapter(context.api, candidate.repo_id, candidate.revision)


def stock_folder(context: Context, candidate: AdapterCandidate | Pinned) -> Path:
    """Return a folder from which stock PEFT loads an adapter.

    No stranger's configuration or file is given to PEFT: the adapter is written anew in the run folder, once, as a
    plain LoRA. That also spares the base, whose weights PEFT changes when it loads PiSSA, OLoRA or KaSA.

    Args:
        context: The build; its base model must carry no adapter.
        candidate: Which adapter, at its commit.

    Returns:
        The folder of the plain LoRA.
    """
    base = context.pinned
    key = digest([candidate.revision, base.repo_id, base.revision, context.recipe.train.dtype])
    plain = context.run.path / "folded" / f"{candidate.repo_id.replace('/', '--')}-{key}"
    if not (plain / CONFIG).is_file():  # written last
        pin = {"base_model": base.repo_id, "base_revision": base.revision}
        rewrite_lora(adapter_folder(context, candidate), plain, context.base[0].get_parameter, **pin)
    return plain


def read_adapter(context: Context, candidate: AdapterCandidate | Pinned) -> Expert:
    """Download an adapter and read it as an expert, checked against the base model's weights; see `stock_folder`."""
    folder = adapter_folder(context, candidate)
    if changes_base(read_config(folder)):
        folder = stock_folder(context, candidate)  # what is slow to compute is kept there
    return read_expert(folder, candidate.repo_id, context.base[0].get_parameter)
