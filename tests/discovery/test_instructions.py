import json

import pyarrow
import pyarrow.parquet
import pytest

from rocket_hub.discovery import discover_datasets, load_instructions
from rocket_hub.discovery.datafiles import read_rows, train_files
from rocket_hub.errors import DatasetError, HubError
from rocket_hub.localhub import Fault
from rocket_hub.options import DiscoverOptions
from rocket_hub.records import Row
from rocket_hub.tasks.numeric import GSM8K

# The datasets library leaves a CSV file to the garbage collector when the rows are not read to the end.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*rows.csv:pytest.PytestUnraisableExceptionWarning"),
]

GENERATION = "task_categories: [text-generation]\n"
ALPACA = [{"instruction": f"Do {n}", "input": "", "output": f"Done {n}"} for n in range(6)]
QA = [{"question": f"What is {n}?", "answer": str(n)} for n in range(5)]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows):
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture(scope="session")
def planted(hub, tmp_path_factory):
    """Plant data sets; returns repository id -> the reason that is due, empty for what is understood."""
    due = {}

    def plant(name, reason, files, card=GENERATION, **settings):
        folder = tmp_path_factory.mktemp("data")
        for path, data in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        (folder / "README.md").write_text(f"---\n{card}---\n")
        hub.import_folder("dataset", name, folder, **({"downloads": 1000 - len(due)} | settings))
        due[name] = reason

    both = {"data/train-0.jsonl": lines(ALPACA[:4]), "data/train-1.jsonl": lines(ALPACA[4:])}
    plant("d/alpaca", "", {**both, "data/test.jsonl": lines(QA)}, GENERATION + "license: cc-by-4.0\n")
    plant("d/qa", "", {"train.parquet": parquet(QA), "validation.parquet": parquet(QA)})
    plant("d/csv", "", {"rows.csv": b"Prompt,Completion\nhello,world\n,empty\nbye,moon\n"})
    talk = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
    plant("d/talk", "", {"talk.json": json.dumps([talk]).encode()}, "tags: [instruction-tuning]\n")
    shared = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    plant("d/shared", "", {"x.jsonl": lines([shared])}, "task_categories: [question-answering]\n")
    choice = {"question": "q", "choices": ["x", "y"], "answer": 1}
    plant("d/choice", "", {"a/train.parquet": parquet([choice])})
    plant("d/noncommercial", "", {"train.jsonl": lines(QA)}, GENERATION + "license: cc-by-nc-4.0\n")
    plant("openai/gsm8k", "evaluation_set", {"train.jsonl": lines(QA)})
    plant("d/board", "benchmark", {"train.jsonl": lines(QA)}, GENERATION + "tags: ['benchmark:official']\n")
    plant("d/copy", "leave_task_out", {"train.jsonl": lines(QA)}, GENERATION + "source_datasets: [extended|gsm8k]\n")
    plant("d/gated", "gated", {"train.jsonl": lines(QA)}, gated="auto")
    plant("d/held", "no_data_files", {"test.parquet": parquet(QA), "eval/x.csv": b"question,answer\n1,2\n"})
    plant("d/script", "no_data_files", {"load.py": b"import os\n"})
    plant("d/text", "unknown_columns", {"train.jsonl": lines([{"text": "words"}])})
    plant("d/broken", "unreadable", {"train.parquet": b"PAR1 not at all PAR1"})
    plant("d/cut", "unreadable", {"train.jsonl": b'{"question": "q", "ans'})
    plant("d/none", "unknown_columns", {"train.csv": b"question\n"})
    plant("d/other-task", None, {"train.jsonl": lines(QA)}, "task_categories: [image-classification]\n")
    return due


def test_every_data_set_gets_its_verdict(api, planted):
    found = discover_datasets(api, options=DiscoverOptions(leave_task_out=True), task=GSM8K)
    verdicts = {rejection.item: rejection.reason for rejection in found.rejected}
    verdicts |= {candidate.repo_id: "" for candidate in found.selected}
    assert verdicts == {name: reason for name, reason in planted.items() if reason is not None}
    details = {rejection.item: rejection.detail for rejection in found.rejected}
    assert details["d/text"] == "columns text"
    assert "extended" not in details["d/copy"]
    assert "gsm8k" in details["d/copy"]
    assert "ask for access" in details["d/gated"]


def test_what_is_known_of_a_candidate(api, planted):
    found = discover_datasets(api, options=DiscoverOptions(), task=GSM8K)
    assert [candidate.repo_id for candidate in found.selected][:2] == ["d/alpaca", "d/qa"]
    alpaca = found.selected[0]
    assert (alpaca.licence, alpaca.shape) == ("cc-by-4.0", "alpaca")
    assert alpaca.files == ("data/train-0.jsonl", "data/train-1.jsonl")
    assert alpaca.size == len(lines(ALPACA))
    assert alpaca.revision == api.dataset_info("d/alpaca").sha
    shapes = {candidate.repo_id: candidate.shape for candidate in found.selected}
    assert shapes == {
        "d/alpaca": "alpaca",
        "d/qa": "question_answer",
        "d/csv": "prompt_completion",
        "d/talk": "messages",
        "d/shared": "sharegpt",
        "d/choice": "multiple_choice",
        "d/noncommercial": "question_answer",
        "d/copy": "question_answer",
    }


