import os
import re
from collections.abc import Sequence
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from rocket_hub.errors import HubError, InputError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_base(model_id: str, revision: str | None, dtype: str, *, quantization: str | None = None) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer, from safetensors and without code from the repository.

    Args:
        model_id: Repository id or local folder.
        revision: Commit hash; None = the newest.
        dtype: `float32` or `bfloat16`.
        quantization: `4bit` (NF4, for QLoRA) or `8bit`; needs the extra `quantized`. None = as it is stored.

    Returns:
        (model in evaluation mode, tokenizer with a pad token).

    Raises:
        HubError: The repository, the revision or one of its files is not available.
        InputError: The folder does not exist, the weights are unusable, or the model needs code of its own.
    """
    if dtype not in _DTYPES:
        raise InputError(f"dtype: expected one of {', '.join(_DTYPES)}, found {dtype!r}")
    options: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": False}
    if quantization:
        options["quantization_config"] = _quantization(quantization, _DTYPES[dtype])
    tokenizer = load_tokenizer(model_id, revision)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            model_id, dtype=_DTYPES[dtype], use_safetensors=True, output_loading_info=True, **options
        )
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


def _quantization(name: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Make the settings of bitsandbytes."""
    if find_spec("bitsandbytes") is None:
        raise InputError(f"quantization {name}: bitsandbytes is not installed; `pip install rocket-hub[quantized]`")
    if name == "4bit":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    if name == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    raise InputError(f"quantization: expected 4bit or 8bit, found {name!r}")


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
        import torch
        from sentence_transformers import SentenceTransformer

        # Each process of a launch has a GPU of its own.
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
        self._model = SentenceTransformer(folder, device=device, trust_remote_code=False)

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
