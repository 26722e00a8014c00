import gzip
import json
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub import constants

from rocket_hub.discovery import discover_datasets, load_instructions
from rocket_hub.discovery.instructions import iter_instructions
from rocket_hub.errors import DatasetError
from rocket_hub.options import DiscoverOptions
from rocket_hub.records import DatasetCandidate, Example
from rocket_hub.rows.values import Reading
from rocket_hub.serialization import from_dict, to_dict
from rocket_hub.tasks.numeric import GSM8K
from tests.helping import lines, put

GENERATION = "task_categories: [text-generation]\n"
ENGLISH = GENERATION + "language: [en]\n"
ALPACA = [{"instruction": f"Do {n}", "input": "", "output": f"Done {n}"} for n in range(6)]
QA = [{"question": f"What is {n}?", "answer": str(n)} for n in range(5)]


def jsonl(rows):
    return lines(rows).encode()


def parquet(rows, **options):
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink, **options)
    return sink.getvalue().to_pybytes()


@pytest.fixture(scope="module")
def hub(own_hub):
    return own_hub


@pytest.fixture(scope="module")
def planted_data(hub):
    """Plant data sets; returns repository id -> the reason that is due, empty for what is understood."""
    due = {}

    def plant(name, reason, files, card=ENGLISH, **settings):
        put(hub, "dataset", name, files, card, **({"downloads": 1000 - len(due)} | settings))
        due[name] = reason

    both = {"data/train-0.jsonl": jsonl(ALPACA[:4]), "data/train-1.jsonl": jsonl(ALPACA[4:])}
    plant("d/alpaca", "", {**both, "data/test.jsonl": jsonl(QA)}, ENGLISH + "license: cc-by-4.0\n")
    plant("d/qa", "", {"train.parquet": parquet(QA), "validation.parquet": parquet(QA)}, GENERATION)
    plant("d/csv", "", {"rows.csv": b"Prompt,Completion\nhello,world\n,empty\nbye,moon\n"}, GENERATION)
    talk = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
    plant("d/talk", "", {"talk.json": json.dumps([talk]).encode()}, "tags: [instruction-tuning]\nlanguage: [de, en]\n")
    shared = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    plant("d/shared", "", {"x.jsonl.gz": gzip.compress(jsonl([shared]))}, "task_categories: [question-answering]\n")
    choice = {"question": "q", "option1": "x", "option2": "y"}
    choices = [choice | {"answer": answer} for answer in (1, 2)]
    plant("d/choice", "", {"a/train.parquet": parquet(choices)}, ENGLISH)
    labels = "dataset_info:\n  features:\n  - name: label\n    dtype:\n      class_label:\n        names:\n"
    plant("d/labels", "", {"train.csv": b"x\n", "train.jsonl": jsonl([{"text": "t", "label": 1}])},
          ENGLISH + labels + "          '0': bad\n          '1': good\n")  # fmt: skip
    plant("d/noncommercial", "", {"train.jsonl": jsonl(QA)}, ENGLISH + "license: cc-by-nc-4.0\n")
    plant("openai/gsm8k", "evaluation_set", {"train.jsonl": jsonl(QA)})
    plant("someone/GSM8K-main", "evaluation_set", {"train.jsonl": jsonl(QA)})
    plant("google/boolq", "benchmark", {"train.jsonl": jsonl(QA)})
    plant("d/board", "benchmark", {"train.jsonl": jsonl(QA)}, ENGLISH + "tags: ['benchmark:official']\n")
    plant("d/copy", "task_data", {"train.jsonl": jsonl(QA)}, ENGLISH + "source_datasets: [extended|gsm8k]\n")
    plant("d/french", "language", {"train.jsonl": jsonl(QA)}, GENERATION + "language: fr\n")
    plant("d/gated", "gated", {"train.jsonl": jsonl(QA)}, gated="auto")
    plant("d/held", "held_out", {"test.parquet": parquet(QA), "eval/x.csv": b"question,answer\n1,2\n"})
    plant("d/script", "needs_code", {"script.py": b"import os\n", "data/rows.txt": b"1"})
    plant("d/zip", "archive", {"train.zip": b"PK", "README.txt": b""})
    plant("d/nothing", "no_data_files", {"image.png": b"1"})
    plant("d/text", "unknown_columns", {"train.jsonl": jsonl([{"text\x1b[31m": "words", "b": 1}])})
    plant("d/numbers", "unknown_columns", {"train.jsonl": jsonl([{"text": "t", "label": 1}])})
    plant("d/broken", "unreadable", {"train.parquet": b"PAR1 not at all PAR1"})
    plant("d/cut", "unreadable", {"train.jsonl": b'{"question": "q", "ans'})
    plant("d/endless", "unreadable", {"train.jsonl": b'{"question": "' + b"x" * 2**23})
    plant("d/none", "no_rows", {"train.csv": b""})
    plant("d/hostile-card", "", {"train.jsonl": jsonl(QA)}, ENGLISH + "self: 1\nconfigs: 7\nlicense: [1]\n"
          "dataset_info: [[]]\nsource_datasets: {a: b}\n")  # fmt: skip
    plant("d/other-task", None, {"train.jsonl": jsonl(QA)}, "task_categories: [image-classification]\n")
    many = [{"instruction": f"say {n}", "output": f"{n} " * 400, "embedding": [float(n)] * 20} for n in range(3000)]
    plant("d/small-groups", None, {"t.parquet": parquet(many, row_group_size=100, compression="none")}, "tags: [x]\n")
    return due


