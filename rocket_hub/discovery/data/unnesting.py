"""Rows inside of rows: a record that holds several questions, instances or answers, as one flat row for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rocket_hub.discovery.data.cells import lowered
from rocket_hub.discovery.data.dialogues import DIALOGUES

NESTED = ("instances", "questions", "qas", "qa_pairs", "examples")


def flat_rows(row: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows that a record holds.

    Args:
        row: Column -> value.

    Yields:
        Column, in lower case -> value; what the record says once is in every one of its rows.
    """
    outer = lowered(row)
    question, prompt = outer.get("question"), outer.get("prompt")
    if isinstance(question, Mapping) and "stem" in question:  # {"question": {"stem", "choices"}, "answerKey"}
        outer |= {**lowered(question), "question": question["stem"]}
    if isinstance(prompt, Mapping) and isinstance(prompt.get("replies"), list):  # a tree of messages, best reply first
        outer["messages"] = [{"role": "user", "content": prompt.get("text")}, *_answers(prompt["replies"][:1])]
    inner = next((items for column in NESTED if (items := _items(outer.get(column)))), None)
    if inner is None or not set(DIALOGUES).isdisjoint(outer):
        yield outer
        return
    outer = {column: value for column, value in outer.items() if column not in NESTED}
    for item in inner:
        yield {**outer, **lowered(item)}


def _items(value: Any) -> list[Mapping[Any, Any]] | None:
    """Return the records in a cell: a list of them, or a mapping of them by number or name."""
    items = list(value.values()) if isinstance(value, Mapping) else value
    return items if isinstance(items, list) and items and all(isinstance(item, Mapping) for item in items) else None


def _answers(replies: list[Any]) -> list[dict[str, Any]]:
    """Write replies as turns of the assistant."""
    return [{"role": "assistant", "content": reply.get("text")} for reply in replies if isinstance(reply, Mapping)]
