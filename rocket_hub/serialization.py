"""Records to plain data and strictly back, for JSON and YAML."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from rocket_hub.errors import RecipeError

T = TypeVar("T")


def to_dict(record: Any) -> dict[str, Any]:
    """Turn a record into plain data that JSON and YAML can hold."""
    return asdict(record)


def from_dict(cls: type[T], data: Any, where: str) -> T:
    """Turn plain data back into a record, strictly.

    Args:
        cls: A dataclass whose fields are scalars, strings, mappings, sequences of these, or dataclasses again.
        data: What JSON or YAML gave.
        where: Where the data came from, for messages: a file, then the keys down to here.

    Returns:
        The record.

    Raises:
        RecipeError: A key is unknown or missing or a value has the wrong type; the message names `where`, the key,
            what was found and, for an unknown key, the nearest known one.
    """
    if not isinstance(data, Mapping):
        raise RecipeError(f"{where}: expected a mapping of {', '.join(f.name for f in fields(cls))}, found {data!r}")  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    for key in data:
        if key not in hints:
            raise RecipeError(f"{where}: unknown key '{key}'{_nearest(str(key), hints)}")
    for item in fields(cls):  # type: ignore[arg-type]
        if item.name not in data and item.default is MISSING and item.default_factory is MISSING:
            raise RecipeError(f"{where}: missing key '{item.name}'")
    return cls(**{key: _convert(hints[key], value, f"{where}: {key}") for key, value in data.items()})


def _nearest(key: str, known: Iterable[str]) -> str:
    """Name the known key that an unknown one probably meant."""
    near = get_close_matches(key, list(known), n=1)
    return f", did you mean '{near[0]}'?" if near else f"; known keys: {', '.join(known)}"


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Check one value against its type hint and convert the containers that JSON and YAML do not know."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if is_dataclass(hint):
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise RecipeError(f"{where}: expected a list, found {value!r}")
        return tuple(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise RecipeError(f"{where}: expected a mapping, found {value!r}")
        return {key: _convert(arguments[1], item, f"{where}: {key}") for key, item in value.items()}
    return _scalar(hint, value, where)


def _scalar(hint: type, value: Any, where: str) -> Any:
    """Accept a whole number where a real one is due; YAML's bool is an int to Python, so it is told apart."""
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        hint_text = f" (YAML reads 2e-4 as a string: write {_dotted(value)})" if hint is float else ""
        raise RecipeError(f"{where}: expected {hint.__name__}, found {value!r}{hint_text}")
    return value


def _dotted(value: Any) -> str:
    """Write 2e-4 as 2.0e-4, which YAML reads as a number."""
    mantissa, _, exponent = str(value).partition("e")
    return f"{mantissa}.0e{exponent}" if mantissa.isdigit() and exponent else "2.0e-4"
