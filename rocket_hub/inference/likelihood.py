import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from rocket_hub.errors import InputError
from rocket_hub.inference.tokens import BATCH_TOKENS, batches, encode, evaluating, halving, injected, padded

HEAD_LOGITS = 2**26  # computed at once; in fp32, with what the cross-entropy keeps, 0.8 GiB


def completion_nll(
    model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], *, batch_size: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the negative log-likelihood of each completion given its prompt (Eq. 1 without its exponential).

    Args:
        model: A causal language model, plain or PEFT.
        tokenizer: Its tokenizer.
        pairs: (prompt, completion).
        batch_size: Rows computed at once.

    Returns:
        (sums in nats [n] float64, completion tokens [n] int64), in the order of `pairs`.
    """
    rows = [encode(tokenizer, prompt, completion) for prompt, completion in pairs]
    sums, base = np.zeros(len(rows)), injected(model)
    with evaluating(base):
        for batch in batches([len(ids) for ids, _ in rows], batch_size):
            sums[batch] = halving([rows[i] for i in batch], partial(row_nll, base))
    return sums, np.array([scored(ids, start) for ids, start in rows], dtype=np.int64)


def scored(ids: list[int], start: int) -> int:
    """Count the tokens of a row that are scored: the first token of a text has nothing that could predict it."""
    return max(len(ids) - max(start, 1), 0)


def row_nll(base: Any, rows: Sequence[tuple[list[int], int]], *, mean: str = "geometric") -> list[float]:
    """Sum the NLL of each row's completion in nats, in one batch; call it inside `evaluating`.

    Args:
        base: A transformers model.
        rows: (token ids, how many of them are the prompt), of any lengths.
        mean: Of a row's token probabilities: `geometric`, which makes the sum the NLL of the completion (Eq. 1), or
            `arithmetic`, which gives -n log of the mean probability of its n tokens. In that each token counts for
            1/n at most, however unlikely it is.
    """
    return [_summed(losses.double(), mean) for losses in row_losses(base, rows)]


def row_losses(base: Any, rows: Sequence[tuple[list[int], int]]) -> tuple[torch.Tensor, ...]:
    """Compute the NLL of each token of each row's completion, see `row_nll`: one [completion tokens] float32 a row."""
    ids, mask = padded([ids for ids, _ in rows], left=False)
    counts = [scored(ids, start) for ids, start in rows]
    columns = torch.cat([torch.arange(len(ids) - n, len(ids)) for (ids, _), n in zip(rows, counts, strict=True)])
    at = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(counts)), columns - 1
    inputs = {"input_ids": ids.to(base.device), "attention_mask": mask.to(base.device), "use_cache": False}
    return token_nll(base, inputs, at, ids[at[0], columns]).split(counts)


def _summed(nll: torch.Tensor, mean: str) -> float:
    """Sum the NLL [n] of a completion's tokens, or compute its counterpart with another mean; see `row_nll`."""
    if mean == "geometric" or not len(nll):
        return float(nll.sum())
    return float(len(nll) * (math.log(len(nll)) - torch.logsumexp(-nll, 0)))


