import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import chain
from pathlib import Path
from random import Random

import numpy as np
from huggingface_hub import constants

from rocket_hub.errors import KShotError
from rocket_hub.inference.models import DeferredEncoder, encoder_key, load_tokenizer
from rocket_hub.pipeline.context import Context, evaluation_set, questions, rejecting
from rocket_hub.pipeline.generated import read_generated
from rocket_hub.plots import draw_rows
from rocket_hub.records import DatasetDiscovery, Example, InstructionSelection, Pinned, Rejection, count_reasons
from rocket_hub.results import Chosen, DataSelection, Discovery, Generation
from rocket_hub.runs import write_text
from rocket_hub.selection.decontamination import contaminated
from rocket_hub.selection.embeddings import embed, open_cache, text_of
from rocket_hub.selection.instructions import select_instructions
from rocket_hub.serialization import to_dict

NO_FAULT = ("near_duplicate_of", "over_token_budget")  # why a sound row was not chosen


def random_rows(context: Context, chosen: Chosen, count: int) -> list[Example]:
    """Draw rows, each as likely as any other, from those of the pool of stage 3 that could have been chosen.

    There are fewer than `count` where the pool has fewer. The seed is that of the build.
    """
    draw = Random(context.recipe.seed)
    drawn: list[Example] = []
    for read, row in enumerate(_sound_rows(context, chosen), 1):
        sample_row(drawn, count, row, read, draw)
    return drawn


def sample_row(sample: list[Example], size: int, row: Example, read: int, draw: Random) -> None:
    """Offer a row to a sample of a stream (reservoir sampling): all rows so far are in it with equal chances.

    `size` is how many rows the sample holds at most, `read` how many have been read, with this one.
    """
    place = len(sample) if len(sample) < size else draw.randrange(read)
    sample[place : place + 1] = [row] if place < size else []


def _sound_rows(context: Context, chosen: Chosen) -> Iterator[Example]:
    """Read the pool again, as stage 3 did, without what it refused (rows of the evaluation set among it)."""
    with context.run.absolute(chosen.rows.rejected_file).open(encoding="utf-8") as lines:
        refused = {entry["item"] for entry in map(json.loads, lines) if entry["reason"] not in NO_FAULT}
    readable = [each for each in chosen.found.datasets.selected if each.repo_id not in refused]
    found = chain.from_iterable(map(context.rows_of, readable))
    for row in chain(found, _generated_rows(context, chosen.generated)):
        if f"{row.source}#{row.index}" not in refused:
            yield row


def _generated_rows(context: Context, made: Generation) -> list[Example]:
    return read_generated(context.run.path / "0-generate", made) if made.rows else []


LISTED = 100
"""Rejected rows of each reason that the result lists; all of them are in `rejected.jsonl`."""
SAMPLE = 1500
"""Rows of the pool on the map."""


def select_data(context: Context, found: Discovery, made: Generation) -> DataSelection:
    """Stage 3: read the data sets and choose the rows nearest to the K-shot (Algorithm 2)."""

    def make(folder: Path) -> DataSelection:
        problems = evaluation_set(context, found.evaluation, whole=True)
        _refuse_leaked_shots(context, problems)
        pool = _Rows(context, found.datasets, _generated_rows(context, made))
        selection = _choose(context, pool, found.encoder, problems)
        _draw(context, folder, pool, selection, found.encoder)
        rejected = (*selection.rejected, *pool.unreadable)
        lines = "".join(json.dumps(to_dict(rejection)) + "\n" for rejection in rejected)
        write_text(folder / "rejected.jsonl", lines)
        listed = replace(selection, rejected=_first_of_each(rejected), flagged=selection.flagged[:LISTED])
        return DataSelection(
            **vars(listed),
            reasons=count_reasons(rejected),
            rejected_file=context.run.relative(folder / "rejected.jsonl"),
            map=context.run.relative(folder / "rows.svg"),
            read=sum(count["read"] for count in selection.counts.values()),
            without_answer=count_reasons(rejected).get("without_answer", 0),
        )

    inputs = context.inputs(
        "instructions",
        datasets=found.datasets.selected,
        encoder=found.encoder,
        evaluation=[found.evaluation, context.recipe.evaluate.split, context.task.config],
        limits=[context.recipe.discover.max_rows_per_dataset, context.recipe.discover.max_bytes_per_dataset],
        max_length=context.recipe.train.max_length,
        **({"generated": made.sha256} if made.rows else {}),
    )
    return context.run.stage("3-select-instructions", inputs, make, DataSelection)


