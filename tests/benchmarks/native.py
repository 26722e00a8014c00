"""The shared data in the columns and formats that they have at their sources: what a real Hub would serve.

The files hold every set as instruction, input and output; the manifest names the columns of the original. Each function
here puts one set, or a family of them, back into these.
"""

import csv
import gzip
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.tasks.native import NATIVE

Example = dict[str, Any]
Files = dict[str, bytes]

SCALES = (" thousand", " million", " billion", " percent")
OPTION = re.compile(r"^([A-Z])\. (.*)$", re.MULTILINE)
BENCHMARKS = {
    "openai/gsm8k": ("gsm8k",),
    "google-research-datasets/mbpp": ("mbpp",),
    "allenai/ai2_arc": ("arc_challenge", "arc_easy"),
    "ybisk/piqa": ("piqa",),
    "google/boolq": ("boolq",),
}


def lines(rows: list[Example]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def whole(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()


def parquet(rows: list[Example]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def table(rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def question_and_options(row: Example) -> tuple[str, list[str], int]:
    """Take `Question: ...`, `A. ...` apart; returns the question, the options and the position of the right one."""
    question = row["instruction"].partition("Question: ")[2].partition("\nA. ")[0]
    texts = [text for _, text in OPTION.findall(row["instruction"])]
    return question, texts, "ABCDE".index(re.search(r"([A-E])\. [^\n]*$", row["output"])[1])


def svamp(rows: list[Example]) -> Files:
    restored = []
    for row in rows:
        body, _, question = row["instruction"].rpartition(". ")
        equation, _, answer = row["output"].partition(" = ")
        number = float(answer.partition("#### ")[2])
        restored.append({"ID": row["id"], "Body": body, "Question": question, "Equation": equation, "Answer": number,
                         "Type": row["meta"]["type"]})  # fmt: skip
    return {"SVAMP.json": whole(restored)}


def aqua_rat(rows: list[Example]) -> Files:
    restored = []
    for row in rows:
        question, _, options = row["instruction"].partition("\nOptions: ")
        rationale, _, key = row["output"].rpartition("\n#### ")
        texts = [part.strip() for part in re.split(r" (?=[A-E]\))", options)]
        restored.append({"question": question, "options": texts, "rationale": rationale, "correct": key})
    return {"train.json": lines(restored)}


def competition_math(rows: list[Example]) -> Files:
    return {"train.jsonl": lines([{"problem": row["instruction"], **row["meta"], "solution": row["output"], "idx": at}
                                  for at, row in enumerate(rows)])}  # fmt: skip


def gpteacher(rows: list[Example]) -> Files:
    keep = {"instruction": "instruction", "input": "input", "output": "response"}
    return {"instruct.json": whole([{new: row[old] for old, new in keep.items()} for row in rows])}


def humaneval(rows: list[Example]) -> Files:
    restored = [{"task_id": row["meta"]["task_id"], "prompt": row["instruction"].partition("\n")[2],
                 "entry_point": row["meta"]["entry_point"], "canonical_solution": row["output"],
                 "test": row["meta"]["test"]} for row in rows]  # fmt: skip
    return {"HumanEval.jsonl.gz": gzip.compress(lines(restored))}


def humanevalpack_fix(rows: list[Example]) -> Files:
    files = defaultdict(list)
    for row in rows:
        head, _, body = row["output"].partition("\n")
        buggy = row["input"].partition("\n")[2]
        restored = {"declaration": head, "buggy_solution": buggy, "canonical_solution": body}
        files[f"{row['meta']['language']}/humanevalpack.jsonl"].append(restored)
    return {path: lines(restored) for path, restored in files.items()}


def commonsense_qa(rows: list[Example]) -> Files:
    restored = []
    for row in rows:
        question, texts, right = question_and_options(row)
        choices = [{"label": label, "text": text} for label, text in zip("ABCDE", texts, strict=False)]
        asked = {"stem": question, "choices": choices, "question_concept": row["meta"]["concept"]}
        restored.append({"answerKey": "ABCDE"[right], "id": row["id"], "question": asked})
    return {"train_rand_split.jsonl": lines(restored)}


def cos_e(rows: list[Example]) -> Files:
    told = [row["output"].rpartition(" So the answer is ") for row in rows]
    return {"cose_train.jsonl": lines([{"id": row["id"], "explanation": {"open-ended": why, "selected": answer}}
                                       for row, (why, _, answer) in zip(rows, told, strict=True)])}  # fmt: skip


def numersense(rows: list[Example]) -> Files:
    return {"train.masked.tsv": table([[row["input"], row["output"]] for row in rows])}


def query_wellformedness(rows: list[Example]) -> Files:
    return {"train.tsv": table([[row["input"], row["meta"]["score"]] for row in rows])}


def gap_coreference(rows: list[Example]) -> Files:
    restored: list[list[Any]] = [["ID", "Text", "Pronoun", "A", "A-coref", "B", "B-coref", "URL"]]
    for row in rows:
        pronoun, first, second = re.search(r'"(.*)" refer to (.*), (.*) or neither', row["instruction"]).groups()
        restored.append([row["id"], row["input"], pronoun, first, row["output"] == first, second,
                         row["output"] == second, "http://en.wikipedia.org"])  # fmt: skip
    return {"gap.tsv": table(restored)}


def disfl_qa(rows: list[Example]) -> Files:
    return {"train.json": whole({row["id"]: {"original": row["output"], "disfluent": row["input"]} for row in rows})}


def bbq(rows: list[Example]) -> Files:
    files = defaultdict(list)
    for row in rows:
        question, texts, right = question_and_options(row)
        context = row["instruction"].partition("Context: ")[2].partition("\nQuestion: ")[0]
        answers = {f"ans{at}": text for at, text in enumerate(texts)}
        files[f"{row['meta']['category']}.jsonl"].append(
            {"example_id": row["id"], "category": row["meta"]["category"], "context": context, "question": question,
             **answers, "answer_info": {key: ["a", "b"] for key in answers}, "label": right})  # fmt: skip
    return {path: lines(restored) for path, restored in files.items()}


def persona_evals(rows: list[Example]) -> Files:
    return {"persona.jsonl": lines([
        {"question": row["instruction"], "statement": row["instruction"].partition("\n")[2], "label_confidence": 0.9,
         "answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"} for row in rows])}  # fmt: skip


def alpaca(rows: list[Example]) -> Files:
    keep = ("instruction", "input", "output")
    return {"data.json": whole([{**{name: row[name] for name in keep}, **row["meta"]} for row in rows])}


def self_instruct_human(rows: list[Example]) -> Files:
    return {"seed_tasks.jsonl": lines([
        {"id": row["id"], "instruction": row["instruction"], "is_classification": False,
         "instances": [{"input": row["input"], "output": row["output"]}]} for row in rows])}  # fmt: skip


def glaive_toolcall_demo(rows: list[Example]) -> Files:
    return {"glaive.json": whole([{"conversations": row["meta"]["conversations"], "tools": row["input"]}
                                  for row in rows])}  # fmt: skip


def oasst_en_trees(rows: list[Example]) -> Files:
    return {"trees.jsonl": lines([
        {"message_tree_id": row["id"], "tree_state": "ready_for_export", "prompt": {
            "message_id": row["id"], "text": row["instruction"], "role": "prompter", "lang": "en",
            "replies": [{"text": row["output"], "role": "assistant", "lang": "en", "replies": []}]}}
        for row in rows])}  # fmt: skip


def instruction_induction(rows: list[Example]) -> Files:
    files: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in rows:
        examples = files[f"induce/{row['meta']['task']}.json"]
        examples[str(len(examples) + 1)] = {"input": row["input"], "output": row["output"]}
    return {path: whole({"metadata": {"num_examples": len(examples)}, "examples": examples})
            for path, examples in files.items()}  # fmt: skip


def pubmedqa_labeled(rows: list[Example]) -> Files:
    restored = {}
    for row in rows:
        decision, _, answer = row["output"].partition(". ")
        restored[row["meta"]["pmid"]] = {
            "QUESTION": row["instruction"].partition("Question: ")[2], "CONTEXTS": row["input"].split("\n"),
            "LABELS": ["METHODS"], "MESHES": ["Humans"], "YEAR": row["meta"]["year"], "LONG_ANSWER": answer,
            "final_decision": decision}  # fmt: skip
    return {"ori_pqal.json": whole(restored)}


def tatqa(rows: list[Example]) -> Files:
    reports: dict[str, list[Example]] = defaultdict(list)
    for row in rows:
        reports[row["input"]].append(row)
    restored = []
    for report, asked in reports.items():
        cells, _, text = report.partition("\n\n")
        questions = []
        for row in asked:
            derivation, _, told = row["output"].rpartition("  = ")
            answer, _, scale = told.rpartition(" ") if told.endswith(SCALES) else (told, "", "")
            spans: Any = answer.split(", ") if row["meta"]["answer_type"].endswith("span") else answer
            questions.append({"question": row["instruction"], "answer": spans, "derivation": derivation,
                              "answer_type": row["meta"]["answer_type"], "scale": scale})  # fmt: skip
        restored.append({"table": {"uid": "t", "table": [line.split(" | ") for line in cells.split("\n")]},
                         "paragraphs": [{"uid": "p", "order": 1, "text": text}], "questions": questions})  # fmt: skip
    return {"tatqa_dataset_train.json": whole(restored)}


def natural_instructions(rows: list[Example]) -> Files:
    tasks: dict[tuple[str, str], list[Example]] = defaultdict(list)
    for row in rows:
        tasks[row["meta"]["task"], row["instruction"]].append(row)
    return {
        f"tasks/{task}_{number}.json": whole({
            "Contributors": ["somebody"], "Source": ["a set"], "Definition": [definition],
            "Positive Examples": [{"input": "a", "output": "b", "explanation": "c"}], "Negative Examples": [],
            "Instances": [{"id": row["meta"]["ni_id"], "input": row["input"], "output": [row["output"]]}
                          for row in instances],
            "Instance License": ["MIT"]})
        for number, ((task, definition), instances) in enumerate(tasks.items())
    }  # fmt: skip


def p3(rows: list[Example]) -> Files:
    files = defaultdict(list)
    for row in rows:
        files[f"{row['meta']['template']}.jsonl"].append({"prompt": row["instruction"], "completion": row["output"]})
    return {path: lines(restored) for path, restored in files.items()}


FAMILIES: dict[str, Callable[[list[Example]], Files]] = {
    "ni_": natural_instructions, "p3_": p3, "gpteacher_": gpteacher, "dolly_filtered": alpaca,
    "llamafactory_alpaca_demo": alpaca,
}  # fmt: skip


def instruction_files(shared: Path, name: str, most: int | None = None) -> Files:
    """Return the files of one set as its source has them."""
    rows = pq.read_table(shared / "instructions" / f"{name}.parquet").slice(0, most).to_pylist()
    rows = [{**row, "meta": json.loads(row["meta"])} for row in rows]
    family = next((make for start, make in FAMILIES.items() if name.startswith(start)), None)
    return (family or globals()[name])(rows)


def benchmark_files(shared: Path, repo_id: str, most: int | None = None) -> Files:
    """Return the files of one benchmark as the Hub has them."""
    files = {}
    for task in BENCHMARKS[repo_id]:
        for path in sorted((shared / "benchmarks" / task).glob("*.parquet")):
            rows = pq.read_table(path).slice(0, most).to_pylist()
            files[f"{task}/{path.stem}-00000-of-00001.parquet"] = parquet([NATIVE[task](row) for row in rows])
    return files
