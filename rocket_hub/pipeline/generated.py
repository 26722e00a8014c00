import json
import shutil
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from rocket_hub.discovery.licences import combine, without_place
from rocket_hub.errors import DatasetError, InputError, RecipeError, StorageError
from rocket_hub.generation.self_specialization import rates
from rocket_hub.publishing import create_model_card, push_to_hub
from rocket_hub.records import Example, Generated, Pinned, count_reasons
from rocket_hub.results import Generation
from rocket_hub.runs import read_json, write_text
from rocket_hub.serialization import from_dict, to_dict

ROWS, REJECTED = "rows.jsonl", "rejected.jsonl"
SOURCE = "generated:"
"""How the source of a generated row begins; the method follows."""
METHODS = {
    "self_specialization": ("Self-Specialization", "https://arxiv.org/abs/2310.00160"),
    "meteor": ("METEOR", "https://arxiv.org/abs/2411.11933"),
}


def write_generated(folder: Path, made: Generated, made_from: Sequence[Pinned], **more: Any) -> Generation:
    """Write generated rows, and those that were not kept, into a folder.

    Args:
        folder: Gets `rows.jsonl` (TRL's `prompt` and `completion`) and `rejected.jsonl`.
        made: The rows.
        made_from: What wrote them and what it read: the base model first, then a teacher or documents.
        **more: Further fields of `Generation`.

    Returns:
        What a run, a lock file and a card say of them.

    Raises:
        StorageError: The folder cannot be written.
    """
    lines = "".join(json.dumps({"prompt": row.prompt, "completion": row.completion}) + "\n" for row in made.rows)
    write_text(folder / ROWS, lines)
    write_text(folder / REJECTED, "".join(json.dumps(to_dict(each)) + "\n" for each in made.rejected))
    return Generation(
        method=made.method,
        maker=made.maker,
        rows=len(made.rows),
        sha256=sha256(lines.encode()).hexdigest(),
        counts=made.counts,
        reasons=count_reasons(made.rejected),
        bill=made.bill,
        made_from=tuple(without_place(pin) for pin in made_from),
        **more,
    )


def read_generated(folder: Path, facts: Generation) -> list[Example]:
    """Read the rows that `write_generated` wrote."""
    path = folder / ROWS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError("unreadable", f"{path}: cannot be read: {error.strerror}; generate them again") from error
    if sha256(data).hexdigest() != facts.sha256:
        raise DatasetError("changed", f"{path}: not what was generated, see result.json beside it; generate it again")
    rows = [json.loads(line) for line in data.decode().splitlines()]
    source = f"{SOURCE}{facts.method}"
    return [Example(row["prompt"], row["completion"], source=source, index=index) for index, row in enumerate(rows)]


def in_words(counts: Mapping[str, Any]) -> str:
    """Write counts for a card, for example `100 asked for, 64 distinct`; nested ones in brackets."""
    parts = [
        f"{name.replace('_', ' ')}: {in_words(count)}" if isinstance(count, Mapping)
        else f"{count:,} {name.replace('_', ' ')}"
        for name, count in counts.items() if count not in (None, {})
    ]  # fmt: skip
    return ", ".join(parts) or "none"


def shares(counts: Mapping[str, int]) -> str:
    """Write yield and duplicate rate of what a model thought of, where it was counted."""
    if not (asked := counts.get("prompts")):
        return ""
    found = rates(counts)
    return (
        f"Of {asked:,} questions that were asked for, {found['yield']:.1%} became sound rows (the yield); "
        f"{found['duplicate_rate']:.1%} were there already, and {found['not_novel_rate']:.1%} were too near to others."
    )


def teacher_terms(pins: Sequence[Pinned]) -> str:
    """Say whose terms count beside the licences: those of a teacher at an address, of whom no licence is known."""
    unknown = [pin.repo_id for pin in pins if pin.kind == "teacher"]
    return f"rows written by {unknown[0]}: its maker's terms for what it writes apply, too" if unknown else ""


def find_generated(place: Path) -> tuple[Path, Generation]:
    """Find generated rows by a folder with `rows.jsonl`, by that file, or by a run folder.

    Returns:
        The folder with the rows, and the facts in its `result.json`.
    """
    asked = place.parent if place.is_file() else place
    folder = next((each for each in (asked, asked / "0-generate") if (each / ROWS).is_file()), None)
    if folder is None or (place.is_file() and place.name != ROWS):
        raise InputError(f"{place}: no {ROWS} there; give a folder that `generate` or a build's 0-generate left")
    left = read_json(folder / "result.json")
    try:
        facts = from_dict(Generation, left["result"] if isinstance(left, dict) else None, str(folder / "result.json"))
        if not (facts.maker and facts.made_from):
            raise KeyError("maker")
    except (RecipeError, KeyError) as error:
        told = f"{folder}: no result.json there says how the rows were made, as a card has to; generate them"
        raise InputError(told) from error
    return folder, facts


def push_generated(api: HfApi, place: Path, repo_id: str, content: Path, *, private: bool = False) -> str:
    """Publish generated rows as a data set with a card, in one commit.

    Args:
        api: The Hub.
        place: See `find_generated`.
        repo_id: `namespace/name`; created if it does not exist.
        content: Folder that what is published is put together in; made anew.
        private: Create it as a private repository.

    Returns:
        The commit's hash.

    Raises:
        InputError: There are no such rows, or none at all.
        DatasetError: The rows are not those that were generated.
        HubError: The Hub refused; nothing was published.
        StorageError: The folder cannot be written.
    """
    folder, facts = find_generated(place)
    if not read_generated(folder, facts):
        raise InputError(f"{folder}: no row was kept ({in_words(facts.reasons)}): there is nothing to push")
    shutil.rmtree(content, ignore_errors=True)
    write_text(content / "README.md", dataset_card(repo_id, facts))
    try:
        shutil.copyfile(folder / ROWS, content / ROWS)
    except OSError as error:
        raise StorageError(f"{content}: cannot be written: {error}; free some space and run it again") from error
    return push_to_hub(api, content, repo_id, private=private, message="Publish generated data", kind="dataset")


def dataset_card(repo_id: str, facts: Generation) -> str:
    """Write the card of generated data; see `write_generated` for the facts."""
    pins = facts.made_from
    ledger = combine(pins, [pin.licence for pin in pins])
    name, paper = METHODS.get(facts.method, (facts.method, ""))
    told = {
        **vars(facts),
        "repo_id": repo_id,
        "title": repo_id.split("/")[-1],
        "method": f"[{name}]({paper})" if paper else name,
        "shares": shares(facts.counts),
        "bill": in_words(facts.bill),
        "licence": ledger.result,
        "licence_notes": "; ".join(filter(None, (*ledger.restrictions, teacher_terms(pins)))),
        "version": version("rocket-hub"),
    }
    metadata = {
        "license": ledger.result,
        "license_name": "see-this-card" if ledger.result == "other" else "",
        "task_categories": ["text-generation"],
        "tags": ["synthetic", "rocket-hub"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": ROWS}]}],
    }
    return create_model_card(told, metadata, "dataset_card.md")