def token_nll(
    base: Any, inputs: dict[str, Any], at: tuple[torch.Tensor, torch.Tensor], targets: torch.Tensor
) -> torch.Tensor:
    """Compute the NLL of tokens, with the head at the positions that predict them and nowhere else.

    Args:
        base: A transformers model.
        inputs: Of its forward pass, [batch, length].
        at: Rows and columns of n positions.
        targets: The token after each position [n].

    Returns:
        [n] float32 nats, on the CPU.
    """
    head, body = base.get_output_embeddings(), base.get_decoder()
    size = len(targets) if head is None or body is base else max(1, HEAD_LOGITS // len(head.weight))
    found = []
    with body_once(body) if size < len(targets) else nullcontext():
        for rows, columns, after in zip(*(part.split(size) for part in (*at, targets)), strict=True):
            with head_at(base, rows, columns):
                logits = base(**inputs).logits
            if logits.shape[:2] != (1, len(after)):
                logits = logits[rows, columns][None]  # the model has no separate head: [batch, length, vocabulary]
            # [n, vocabulary], [n] -> [n]
            found.append(F.cross_entropy(logits[0].float(), after.to(logits.device), reduction="none").cpu())
    return torch.cat(found)


@contextmanager
def body_once(body: Any) -> Iterator[None]:
    """Run the body of a model in the first of several passes over the same input, and repeat its output in the others.

    Each pass gives the head other positions, so that the logits of all need not be in memory together.
    """
    run, own = body.forward, vars(body).get("forward")
    kept: list[Any] = []

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not kept:
            kept.append(run(*args, **kwargs))
        return kept[0]

    body.forward = forward
    try:
        yield
    finally:
        if own is None:
            del body.forward
        else:
            body.forward = own


@contextmanager
def head_at(base: Any, rows: torch.Tensor, columns: torch.Tensor) -> Iterator[None]:
    """Give the head [1, n, hidden], the chosen positions only.

    A hook rather than a call of the head keeps what the model does to the logits afterwards (scaling, soft caps).
    """
    head = base.get_output_embeddings() or nn.Identity()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][rows, columns][None], *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


@dataclass(frozen=True)
class OptionScores:
    """The likelihood of each option of one question.

    Attributes:
        nll: Summed negative log-likelihood in nats [options].
        tokens: Tokens of each option [options].
        characters: Its characters, without white space around it, as lm-evaluation-harness counts for `acc_norm`.
        bytes: The same in UTF-8, as it counts for `acc_bytes`.
    """

    nll: np.ndarray
    tokens: np.ndarray
    characters: np.ndarray
    bytes: np.ndarray

    def chosen(self, per: str = "characters") -> int:
        """Return the likeliest option; where several are, the first.

        The likelihood is divided `per`: `characters` (`acc_norm`), `bytes`, `tokens`, or `nothing` (`acc`).
        """
        lengths = {"nothing": np.ones(len(self.nll)), "tokens": self.tokens, "bytes": self.bytes}
        return int(np.argmin(self.nll / lengths.get(per, self.characters)))


@dataclass(frozen=True)
class Question:
    """A question in tokens."""

    prompt: list[int]  # tokens that all options share, but for the last of them
    tails: tuple[list[int], ...]  # for each option, the last shared token and then its own
    counts: tuple[int, ...]  # how many tokens at the end of each tail are the option
    options: tuple[str, ...]  # their texts

    @property
    def tokens(self) -> int:
        """Tokens that go through the model."""
        return len(self.prompt) + sum(len(tail) - 1 for tail in self.tails)


def option_nll(
    model: Any, tokenizer: Any, questions: Sequence[tuple[str, Sequence[str]]], *, batch_size: int = 32
) -> list[OptionScores]:
    """Compute the negative log-likelihood of every option of every question, each given the prompt.

    Prompt and option are one text (see `encode`) without an end-of-sequence token, as in lm-evaluation-harness. The
    keys and values of a prompt are computed once for all its options.

    Args:
        model: A causal language model, plain or PEFT.
        tokenizer: Its tokenizer.
        questions: (prompt, options); an option starts with the space that parts it from the prompt.
        batch_size: Options computed at once, but at least those of one question.

    Raises:
        InputError: A question has no options, or an option has no tokens of its own.
    """
    encoded = [encode_question(tokenizer, prompt, options) for prompt, options in questions]
    found: dict[int, OptionScores] = {}
    base = injected(model)
    with evaluating(base):
        for batch in question_batches(encoded, batch_size):
            scores = halving([encoded[i] for i in batch], partial(choice_scores, base))
            found.update(zip(batch, scores, strict=True))
    return [found[i] for i in range(len(encoded))]


