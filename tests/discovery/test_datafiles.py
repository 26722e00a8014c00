import pytest

from rocket_hub.discovery.data_files import MAX_FILES, read_rows, train_files, why_no_files
from rocket_hub.discovery.hub.download import AHEAD, FIRST, RangeFile
from rocket_hub.errors import DatasetError, HubError
from rocket_hub.localhub import Fault
from tests.discovery.test_instructions import QA, jsonl, parquet
from tests.helping import put, table


@pytest.mark.parametrize("case", table("discovery/train_files.jsonl"), ids=lambda case: str(case)[:80])
def test_the_files_of_the_train_split(case):
    assert train_files(case["names"], case["card"]) == tuple(case["expected"])


def test_a_hundred_thousand_files_and_patterns_are_bounded():
    names = [f"data/{n:06}.csv" for n in range(100_000)]
    card = {"configs": [{"data_files": ["*a*" * 150, "data/*"] * 10_000}]}
    assert train_files(names, card) == tuple(names[:MAX_FILES])


@pytest.mark.parametrize(("names", "reason"), table("discovery/no_files.jsonl"))
def test_why_there_is_nothing_to_read(names, reason):
    found, detail = why_no_files(names)
    assert found == reason
    assert detail


@pytest.fixture(scope="module")
def hub(own_hub):
    return own_hub


@pytest.fixture
def large(hub, tmp_path):
    """A repository with files that are read in parts; returns its commit."""
    rows = [{"question": f"{n}", "answer": "a" * 400} for n in range(4_000)]
    (tmp_path / "rows.jsonl").write_bytes(jsonl(rows))
    (tmp_path / "train.parquet").write_bytes(parquet(QA))
    return hub.import_folder("dataset", "d/large", tmp_path)


def test_a_file_in_parts_is_the_file(hub, api, large, tmp_path):
    data = (tmp_path / "rows.jsonl").read_bytes()
    file = RangeFile(api, "d/large", large, "rows.jsonl")
    assert (file.size, file.fetched) == (len(data), FIRST)
    assert file.read(10) == data[:10]
    assert len(hub.log) == 1
    assert file.seek(-5, 2) == len(data) - 5
    assert file.read() == data[-5:]
    assert file.read(3) == b""
    file.seek(FIRST - 50)
    assert file.read(100) == data[FIRST - 50 : FIRST + 50]
    file.seek(0)
    assert b"".join(iter(lambda: file.read(65_536), b"")) == data
    # Read from one end to the other, it is asked for in ever larger parts.
    assert len(hub.log) < 4 + len(data) / AHEAD + 6
    assert all(record.range for record in hub.log)
    with pytest.raises(HubError, match="not a plain relative path"):
        RangeFile(api, "d/large", large, "../rows.jsonl")


def test_large_files_are_streamed_from_the_same_hub(hub, api, large):
    files = [("train.parquet", 10**9), ("rows.jsonl", 10**9)]
    rows = read_rows(api, "d/large", large, files)
    assert [next(rows) for _ in QA] == QA
    assert next(rows)["question"] == "0"
    asked = [record for record in hub.log if "/resolve/" in record.path]
    assert len(asked) == 2
    assert all(large in record.path and record.range for record in asked)


def test_a_hub_that_fails_is_not_the_data_sets_fault(hub, api):
    revision = put(hub, "dataset", "d/flaky", {"train.jsonl": jsonl(QA)})
    hub.faults.append(Fault("flaky/resolve", "status", times=-1, status=403))
    for size in (10, 10**9):
        with pytest.raises(HubError, match=r"d/flaky: train\.jsonl"):
            list(read_rows(api, "d/flaky", revision, [("train.jsonl", size)]))


PASSING, WHOLE, PARTS = table("discovery/part_faults.jsonl"), 10, 10**9


@pytest.mark.parametrize(("fault", "size"), [*((fault, PARTS) for fault in PASSING), (PASSING[5], WHOLE)], ids=str)
def test_a_fault_that_passes_costs_no_row(hub, api, large, fault, size, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    hub.faults.append(Fault("GET .*large/resolve/.*rows", **fault))
    rows = list(read_rows(api, "d/large", large, [("rows.jsonl", size)]))
    assert len(rows) == 4_000
    assert hub.faults[0].times == 0


STAYING = [{"kind": "corrupt"}, {"kind": "truncate", "after": 100}, {"kind": "reset", "after": 9}]


@pytest.mark.parametrize(("fault", "size"), [*((fault, PARTS) for fault in STAYING), (STAYING[0], WHOLE)], ids=str)
def test_a_fault_that_stays_is_an_error_of_ours(hub, api, large, fault, size, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    hub.faults.append(Fault("GET .*large/resolve/.*train", times=-1, **fault))
    with pytest.raises((DatasetError, HubError), match=r"d/large: train\.parquet"):
        list(read_rows(api, "d/large", large, [("train.parquet", size)]))
    hub.faults.clear()
    assert list(read_rows(api, "d/large", large, [("train.parquet", size)])) == QA
