"""Stage 0: rows that are made where the Hub has too few; it runs after the discovery that says how many there are."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from rocket_hub.discovery.hub.client import reason_of
from rocket_hub.discovery.instructions import iter_instructions
from rocket_hub.discovery.pins import pin_model
from rocket_hub.errors import DatasetError, HubError, HubUnreachableError
from rocket_hub.generation.self_specialization import needs_encoder
from rocket_hub.pipeline.context import Context, open_context
from rocket_hub.pipeline.generated import in_words, write_generated
from rocket_hub.pipeline.problems import as_example
from rocket_hub.pipeline.writers import Writer, check, open_writer
from rocket_hub.recipe import Recipe
from rocket_hub.records import DatasetDiscovery, Pinned
from rocket_hub.runs import Reporter, write_json
from rocket_hub.serialization import from_dict, to_dict

Results = Mapping[str, Any]

NOTHING = {"method": "none", "rows": 0}
FILES = ("rows_file", "rejected_file")


def generate(context: Context, name: str, results: Results) -> Any:
    """Make rows where that was asked for and too few were found; where it was not, nothing is read or written."""
    options, before = context.recipe.generation, results["1-discover"]
    if options.method == "none":
        return NOTHING
    found = from_dict(DatasetDiscovery, before["datasets"], name)
    writer = open_writer(context, from_dict(Pinned, before["encoder"], name))

    def make(folder: Path) -> dict[str, Any]:
        if options.below_rows is not None:
            there = rows_with_answers(context, found, options.below_rows)
            if there >= options.below_rows:
                context.reporter.say(f"at least {there:,} rows with an answer were found: none are made")
                return {**NOTHING, "found": there}
        facts = _written(context, writer, folder)
        places = {name: context.run.relative(folder / f"{name.removesuffix('_file')}.jsonl") for name in FILES}
        return {**facts, **places}

    inputs = context.inputs(
        "generation",
        found=[each["revision"] for each in before["datasets"]["selected"]] if options.below_rows else [],
        read=[to_dict(pin) for pin in writer.read],
        encoder=before["encoder"],
        train=to_dict(context.recipe.train),
    )
    return context.run.stage(name, inputs, make)


def generate_alone(recipe: Recipe, kshot: Path, out: Path, reporter: Reporter) -> dict[str, Any]:
    """Make rows without a build, however many there are already; a run that was stopped goes on.

    Args:
        recipe: Task, base and method.
        kshot: File with the seeds, see `load_kshot`.
        out: Gets what `write_generated` writes, and its facts in `result.json`.
        reporter: Told what happens.

    Returns:
        The facts.

    Raises:
        RocketError: What went wrong; see `open_writer` and the method.
    """
    check(recipe)
    started, options = time.monotonic(), recipe.generation
    context = open_context(recipe, kshot, out, "", reporter, measured=False)
    context.pinned = pin_model(context.api, recipe.base)
    by_meaning = needs_encoder(options.self_specialization, options.documents is not None)
    encoder = pin_model(context.api, recipe.instructions.encoder) if by_meaning else None
    writer = open_writer(context, encoder)
    facts = _written(context, writer, out, settings={**to_dict(options), "seed": recipe.seed})
    write_json(out / "result.json", {"seconds": round(time.monotonic() - started, 1), "result": facts})
    return facts


def _written(context: Context, writer: Writer, folder: Path, **more: Any) -> dict[str, Any]:
    """Let rows be written, and say before what that may cost."""
    context.reporter.say(writer.cost)
    made = writer.write(folder)
    context.reporter.say(f"{len(made.rows):,} rows, written by {made.maker} ({in_words(made.counts)})")
    return write_generated(folder, made, [context.pinned, *writer.read], seeds=len(context.shots),
                           task=context.task.name, **more)  # fmt: skip


def rows_with_answers(context: Context, found: DatasetDiscovery, enough: int) -> int:
    """Count the rows of the data sets that were found that have an answer in the task's form, up to `enough`."""
    limits, count = context.recipe.discover, 0
    for candidate in found.selected:
        rows = iter_instructions(context.api, candidate, max_rows=limits.max_rows_per_dataset,
                                 max_bytes=limits.max_bytes_per_dataset)  # fmt: skip
        answered = (row for row in rows if context.task.example(as_example(row.prompt, row.completion)).answer)
        try:
            count += sum(1 for _ in islice(answered, enough - count))
        except HubUnreachableError:
            raise  # an outage is no verdict
        except (DatasetError, HubError) as error:
            reason = error.reason if isinstance(error, DatasetError) else reason_of(error)
            context.reporter.say(f"{candidate.repo_id}: {reason}, not counted")
        context.reporter.advance("rows with an answer", count, enough)
        if count >= enough:
            break
    return count
