"""Stage 3: the rows of open data that the K-shot chooses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rocket_hub.discovery import load_instructions
from rocket_hub.errors import DatasetError, KShotError
from rocket_hub.pipeline.context import Context
from rocket_hub.pipeline.problems import as_example, evaluation_set, questions
from rocket_hub.records import DatasetDiscovery, Example, Pinned, Rejection, Row
from rocket_hub.selection.decontamination import contaminated
from rocket_hub.serialization import from_dict, to_dict

Results = Mapping[str, Any]


def select_instructions(context: Context, name: str, results: Results) -> Any:
    """Read the data sets and choose the rows nearest to the K-shot (Algorithm 2)."""
    from rocket_hub.encoder import load_encoder
    from rocket_hub.selection.instructions import select_instructions as choose_rows

    before = results["1-discover"]
    found = from_dict(DatasetDiscovery, before["datasets"], name)

    def make(folder: Path) -> dict[str, Any]:
        rows, unreadable = _read_rows(context, found)
        problems = evaluation_set(context, from_dict(Pinned, before["evaluation"], name), whole=True)
        _refuse_leaked_shots(context, problems)
        encoder = load_encoder(before["encoder"]["repo_id"], before["encoder"]["revision"])
        context.reporter.say(f"comparing {len(rows):,} rows with {len(context.shots)} examples")
        usable = [row for row in rows if context.task.example(as_example(row.prompt, row.completion)).answer]
        selection = choose_rows(
            encoder, context.shots, usable, context.recipe.instructions,
            evaluation_questions=questions(context.task, problems),
        )  # fmt: skip
        result = {**to_dict(selection), "read": len(rows), "without_answer": len(rows) - len(usable)}
        return {**result, "rejected": [*result["rejected"], *map(to_dict, unreadable)]}

    inputs = context.inputs(
        "instructions",
        datasets=before["datasets"]["selected"],
        encoder=before["encoder"],
        evaluation=[before["evaluation"], context.recipe.evaluate.split, context.task.config],
        max_rows=context.recipe.discover.max_rows_per_dataset,
    )
    return context.run.stage(name, inputs, make)


def _read_rows(context: Context, found: DatasetDiscovery) -> tuple[list[Row], list[Rejection]]:
    """Read the data sets; one whose rows turn out to be unreadable is rejected, not fatal."""
    rows: list[Row] = []
    rejected: list[Rejection] = []
    for number, candidate in enumerate(found.selected, 1):
        context.reporter.advance("reading data sets", number, len(found.selected))
        try:
            rows += load_instructions(context.api, candidate, max_rows=context.recipe.discover.max_rows_per_dataset)
        except DatasetError as error:
            rejected.append(Rejection(candidate.repo_id, error.reason, str(error)))
    return rows, rejected


def _refuse_leaked_shots(context: Context, problems: list[Example]) -> None:
    """Refuse a K-shot that holds problems of the evaluation set: every number would be too good."""
    shots = [Row(shot.prompt, shot.completion, "kshot", number) for number, shot in enumerate(context.shots, 1)]
    if leaked := contaminated(shots, questions(context.task, problems)):
        numbers = ", ".join(str(position + 1) for position in sorted(leaked))
        raise KShotError(
            f"the K-shot's examples {numbers} are problems of the evaluation set {context.task.dataset} "
            f"({context.recipe.evaluate.split}); take examples from its train split, or another evaluation set"
        )
