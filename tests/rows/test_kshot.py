"""Every common form of a K-shot file is read; every broken one is refused with file and line."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rocket_hub.errors import KShotError
from rocket_hub.rows.kshot import load_kshot
from rocket_hub.tasks import get_task
from tests.helping import table
from tests.tasks import native


def write(path, *lines):
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


@pytest.mark.parametrize("case", table("rows/kshot_forms.jsonl"), ids=lambda case: case["name"])
def test_json_lines_forms(case, tmp_path):
    (example,) = load_kshot(write(tmp_path / "k.jsonl", case["row"]))
    assert {name: getattr(example, name) for name in case["example"]} == case["example"]


def test_json_list_csv_and_parquet_agree(tmp_path):
    rows = [
        {"question": "What is 2 plus 3?", "answer": "2 + 3 = 5. #### 5"},
        {"question": "And 1 plus 1?", "answer": "#### 2"},
    ]
    write(tmp_path / "k.json", rows)
    (tmp_path / "k.csv").write_text('question,answer\n"What is 2 plus 3?",2 + 3 = 5. #### 5\nAnd 1 plus 1?,#### 2\n')
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "k.parquet")
    assert load_kshot(tmp_path / "k.json") == load_kshot(tmp_path / "k.csv") == load_kshot(tmp_path / "k.parquet")


ARC = {"question": "What melts?", "choices": {"text": ["iron bar", "ice"], "label": ["1", "2"]}, "answerKey": "2"}
PIQA = {"goal": "Open a jar.", "sol1": "Twist the lid.", "sol2": "Twist the jar's bottom.", "label": 0}
BOOLQ = {"passage": "Ice is frozen water.", "question": "is ice water", "answer": True}
MBPP = {"text": "Write a function that adds two numbers.", "code": "def add(a, b):\r\n    return a + b",
        "test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"], "test_setup_code": ""}  # fmt: skip
NATIVE = {
    "arc_easy": (ARC, "B", ("iron bar", "ice"), ()),
    "piqa": (PIQA, "A", ("Twist the lid.", "Twist the jar's bottom."), ()),
    "boolq": (BOOLQ, "yes", ("no", "yes"), ()),
    "mbpp": (MBPP, "def add(a, b):\n    return a + b", (), tuple(MBPP["test_list"])),
}


@pytest.mark.parametrize("name", NATIVE)
def test_native_columns_give_what_the_evaluation_set_gives(name, tmp_path):
    row, answer, choices, tests = NATIVE[name]
    task = get_task(name)
    (raw,) = load_kshot(write(tmp_path / "k.jsonl", row))
    example = task.example(raw)
    assert (example.answer, example.choices, example.tests) == (answer, choices, tests)
    assert example == task.examples([row], "rows")[0]
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "k.parquet")
    assert load_kshot(tmp_path / "k.parquet") == (raw,)


@pytest.mark.parametrize("name", ["arc_easy", "piqa", "boolq"])
def test_a_rationale_joins_native_columns(name, tmp_path):
    row, answer, _, _ = NATIVE[name]
    (raw,) = load_kshot(write(tmp_path / "k.jsonl", {**row, "rationale": "Because it does."}))
    example = get_task(name).example(raw)
    assert example.rationale == "Because it does."
    assert example.completion.strip() == f"Because it does.\nThe answer is {answer}."


def test_native_columns_in_csv(tmp_path):
    (tmp_path / "p.csv").write_text("goal,sol1,sol2,label\nOpen a jar.,Twist the lid.,Shout at it.,0\n")
    (tmp_path / "b.csv").write_text("passage,question,answer\nIce is frozen water.,is ice water,False\n")
    assert load_kshot(tmp_path / "p.csv")[0].answer == "A"
    assert load_kshot(tmp_path / "b.csv")[0].answer == "no"


def test_the_benchmarks_own_rows(shared_data, tmp_path):
    for name, split in (("arc_easy", "test"), ("piqa", "validation"), ("boolq", "train"), ("mbpp", "prompt")):
        rows = pq.read_table(shared_data / "benchmarks" / name / f"{split}.parquet").slice(0, 40).to_pylist()
        theirs = [native.NATIVE[name](row) for row in rows if name != "boolq" or row["context"]]
        task = get_task(name)
        shots = load_kshot(write(tmp_path / f"{name}.jsonl", *theirs))
        assert [task.example(shot) for shot in shots] == task.examples(theirs, name)


@pytest.mark.parametrize("fault", table("rows/kshot_faults.jsonl"), ids=str)
def test_broken_files_and_strange_values_are_named(fault, tmp_path):
    (tmp_path / fault["name"]).write_bytes(fault["text"].encode("latin-1"))
    with pytest.raises(KShotError, match=fault["message"]):
        load_kshot(tmp_path / fault["name"])


def test_a_missing_file(tmp_path):
    with pytest.raises(KShotError, match="no such file"):
        load_kshot(tmp_path / "nowhere.jsonl")
