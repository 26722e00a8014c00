"""How adapters do on the K-shot: reasoning perplexity and exact match (Eq. 1-5)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from torch import nn

from rocket_hub.errors import AdapterError, InputError
from rocket_hub.inference import Progress, completion_nll, generate
from rocket_hub.records import Example, ExpertScore, Rejection
from rocket_hub.selection.diversity import mean_ranks

_LARGEST_EXPONENT = 700.0  # e^700 is still a number in float64
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # initialisations that leave the base as it is
# Whatever PEFT, torch or safetensors raise over a bad configuration or bad weights.
_FAULTS = (
    OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError, UserWarning, SafetensorError,
    AdapterError,
)  # fmt: skip


@dataclass(frozen=True)
class ShotScores:
    """What every adapter did on every shot.

    Attributes:
        repo_ids: The M adapters that could be scored.
        nll: Summed negative log-likelihood of each completion in nats [M, K].
        tokens: Tokens of each completion [K].
        correct: Whether the generated answer is the right one [M, K], bool.
        rejected: Adapters that could not be scored, `unloadable` or `nan_scores`.
    """

    repo_ids: tuple[str, ...]
    nll: np.ndarray
    tokens: np.ndarray
    correct: np.ndarray
    rejected: tuple[Rejection, ...] = ()


def exact_match(predictions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """Compare predicted and right answers (the indicator of Eq. 5); an empty prediction is never right.

    Args:
        predictions: What was read out of the generated text, n of them.
        answers: The right answers in the same form, n of them.

    Returns:
        [n] bool.

    Raises:
        InputError: The two have different lengths.
    """
    if len(predictions) != len(answers):
        raise InputError(f"{len(predictions)} predictions for {len(answers)} answers; give one a question")
    return np.array([bool(p) and p == a for p, a in zip(predictions, answers, strict=True)], dtype=bool)


def reasoning_perplexity(nll_sums: np.ndarray, token_counts: np.ndarray) -> np.ndarray:
    """Compute the reasoning perplexity of each shot, exp(mean NLL per token of rationale and answer).

    Eq. 2 prints no mean, so that long rationales would decide; the values of the paper's Fig. 4 are per-token means,
    and so is this.

    Args:
        nll_sums: Summed NLL in nats [..., K].
        token_counts: Completion tokens, broadcast to the same shape, at least 1.

    Returns:
        [..., K] float64, at most e^700.
    """
    return np.exp(np.minimum(np.asarray(nll_sums, dtype=np.float64) / token_counts, _LARGEST_EXPONENT))


def expert_scores(scores: ShotScores) -> tuple[ExpertScore, ...]:
    """Turn the scores of each shot into one score an adapter, with ranks RP and RA (Algorithm 1, lines 2-6).

    Args:
        scores: From `score_adapters`.

    Returns:
        One an adapter, in the order of `scores.repo_ids`.
    """
    perplexity = reasoning_perplexity(scores.nll, scores.tokens).mean(axis=1)
    accuracy = scores.correct.mean(axis=1)
    ranks = mean_ranks(perplexity), mean_ranks(-accuracy)
    return tuple(
        ExpertScore(
            repo_id=repo_id,
            perplexity=float(perplexity[i]),
            accuracy=float(accuracy[i]),
            rank_perplexity=float(ranks[0][i]),
            rank_accuracy=float(ranks[1][i]),
            nll=tuple((scores.nll[i] / scores.tokens).tolist()),
        )
        for i, repo_id in enumerate(scores.repo_ids)
    )


def score_adapters(
    model: Any,
    tokenizer: Any,
    folders: Mapping[str, Path],
    shots: Sequence[Example],
    *,
    extract: Callable[[str], str],
    batch_size: int,
    max_new_tokens: int,
    progress: Progress | None = None,
) -> ShotScores:
    """Score LoRA adapters on the K-shot, one after the other on one base model.

    Args:
        model: The base model; it is the same as before when this returns, or raises.
        tokenizer: Its tokenizer.
        folders: repository id -> local folder with `adapter_config.json` and `adapter_model.safetensors`.
        shots: K examples in the task's form.
        extract: Reads the answer out of generated text.
        batch_size: Rows computed at once.
        max_new_tokens: Longest generated answer, in tokens.
        progress: Called after each adapter with (adapters done, adapters in all).

    Returns:
        The scores. An adapter that cannot be loaded, or computes what is no number, is rejected with the reason.

    Raises:
        InputError: There are no shots.
    """
    if not shots:
        raise InputError("the K-shot is empty; adapters are scored on at least one example")
    pairs = [(shot.prompt, shot.completion) for shot in shots]
    scored: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    rejected: list[Rejection] = []
    tokens = np.zeros(len(shots), dtype=np.int64)
    for done, (repo_id, folder) in enumerate(folders.items(), 1):
        with _borrowed(model):
            try:
                _attach(model, folder)
            except _FAULTS as error:
                rejected.append(Rejection(repo_id, "unloadable", _fault(error, repo_id, folder)))
            else:
                nll, tokens = completion_nll(model, tokenizer, pairs, batch_size=batch_size)
                if np.isfinite(nll).all():
                    prompts = [prompt for prompt, _ in pairs]
                    texts = generate(model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
                    scored[repo_id] = nll, exact_match([extract(text) for text in texts], [s.answer for s in shots])
                else:
                    bad = int((~np.isfinite(nll)).sum())
                    rejected.append(Rejection(repo_id, "nan_scores", f"no finite likelihood on {bad} of {len(nll)}"))
        if progress:
            progress(done, len(folders))
    shape = (len(scored), len(shots))
    nll = np.array([each for each, _ in scored.values()]).reshape(shape)
    correct = np.array([each for _, each in scored.values()], dtype=bool).reshape(shape)
    return ShotScores(tuple(scored), nll, tokens, correct, tuple(rejected))


def _attach(model: Any, folder: Path) -> None:
    """Put a LoRA adapter into the layers of the base model, for inference."""
    from peft import PeftConfig, PeftModel

    if not (folder / "adapter_model.safetensors").is_file():
        raise AdapterError("unloadable", "there is no adapter_model.safetensors; pickled weights are not read")
    found = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.get("peft_type") != "LORA":
        raise AdapterError("unloadable", "adapter_config.json describes no LoRA adapter (peft_type LORA)")
    start = found.get("init_lora_weights")
    if found.get("bias", "none") != "none" or start not in _PLAIN_STARTS:
        raise AdapterError(
            "unloadable", f"it changes the base weights (bias {found.get('bias')!r}, init_lora_weights {start!r})"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # between PEFT and transformers
        warnings.filterwarnings("ignore", "Unexpected keyword arguments")  # written by a newer PEFT
        warnings.filterwarnings("error", "Found missing adapter keys")  # PEFT would go on with random weights
        config = PeftConfig.from_pretrained(str(folder))
        PeftModel.from_pretrained(model, str(folder), "candidate", is_trainable=False, config=config)


@contextmanager
def _borrowed(model: nn.Module) -> Iterator[None]:
    """Give a model back as it was: PEFT replaces modules and freezes weights, and may break off half way."""
    tree = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = [module for module in model.modules() if module.training]
    try:
        yield
    finally:
        for parent, name, child in tree:
            setattr(parent, name, child)
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True
        vars(model).pop("peft_config", None)


def _fault(error: Exception, repo_id: str, folder: Path) -> str:
    """Say in one line what an adapter's fault is, without the path of this machine."""
    line = " ".join(str(error).replace(str(folder), repo_id).split())
    return line[:300] if isinstance(error, AdapterError) else f"{type(error).__name__}: {line}"[:300]
