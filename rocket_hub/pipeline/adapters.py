from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from huggingface_hub import HfApi

import rocket_hub.moe  # noqa: F401  registers the routed adapter type with PEFT
from rocket_hub.discovery.adapters import MAX_ADAPTER_BYTES
from rocket_hub.discovery.hub.client import call
from rocket_hub.discovery.hub.download import download
from rocket_hub.errors import AdapterError
from rocket_hub.lora.attach import ADAPTER
from rocket_hub.lora.config import CONFIG, changes_base, read_config
from rocket_hub.lora.expert import BaseWeights, Expert, Pair, read_expert
from rocket_hub.lora.write import rewrite_lora
from rocket_hub.pipeline.context import Context
from rocket_hub.records import AdapterCandidate, Pinned
from rocket_hub.runs import digest

MAX_BYTES = 8 * 2**30  # of an adapter that somebody names
# Settings with which PEFT would import, or fetch, something else than the adapter itself.
REACHING_OUT = ("adapters", "megatron_config", "tokenizer_kwargs")

IN_MEMORY = 16  # adapters, at most


def at_commit(api: HfApi, name: str, revision: str | None = None) -> Pinned:
    """Pin a model or an adapter to a commit, none = its newest; a folder to names, sizes and times of its files."""
    if not Path(name).is_dir():
        return Pinned(name, str(call(name, api.model_info, name, revision=revision).sha))
    files = [(path.name, path.stat()) for path in sorted(Path(name).iterdir()) if path.is_file()]
    return Pinned(name, digest([[file, stat.st_size, stat.st_mtime_ns] for file, stat in files]))


def find_adapter(api: HfApi, adapter: str) -> tuple[Pinned, Path]:
    """Find an adapter's folder; from the Hub, pinned to its newest commit, and only its two files."""
    pinned, folder = at_commit(api, adapter), Path(adapter)
    if not folder.is_dir():
        folder = fetch_adapter(api, adapter, pinned.revision, max_bytes=MAX_BYTES)
    elif missing := [name for name in ADAPTER if not (folder / name).is_file()]:
        advice = "give the folder or id of an adapter" if missing[0] == CONFIG else "save the adapter as safetensors"
        raise AdapterError("no_safetensors", f"{adapter}: holds no {missing[0]}; {advice}")
    config = read_config(folder)
    if reaching := [name for name in REACHING_OUT if config.get(name)]:
        raise AdapterError(
            "unsupported_config",
            f"{adapter}: {CONFIG} sets '{reaching[0]}', so PEFT would load more than this adapter; give another",
        )
    return pinned, folder


def fetch_adapter(api: HfApi, repo_id: str, revision: str, *, max_bytes: int = MAX_ADAPTER_BYTES) -> Path:
    """Download an adapter's two files, pinned and checked, and return the folder that PEFT loads them from."""
    paths = [download(api, repo_id, revision, file, max_bytes=max_bytes) for file in ADAPTER]
    return paths[0].parent


def stock_folder(context: Context, candidate: AdapterCandidate | Pinned) -> Path:
    """Return a folder from which stock PEFT loads an adapter.

    No stranger's configuration or file is given to PEFT: the adapter is written anew in the run folder, once, as a
    plain LoRA. That also spares the base, whose weights PEFT changes when it loads PiSSA, OLoRA or KaSA. The base model
    must carry no adapter.
    """
    base = context.pinned
    key = digest([candidate.revision, base.repo_id, base.revision, context.placement.precision])
    plain = context.run.path / "folded" / f"{candidate.repo_id.replace('/', '--')}-{key}"
    if not (plain / CONFIG).is_file():  # written last
        pin = {"base_model": base.repo_id, "base_revision": base.revision}
        found = fetch_adapter(context.api, candidate.repo_id, candidate.revision)
        rewrite_lora(found, plain, context.base[0].get_parameter, **pin)
    return plain


def expert_folder(context: Context, candidate: AdapterCandidate | Pinned) -> Path:
    """Download an adapter and return the folder to read it from; see `stock_folder`."""
    folder = fetch_adapter(context.api, candidate.repo_id, candidate.revision)
    # what is slow to compute is kept there
    return stock_folder(context, candidate) if changes_base(read_config(folder)) else folder


def read_adapter(context: Context, candidate: AdapterCandidate | Pinned) -> Expert:
    """Download an adapter and read it as an expert, checked against the base model's weights."""
    return read_expert(expert_folder(context, candidate), candidate.repo_id, context.base[0].get_parameter)


class Shelf(Mapping[str, Mapping[str, Pair]]):
    """Adapters that were found sound: repository id -> module -> (A, B), read from their files when they are needed.

    The last few stay in memory, so that a bank of any size takes no more of it than they do.
    """

    def __init__(self, base_weights: BaseWeights) -> None:
        self._folders: dict[str, Path] = {}
        self._base_weights = base_weights
        self._read = lru_cache(IN_MEMORY)(lambda name: read_expert(self._folders[name], name, base_weights).modules)

    def put(self, name: str, folder: Path) -> None:
        """Check an adapter and take it in; AdapterError if it is not sound."""
        read_expert(folder, name, self._base_weights)
        self._folders[name] = folder

    def __getitem__(self, name: str) -> Mapping[str, Pair]:
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)
