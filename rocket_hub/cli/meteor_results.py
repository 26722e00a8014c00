"""What `generate meteor` leaves: files, a table and a bill."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rocket_hub.adapting import ADAPTER
from rocket_hub.errors import StorageError
from rocket_hub.options import MeteorOptions
from rocket_hub.records import Pinned, reasons_in_words
from rocket_hub.runs import write_json
from rocket_hub.serialization import to_dict

if TYPE_CHECKING:
    from rich.table import Table

    from rocket_hub.generation.meteor import Meteor


def write_results(
    made: Meteor, out: Path, used: Sequence[Pinned], task: str, options: MeteorOptions, seconds: float
) -> None:
    """Write rows, adapters and, last, the facts."""
    from rocket_hub.pipeline.generated import write_generated

    adapters = {name: f"adapters/{name}" for name in made.adapters}
    facts = write_generated(out, made.generated, used, task=task, stages=made.counts, adapters=adapters,
                            settings=to_dict(options))  # fmt: skip
    try:
        for name, folder in made.adapters.items():
            (out / adapters[name]).mkdir(parents=True, exist_ok=True)
            for file in ADAPTER:
                shutil.copyfile(Path(folder) / file, out / adapters[name] / file)
    except OSError as error:
        raise StorageError(f"{out}: cannot be written: {error}; free some space and run it again") from error
    write_json(out / "result.json", {"seconds": round(seconds, 1), "result": facts})


def bill_in_words(bill: Mapping[str, Any]) -> str:
    """Write a bill in one line."""
    faults = ", ".join(f"{count:,} {name}" for name, count in bill.get("faults", {}).items())
    parts = [f"bill: {bill.get('calls', 0):,} calls", f"{bill.get('tokens_in', 0):,} tokens in",
             f"{bill.get('tokens_out', 0):,} tokens out"]  # fmt: skip
    parts += [f"{bill[name]:,} {text}" for name, text in
              (("unmetered", "calls without a count of tokens"), ("cached", "prompts answered from the cache"))
              if bill.get(name)]  # fmt: skip
    return ", ".join(parts) + (f" (failed: {faults})" if faults else "")


def table(made: Meteor, seconds: float) -> Table:
    """Show what each stage did, and why rows were not kept."""
    from rich.table import Table

    shown = Table(title=f"{len(made.generated.rows)} rows by {made.generated.maker}", title_justify="left",
                  title_style="bold")  # fmt: skip
    for column in ("stage", "what happened", "not learned from"):
        shown.add_column(column)
    for name, counts in made.counts.items():
        lost = [each for each in made.generated.rejected if each.item.startswith(f"{name}#")]
        told = ", ".join(f"{count:,} {step.replace('_', ' ')}" for step, count in counts.items())
        shown.add_row(name, told, reasons_in_words(lost))
    shown.caption = f"{seconds:.0f} s"
    return shown
