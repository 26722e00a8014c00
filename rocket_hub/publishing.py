import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import torch
import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from safetensors.torch import load_file

from rocket_hub.discovery.hub.client import call
from rocket_hub.errors import HubError, InputError
from rocket_hub.inference.placement import Placement
from rocket_hub.inference.tokens import padded
from rocket_hub.lora.attach import load_adapter
from rocket_hub.records import Pinned
from rocket_hub.results import Reload

STATIC = "static-lora"  # folder of the form that stock PEFT loads
RELOAD_SECONDS = 900
MARGIN = 4  # times what another shape of the batch changes, a fresh process may differ
ROUNDING = 1e-3  # of a logit, which is always allowed
DISAGREEMENT = 0.02  # share of likeliest tokens that may differ beyond those which the shape of a batch changes


def create_model_card(facts: Mapping[str, Any], metadata: Mapping[str, Any], template: str = "model_card.md") -> str:
    """Write the card of a result.

    Args:
        facts: What the template asks for.
        metadata: The card's YAML header; keys without a value are left out.
        template: Which file of `templates/`.

    Returns:
        Markdown with a YAML header.

    Raises:
        InputError: A fact that the template needs is missing.
    """
    text = (files("rocket_hub") / "templates" / template).read_text(encoding="utf-8")
    header = yaml.safe_dump({key: value for key, value in metadata.items() if value}, sort_keys=False).strip()
    try:
        form = jinja2.Template(text, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
        return form.render(metadata=header, **facts)
    except jinja2.UndefinedError as error:
        raise InputError(f"model card: {error}; give it in `facts`") from error


def adapter_metadata(base: str, licence: str, datasets: Sequence[str], *tags: str) -> dict[str, Any]:
    """Return the YAML header of an adapter's card; see `create_model_card`."""
    return {
        "base_model": base,
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "license": licence,
        "license_name": "see-this-card" if licence == "other" else "",
        "datasets": list(datasets),
        "tags": ["lora", "rocket-hub", *tags],
    }


def push_to_hub(
    api: HfApi,
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    message: str = "Publish with rocket_hub",
    kind: str = "model",
) -> str:
    """Upload a folder to a repository in one commit.

    Files that the repository has beside those stay, but for an earlier stock-LoRA form: that would be one of another
    adapter.

    Args:
        api: The Hub.
        folder: What to upload, whole.
        repo_id: `namespace/name`; created if it does not exist.
        private: Create it as a private repository.
        message: Title of the commit.
        kind: `model` or `dataset`.

    Returns:
        The commit's hash.

    Raises:
        HubError: The Hub refused; nothing was published, since a commit is all or nothing.
    """
    call(repo_id, api.create_repo, repo_id, private=private, exist_ok=True, repo_type=kind)
    parent = call(repo_id, api.repo_info, repo_id, repo_type=kind).sha
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    before = call(repo_id, api.list_repo_files, repo_id, revision=parent, repo_type=kind)
    stale = [path for path in before if path.startswith(f"{STATIC}/") and path not in files]
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationDelete(path) for path in stale),
        *(CommitOperationAdd(name, path) for name, path in files.items()),
    ]
    try:
        # parent_commit: where the reply of a commit was lost, the next try is refused instead of made twice
        return str(call(repo_id, api.create_commit, repo_id, operations, commit_message=message,
                        parent_commit=parent, repo_type=kind).oid)  # fmt: skip
    except HubError:
        newest = call(repo_id, api.list_repo_commits, repo_id, repo_type=kind)[0]
        if newest.title == message and newest.commit_id != parent:
            return str(newest.commit_id)
        raise


@dataclass(frozen=True)
class Computed:
    """What an adapter computes in this process, and how much that depends on the shape of the batch alone."""

    prompts: Sequence[str]
    logits: list[torch.Tensor]  # of each prompt alone, [length, vocabulary] in fp32
    texts: list[str]  # continuations, without the KV cache
    noise: float  # largest difference of a logit to the same prompt's in a batch with the others
    agreement: float  # share of positions where both name the same likeliest token


def compute(base_model: Any, tokenizer: Any, prompts: Sequence[str], adapter: Path) -> Computed:
    """Compute the logits of prompts, and continue them, with an adapter of this package's own writing."""
    model = load_adapter(base_model, adapter).eval()
    try:
        with torch.no_grad():
            encoded = [tokenizer(prompt, return_tensors="pt").to(model.device) for prompt in prompts]
            alone = [model(**batch).logits[0].float().cpu() for batch in encoded]
            # the padding stands after a row, where causal attention hides it
            ids, mask = padded([batch["input_ids"][0].tolist() for batch in encoded], left=False)
            rows = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
            together = [row[: len(own)].float().cpu() for row, own in zip(rows, alone, strict=True)]
            texts = []
            for batch in encoded:
                new = model.generate(**batch, max_new_tokens=32, do_sample=False, use_cache=False,
                                     pad_token_id=tokenizer.pad_token_id)  # fmt: skip
                texts.append(tokenizer.decode(new[0, batch["input_ids"].shape[1] :], skip_special_tokens=True))
    finally:
        model.unload()
    return Computed(prompts, alone, texts, *_compared(alone, together))


def _compared(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> tuple[float, float]:
    """Return the largest difference of any logit, NaN if one is, and the share of equal likeliest tokens."""
    gaps = torch.stack([(one - other).abs().max() for one, other in zip(ours, theirs, strict=True)])
    same = torch.cat([one.argmax(-1) == other.argmax(-1) for one, other in zip(ours, theirs, strict=True)])
    return float(gaps.max()), float(same.float().mean())


def verify_reload(
    computed: Computed, placement: Placement, base: Pinned, repo_id: str, commit: str, folder: Path
) -> Reload:
    """Load a published adapter in a process that knows nothing, and compare it with what this process computed.

    Both compute on the same kind of device, in the same precision and with the same attention. What may differ is then
    what a batch of another shape changes, `MARGIN` times that, and in fp32 the rounding. `folder` is for scratch.

    Raises:
        HubError: The fresh process failed, or computed something else; the message holds the end of its output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    how = {"device": str(placement.device), "dtype": str(placement.dtype), "quantize": placement.quantize,
           "attention": placement.attention}  # fmt: skip
    (folder / "prompts.json").write_text(json.dumps({"prompts": list(computed.prompts), "placement": how}))
    script = str(files("rocket_hub") / "templates" / "reload.py")
    command = [sys.executable, script, base.repo_id, base.revision, repo_id, commit, str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=RELOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise HubError(f"{repo_id}: published, but a fresh process did not load it in {RELOAD_SECONDS} s") from error
    if done.returncode:
        raise HubError(f"{repo_id}: published, but a fresh process cannot load it: {done.stderr[-800:]}")
    theirs, generated = load_file(folder / "logits.safetensors"), json.loads((folder / "generated.json").read_text())
    difference, agreement = _compared(computed.logits, [theirs[str(i)] for i in range(len(computed.logits))])
    bound, least = max(ROUNDING, MARGIN * computed.noise), computed.agreement - DISAGREEMENT
    if not (difference <= bound and agreement >= least):  # a NaN is neither
        raise HubError(
            f"{repo_id}: published, but a fresh process computes other logits in {placement.precision}: they differ by "
            f"{difference:g}, where {bound:g} is noise, and {agreement:.1%} of the likeliest tokens are the same; "
            "take the commit back, and build again in a new folder"
        )
    return Reload(difference, tuple(generated), computed.texts == generated, bound, agreement, placement.precision)
