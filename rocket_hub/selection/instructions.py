"""Select instruction data by its similarity to the K-shot (Algorithm 2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache as remembered
from functools import partial
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any, get_args

import numpy as np

from rocket_hub.errors import InputError, NothingLeftError
from rocket_hub.inference.models import RETRIEVAL_PREFIX, Encoder
from rocket_hub.options import InstructionOptions, Similarity
from rocket_hub.records import Example, InstructionSelection, Rejection, count_reasons
from rocket_hub.selection.decontamination import neighbours
from rocket_hub.selection.embeddings import ALL, EmbeddingCache, Part, Vectors, embed, open_cache, text_of, whole
from rocket_hub.selection.filters import Limits, row_name
from rocket_hub.selection.screening import Pool, Survey, survey

BYTES_A_TOKEN = 4  # of UTF-8, as English in the usual vocabularies; only where no tokenizer counts

Progress = Callable[[str, int, int], None]  # what is done, how far it is, and of how much


def select_instructions(
    encoder: Encoder,
    shots: Sequence[Example],
    rows: Iterable[Example],
    options: InstructionOptions,
    *,
    evaluation_questions: Collection[str] = (),
    cache: Path | None = None,
    refuse: Callable[[Example], str] | None = None,
    count_tokens: Callable[[str], int] | None = None,
    longest: int | None = None,
    progress: Progress | None = None,
) -> InstructionSelection:
    """Choose the rows most like the K-shot, without near-duplicates (Algorithm 2).

    First `survey` rejects the rows that may not be taken, then `choose` takes those most like the K-shot over prompt
    and completion. Rows and vectors stay on disk; memory grows by a few hundred bytes a row. Under torchrun or
    `accelerate launch` the processes share the encoding if they share the cache.

    Args:
        encoder: Turns texts into vectors; not used for texts that are in the cache.
        shots: The K-shot as read: bare question and whole answer text.
        rows: Candidates from all data sets, read once. Equal similarity keeps their order.
        options: The budget, τ, how rows are compared, the least similarity, and the languages.
        evaluation_questions: Bare questions that no training row may hold.
        cache: Folder of the vectors of this encoder at this revision, see `encoder_key`; none = they are not kept.
        refuse: The caller's own filter: returns the reason why a row is rejected, or nothing.
        count_tokens: Counts the tokens of a text; none = `estimated_tokens`.
        longest: Tokens of the longest row that the model can be trained on; none = any.
        progress: Receives progress; none = no output.

    Returns:
        The selection. Every row is accounted for in `counts`.

    Raises:
        InputError: There are no shots, or an option or the encoder's vectors cannot be used.
        NothingLeftError: No row is left.
        StorageError: Rows or vectors cannot be kept.
    """
    check_mode(options.similarity, options.kde_gamma)
    if not shots:
        raise InputError("the K-shot is empty; rows are compared with at least one example")
    count_tokens = count_tokens or estimated_tokens
    limits = Limits(languages=options.languages, max_tokens=longest, count_tokens=count_tokens)
    with ExitStack() as stack:
        pool = rows if isinstance(rows, (list, tuple)) else stack.enter_context(Pool(rows, cache))
        found = survey(pool, shots, evaluation_questions, refuse=refuse, limits=limits)
        kept, part = stack.enter_context(open_cache(cache)), Part.of_process() if cache else ALL
        examples = embed(encoder, [text_of(shot) for shot in shots], kept)[np.arange(len(shots))]
        vectors = embed(encoder, _Texts(pool, found.usable), kept, keys=found.keys, part=part,
                        progress=partial(progress, "encoding rows") if progress else None)  # fmt: skip
        choice = choose(vectors, examples, options, _tokens_of(pool, found.usable, count_tokens))
        selection = _selection(pool, found, choice, options)
        flagged = _flagged(encoder, selection.selected, found, evaluation_questions, kept)
        return replace(selection, flagged=flagged)


def estimated_tokens(text: str) -> int:
    """Estimate the tokens of a text where no tokenizer counts them."""
    return ceil(len(text.encode("utf-8", "replace")) / BYTES_A_TOKEN)


class _Texts(Sequence[str]):
    """The texts of the usable rows, read when they are needed."""

    def __init__(self, pool: Sequence[Example], usable: np.ndarray) -> None:
        self._pool, self._usable = pool, usable

    def __len__(self) -> int:
        return len(self._usable)

    def __getitem__(self, position: Any) -> Any:
        return text_of(self._pool[self._usable[position]])


def _tokens_of(pool: Sequence[Example], usable: np.ndarray, count_tokens: Callable[[str], int]) -> Callable[[int], int]:
    @remembered
    def tokens(row: int) -> int:
        taken = pool[usable[row]]
        return count_tokens(f"{taken.prompt}\n{taken.completion}")

    return tokens


@dataclass
class Choice:
    """The rows taken, by position, and why others were not."""

    similarity: np.ndarray  # of each row to the K-shot [n]
    taken: list[int] = field(default_factory=list)  # the rows taken, in this order
    near: dict[int, int] = field(default_factory=dict)  # dropped row -> the taken row that it is a near-duplicate of
    too_long: list[int] = field(default_factory=list)  # rows that are longer than the whole budget of tokens
    tokens: int = 0  # tokens of the taken rows, if there is a budget of tokens


def choose(
    vectors: Vectors, shots: np.ndarray, options: InstructionOptions, tokens_of: Callable[[int], int] | None = None
) -> Choice:
    """Take the rows most like the K-shot, without near-duplicates, until the budget is spent (Algorithm 2).

    Of two near-duplicates the one that comes later in the order is dropped, and the next row takes its place. The
    first row that no longer fits into the budget of tokens ends the choice, so that no row is taken for being short.

    Args:
        vectors: [n, d], rows of length 1; read in blocks.
        shots: [K, d], rows of length 1.
        options: How rows are compared, τ, the least similarity, and the budget.
        tokens_of: Counts the tokens of a row; needed for `max_tokens` only.

    Returns:
        The choice. Rows it does not name are below the least similarity, or behind the last row taken.

    Raises:
        InputError: An option cannot be used.
    """
    if not vectors.shape[0]:
        return Choice(np.zeros(0, dtype=np.float32))
    choice = Choice(similarity(vectors, shots, options.similarity, options.kde_gamma))
    order = ordered(vectors, shots, choice.similarity, options.similarity, options.min_similarity)
    if options.max_tokens is not None and tokens_of is not None:
        order = _fitting(order, options.max_tokens, tokens_of, choice.too_long)
    for row, partner in distinct(vectors, order, options.threshold):
        if partner is not None:
            choice.near[row] = partner
            continue
        if options.max_tokens is not None and tokens_of is not None:
            if choice.tokens + tokens_of(row) > options.max_tokens:
                break
            choice.tokens += tokens_of(row)
        choice.taken.append(row)
        if len(choice.taken) == options.max_rows:
            break
    return choice


def _fitting(order: Iterable[int], limit: int, tokens_of: Callable[[int], int], too_long: list[int]) -> Iterator[int]:
    """Leave out, and note in `too_long`, the rows that alone are longer than the budget."""
    for row in order:
        if tokens_of(row) <= limit:
            yield row
        else:
            too_long.append(row)


def _selection(
    pool: Sequence[Example], found: Survey, choice: Choice, options: InstructionOptions
) -> InstructionSelection:
    fates = np.full(len(found.usable), "beyond_budget", dtype=object)
    fates[choice.similarity < options.min_similarity] = "below_min_similarity"
    fates[list(choice.near)] = "near_duplicate_of"
    fates[choice.too_long] = "over_token_budget"
    fates[choice.taken] = "chosen"
    counts = found.counts(fates)
    rejected = tuple(_rejected(pool, found, choice, options))
    if not choice.taken:
        reasons = ", ".join(f"{n} {reason}" for reason, n in count_reasons(rejected).items()) or "none rejected"
        below = int((fates == "below_min_similarity").sum())
        raise NothingLeftError(
            f"no instruction data is left of {len(pool)} rows ({reasons}; {below} below "
            f"instructions.min_similarity {options.min_similarity:g}); give more data sets or lower the limit"
        )
    per_source = {source: count["chosen"] for source, count in counts.items() if "chosen" in count}
    return InstructionSelection(
        selected=tuple(pool[found.usable[row]] for row in choice.taken),
        scores=tuple(float(choice.similarity[row]) for row in choice.taken),
        rejected=rejected,
        considered=len(found.usable),
        per_source=dict(Counter(per_source).most_common()),
        counts=counts,
        tokens=choice.tokens,
    )


def _rejected(
    pool: Sequence[Example], found: Survey, choice: Choice, options: InstructionOptions
) -> Iterator[Rejection]:
    yield from found.faults.values()
    for row, partner in choice.near.items():
        names = [row_name(pool[found.usable[position]]) for position in (row, partner)]
        yield Rejection(names[0], "near_duplicate_of", names[1])
    for row in choice.too_long:
        yield Rejection(row_name(pool[found.usable[row]]), "over_token_budget", f"max_tokens is {options.max_tokens}")


def _flagged(
    encoder: Encoder,
    rows: Sequence[Example],
    found: Survey,
    evaluation_questions: Collection[str],
    cache: EmbeddingCache,
) -> tuple[Rejection, ...]:
    """List the chosen rows to look at: the doubtful ones, then those whose prompt is near an evaluation question."""
    doubts = {doubt.item: doubt for doubt in found.doubts.values()}
    flagged = [doubts[name] for row in rows if (name := row_name(row)) in doubts]
    questions = list(dict.fromkeys(evaluation_questions))
    if not questions:
        return tuple(flagged)
    texts = [whole(f"{RETRIEVAL_PREFIX}{text.strip()}") for text in (*(row.prompt for row in rows), *questions)]
    vectors, count = embed(encoder, texts, cache), len(rows)
    near = neighbours(vectors[np.arange(count)], vectors[np.arange(count, len(texts))])
    flagged += [
        Rejection(row_name(rows[row]), "near_evaluation_question", f"cosine {cosine:.2f} with: {questions[question]}")
        for row, (question, cosine) in near.items()
    ]
    return tuple(flagged)


MODES = get_args(Similarity)
_SIMILARITY_BLOCK = 8192
_BLOCK = 1024
_DIGITS = 6  # beyond them lies the rounding of float32 products, which must not rank rows
_ROUNDING = 1e-5  # more than float32 products of rows of length 1 are ever off, with any block size, BLAS or GPU


def similarity(vectors: Vectors, shots: np.ndarray, mode: str = "max", gamma: float = 10.0) -> np.ndarray:
    """Compute the similarity of each row to the K-shot, on the scale of a cosine [n].

    - `max`: the largest cosine to any shot (Algorithm 2). A single shot can fill the whole budget.
    - `mean`: the mean cosine, which is the cosine with the mean shot up to a factor.
    - `kde`: a Gaussian kernel density of the shots (Table 3), mean_i exp(−γ‖shot_i − row‖²), as
      log(mean_i exp(2γ cos_i)) / 2γ, which ranks alike on the cosine's scale: `mean` for small γ, `max` for large.
    - `round_robin` ranks by shots, see `ordered`; its similarity is that of `max`.

    Values are float32, rounded to six digits, so that equal rows are equal wherever they stand.

    Args:
        vectors: [n, d], rows of length 1; read once, in blocks.
        shots: [K, d], rows of length 1.
        mode: One of `MODES`.
        gamma: γ of `kde`, one over twice the squared bandwidth.
    """
    check_mode(mode, gamma)
    count, width = vectors.shape
    if len(shots) == 0 or width != shots.shape[1]:
        raise InputError(f"rows of {width} numbers cannot be compared with shots of shape {shots.shape}")
    found = np.empty(count, dtype=np.float32)
    for block, cosines in _cosines(vectors, shots):
        if mode == "mean":
            found[block] = cosines.mean(axis=1)
        elif mode == "kde":
            largest = cosines.max(axis=1)
            density = np.exp(2 * gamma * (cosines - largest[:, None])).mean(axis=1)
            found[block] = largest + np.log(density) / (2 * gamma)
        else:
            found[block] = cosines.max(axis=1)
    return found.round(_DIGITS)


def ordered(
    vectors: Vectors, shots: np.ndarray, ranked_by: np.ndarray, mode: str = "max", least: float = -1.0
) -> Iterator[int]:
    """Yield the positions of the rows in the order in which they are taken, each once.

    With `round_robin` each shot in turn takes the row nearest to it that is left, so that every shot has its part of
    the budget; this needs 12 n K bytes. In the other modes the most similar row comes first. Equally similar rows keep
    their order. Arguments as of `similarity`, which returned `ranked_by`; rows below `least` are left out.
    """
    if mode != "round_robin":
        order = np.argsort(-ranked_by, kind="stable")
        yield from order[ranked_by[order] >= least]
        return
    cosines = np.empty((len(shots), vectors.shape[0]), dtype=np.float32)
    for block, found in _cosines(vectors, shots):
        cosines[:, block] = found.round(_DIGITS).T
    nearest = [iter(np.argsort(-row, kind="stable")) for row in cosines]
    free = ranked_by >= least
    for _ in range(int(free.sum()) // len(shots) + 1):
        for rows in nearest:
            row = next((row for row in rows if free[row]), None)
            if row is not None:
                free[row] = False
                yield row


def check_mode(mode: str, gamma: float) -> None:
    """Raise InputError for a way to compare that does not exist."""
    if mode not in MODES:
        raise InputError(f"instructions.similarity: expected one of {', '.join(MODES)}, found {mode!r}")
    if not gamma > 0:
        raise InputError(f"instructions.kde_gamma: expected a positive number, found {gamma}")


def _cosines(vectors: Vectors, shots: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Compare all rows with all shots: yields slices of rows with their cosines [b, K]."""
    for start in range(0, vectors.shape[0], _SIMILARITY_BLOCK):
        block = slice(start, min(start + _SIMILARITY_BLOCK, vectors.shape[0]))
        yield block, vectors[np.arange(block.start, block.stop)] @ shots.T  # [b, d] @ [d, K] -> [b, K]


