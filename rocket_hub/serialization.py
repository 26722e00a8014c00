"""Records to plain data and strictly back, for JSON and YAML.

Legal values are `Literal` types; bounds of numbers stand in a field's metadata, see `rocket_hub.options`.
"""

import math
import operator
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from difflib import get_close_matches
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from rocket_hub.errors import RecipeError

T = TypeVar("T")
Place = tuple[str, ...]  # a file, then the keys down to a value
_BOUNDS = {
    "minimum": ("at least", operator.ge),
    "above": ("more than", operator.gt),
    "maximum": ("at most", operator.le),
}


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
        RecipeError: A key is unknown or missing, or a value has the wrong type or is not legal; the message names
            `where`, the key, what was found and what was expected or probably meant.
    """
    return _record(cls, data, (where,))


def check(record: Any, where: str) -> None:
    """Check a record that was made in Python as `from_dict` checks one that was read.

    Raises:
        RecipeError: A value has the wrong type or is not legal.
    """
    _check(record, (where,))


def put(cls: type, values: dict[str, Any], keys: Sequence[str], value: Any, where: str) -> None:
    """Read one value and put it among the values of a record, or of a record in it.

    Args:
        cls: The record's type.
        values: Field -> value, of the record; changed in place.
        keys: Field, then fields of the records below it.
        value: What YAML gave.
        where: What to call the value in messages.

    Raises:
        RecipeError: A key is unknown, or the value has the wrong type or is not legal.
    """
    name, *below = keys
    hints = get_type_hints(cls)
    if name not in hints:
        raise RecipeError(f"{where}: unknown key '{name}'{_nearest(name, hints)}")
    if not below:
        bounds = next(item.metadata for item in fields(cls) if item.name == name)
        values[name] = _convert(hints[name], value, (where,), bounds)
        return
    options = get_args(hints[name]) if get_origin(hints[name]) in (Union, types.UnionType) else (hints[name],)
    group = next((hint for hint in options if is_dataclass(hint)), None)
    if not isinstance(group, type):
        raise RecipeError(f"{where}: '{name}' has no keys of its own; give it as a whole")
    inner = vars(values.get(name) or group()).copy()
    put(group, inner, below, value, where)
    values[name] = group(**inner)


def _record(cls: type[T], data: Any, place: Place) -> T:
    where, known = ": ".join(place), fields(cls)  # type: ignore[arg-type]
    if not isinstance(data, Mapping):
        raise RecipeError(f"{where}: expected a mapping of {', '.join(f.name for f in known)}, found {data!r}")
    hints = get_type_hints(cls)
    for key in data:
        if key not in hints:
            raise RecipeError(f"{where}: unknown key '{key}'{_nearest(str(key), hints)}")
    for item in known:
        if item.name not in data and item.default is MISSING and item.default_factory is MISSING:
            raise RecipeError(f"{where}: missing key '{item.name}'")
    bounds = {item.name: item.metadata for item in known}
    values = {key: _convert(hints[key], value, (*place, key), bounds[key]) for key, value in data.items()}
    try:
        return cls(**values)
    except RecipeError as error:  # values that do not fit together
        raise RecipeError(f"{where}: {error}") from error


def _check(record: Any, place: Place) -> None:
    hints = get_type_hints(type(record))
    for item in fields(record):
        _convert(hints[item.name], getattr(record, item.name), (*place, item.name), item.metadata)


def _nearest(key: str, known: Iterable[str]) -> str:
    """Name the known key that an unknown one probably meant."""
    return _meant(key, known) or f"; known keys: {', '.join(known)}"


def _meant(found: object, known: Iterable[str]) -> str:
    near = get_close_matches(str(found), list(known), n=1)
    return f", did you mean '{near[0]}'?" if near else ""


def _convert(hint: Any, value: Any, place: Place, bounds: Mapping[str, Any]) -> Any:
    """Check one value against its type hint and bounds; convert the containers that JSON and YAML do not know."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, place, bounds)
    if is_dataclass(hint):
        if not isinstance(value, hint):  # type: ignore[arg-type]
            return _record(hint, value, place)  # type: ignore[arg-type]
        _check(value, place)
        return value
    if origin is tuple:
        return _items(arguments[0], value, place, bounds)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise RecipeError(f"{': '.join(place)}: expected a mapping, found {value!r}")
        return {key: _convert(arguments[1], item, (*place, key), {}) for key, item in value.items()}
    if origin is Literal:
        if value not in arguments:
            raise _illegal(place, f"one of {', '.join(arguments)}", f"{value!r}{_meant(value, arguments)}")
        return value
    value = _scalar(hint, value, place)
    if bounds and not _within(value, bounds):
        note = f": {bounds['note']}" if "note" in bounds else ""
        expected = _range(bounds) if value != math.inf else "a finite number"
        raise _illegal(place, expected, f"{value}{note}")
    return value


def _items(hint: Any, value: Any, place: Place, bounds: Mapping[str, Any]) -> tuple[Any, ...]:
    """Check a list; one with bounds, or of legal words, may not be empty."""
    if not isinstance(value, (list, tuple)):
        raise RecipeError(f"{': '.join(place)}: expected a list, found {value!r}")
    if get_origin(hint) is Literal:
        if not value or any(item not in get_args(hint) for item in value):
            raise _illegal(place, f"some of {', '.join(get_args(hint))}", ", ".join(map(str, value)) or "none")
        return tuple(value)
    items = tuple(_convert(hint, item, (*place[:-1], f"{place[-1]}[{i}]"), {}) for i, item in enumerate(value))
    if bounds and not (items and all(_within(item, bounds) for item in items)):
        raise _illegal(place, "positive numbers", str(list(items)))
    return items


def _illegal(place: Place, expected: str, found: str) -> RecipeError:
    """Make the error for a value that is not legal; it is named as in `experts.num_experts`."""
    where = ": ".join(part for part in (place[0], ".".join(place[1:])) if part)
    return RecipeError(f"{where}: expected {expected}, found {found}")


def _within(value: float, bounds: Mapping[str, Any]) -> bool:
    """Return whether a number is finite and within its bounds."""
    finite = isinstance(value, int) or math.isfinite(value)
    return finite and all(_BOUNDS[name][1](value, bound) for name, bound in bounds.items() if name in _BOUNDS)


def _range(bounds: Mapping[str, Any]) -> str:
    return " and ".join(f"{_BOUNDS[name][0]} {bound}" for name, bound in bounds.items() if name in _BOUNDS)


def _scalar(hint: type, value: Any, place: Place) -> Any:
    """Accept a whole number where a real one is due; YAML's bool is an int to Python, so it is told apart."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if hint is float and whole and abs(value) < 2**1000:
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        hint_text = f" (YAML reads 2e-4 as a string: write {_dotted(value)})" if hint is float else ""
        raise RecipeError(f"{': '.join(place)}: expected {hint.__name__}, found {value!r}{hint_text}")
    return value


def _dotted(value: Any) -> str:
    """Write 2e-4 as 2.0e-4, which YAML reads as a number."""
    mantissa, _, exponent = str(value).partition("e")
    return f"{mantissa}.0e{exponent}" if mantissa.isdigit() and exponent else "2.0e-4"
