from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import GenerationConfig

from rocket_hub.errors import InputError

T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[int, int], None]  # rows done, rows in all

BATCH_TOKENS = 2**15  # with padding, in one forward pass; 32 rows of 1,024
PAD = 0  # any token will do: the attention mask hides it


def encode(
    tokenizer: Any, prompt: str, completion: str, *, max_length: int | None = None, ended: bool = True
) -> tuple[list[int], int]:
    """Tokenise a prompt and its completion as TRL's `SFTTrainer` does, so that what is scored is what is trained.

    Both are one text, with the end-of-sequence token after it: apart, the completion would get a beginning of its own.

    Args:
        tokenizer: A transformers tokenizer.
        prompt: Text before the completion.
        completion: Text that is learned or scored.
        max_length: Cut after this many tokens; None = keep all.
        ended: Whether the end-of-sequence token belongs to the completion.

    Returns:
        (token ids, how many of them are the prompt). Where a token spans the boundary it belongs to the completion.
    """
    end = tokenizer.eos_token or ""
    text = prompt + completion.removesuffix(end) + end if ended else prompt + completion
    alone = tokenizer(text=prompt, verbose=False)["input_ids"]
    ids = tokenizer(text=text, verbose=False)["input_ids"][:max_length]
    if not ended and ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(end):
        ids = ids[:-1]  # some tokenizers end every text of their own accord
    pairs = zip(alone, ids, strict=False)
    length = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(alone), len(ids)))
    return ids, length


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Tokenise a prompt as before a completion, without an end-of-sequence token; InputError if it has no tokens."""
    ids, _ = encode(tokenizer, prompt, "", ended=False)
    if not ids:
        raise InputError(f"the prompt {prompt!r} has no tokens; a model needs at least one to go on from")
    return ids


def injected(model: Any) -> Any:
    """Return the transformers model itself; a LoRA or routed adapter sits inside its layers."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def evaluating(base: Any, generation: GenerationConfig | None = None) -> Iterator[None]:
    """Switch dropout and gradients off and set how to generate, then restore everything.

    Not `inference_mode`: buffers that a model makes in it cannot be used in training later. The generation settings
    are replaced, not given to `generate`, which would fill them up with the model's own.
    """
    training = [module for module in base.modules() if module.training]
    own, base.generation_config = base.generation_config, generation or base.generation_config
    base.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        base.generation_config = own
        for module in training:
            module.training = True


def batches(lengths: Sequence[int], size: int, tokens: int = BATCH_TOKENS) -> Iterator[list[int]]:
    """Yield the row numbers of each batch, longest rows first: little padding, and a lack of memory shows at once.

    A batch has at most `size` rows, and at most so many `tokens` with its padding, but at least one row.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        count = max(1, min(size, tokens // max(1, lengths[order[start]])))
        yield order[start : start + count]
        start += count


def halving(batch: Sequence[T], work: Callable[[Sequence[T]], Sequence[R]]) -> list[R]:
    """Do some work on a batch, or, where memory runs out, on its halves; returns one result for each of the batch.

    InputError if one row alone is too much.
    """
    try:
        return list(work(batch))
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        if len(batch) == 1:
            raise InputError(f"memory runs out on a batch of one row: {error!s:.200}; take a smaller base, or "
                             "compute.quantize: 4bit") from error  # fmt: skip
    clear_device_cache(garbage_collection=True)
    middle = len(batch) // 2
    return [*halving(batch[:middle], work), *halving(batch[middle:], work)]


def padded(rows: Sequence[list[int]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack rows of different lengths into (ids, attention mask), both [rows, longest]."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), PAD)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        span = slice(longest - len(row), None) if left else slice(0, len(row))
        ids[i, span] = torch.tensor(row)
        mask[i, span] = 1
    return ids, mask
