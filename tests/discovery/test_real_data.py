"""Seventy-four real sets and five benchmarks in the columns of their sources, served by a local Hub."""

import json
from collections import Counter

import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi

from rocket_hub.discovery import discover_datasets, load_instructions
from rocket_hub.localhub import LocalHub
from rocket_hub.options import DiscoverOptions
from rocket_hub.tasks.numeric import GSM8K
from tests.benchmarks.datasets import plant
from tests.benchmarks.native import BENCHMARKS

MOST = 60
UNKNOWN = {
    "cos_e": "columns id, explanation",
    "disfl_qa": "columns original, disfluent",
    "gap_coreference": "columns ID, Text, Pronoun, A, A-coref, B, B-coref, URL",
    "humanevalpack_fix": "columns declaration, buggy_solution, canonical_solution",
    "numersense": None,  # a table whose first line is a row already
    "persona_evals": "columns question, statement, label_confidence, answer_matching_behavior, "
    "answer_not_matching_behavior",
    "query_wellformedness": None,
}
SHAPES = {
    "svamp": "question_answer", "aqua_rat": "multiple_choice", "competition_math": "question_answer",
    "commonsense_qa": "multiple_choice", "bbq": "multiple_choice", "glaive_toolcall_demo": "sharegpt",
    "oasst_en_trees": "messages", "instruction_induction": "input_output", "pubmedqa_labeled": "question_answer",
    "tatqa": "question_answer", **dict.fromkeys(
        ("gpteacher_codegen", "gpteacher_toolformer", "gpteacher_roleplay", "dolly_filtered", "self_instruct_human",
         "llamafactory_alpaca_demo"), "alpaca"),
}  # fmt: skip
# Sets whose rows are not, word for word, what the derived files hold.
OTHERWISE = ("svamp", "aqua_rat", "glaive_toolcall_demo", "pubmedqa_labeled", "tatqa")
OWN_WORDS = ("commonsense_qa", "bbq", "instruction_induction")  # the derived prompts begin with words of their own