def distinct(vectors: Vectors, order: Iterable[int], threshold: float) -> Iterator[tuple[int, int | None]]:
    """Find the near-duplicates of kept rows, lazily.

    A row is dropped when its cosine with a kept row before it is above the threshold; a row that was itself dropped
    drops no other. Blocks of rows are compared with blocks of kept ones, so that no more than 1,024² cosines exist at
    any time; cosines within rounding of the threshold are computed again in double precision, so that the result is
    that of comparing the pairs one by one.

    Args:
        vectors: [n, d], rows of length 1.
        order: The rows, highest priority first; each at most once.
        threshold: τ. At 1 nothing is dropped, not even equal rows, as in the paper.

    Yields:
        (row, None) for a row that is kept, (row, the first kept row near it) for one that is dropped.
    """
    if threshold >= 1:
        yield from ((int(row), None) for row in order)
        return
    kept: list[int] = []
    rest = iter(order)
    while rows := [int(row) for row in islice(rest, _BLOCK)]:
        block = vectors[np.asarray(rows)]
        partners = _partners(block, vectors, kept, threshold)  # [b], -1 = none yet
        within = np.zeros((len(rows), len(rows)), dtype=bool)
        within[_above(block, block, threshold)] = True
        drops = np.asarray(np.triu(within, 1).any(axis=1))
        for i, row in enumerate(rows):
            if partners[i] >= 0:
                yield row, int(partners[i])
                continue
            kept.append(row)
            if drops[i]:
                partners[within[i] & (partners < 0)] = row
            yield row, None


