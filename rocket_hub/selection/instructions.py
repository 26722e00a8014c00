"""Select instruction data by its similarity to the K-shot (Algorithm 2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache as remembered
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from rocket_hub.errors import InputError, NothingLeftError
from rocket_hub.inference.models import RETRIEVAL_PREFIX, Encoder
from rocket_hub.options import InstructionOptions
from rocket_hub.records import Example, InstructionSelection, Rejection, count_reasons
from rocket_hub.selection.decontamination import neighbours
from rocket_hub.selection.embeddings import ALL, EmbeddingCache, Part, Vectors, embed, open_cache, text_of, whole
from rocket_hub.selection.filters import Limits, row_name
from rocket_hub.selection.near_duplicates import check_mode, distinct, ordered, similarity
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