@pytest.fixture(scope="module")
def served(shared_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    with LocalHub(folder / "store") as hub:
        plant(hub, shared_data, MOST)
        api = HfApi(endpoint=hub.url, token="hf_local")
        yield api, discover_datasets(api, options=DiscoverOptions(max_datasets=100), task=GSM8K)


def shape_due(name):
    starts = {"ni_": "alpaca", "p3_": "prompt_completion"}
    return SHAPES.get(name) or next(shape for start, shape in starts.items() if name.startswith(start))


@pytest.mark.slow
def test_every_set_is_read_or_rejected_with_the_right_reason(shared_data, served):
    _, found = served
    names = [entry["name"] for entry in json.loads((shared_data / "manifest.json").read_text())["instructions"]]
    assert len(names) == 74
    rejected = {lost.item: (lost.reason, lost.detail) for lost in found.rejected}
    for name, detail in UNKNOWN.items():
        assert rejected[f"real/{name}"][0] == "unknown_columns"
        assert detail in (None, rejected[f"real/{name}"][1])
    assert rejected["real/humaneval"][0] == "benchmark"
    assert rejected["openai/gsm8k"][0] == "evaluation_set"
    assert {rejected[repo_id][0] for repo_id in BENCHMARKS if repo_id != "openai/gsm8k"} == {"benchmark"}
    shapes = {item.repo_id.removeprefix("real/"): item.shape for item in found.selected}
    assert shapes == {name: shape_due(name) for name in names if name not in {*UNKNOWN, "humaneval"}}
    assert len(shapes) == 66


@pytest.mark.slow
def test_every_row_is_what_the_set_says(shared_data, served):
    api, found = served
    for candidate in found.selected:
        name = candidate.repo_id.removeprefix("real/")
        derived = pq.read_table(shared_data / "instructions" / f"{name}.parquet").slice(0, MOST).to_pylist()
        rows = load_instructions(api, candidate, max_rows=10**6)
        if name in OTHERWISE:
            continue
        assert len(rows) == len(derived), name
        due = Counter(row["output"].strip() for row in derived)
        assert Counter(row.completion for row in rows) == due, name
        prompts = "\n".join(row.prompt for row in rows)
        assert all(row["input"].strip() in prompts for row in derived), name
        assert name in OWN_WORDS or all(row["instruction"].strip() in prompts for row in derived), name


@pytest.mark.slow
def test_the_sets_that_are_told_in_other_words(shared_data, served):
    api, found = served
    by_name = {item.repo_id.removeprefix("real/"): item for item in found.selected}
    rows = {name: load_instructions(api, by_name[name], max_rows=10**6) for name in (*OTHERWISE, "commonsense_qa")}
    derived = {
        name: pq.read_table(shared_data / "instructions" / f"{name}.parquet").slice(0, MOST).to_pylist()
        for name in rows
    }
    for row, known in zip(rows["svamp"], derived["svamp"], strict=True):
        equation, _, answer = row.completion.rpartition("\n")
        assert answer == known["output"].rpartition("#### ")[2]
        assert known["output"].startswith(equation)
        assert row.prompt.split("\n\n")[-1].strip() in known["instruction"]
    for row, known in zip(rows["aqua_rat"], derived["aqua_rat"], strict=True):
        rationale, _, key = known["output"].rpartition("\n#### ")
        assert row.completion.startswith(f"{rationale.strip()}\n{key}. ")
        assert row.completion.rpartition("\n")[2] in row.prompt
    for row, known in zip(rows["pubmedqa_labeled"], derived["pubmedqa_labeled"], strict=True):
        decision, _, why = known["output"].partition(". ")
        assert row.completion == f"{why.strip()}\n{decision}"
        assert row.prompt.startswith(known["input"].strip()[:50])
    assert all(known["output"] == row.completion for row, known in zip(
        rows["commonsense_qa"], derived["commonsense_qa"], strict=True))  # fmt: skip
    # A conversation that begins with a call of a tool teaches nothing without the tool.
    talks = [known for known in derived["glaive_toolcall_demo"] if '"from": "function_call"' not in known["meta"]]
    assert len(talks) <= len(rows["glaive_toolcall_demo"]) < MOST
    assert not any('"arguments"' in row.completion for row in rows["glaive_toolcall_demo"])
    # Several spans under the name of one answer are not an answer, and a table comes before its question.
    kinds = Counter(json.loads(known["meta"])["answer_type"] for known in derived["tatqa"])
    assert MOST - kinds["multi-span"] - kinds["span"] <= len(rows["tatqa"]) <= MOST
    assert any(" | " in row.prompt for row in rows["tatqa"])


@pytest.mark.slow
def test_the_benchmarks_that_a_user_names_are_read(shared_data, served):
    api, _ = served
    named = DiscoverOptions(datasets=tuple(repo_id for repo_id in BENCHMARKS if repo_id != GSM8K.dataset))
    found = discover_datasets(api, options=named, task=GSM8K)
    assert {item.repo_id: item.shape for item in found.selected} == {
        "google-research-datasets/mbpp": "code",
        "allenai/ai2_arc": "multiple_choice",
        "ybisk/piqa": "multiple_choice",
        "google/boolq": "question_answer",
    }
    # Only train splits are read: no validation and no test file.
    assert not [path for item in found.selected for path in item.files if "test" in path or "validation" in path]
    rows = {item.repo_id: load_instructions(api, item, max_rows=10**6) for item in found.selected}
    tasks = {"allenai/ai2_arc": ["arc_challenge", "arc_easy"], "ybisk/piqa": ["piqa"]}
    for repo_id, names in tasks.items():
        known = [row for task in names for row in pq.read_table(
            shared_data / "benchmarks" / task / "train.parquet").slice(0, MOST).to_pylist()]  # fmt: skip
        letters = [f"{'ABCDE'[row['answer_index']]}. {row['answer']}" for row in known]
        read = {row.index: row.completion for row in rows[repo_id]}
        assert len(read) > 0.98 * len(known)
        assert all(" ".join(letters[at].split()) == " ".join(text.split()) for at, text in read.items())
    assert {row.completion for row in rows["google/boolq"]} == {"yes", "no"}
    assert all("assert " in row.prompt and "def " in row.completion for row in rows["google-research-datasets/mbpp"])