def verdicts_of(found):
    return {lost.item: lost.reason for lost in found.rejected} | {item.repo_id: "" for item in found.selected}


def reads(hub):
    return [record for record in hub.log if "/resolve/" in record.path or "paths-info" in record.path]


def test_every_data_set_gets_its_verdict(hub, api, planted_data):
    done = []
    options = DiscoverOptions(leave_task_out=True, max_datasets=50)
    found = discover_datasets(api, options=options, task=GSM8K, progress=lambda at, total: done.append((at, total)))
    assert verdicts_of(found) == {name: reason for name, reason in planted_data.items() if reason is not None}
    details = {rejection.item: rejection.detail for rejection in found.rejected}
    assert all(details.values())
    assert details["d/text"] == "columns text?[31m, b"
    assert details["d/copy"] == "made from gsm8k, the task's own training data"
    assert "ask for access" in details["d/gated"]
    assert details["d/held"] == "no train split, only eval/x.csv, test.parquet"
    assert "script.py" in details["d/script"]
    assert "in fr, not in en" in details["d/french"]
    assert done[-1] == (len(details) + len(found.selected),) * 2
    # Nothing of a data set is downloaded, and of most one part of one file is read.
    assert {record.method for record in reads(hub)} <= {"GET", "POST"}
    parts = Counter(record.path.split("/resolve/")[0] for record in hub.log if "/resolve/" in record.path)
    assert {name for name, count in parts.items() if count > 1} == {"/datasets/d/endless"}


def test_the_verdicts_do_not_depend_on_threads(api, planted_data):
    found = [
        discover_datasets(api, options=DiscoverOptions(workers=workers, max_datasets=4), task=GSM8K, shots=["bye moon"])
        for workers in (1, 8)
    ]
    assert found[0] == found[1]


def test_a_second_search_asks_only_for_the_lists(hub, api, planted_data):
    before = discover_datasets(api, options=DiscoverOptions(max_datasets=50), task=GSM8K)
    hub.log.clear()
    assert discover_datasets(api, options=DiscoverOptions(max_datasets=50), task=GSM8K) == before
    # What failed for a reason that may pass is asked for again.
    assert ["gated" in record.path for record in reads(hub)] == [True]