def test_the_rows_of_a_data_set(api, planted):
    found = discover_datasets(api, options=DiscoverOptions(), task=GSM8K)
    by_id = {candidate.repo_id: candidate for candidate in found.selected}
    rows = load_instructions(api, by_id["d/alpaca"], max_rows=5)
    assert rows == [Row(f"Do {n}", f"Done {n}", "d/alpaca", n) for n in range(5)]
    assert load_instructions(api, by_id["d/csv"], max_rows=99) == [
        Row("hello", "world", "d/csv", 0),
        Row("bye", "moon", "d/csv", 2),
    ]
    assert [row.completion for row in load_instructions(api, by_id["d/choice"], max_rows=9)] == ["B. y"]
    assert len(load_instructions(api, by_id["d/qa"], max_rows=9)) == 5


def test_the_budget_spares_requests(hub, api, planted):
    found = discover_datasets(api, options=DiscoverOptions(max_datasets=1), task=GSM8K)
    assert [candidate.repo_id for candidate in found.selected] == ["d/alpaca"]
    assert "over_budget" in {rejection.reason for rejection in found.rejected if rejection.item == "d/qa"}
    assert {record.path.split("/resolve/")[0] for record in hub.log if "/resolve/" in record.path} <= {
        "/datasets/d/alpaca"
    }


def test_named_data_sets_are_used_and_nothing_else(hub, api, planted):
    options = DiscoverOptions(datasets=("d/other-task", "d/qa", "openai/gsm8k"))
    found = discover_datasets(api, options=options, task=GSM8K, exclude=["D/QA"])
    assert [candidate.repo_id for candidate in found.selected] == ["d/other-task"]
    assert {rejection.item: rejection.reason for rejection in found.rejected} == {
        "d/qa": "evaluation_set",
        "openai/gsm8k": "evaluation_set",
    }
    assert not [record for record in hub.log if record.path.startswith("/api/datasets?")]


def test_a_named_data_set_that_does_not_exist_is_an_error_of_the_user(api, planted):
    with pytest.raises(DatasetError, match=r"d/nowhere: not found.*named in discover\.datasets") as caught:
        discover_datasets(api, options=DiscoverOptions(datasets=("d/nowhere",)), task=GSM8K)
    assert caught.value.reason == "not_found"


def test_large_files_are_streamed_from_the_same_hub(hub, api, planted):
    info = api.dataset_info("d/qa")
    rows = list(read_rows(api, "d/qa", info.sha, [("train.parquet", 10**9)]))
    assert rows == QA
    asked = [record for record in hub.log if "/resolve/" in record.path]
    assert asked
    assert all(info.sha in record.path for record in asked)


def test_a_hub_that_fails_is_not_the_data_sets_fault(hub, api, tmp_path):
    (tmp_path / "train.jsonl").write_bytes(lines(QA))
    revision = hub.import_folder("dataset", "d/flaky", tmp_path)
    hub.faults.append(Fault("flaky/resolve", "status", times=-1, status=403))
    with pytest.raises(HubError, match=r"d/flaky: train\.jsonl"):
        list(read_rows(api, "d/flaky", revision, [("train.jsonl", 10)]))


@pytest.mark.parametrize(
    ("names", "card", "expected"),
    [
        (["train.parquet", "test.parquet"], None, ("train.parquet",)),
        (["a.jsonl", "b.parquet"], None, ("b.parquet",)),
        (["latest.csv", "contest.csv"], None, ("contest.csv", "latest.csv")),
        (["myTest.csv", "eval_x.csv", "dev.csv", "val/0.csv", "holdout.csv", "held_out.csv"], None, ()),
        (["value.csv", "developers.csv"], None, ("developers.csv", "value.csv")),
        (["dataset_infos.json", ".cache.json", "../x.json"], None, ()),
        (["main/train.csv", "socratic/train.csv"], {"configs": 7}, ("main/train.csv", "socratic/train.csv")),
        (
            ["main/train.csv", "socratic/train.csv"],
            {"configs": [{"config_name": "main", "data_files": [{"split": "train", "path": "main/*"}]}]},
            ("main/train.csv",),
        ),
        (
            ["a.csv", "b.csv"],
            {"configs": [{"data_files": "a.csv"}, {"data_files": ["b.csv"], "default": True}]},
            ("b.csv",),
        ),
        (["a.csv"], {"configs": [{"data_files": [{"split": "test", "path": "a.csv"}]}]}, ()),
    ],
)
def test_the_files_of_the_train_split(names, card, expected):
    assert train_files(names, card) == expected
