import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
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
from rocket_hub.lora.attach import load_adapter
from rocket_hub.records import Pinned
from rocket_hub.results import Reload

STATIC = "static-lora"  # folder of the form that stock PEFT loads
RELOAD_SECONDS = 900
MOST_DIFFERENT = 0.5  # of logits; bf16 here against fp32 there explains less, another adapter more


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


def verify_reload(
    base_model: Any, tokenizer: Any, base: Pinned, repo_id: str, commit: str, prompts: Sequence[str], local: Path,
    folder: Path,
) -> Reload:  # fmt: skip
    """Load a published adapter in a process that knows nothing, and compare it with the local files.

    Args:
        base_model: The base model in this process, in fp32.
        tokenizer: Its tokenizer.
        base: Its id and commit.
        repo_id: The published adapter.
        commit: Its commit.
        prompts: What to compute.
        local: Folder of the same adapter here.
        folder: Scratch folder.

    Returns:
        What it made of it.

    Raises:
        HubError: The fresh process failed, or computed something else; the message holds the end of its output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prompts.json").write_text(json.dumps(list(prompts)))
    script = str(files("rocket_hub") / "templates" / "reload.py")
    command = [sys.executable, script, base.repo_id, base.revision, repo_id, commit, str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=RELOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise HubError(f"{repo_id}: published, but a fresh process did not load it in {RELOAD_SECONDS} s") from error
    if done.returncode:
        raise HubError(f"{repo_id}: published, but a fresh process cannot load it: {done.stderr[-800:]}")
    theirs, generated = load_file(folder / "logits.safetensors"), json.loads((folder / "generated.json").read_text())
    model = load_adapter(base_model, local).eval()
    gaps, texts = [], []
    for number, prompt in enumerate(prompts):
        batch = tokenizer(prompt, return_tensors="pt").to(model.device)
        with torch.no_grad():
            ours = model(**batch).logits.float().cpu()
        gaps.append(float((ours - theirs[str(number)]).abs().max()))
        new = model.generate(**batch, max_new_tokens=32, do_sample=False, use_cache=False,
                             pad_token_id=tokenizer.pad_token_id)  # fmt: skip
        texts.append(tokenizer.decode(new[0, batch["input_ids"].shape[1] :], skip_special_tokens=True))
    model.unload()
    difference = max(gaps, default=0.0)
    if not all(gap < MOST_DIFFERENT for gap in gaps):  # a NaN is not
        raise HubError(
            f"{repo_id}: published, but a fresh process computes other logits: they differ by {difference:g}"
        )
    return Reload(difference, tuple(generated), texts == generated)
