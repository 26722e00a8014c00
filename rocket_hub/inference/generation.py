import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from rocket_hub.errors import InputError
from rocket_hub.inference.tokens import PAD, Progress, batches, evaluating, halving, injected, padded, prompt_ids

LOOK_EVERY = 4  # tokens between two checks for stop texts; a row waits for the others of its batch anyway


class Stopped(StoppingCriteria):
    """Stops the rows of a batch whose new text, from column `start` on, holds a stop text; checks now and then.

    transformers' own criterion would also find a text that begins in the prompt, and is slow to set up.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], start: int, rows: int) -> None:
        self._tokenizer, self._stop, self._start = tokenizer, stop, start
        # every token adds a byte at least; the few that add none are found when the whole text is cut
        self._window = max((len(mark.encode()) for mark in stop), default=0) + LOOK_EVERY
        self._done = torch.zeros(rows, dtype=torch.bool)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return which rows are over [rows]."""
        count = input_ids.shape[1] - self._start
        if count % LOOK_EVERY == 0:
            going = (~self._done).nonzero().flatten().tolist()
            recent = decoded(self._tokenizer, input_ids[going, -min(self._window, count) :])
            found = [row for row, text in zip(going, recent, strict=True) if self._holds(text)]
            # alone, the last tokens may make another text than at the end of all of them
            sure = decoded(self._tokenizer, input_ids[found, self._start :]) if found else []
            self._done[[row for row, text in zip(found, sure, strict=True) if self._holds(text)]] = True
        return self._done.to(input_ids.device)

    def _holds(self, text: str) -> bool:
        return any(mark in text for mark in self._stop)


class BeamStopped(StoppingCriteria):
    """Stops the beams that have just written a stop text; beams change places, so nothing is remembered."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], start: int) -> None:
        self._tokenizer, self._stop, self._start = tokenizer, stop, start
        self._window = max((len(mark.encode()) for mark in stop), default=0)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return which beams are over [beams]."""
        texts = decoded(self._tokenizer, input_ids[:, max(self._start, input_ids.shape[1] - self._window) :])
        return torch.tensor([any(mark in text for mark in self._stop) for text in texts], device=input_ids.device)


def decoded(tokenizer: Any, ids: torch.Tensor) -> list[str]:
    """Turn rows of tokens into texts as they were written."""
    texts: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return texts


@dataclass(frozen=True)
class Search:
    """How the next token is chosen.

    Attributes:
        temperature: 0 = the likeliest token; above 0 = sampled from the logits divided by it.
        top_p: Sampling is from the likeliest tokens that hold this much probability together (nucleus sampling).
        seed: Decides what is sampled, together with the prompts and the batch size, and nothing else does.
        beams: Beams of a beam search, of which the best is returned; 1 = none.

    Raises:
        InputError: A value is out of range.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    beams: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature {self.temperature}: expected 0 (greedy) or more")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p {self.top_p}: expected a share above 0, up to 1")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed {self.seed}: expected a whole number from 0 to 2**63 - 1")
        if self.beams < 1 or (self.beams > 1 and self.temperature):
            raise InputError(f"beams {self.beams} at temperature {self.temperature}: expected 1 or more beams, and "
                             "temperature 0 where there is more than one")  # fmt: skip


GREEDY = Search()


@dataclass(frozen=True)
class Continuation:
    """A model's continuation of a prompt."""

    text: str  # the new text alone
    ended: bool  # whether the model reached an end, or a stop text, before the tokens ran out


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
    stop: Sequence[str] = (),
    search: Search = GREEDY,
    progress: Progress | None = None,
) -> list[str]:
    """Continue each prompt until the end-of-sequence token, or a stop text; returns the new texts alone.

    The repository's generation settings (sampling, repetition penalty) are ignored, so that all models are decoded
    alike. In bf16 the batch can tip a close choice.

    Args:
        model: A causal language model, plain or PEFT.
        tokenizer: Its tokenizer.
        prompts: Tokenised as in `encode`.
        max_new_tokens: Longest continuation, in tokens.
        batch_size: Prompts continued at once.
        stop: A continuation ends before the first of these texts; a batch ends when all its rows did.
        search: How the next token is chosen.
        progress: Called after each batch with (prompts done, prompts in all).

    Raises:
        InputError: A prompt has no tokens at all.
    """
    found = continuations(
        model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size, stop=stop, search=search,
        progress=progress,
    )  # fmt: skip
    return [each.text for each in found]


