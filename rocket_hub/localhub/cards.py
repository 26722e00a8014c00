from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from rocket_hub.localhub.errors import RefusedError
from rocket_hub.localhub.messages import Request, Response, json_response, text_of

LARGEST_CARD = 2**20
LARGEST_DATA = 100_000
"""Values in a card: YAML's aliases let a short text stand for more than any memory holds."""

RELATIONS = ("adapter", "merge", "quantized", "finetune")

_FRONT = re.compile(r"^\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)
_ARXIV = re.compile(r"arxiv\.org/(?:abs|pdf)/(\d{4}\.\d{4,5})")


@lru_cache(maxsize=4096)
def read_card(blob: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Read a README.md of the store: its data, and the arXiv numbers that its text links to.

    Broken YAML counts as none: a list must not fail because of one bad card.
    """
    with blob.open("rb") as file:
        text = file.read(LARGEST_CARD).decode("utf-8", "replace")
    try:
        data = _front_matter(text)
    except yaml.YAMLError:
        data = None
    return (data if isinstance(data, dict) else {}), tuple(dict.fromkeys(_ARXIV.findall(text)))


def check_card(text: str) -> list[str]:
    """Check the text of a README.md as the Hub does before it lets one in, and return the warnings."""
    try:
        data = _front_matter(text)
    except yaml.YAMLError as error:
        raise _invalid([f"YAML parse error: {error}"]) from error
    if data is None:
        return ["empty or missing yaml metadata in repo card"]
    if not isinstance(data, dict):
        raise _invalid(["the metadata must be a mapping"])
    errors = [
        f'"{key}" must be a string or an array'
        for key in ("base_model", "tags", "datasets", "language")
        if not isinstance(data.get(key), (str, list, type(None)))
    ]
    if data.get("base_model_relation") not in (None, *RELATIONS):
        errors.append(f'"base_model_relation" must be one of [{", ".join(RELATIONS)}]')
    if errors:
        raise _invalid(errors)
    needs_name = data.get("license") == "other" and not data.get("license_name")
    return ["license: other needs license_name"] if needs_name else []


def validate(request: Request) -> Response:
    """Answer `POST /api/validate-yaml`."""
    warnings = check_card(text_of(request.json(), "content"))
    return json_response({"errors": [], "warnings": [{"message": warning} for warning in warnings]})


def load_yaml(text: str | bytes) -> Any:
    """Parse YAML from anybody into what JSON can say: dates become text."""
    values = 0

    def plain(value: Any) -> Any:
        nonlocal values
        values += 1
        if values > LARGEST_DATA:
            raise yaml.YAMLError("the metadata is too large")
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple, set)):
            return [plain(item) for item in value]
        text = str(value)  # fails for a number of many thousand digits, which JSON could not write either
        return value if isinstance(value, (str, int, float, type(None))) else text

    try:
        return plain(yaml.safe_load(text))
    except (ValueError, TypeError, RecursionError) as error:  # an impossible date, an alias to itself, a huge number
        raise yaml.YAMLError(str(error)) from error


def _front_matter(text: str) -> Any:
    match = _FRONT.match(text[:LARGEST_CARD])
    return load_yaml(match[1]) if match else None


def _invalid(errors: list[str]) -> RefusedError:
    body = {"error": "; ".join(errors), "errors": [{"message": error} for error in errors], "warnings": []}
    return RefusedError(400, "; ".join(errors), body=body)
