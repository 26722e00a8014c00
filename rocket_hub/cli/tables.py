"""What each stage left, as a table or a line."""

from __future__ import annotations

from collections import Counter
from textwrap import shorten
from typing import Any

from rich.markup import escape
from rich.table import Table

from rocket_hub.cli.table_experts import experts
from rocket_hub.records import Rejection, reasons_in_words

__all__ = ["discovered", "evaluations", "experts", "pushed", "rows"]


def _table(title: str, *columns: str, text: bool = False) -> Table:
    """Make a table; columns after the first hold numbers, or text."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 or text else "right")
    return table


def _reasons(entries: list[dict[str, Any]]) -> str:
    return reasons_in_words(Rejection(**entry) for entry in entries)


def discovered(result: dict[str, Any]) -> Table:
    """Show what was found and why the rest was not taken."""
    table = _table("on the Hub", "repository", "verdict", "detail", text=True)
    for kind in ("adapters", "datasets"):
        for found in result[kind]["selected"]:
            detail = f"rank {found['rank']}" if kind == "adapters" else found["shape"]
            told = ", ".join((detail, found["licence"] or "no licence", *found.get("flags", ())))
            table.add_row(escape(found["repo_id"]), "usable", escape(told))
        for lost in result[kind]["rejected"]:
            text = escape(shorten(lost["detail"], 120, placeholder=" …"))
            table.add_row(escape(lost["item"]), lost["reason"], text)
    return table


def rows(result: dict[str, Any]) -> Table:
    """Show what was read of each data set, what was chosen, and why the rest was not."""
    table = _table("rows", "data set", "read", "chosen", "not taken")
    table.columns[-1].justify = "left"
    total: Counter[str] = Counter()
    for source, counts in sorted(result["counts"].items(), key=lambda entry: -entry[1].get("chosen", 0)):
        total.update(counts)
        table.add_row(source, *_fates(counts))
    for lost in result["rejected"]:
        if "#" not in lost["item"]:  # a whole data set
            table.add_row(lost["item"], "0", "0", f"{lost['reason']}: {escape(shorten(lost['detail'], 120))}")
    table.add_section()
    table.add_row("all", *_fates(dict(total.most_common())))
    spent = f"; {result['tokens']:,} tokens" if result["tokens"] else ""
    look = f"; {len(result['flagged'])} chosen rows to look at, see `flagged`" if result["flagged"] else ""
    table.caption = (
        f"{result['considered']:,} compared{spent}{look}; map: {result['map']}; each rejected row: "
        f"{result['rejected_file']}"
    )
    return table


def _fates(counts: dict[str, int]) -> tuple[str, str, str]:
    """Write what became of the rows of a data set."""
    rest = ", ".join(f"{n:,} {reason}" for reason, n in counts.items() if reason not in ("read", "chosen"))
    return f"{counts['read']:,}", f"{counts.get('chosen', 0):,}", rest


def evaluations(result: dict[str, Any]) -> Table:
    """Show the result beside its controls."""
    table = _table("held-out accuracy", "method", "accuracy", "95 %", "result − this", "lr, weight")
    for entry in result["evaluations"]:
        gap = result["differences"].get(entry["method"])
        difference = f"{gap['difference']:+.1%} ± {gap['standard_error']:.1%}" if gap else ""
        details = entry["details"]
        settings = f"{details['learning_rate']:g}, {details['weight']:g}" if "weight" in details else ""
        table.add_row(result["labels"][entry["method"]], f"{entry['accuracy']:.1%}",
                      f"{100 * entry['low']:.1f} to {100 * entry['high']:.1f}", difference, settings)  # fmt: skip
    advice = result["recommendation"]
    table.caption = f"recommended: {advice['method']}, because {advice['reason']}"
    return table


def pushed(result: dict[str, Any]) -> str:
    """Say where the result is and that it loads."""
    if result["repo_id"] is None:
        return f"not pushed (give --push-to ID); what would be is in {result['content']} of the run folder"
    checked = result["reload"]
    said = (
        f"; a fresh process loads it: logits differ by {checked['max_difference']:g}, it generates "
        f"{escape(repr(checked['generated'][0]))} with the KV cache" if checked else ""
    )  # fmt: skip
    return f"pushed to {result['repo_id']} at {result['commit'][:12]}{said}"