def test_without_the_hub_what_was_found_is_found_again(hub, api, planted_data, monkeypatch):
    options = DiscoverOptions(max_datasets=50)
    before = discover_datasets(api, options=options, task=GSM8K)
    qa = next(item for item in before.selected if item.repo_id == "d/qa")
    rows = load_instructions(api, qa, max_rows=9)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.log.clear()
    again = discover_datasets(api, options=options, task=GSM8K)
    assert again.selected == before.selected
    assert verdicts_of(again) == verdicts_of(before) | {"d/gated": "not_cached"}
    assert load_instructions(api, qa, max_rows=9) == rows
    assert hub.log == []


def test_what_is_known_of_a_candidate(hub, api, planted_data):
    found = discover_datasets(api, options=DiscoverOptions(max_datasets=50), task=GSM8K)
    assert [candidate.repo_id for candidate in found.selected][:2] == ["d/alpaca", "d/qa"]
    alpaca = found.selected[0]
    assert (alpaca.licence, alpaca.shape, alpaca.languages, alpaca.flags) == ("cc-by-4.0", "alpaca", ("en",), ())
    assert alpaca.files == ("data/train-0.jsonl", "data/train-1.jsonl")
    assert (alpaca.size, sum(alpaca.sizes)) == (len(jsonl(ALPACA)),) * 2
    assert alpaca.downloads == 1000
    assert alpaca.revision == api.dataset_info("d/alpaca").sha
    by_id = {candidate.repo_id: candidate for candidate in found.selected}
    assert {name: candidate.shape for name, candidate in by_id.items()} == {
        "d/alpaca": "alpaca",
        "d/qa": "question_answer",
        "d/csv": "prompt_completion",
        "d/talk": "messages",
        "d/shared": "sharegpt",
        "d/choice": "multiple_choice",
        "d/labels": "text_label",
        "d/noncommercial": "question_answer",
        "d/copy": "question_answer",
        "d/hostile-card": "question_answer",
    }
    assert by_id["d/qa"].flags == ("language_undeclared",)
    assert by_id["d/copy"].flags == ("task_data",)
    assert by_id["d/talk"].flags == ("languages_mixed",)
    assert by_id["d/labels"].label_names == ("bad", "good")
    for candidate in found.selected:
        assert from_dict(DatasetCandidate, json.loads(json.dumps(to_dict(candidate))), "test") == candidate


def test_the_rows_of_a_data_set(hub, api, planted_data):
    found = discover_datasets(api, options=DiscoverOptions(max_datasets=50), task=GSM8K)
    by_id = {candidate.repo_id: candidate for candidate in found.selected}
    reading = Reading(10**6)
    rows = load_instructions(api, by_id["d/alpaca"], max_rows=5, reading=reading)
    assert rows == [Example(f"Do {n}", f"Done {n}", source="d/alpaca", index=n) for n in range(5)]
    assert (reading.rows, reading.stopped, reading.bytes) == (5, "max_rows", len(jsonl(ALPACA)))
    reading = Reading(10**6)
    assert load_instructions(api, by_id["d/csv"], max_rows=99, reading=reading) == [
        Example("hello", "world", source="d/csv", index=0),
        Example("bye", "moon", source="d/csv", index=2),
    ]
    assert (reading.rows, reading.unused, reading.stopped) == (3, 1, "")
    # Numbers of options start with 1 here, which only the whole set shows.
    assert [row.completion for row in load_instructions(api, by_id["d/choice"], max_rows=9)] == ["A. x", "B. y"]
    assert [row.completion for row in load_instructions(api, by_id["d/labels"], max_rows=9)] == ["good"]
    assert [row.completion for row in load_instructions(api, by_id["d/shared"], max_rows=9)] == ["b"]
    assert len(load_instructions(api, by_id["d/qa"], max_rows=9)) == 5
    before = len(hub.log)
    assert len(load_instructions(api, by_id["d/qa"], max_rows=9)) == 5
    assert len(hub.log) == before


