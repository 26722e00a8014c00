import re
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from rocket_hub.errors import HubError, InputError
from rocket_hub.inference.placement import place, where_it_fits
from rocket_hub.options import ComputeOptions

AUTO = ComputeOptions()


def load_base(model_id: str, revision: str | None, compute: ComputeOptions = AUTO) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer, from safetensors and without code from the repository.

    Args:
        model_id: Repository id or local folder.
        revision: Commit hash; None = the newest.
        compute: Device, precision, quantisation and attention.

    Returns:
        (model in evaluation mode, tokenizer with a pad token).

    Raises:
        HubError: The repository, the revision or one of its files is not available.
        InputError: The folder does not exist, the weights are unusable, the model needs code of its own or more memory
            than there is, or the device is not there.
    """
    placement = place(compute)
    tokenizer = load_tokenizer(model_id, revision)
    where = where_it_fits(model_id, revision, placement)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            model_id, revision=revision or "main", trust_remote_code=False, use_safetensors=True,
            output_loading_info=True, device_map=where, **placement.arguments,
        )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _unusable(model_id, revision, "cannot be loaded as a causal language model", error) from error
    model, info = loaded
    if info["missing_keys"]:
        # transformers fills what is missing with random numbers and only warns.
        missing = sorted(info["missing_keys"])
        raise InputError(f"{model_id}: {len(missing)} weights are not in its safetensors files, first '{missing[0]}'")
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer


def load_tokenizer(model_id: str, revision: str | None) -> Any:
    """Load a model's tokenizer, with a pad token; no weights, and no code from the repository. See `load_base`."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_id, revision=revision or "main", trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _unusable(model_id, revision, "its tokenizer cannot be loaded", error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _unusable(model_id: str, revision: str | None, what: str, error: Exception) -> HubError | InputError:
    """Make the error for a model that cannot be loaded: HubError where it is not available, else InputError."""
    remote = isinstance(error, OSError) and not Path(model_id).is_dir()
    return (HubError if remote else InputError)(f"{model_id}@{revision or 'main'}: {what}: {error}")


RETRIEVAL_PREFIX = "Represent the following sentence for similar task retrieval: "  # Algorithm 2

# The files of an encoder; weights come as safetensors or not at all, and no file can hold code.
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")


class Encoder(Protocol):
    """Turns texts into vectors."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode n texts: [n, d] float32, each row of length 1."""
        ...


class _SentenceEncoder:
    """A `SentenceTransformer` as an `Encoder`."""

    def __init__(self, folder: str) -> None:
        import peft  # noqa: F401  before transformers imports it half-way through its own trainer, where ours cannot load
        from sentence_transformers import SentenceTransformer

        placement = place(AUTO)
        self._model = SentenceTransformer(folder, device=str(placement.device), trust_remote_code=False)
        self._model.to(placement.dtype)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts; see `Encoder.encode`."""
        if not texts:
            return np.zeros((0, self._model.get_embedding_dimension() or 0), dtype=np.float32)
        vectors = self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)


def load_encoder(repo_id: str, revision: str | None) -> Encoder:
    """Load a sentence encoder with sentence-transformers, on the GPU where there is one.

    Args:
        repo_id: Repository id or local folder.
        revision: Commit hash; None = the newest. A local folder has none.
    """
    from huggingface_hub import snapshot_download

    folder = repo_id
    if not Path(repo_id).is_dir():
        try:
            folder = snapshot_download(repo_id, revision=revision, allow_patterns=list(_FILES))
        except (OSError, ValueError) as error:
            raise HubError(f"{repo_id}@{revision or 'main'}: the encoder cannot be loaded: {error}") from error
    try:
        return _SentenceEncoder(folder)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        found = str(error).replace(folder, repo_id)
        raise InputError(f"{repo_id}: not a sentence encoder with safetensors weights: {found}") from error


class DeferredEncoder:
    """A sentence encoder that is loaded when the first text has to be encoded; see `load_encoder`."""

    def __init__(self, repo_id: str, revision: str | None) -> None:
        self._place = (repo_id, revision)
        self._loaded: Encoder | None = None

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts; see `Encoder.encode` and `load_encoder`."""
        self._loaded = self._loaded or load_encoder(*self._place)
        return self._loaded.encode(texts)


def encoder_key(repo_id: str, revision: str | None) -> str:
    """Name an encoder at a revision, for the folder of its vectors; a file name that no other encoder has.

    A local folder has no revision and is named by a hash of its files.

    Raises:
        InputError: An encoder on the Hub without a commit, which may change any time.
    """
    found, folder = blake2b(f"{repo_id}@{revision}".encode(), digest_size=8), Path(repo_id)
    if folder.is_dir():
        found = blake2b(digest_size=8)
        for path in sorted({path for pattern in _FILES for path in folder.rglob(pattern)}):
            found.update(f"{path.relative_to(folder)}\0{path.stat().st_size}\0".encode())
            with path.open("rb") as file:
                while part := file.read(1 << 20):
                    found.update(part)
    elif not revision:
        raise InputError(f"{repo_id}: vectors are kept for one commit of an encoder; give its revision")
    name = re.sub(r"[^\w.-]", "-", folder.resolve().name if folder.is_dir() else repo_id, flags=re.ASCII)
    return f"{name[-64:]}-{found.hexdigest()}"