def encode_question(tokenizer: Any, prompt: str, options: Sequence[str]) -> Question:
    """Tokenise a question; see `option_nll`."""
    if not options:
        raise InputError(f"the question {prompt!r:.80} has no options; give at least two")
    rows = [encode(tokenizer, prompt, option, ended=False) for option in options]
    starts = [max(start, 1) for _, start in rows]
    empty = [option for option, (ids, _), start in zip(options, rows, starts, strict=True) if len(ids) <= start]
    if empty:
        raise InputError(f"the option {empty[0]!r} of {prompt!r:.80} has no tokens; an empty option cannot be scored")
    shared = min(starts) - 1  # a token that spans the boundary is an option's own
    return Question(
        prompt=rows[0][0][:shared],
        tails=tuple(ids[shared:] for ids, _ in rows),
        counts=tuple(len(ids) - start for (ids, _), start in zip(rows, starts, strict=True)),
        options=tuple(options),
    )


def question_batches(questions: Sequence[Question], size: int) -> list[list[int]]:
    """List the numbers of the questions of each batch, longest prompts first, about `size` options in each."""
    most = max((len(question.tails) for question in questions), default=1)
    lengths = [len(question.prompt) + max(map(len, question.tails)) for question in questions]
    return list(batches(lengths, max(size // most, 1), BATCH_TOKENS // most))


def choice_scores(base: Any, questions: Sequence[Question]) -> list[OptionScores]:
    """Score all options of some questions in one batch; call it inside `evaluating`."""
    sizes = [len(question.tails) for question in questions]
    tails = [tail for question in questions for tail in question.tails]
    counts = [count for question in questions for count in question.counts]
    owners = torch.repeat_interleave(torch.arange(len(questions)), torch.tensor(sizes))
    cached = all(question.prompt for question in questions)  # a row of padding alone would attend to nothing
    if not cached:
        tails = [questions[owner].prompt + tail for owner, tail in zip(owners.tolist(), tails, strict=True)]
    ids, mask = padded([tail[:-1] for tail in tails], left=False)  # the last token predicts nothing that is asked for
    inputs = _after_prompts(base, questions, owners, mask) if cached else {"attention_mask": mask.to(base.device)}
    ends = [len(tail) - 1 for tail in tails]
    columns = torch.cat([torch.arange(end - n, end) for end, n in zip(ends, counts, strict=True)])
    at = torch.repeat_interleave(torch.arange(len(tails)), torch.tensor(counts)), columns
    targets = torch.tensor([token for tail, n in zip(tails, counts, strict=True) for token in tail[-n:]])
    losses = token_nll(base, {"input_ids": ids.to(base.device), **inputs}, at, targets)
    sums = torch.stack([loss.double().sum() for loss in losses.split(counts)])
    return [_scores(question, nll) for question, nll in zip(questions, sums.split(sizes), strict=True)]


def _after_prompts(
    base: Any, questions: Sequence[Question], owners: torch.Tensor, mask: torch.Tensor
) -> dict[str, Any]:
    """Compute the prompts' keys and values once and repeat them for the options [rows, ...]; no head."""
    ids, seen = padded([question.prompt for question in questions], left=True)
    nowhere = torch.zeros(0, dtype=torch.long)
    with head_at(base, nowhere, nowhere):
        cache = base(**_at_positions(base, seen, 0), input_ids=ids.to(base.device), use_cache=True).past_key_values
    cache.batch_select_indices(owners.to(base.device))
    return {**_at_positions(base, torch.cat([seen[owners], mask], dim=1), ids.shape[1]), "past_key_values": cache}


def _at_positions(base: Any, mask: torch.Tensor, start: int) -> dict[str, torch.Tensor]:
    """Make the attention mask [rows, length] and, for models with positions, those from column `start` on."""
    known = "position_ids" in inspect.signature(base.forward).parameters
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, start:]
    found = {"attention_mask": mask.to(base.device)}
    return {**found, "position_ids": positions.to(base.device)} if known else found


def _scores(question: Question, nll: torch.Tensor) -> OptionScores:
    texts = [option.strip() for option in question.options]
    return OptionScores(
        nll=nll.numpy(),
        tokens=np.array(question.counts),
        characters=np.array([max(len(text), 1) for text in texts]),
        bytes=np.array([max(len(text.encode()), 1) for text in texts]),
    )