def test_rows_come_when_they_are_due(hub, api, planted_data, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    options = DiscoverOptions(datasets=("d/alpaca",))
    (candidate,) = discover_datasets(api, options=options, task=None).selected
    rows = iter_instructions(api, candidate, max_rows=99)
    before = len(hub.log)
    assert next(rows) == Example("Do 0", "Done 0", source="d/alpaca", index=0)
    asked = {record.path.rpartition("/")[2] for record in hub.log[before:] if "/resolve/" in record.path}
    assert asked == {"train-0.jsonl"}
    assert len(list(rows)) == 5


def test_a_data_set_beyond_the_byte_budget_is_read_up_to_it(hub, api, planted_data):
    options = DiscoverOptions(datasets=("d/small-groups",), max_bytes_per_dataset=400_000)
    (candidate,) = discover_datasets(api, options=options, task=None).selected
    assert candidate.flags == ("language_undeclared", "over_bytes")
    hub.log.clear()
    reading = Reading(options.max_bytes_per_dataset)
    rows = load_instructions(api, candidate, max_rows=10**6, reading=reading)
    assert reading.stopped == "max_bytes"
    assert 0 < len(rows) < 3000
    assert [row.completion.split()[0] for row in rows] == [str(n) for n in range(len(rows))]
    asked = [record for record in hub.log if "/resolve/" in record.path]
    assert all(record.range and candidate.revision in record.path for record in asked)
    sent = sum(int(last) - int(first) + 1 for first, last in (r.range.removeprefix("bytes=").split("-") for r in asked))
    assert sent < candidate.size / 3


def test_the_budget_spares_requests(hub, api, planted_data):
    found = discover_datasets(api, options=DiscoverOptions(max_datasets=1), task=GSM8K)
    assert [candidate.repo_id for candidate in found.selected] == ["d/alpaca"]
    assert "over_budget" in {rejection.reason for rejection in found.rejected if rejection.item == "d/qa"}
    assert {record.path.split("/resolve/")[0] for record in hub.log if "/resolve/" in record.path} <= {
        "/datasets/d/alpaca"
    }


def test_named_data_sets_are_used_and_nothing_else(hub, api, planted_data):
    options = DiscoverOptions(
        datasets=("d/other-task", "d/qa", "openai/gsm8k", "google/boolq", "d/qa", "d/board", "d/french")
    )
    found = discover_datasets(api, options=options, task=GSM8K, exclude=["D/QA"])
    assert [candidate.repo_id for candidate in found.selected] == [
        "d/other-task", "google/boolq", "d/board", "d/french"]  # fmt: skip
    assert {lost.item: lost.reason for lost in found.rejected} == dict.fromkeys(
        ("d/qa", "openai/gsm8k"), "evaluation_set"
    )
    assert not [record for record in hub.log if record.path.startswith("/api/datasets?")]


def test_a_named_data_set_that_does_not_exist_is_an_error_of_the_user(api, planted_data):
    with pytest.raises(DatasetError, match=r"d/nowhere: not found.*named in discover\.datasets") as caught:
        discover_datasets(api, options=DiscoverOptions(datasets=("d/nowhere",)), task=GSM8K)
    assert caught.value.reason == "not_found"


def test_languages_and_queries_are_options(hub, api, planted_data):
    found = discover_datasets(api, options=DiscoverOptions(languages=("fr",), queries=("other-task",)), task=GSM8K)
    assert verdicts_of(found) | {"d/french": "", "d/other-task": "", "d/qa": "", "d/alpaca": "language"} == verdicts_of(
        found
    )
    asked = [record.path for record in hub.log if record.path.startswith("/api/datasets?")]
    assert sum("search=other-task" in path for path in asked) == 1
    assert any("filter=language%3Afr" in path for path in asked)
    assert not any("language%3Aen" in path for path in asked)
    anything = discover_datasets(api, options=DiscoverOptions(languages=(), max_datasets=50), task=GSM8K)
    assert "language" not in verdicts_of(anything).values()
