"""How each adapter did on the K-shot, and what the shots say of the choice, as a table."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from rocket_hub.records import ExpertScore, ExpertSelection, reasons_in_words
from rocket_hub.serialization import from_dict


def experts(result: dict[str, Any]) -> Table:
    """Show how each adapter and the base did on the K-shot, and what the shots say of the choice."""
    selection = from_dict(ExpertSelection, result, "2-select-experts")
    table = Table(title="experts", title_justify="left", title_style="bold", caption_justify="left")
    table.add_column("adapter", overflow="fold")
    for column in ("perplexity", "accuracy, 95 %", "RP + RA", "alike", "chosen"):
        table.add_column(column, justify="right")
    for column in ("licence", "marks"):
        table.add_column(column, overflow="fold")
    for score in selection.scores:
        table.add_row(*_row(score, selection))
    if base := selection.base:
        table.add_row("base model", f"{base.perplexity:.3f}", _accuracy(base), *[""] * 5, style="dim")
    table.caption = escape("\n".join(_said(selection)))
    return table


def _row(score: ExpertScore, selection: ExpertSelection) -> tuple[str, ...]:
    """Write one adapter's row."""
    share = "" if score.chosen_share is None else f" {score.chosen_share:.0%}"
    chosen = ("yes" if score.repo_id in selection.selected else "") + share
    rank = f"{score.rank_perplexity + score.rank_accuracy:g}"
    alike = "" if score.similarity is None else f"{score.similarity:.2f}"
    marks = ", ".join(score.marks)
    return (escape(score.repo_id), f"{score.perplexity:.3f}", _accuracy(score), rank, alike, chosen.strip(),
            escape(score.licence or "none"), escape(marks))  # fmt: skip


def _accuracy(score: ExpertScore) -> str:
    """Write an accuracy with its interval; nothing where no answer was asked."""
    if "halved_out" in score.marks:
        return ""
    return f"{score.accuracy:.0%} ({100 * score.accuracy_low:.0f} to {100 * score.accuracy_high:.0f})"


def _said(selection: ExpertSelection) -> list[str]:
    """Write the verdict and the figures that go with the whole group."""
    lines = [f"verdict: {selection.verdict}, because {selection.reason}"] if selection.reason else []
    if selection.verdict != "group" and selection.selected == selection.group:
        lines[-1] += " (not followed)"
    if selection.runner_up and selection.lead is not None:
        new = ", ".join(name for name in selection.runner_up if name not in selection.group)
        error = "" if selection.lead_error is None else f" ± {selection.lead_error:.4f}"
        lines.append(f"runner-up: the group with {new}; the chosen one is likelier by {selection.lead:.4f}{error} nats "
                     "a token, paired over the shots")  # fmt: skip
    if selection.ties:
        lines.append(f"equal in total, decided by a rule: groups with {', '.join(selection.ties)}")
    if any(score.chosen_share is not None for score in selection.scores):
        lines.append("chosen: with its share of resamples of the shots, among the adapters that were scored on all")
    if selection.held_out_accuracy is not None:
        lines.append(f"the best single adapter, chosen on half of the shots and tried on the other half: "
                     f"{selection.held_out_accuracy:.1%} right")  # fmt: skip
    if selection.rationales:
        lines.append(selection.rationales)
    if cost := selection.cost:
        scored = f"{cost['pairs']:,.0f} of {cost['possible']:,.0f} pairs of an adapter and a shot"
        lines.append(f"cost: {scored}, {cost['answers']:,.0f} answers, {cost['tokens']:,.0f} tokens in all")
    lines.append(f"group diversity {selection.diversity:.2f}; not taken: {reasons_in_words(selection.rejected)}")
    return lines