def _partners(block: np.ndarray, vectors: Vectors, kept: list[int], threshold: float) -> np.ndarray:
    """Find the first kept row that each row of a block is a near-duplicate of: [b, d] -> [b], -1 = none."""
    partners = np.full(len(block), -1)
    alone = np.arange(len(block))  # rows of the block without a partner so far
    for start in range(0, len(kept), _BLOCK):
        others = np.asarray(kept[start : start + _BLOCK])
        rows, columns = _above(block[alone], vectors[others], threshold)
        # Pairs come row by row, columns ascending: the first of each row is its earliest partner.
        found, first = np.unique(rows, return_index=True)
        partners[alone[found]] = others[columns[first]]
        alone = alone[partners[alone] < 0]
    return partners


def _above(rows: np.ndarray, others: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Find the pairs whose cosine is above the threshold: positions in `rows`, positions in `others`."""
    cosines = rows @ others.T  # [a, d] @ [d, b] -> [a, b]
    left, right = np.nonzero(cosines > threshold - _ROUNDING)
    near = cosines[left, right]
    doubtful = np.flatnonzero(near <= threshold + _ROUNDING)
    for start in range(0, len(doubtful), _BLOCK):
        pairs = doubtful[start : start + _BLOCK]
        exact = np.einsum("pd,pd->p", rows[left[pairs]], others[right[pairs]], dtype=np.float64)
        near[pairs] = np.where(exact > threshold, 2.0, -2.0)
    sure = near > threshold
    return left[sure], right[sure]
