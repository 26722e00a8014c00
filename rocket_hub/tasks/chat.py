"""Chat templates: how a chat model is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rocket_hub.errors import TaskError

# What Llama 3's templates say where there is no clock.
_ONE_DAY = "{% macro strftime_now(form) %}26 Jul 2024{% endmacro %}"
_PROBE = "a\0b"


def chat_frame(tokenizer: Any) -> Callable[[str], str] | None:
    """Return what puts a text into a tokenizer's chat template as the user's only turn; none = there is no template.

    A template that writes today's date is told the same day always, so that a build asks tomorrow what it asked today.

    Raises:
        TaskError: The template cannot be used: it fails, or does not hold the text exactly once.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return None
    dated = isinstance(template, str) and "strftime_now" in template
    given = {"chat_template": _ONE_DAY + template} if dated else {}

    def render(text: str) -> str:
        turns = [{"role": "user", "content": text}]
        said: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **given)
        return said

    probe = _try(render, getattr(tokenizer, "name_or_path", "the tokenizer"))
    begin = tokenizer.bos_token or ""
    twice = begin and tokenizer(text=probe)["input_ids"][:2] == [tokenizer.bos_token_id] * 2
    # such a tokenizer begins every text of its own accord
    return (lambda text: render(text).removeprefix(begin)) if twice else render


def _try(render: Callable[[str], str], name: str) -> str:
    """Refuse a template in which nothing can be asked; it comes from the Hub, and anything may be in it."""
    from jinja2 import TemplateError

    try:
        said = render(_PROBE)
    except (
        TemplateError,
        ValueError,
        TypeError,
        ArithmeticError,
        LookupError,
        AttributeError,
        RecursionError,
    ) as error:
        raise TaskError(f"{name}: its chat template fails: {error}; take another base model") from error
    if (times := said.count(_PROBE)) != 1:
        raise TaskError(
            f"{name}: its chat template holds what is asked {times} times, not once; take another base model"
        )
    return said
