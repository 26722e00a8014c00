"""What each stage left, as a table or a line."""

from __future__ import annotations

from textwrap import shorten
from typing import Any

from rich.markup import escape
from rich.table import Table

from rocket_hub.records import Rejection, reasons_in_words


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
            table.add_row(found["repo_id"], "usable", f"{detail}, {found['licence'] or 'no licence'}")
        for lost in result[kind]["rejected"]:
            table.add_row(lost["item"], lost["reason"], escape(shorten(lost["detail"], 120, placeholder=" …")))
    return table


def experts(result: dict[str, Any]) -> Table:
    """Show how each adapter did on the K-shot."""
    table = _table("experts", "adapter", "perplexity", "accuracy", "rank sum", "chosen")
    for score in result["scores"]:
        chosen = "yes" if score["repo_id"] in result["selected"] else ""
        rank = score["rank_perplexity"] + score["rank_accuracy"]
        table.add_row(score["repo_id"], f"{score['perplexity']:.3f}", f"{score['accuracy']:.0%}", f"{rank:g}", chosen)
    table.caption = f"group diversity {result['diversity']:.2f}; not taken: {_reasons(result['rejected'])}"
    return table


def rows(result: dict[str, Any]) -> Table:
    """Show where the chosen rows come from."""
    table = _table("rows", "data set", "chosen")
    for source, count in sorted(result["per_source"].items(), key=lambda entry: -entry[1]):
        table.add_row(source, str(count))
    table.caption = f"{result['considered']:,} compared; not taken: {_reasons(result['rejected'])}"
    return table


def evaluations(result: dict[str, Any]) -> Table:
    """Show the result beside its controls."""
    table = _table("held-out accuracy", "method", "accuracy", "95 %", "routed − this", "lr, weight")
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