def continuations(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int = 32,
    stop: Sequence[str] = (),
    search: Search = GREEDY,
    progress: Progress | None = None,
) -> list[Continuation]:
    """Continue each prompt, and return also whether it came to an end; see `generate`."""
    rows = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    base = injected(model)
    config = decoding(base, tokenizer, max_new_tokens, search)
    found, done = [Continuation("", False)] * len(rows), 0
    with evaluating(base, config), seeded(search):
        for batch in batches([len(row) for row in rows], batch_size):
            whole = [rows[i] for i in batch]
            work = partial(continued, base, tokenizer, stop=stop)
            new = work(whole) if search.temperature else halving(whole, work)  # halves would sample other texts
            for i, (text, tokens) in zip(batch, new, strict=True):
                own = until(text, stop)
                found[i] = Continuation(own, tokens < max_new_tokens or len(own) < len(text))
            done += len(batch)
            if progress:
                progress(done, len(rows))
    return found


def decoding(base: Any, tokenizer: Any, max_new_tokens: int, search: Search = GREEDY) -> GenerationConfig:
    """Make the settings of a way of decoding until any token that ends a text, by the tokenizer or by the model."""
    configured = base.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    ends = sorted({i for i in (*ids, tokenizer.eos_token_id) if i is not None})
    config = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=ends or None, pad_token_id=PAD
    )
    if search.temperature:
        # left alone, only the 50 likeliest tokens would be sampled from
        config.update(do_sample=True, temperature=search.temperature, top_p=search.top_p, top_k=0)
    elif search.beams > 1:
        config.update(num_beams=search.beams)
    return config


@contextmanager
def seeded(search: Search) -> Iterator[None]:
    """Sample by the seed alone, and leave the global random numbers as they were."""
    if not search.temperature:
        yield
        return
    device = torch.accelerator.current_accelerator() or torch.device("cuda")
    with torch.random.fork_rng(devices=range(torch.accelerator.device_count()), device_type=device.type):
        torch.manual_seed(search.seed)
        yield


def until(text: str, stop: Sequence[str]) -> str:
    """Cut a text before the first of the stop texts."""
    return text[: min((at for mark in stop if mark and (at := text.find(mark)) >= 0), default=len(text))]


def continued(base: Any, tokenizer: Any, rows: Sequence[list[int]], stop: Sequence[str] = ()) -> list[tuple[str, int]]:
    """Continue rows of tokens in one batch, inside `evaluating` with `decoding`: one (new text, its tokens) a row.

    A row that wrote a stop text goes on for some tokens, and its text is not cut: `until` does that.
    """
    ids, mask = padded(rows, left=True)
    ends = base.generation_config.eos_token_id or []
    marks = tuple(filter(None, stop))
    beams = (base.generation_config.num_beams or 1) > 1
    look = BeamStopped(tokenizer, marks, ids.shape[1]) if beams else Stopped(tokenizer, marks, ids.shape[1], len(rows))
    criteria = StoppingCriteriaList([look] if marks else [])
    new = base.generate(input_ids=ids.to(base.device), attention_mask=mask.to(base.device), stopping_criteria=criteria)[
        :, ids.shape[1] :
    ]
    found = []
    for tokens in new.tolist():
        # where there is no end-of-sequence token, a beam that is over is filled up with -1
        end = next((at for at, token in enumerate(tokens) if token in ends or token < 0), len(tokens))
        text = tokenizer.decode(tokens[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        found.append((text, end))
    return found
