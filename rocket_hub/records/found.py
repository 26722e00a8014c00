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
        description: The card's text without its metadata, cut at 500 characters.
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


@dataclass(frozen=True)
class AdapterDiscovery:
    """What `discover_adapters` found for one base model."""

    base: Pinned
    selected: tuple[AdapterCandidate, ...]
    rejected: tuple[Rejection, ...] = ()


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
    """

    repo_id: str
    revision: str
    licence: str = ""
    shape: str = ""
    files: tuple[str, ...] = ()
    size: int = 0


@dataclass(frozen=True)
class DatasetDiscovery:
    """What `discover_datasets` found."""

    selected: tuple[DatasetCandidate, ...]
    rejected: tuple[Rejection, ...] = ()
