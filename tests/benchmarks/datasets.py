"""Discovery and reading of real data in the columns of their sources: `python -m tests.benchmarks.datasets [FOLDER]`.

Every set of the shared data, and the six benchmarks, is put into a local Hub, whole, and discovered and read over HTTP.
Prints the verdict of each set, and what was read of those that are understood.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import tests.conftest  # noqa: F401  (a cache of its own, before the Hub's library reads where it is)
from tests.helping import put

# isort: split
from huggingface_hub import HfApi

from rocket_hub.discovery.instructions import discover_datasets, load_instructions
from rocket_hub.localhub import LocalHub
from rocket_hub.options import DiscoverOptions
from rocket_hub.records import DatasetDiscovery
from rocket_hub.rows.values import Reading
from rocket_hub.tasks import GSM8K
from tests.benchmarks.measuring import SHARED
from tests.benchmarks.native import BENCHMARKS, benchmark_files, instruction_files


def plant(hub: LocalHub, shared: Path, most: int | None = None) -> list[str]:
    """Put all sets into a Hub, in the columns of their sources; returns their ids."""
    manifest = json.loads((shared / "manifest.json").read_text())
    sets = {f"real/{entry['name']}": entry for entry in manifest["instructions"]}
    for repo_id in (*sets, *BENCHMARKS):
        entry = sets.get(repo_id)
        files = instruction_files(shared, entry["name"], most) if entry else benchmark_files(shared, repo_id, most)
        card = f"---\nlicense: {(entry or {}).get('license', 'other').lower()}\nlanguage: en\n"
        files["README.md"] = f"{card}task_categories: [text-generation]\n---\n".encode()
        put(hub, "dataset", repo_id, files)
    return [*sets, *BENCHMARKS]


def report(api: HfApi, found: DatasetDiscovery, max_rows: int) -> None:
    """Print a line for each set."""
    print(f"{'data set':<34}{'shape':<20}{'read':>7}{'unused':>8}{'long':>6}{'kB':>8}  {'seconds':>7}  verdict")
    for candidate in found.selected:
        reading, start = Reading(2**40), time.perf_counter()
        rows = load_instructions(api, candidate, max_rows=max_rows, reading=reading)
        seconds = time.perf_counter() - start
        print(f"{candidate.repo_id:<34}{candidate.shape:<20}{reading.rows:>7,}{reading.unused:>8,}{reading.too_long:>6,}"
              f"{candidate.size / 1000:>8,.0f}  {seconds:>7.2f}  usable, {len(rows):,} rows")  # fmt: skip
    for lost in found.rejected:
        print(f"{lost.item:<34}{'':<20}{'':>7}{'':>8}{'':>6}{'':>8}  {'':>7}  {lost.reason}: {lost.detail[:110]}")


def main() -> None:
    shared = Path(sys.argv[1]) if len(sys.argv) > 1 else SHARED
    with tempfile.TemporaryDirectory() as folder, LocalHub(Path(folder) / "store") as hub:
        start = time.perf_counter()
        ids = plant(hub, shared)
        print(f"{len(ids)} repositories in {time.perf_counter() - start:.1f} s")
        api = HfApi(endpoint=hub.url, token="hf_local")
        start = time.perf_counter()
        found = discover_datasets(api, options=DiscoverOptions(max_datasets=200), task=GSM8K)
        again = len(hub.log)
        seconds = time.perf_counter() - start
        discover_datasets(api, options=DiscoverOptions(max_datasets=200), task=GSM8K)
        print(f"searched in {seconds:.1f} s with {again} requests, and again with {len(hub.log) - again}")
        start = time.perf_counter()
        report(api, found, 10**9)
        named = DiscoverOptions(datasets=tuple(repo_id for repo_id in BENCHMARKS if repo_id != GSM8K.dataset))
        print("\nthe other benchmarks' train splits, named by the user:")
        report(api, discover_datasets(api, options=named, task=GSM8K), 10**9)
        print(f"read in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
