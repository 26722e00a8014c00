"""What discovery finds on the Hub."""

from __future__ import annotations

from dataclasses import dataclass

from rocket_hub.records.ingredients import Pinned, Rejection


@dataclass(frozen=True)
class AdapterCandidate:
    """A LoRA adapter on the Hub that fits the base model.

    Attributes:
        repo_id: `namespace/name`.
        revision: Commit hash.
        licence: Declared licence; empty when none.
        rank: Largest rank of any module.
        target_modules: Last names of the adapted modules, sorted.
        size: Bytes of `adapter_model.safetensors`.
        downloads: As the Hub counts them.
        datasets: Training data that its card declares.
        flags: What is odd but no fault, for example `quantized_base`.
        description: What its name, tags and data say it is about, cut at 500 characters.
        prior: How likely it was to help before it was tried; only the order counts.
    """

    repo_id: str
    revision: str
    licence: str = ""
    rank: int = 0
    target_modules: tuple[str, ...] = ()
    size: int = 0
    downloads: int = 0
    datasets: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    description: str = ""
    prior: float = 0.0


@dataclass(frozen=True)
class AdapterDiscovery:
    """What `discover_adapters` found for one base model.

    Attributes:
        base: The base model at its commit.
        selected: Adapters that fit, likeliest first.
        rejected: The others that were listed, and why not.
        note: What to know about the whole, for example that the list is an old one; usually empty.
    """

    base: Pinned
    selected: tuple[AdapterCandidate, ...]
    rejected: tuple[Rejection, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class DatasetCandidate:
    """An instruction data set on the Hub whose columns are understood.

    Attributes:
        repo_id: `namespace/name`.
        revision: Commit hash.
        licence: Declared licence; empty when none.
        shape: Name of the column shape, for example `alpaca`.
        files: Paths of the data files of the train split, in the repository.
        size: Bytes of these files.
        sizes: Bytes of each of them, in the same order.
        rows: Rows of the train split, as the card says; 0 when it does not.
        downloads: As the Hub counts them.
        languages: Codes of the languages that its card declares.
        label_names: Names of the classes of its label, where its rows have numbers for them.
        flags: What is odd but no fault: `task_data` (made from the task's own training data), `language_undeclared`,
            `languages_mixed`, `over_bytes` (its files are larger than the byte budget, so that only the first rows are
            read), `files_cut` (it has more files than are read).
        description: What its name, its tags and its card say, cut at 500 characters.
    """

    repo_id: str
    revision: str
    licence: str = ""
    shape: str = ""
    files: tuple[str, ...] = ()
    size: int = 0
    sizes: tuple[int, ...] = ()
    rows: int = 0
    downloads: int = 0
    languages: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    description: str = ""


@dataclass(frozen=True)
class DatasetDiscovery:
    """What `discover_datasets` found."""

    selected: tuple[DatasetCandidate, ...]
    rejected: tuple[Rejection, ...] = ()
