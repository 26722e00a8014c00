"""The sentence encoder, behind a protocol of one method."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import numpy as np

from rocket_hub.errors import HubError, InputError

RETRIEVAL_PREFIX = "Represent the following sentence for similar task retrieval: "  # Algorithm 2

# What an encoder is made of; weights come as safetensors or not at all, and no file can hold code.
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")


class Encoder(Protocol):
    """Anything that turns texts into vectors."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts.

        Args:
            texts: n texts.

        Returns:
            [n, d] float32, each row of length 1.
        """
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
    """Load a sentence encoder with sentence-transformers.

    Args:
        repo_id: Repository id or local folder.
        revision: Commit hash; None = the newest. A local folder has none.

    Returns:
        The encoder, on the GPU where there is one.

    Raises:
        HubError: The repository or the revision cannot be had.
        InputError: What is there is no sentence encoder, or its weights are not in safetensors files.
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
    """A sentence encoder that is loaded when the first text has to be encoded; see `load_encoder`.

    Args:
        repo_id: Repository id or local folder.
        revision: Commit hash; None = the newest. A local folder has none.
    """

    def __init__(self, repo_id: str, revision: str | None) -> None:
        self._place = (repo_id, revision)
        self._loaded: Encoder | None = None

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts; see `Encoder.encode` and `load_encoder`."""
        self._loaded = self._loaded or load_encoder(*self._place)
        return self._loaded.encode(texts)


def encoder_key(repo_id: str, revision: str | None) -> str:
    """Name an encoder at a revision, for the folder of the vectors that it makes.

    Args:
        repo_id: Repository id or local folder.
        revision: Commit hash; a local folder has none and is named by what is in it.

    Returns:
        A file name that no other encoder has.

    Raises:
        InputError: An encoder on the Hub without a commit, which may be another one tomorrow.
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