class _Rows:
    """The rows of all data sets, one data set in memory at a time, then the generated ones; read once.

    Attributes:
        unreadable: Data sets whose rows turned out to be unreadable; rejected, not fatal.
        sample: Some of the rows, each as likely as any other.
    """

    def __init__(self, context: Context, found: DatasetDiscovery, generated: Sequence[Example] = ()) -> None:
        self._context, self._found, self._generated = context, found, generated
        self.unreadable: list[Rejection] = []
        self.sample: list[Example] = []

    def __iter__(self) -> Iterator[Example]:
        draw = Random(self._context.recipe.seed)
        # last, so that of two equal rows the one that was found is taken
        for read, row in enumerate(chain(self._found_rows(), self._generated), 1):
            sample_row(self.sample, SAMPLE, row, read, draw)
            yield row

    def _found_rows(self) -> Iterator[Example]:
        context = self._context
        for number, candidate in enumerate(self._found.selected, 1):
            context.reporter.advance("reading data sets", number, len(self._found.selected))
            rows: list[Example] = []
            with rejecting(candidate.repo_id, self.unreadable):
                rows = list(context.rows_of(candidate))
            yield from rows


def _choose(context: Context, rows: _Rows, pinned: Pinned, problems: list[Example]) -> InstructionSelection:
    """Choose the rows."""

    def without_answer(row: Example) -> str:
        return "" if context.task.example(row).answer else "without_answer"

    return select_instructions(
        DeferredEncoder(pinned.repo_id, pinned.revision),
        context.shots,
        rows,
        context.recipe.instructions,
        evaluation_questions=questions(context.task, problems),
        cache=_cache(pinned),
        refuse=without_answer,
        count_tokens=_token_counter(context),
        longest=context.recipe.train.max_length,
        progress=context.reporter.advance,
    )


def _draw(context: Context, folder: Path, rows: _Rows, selection: InstructionSelection, pinned: Pinned) -> None:
    """Draw the map; the vectors are in the cache."""
    groups = (rows.sample, context.shots, selection.selected)
    texts = [text_of(example) for group in groups for example in group]
    with open_cache(_cache(pinned)) as cache:
        vectors = embed(DeferredEncoder(pinned.repo_id, pinned.revision), texts, cache)
        everything = vectors[np.arange(len(texts))]
    pool, shots, chosen = np.split(everything, np.cumsum([len(group) for group in groups[:2]]))
    sources = [row.source for row in selection.selected]
    title = f"{len(chosen):,} of {selection.considered:,} rows for {context.task.name}"
    draw_rows(folder / "rows.svg", pool=pool, shots=shots, chosen=chosen, sources=sources, title=title)


def _token_counter(context: Context) -> Callable[[str], int]:
    """Return what counts tokens as the base does; its tokenizer is loaded for the first text, and its weights never."""
    tokenizer = cache(partial(load_tokenizer, context.pinned.repo_id, context.pinned.revision))
    return lambda text: len(tokenizer()(text)["input_ids"])


def _cache(pinned: Pinned) -> Path:
    """Name the folder of an encoder's vectors, in the cache of the Hub that it is from."""
    return Path(constants.HF_HOME) / "rocket_hub" / "embeddings" / encoder_key(pinned.repo_id, pinned.revision)


def _first_of_each(rejected: tuple[Rejection, ...]) -> tuple[Rejection, ...]:
    """Keep the first rejections of each reason, so that a result does not grow with what was read."""
    kept: dict[str, list[Rejection]] = {}
    for rejection in rejected:
        group = kept.setdefault(rejection.reason, [])
        if len(group) < LISTED:
            group.append(rejection)
    return tuple(rejection for group in kept.values() for rejection in group)


def _refuse_leaked_shots(context: Context, problems: list[Example]) -> None:
    """Refuse a K-shot that holds problems of the evaluation set: every number would be too good."""
    shots = [
        Example(shot.prompt, shot.completion, source="kshot", index=number)
        for number, shot in enumerate(context.shots, 1)
    ]
    if leaked := contaminated(shots, questions(context.task, problems)):
        numbers = ", ".join(str(position + 1) for position in sorted(leaked))
        raise KShotError(
            f"the K-shot's examples {numbers} are problems of the evaluation set {context.task.dataset} "
            f"({context.recipe.evaluate.split}); take examples from its train split, or another evaluation set"
        )
