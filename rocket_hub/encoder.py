"""The sentence encoder, behind a protocol of one method."""

from __future__ import annotations

from collections.abc import Sequence
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
        import torch
        from sentence_transformers import SentenceTransformer

        device = "cuda" if torch.cuda.is_available() else "cpu"
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
