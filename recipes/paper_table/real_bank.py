"""Write the Hub of the real bank for `run.py --table real --hub`: `python recipes/paper_table/real_bank.py`.

A pretrained Llama of 260,032 parameters, 24 LoRA experts that were trained on other people's instruction sets, a
sentence encoder, five benchmarks and a dozen of the sets as open data. Only what is beside the checkout
(`../shared/data`) and the bank (`python -m tests.benchmarks.bank` makes it) is used; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
BANK = ROOT / "runs" / "bank"
HUB = ROOT / "runs" / "real-hub"
BASE, ENCODER = "real/stories260k", "real/encoder"
LONGEST = 256  # tokens of a problem with its solution; the base was pretrained on 512 at most
TRAIN_ROWS, TEST_ROWS = 1000, 500
HELD_OUT = 0.4  # share of the passages of BoolQ, of which only the train split is there, that become its test split

# Benchmark -> (file of the test split, longest answer in tokens); `mbpp` would have to run programs.
BENCHMARKS = {
    "gsm8k": ("test", 128),
    "arc_challenge": ("test", 16),
    "arc_easy": ("test", 16),
    "boolq": ("", 16),
    "piqa": ("validation", 16),  # the labels of the test split are not published
}
# Open data: instruction sets with short rows. Some are near one of the benchmarks, some are near none.
OPEN = (
    "svamp", "aqua_rat", "competition_math", "commonsense_qa", "cos_e", "p3_qasc", "p3_quartz", "ni_natural_questions",
    "ni_piqa_howto", "ni_boolq_question", "bbq", "dolly_filtered", "self_instruct_human",
)  # fmt: skip
# Instruction sets that were made from a benchmark: `leave_task_out` goes by that.
MADE_FROM = {"ni_piqa_howto": "ybisk/piqa", "ni_boolq_question": "google/boolq"}

RECIPE = """\
# The real bank's recipe for `--task {task}`.
task: {task}
base: {base}
discover:
  leave_task_out: true
experts:
  shortlist: 8
  num_experts: 4
  budget: all
instructions:
  encoder: {encoder}
  max_rows: 200
merge:
  gate_start: [0.5]
train:
  learning_rate: [3.0e-3]
  max_steps: 100
  batch_size: 8
  max_length: {longest}
evaluate:
  dataset: real/{task}
  split: test
  batch_size: 32
  max_new_tokens: {answer}
"""


def native(task: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Give a row the columns that the benchmark itself has."""
    if task == "gsm8k":
        return {"question": row["question"], "answer": f"{row['rationale']}\n#### {row['answer']}"}
    if task == "boolq":
        question = row["question"].rstrip("?")
        return {"question": question, "answer": bool(row["answer_index"]), "passage": row["context"]}
    if task == "piqa":
        first, second = row["choices"]
        return {"goal": row["question"], "sol1": first, "sol2": second, "label": row["answer_index"]}
    labels = "ABCDEFGH"[: len(row["choices"])]
    choices = {"text": row["choices"], "label": list(labels)}
    return {"id": row["id"], "question": row["question"], "choices": choices, "answerKey": labels[row["answer_index"]]}


def splits(task: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read a benchmark's train and test rows; one without a test part is cut in two by its passages."""
    folder, test = SHARED / "benchmarks" / task, BENCHMARKS[task][0]
    train = read(folder / "train.parquet")
    if test:
        return train, read(folder / f"{test}.parquet")
    parts: tuple[list[dict[str, Any]], list[dict[str, Any]]] = [], []
    for row in train:
        if row["context"]:  # a question without its passage cannot be answered
            parts[_share(row["context"]) < HELD_OUT].append(row)
    return parts


def read(path: Path) -> list[dict[str, Any]]:
    """Read a Parquet file."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def _share(text: str) -> float:
    """Hash a text to a number between 0 and 1."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


def short(task: str, rows: Iterable[Mapping[str, Any]], tokenizer: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield the rows that the base can read from beginning to end: the benchmark's own columns, and the task's form."""
    from rocket_hub.inference.tokens import encode
    from rocket_hub.tasks import get_task

    form = get_task(task)
    for row in rows:
        (example,) = form.examples([found := native(task, row)], task)
        if len(encode(tokenizer, example.prompt, example.completion)[0]) <= LONGEST:
            yield found, example


def write_benchmark(hub: Path, task: str, told: Mapping[str, Any], tokenizer: Any) -> None:
    """Write the first short rows of both splits, but no train row that is, by the build's own rule, a test problem."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from rocket_hub.records import Example
    from rocket_hub.selection.decontamination import contaminated
    from rocket_hub.tasks import get_task

    train, test = splits(task)
    problems = list(islice(short(task, test, tokenizer), TEST_ROWS))
    shots = list(islice(short(task, train, tokenizer), TRAIN_ROWS))
    texts = [Example(shot.prompt, shot.completion, source=task, index=number) for number, (_, shot) in enumerate(shots)]
    leaked = contaminated(texts, [get_task(task).question_of(problem) for _, problem in problems])
    kept = [row for number, (row, _) in enumerate(shots) if number not in leaked]
    folder = hub / "datasets" / "real" / task
    (folder / "data").mkdir(parents=True)
    for split, rows in (("train", kept), ("test", [row for row, _ in problems])):
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"{split}-00000.parquet", compression="zstd")
    text = f"Problems of at most {LONGEST} tokens of the base, with their solutions. {told.get('notes', '')}".strip()
    write_card(folder, task, told, text, ["task_categories:", "- text-generation"])


def write_open(hub: Path, name: str, told: Mapping[str, Any]) -> None:
    """Write an instruction set as open data."""
    folder = hub / "datasets" / "real" / name
    folder.mkdir(parents=True)
    rows = [{key: row[key] for key in ("instruction", "input", "output")} for row in read(SHARED / told["path"])]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made_from = [f"source_datasets: [{MADE_FROM[name]}]"] if name in MADE_FROM else []
    more = [*made_from, "task_categories:", "- text-generation", "tags:", "- instruction-tuning"]
    write_card(folder, name, told, f"Instructions from {_source(told)}.", more)


def write_expert(hub: Path, folder: Path, told: Mapping[str, Any], base: str = BASE) -> None:
    """Write an expert as PEFT users publish theirs, with a card that names its base and its data."""
    target, data = hub / "models" / "real" / folder.name, told["name"]
    copy_files(folder, target)
    config = json.loads((target / "adapter_config.json").read_text()) | {"base_model_name_or_path": base}
    (target / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    names = [f"real/{data}", *([MADE_FROM[data]] if data in MADE_FROM else [])]
    lines = ["library_name: peft", f"base_model: {base}", "pipeline_tag: text-generation", "tags:", "- lora"]
    write_card(target, folder.name, told, f"A LoRA that was trained on {data}.", ["datasets:", *(
        f"- {name}" for name in names), *lines])  # fmt: skip


def copy_files(source: Path, target: Path) -> None:
    """Copy a folder but for its card; not its rights, as the shared data may not be written to."""
    for path in source.rglob("*"):
        if path.is_file() and path.name != "README.md":
            (place := target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def write_card(folder: Path, title: str, told: Mapping[str, Any], text: str, lines: Iterable[str] = ()) -> None:
    """Write a card with the licence that the manifest of the shared data gives; `LicenseRef-` = none of the Hub's."""
    licence = told["license"].lower()
    named = licence.removeprefix("licenseref-")
    terms = [f"license: {licence}"] if named == licence else ["license: other", f"license_name: {named}"]
    head = "\n".join([*terms, "language: en", *lines])
    text += f"\n\nLicence: {told['license']} ({told['license_evidence']}). Source: {_source(told)}."
    (folder / "README.md").write_text(f"---\n{head}\n---\n# {title}\n\n{text}\n", encoding="utf-8")


def _source(told: Mapping[str, Any]) -> str:
    """Name the repositories that something comes from."""
    return ", ".join(f"{source['repo']}@{source['commit'][:10]}" for source in told["source"])


def lay_out(hub: Path, tasks: Iterable[str] = tuple(BENCHMARKS)) -> None:
    """Write the Hub's folder anew.

    Args:
        hub: The folder; what is there is replaced.
        tasks: Which benchmarks.

    Raises:
        SystemExit: The shared data or the bank is not there.
    """
    from transformers import AutoTokenizer

    experts = sorted(path.parent for path in BANK.glob("*/adapter_config.json"))
    if not (SHARED / "manifest.json").is_file():
        raise SystemExit("the shared data folder is not beside this checkout")
    if not experts:
        raise SystemExit(f"no experts in {BANK}; make them: python -m tests.benchmarks.bank")
    told = json.loads((SHARED / "manifest.json").read_text(encoding="utf-8"))
    known = {kind: {each["name"]: each for each in told[kind]} for kind in ("benchmarks", "instructions", "models")}
    shutil.rmtree(hub, ignore_errors=True)
    for name, repo_id, lines in (
        ("stories260K", BASE, ["pipeline_tag: text-generation"]),
        ("potion-base-4m", ENCODER, ["library_name: sentence-transformers"]),
    ):
        folder = hub / "models" / repo_id
        copy_files(SHARED / "models" / name, folder)
        write_card(folder, name, known["models"][name], f"{known['models'][name]['params']:,} parameters.", lines)
    for expert in experts:
        write_expert(hub, expert, known["instructions"][re.sub(r"-r\d+-.*", "", expert.name)])
    for name in OPEN:
        write_open(hub, name, known["instructions"][name])
    tokenizer = AutoTokenizer.from_pretrained(hub / "models" / BASE)
    (hub / "recipes").mkdir()
    for task in tasks:
        write_benchmark(hub, task, known["benchmarks"][task], tokenizer)
        text = RECIPE.format(task=task, base=BASE, encoder=ENCODER, longest=LONGEST, answer=BENCHMARKS[task][1])
        (hub / "recipes" / f"{task}.yaml").write_text(text, encoding="utf-8")
    manifest = {"name": "real", "recipes": {task: f"recipes/{task}.yaml" for task in tasks}}
    (hub / "hub.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Lay the Hub out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HUB, help="folder of the Hub")
    options = parser.parse_args()
    lay_out(options.out)
    files = [path for path in options.out.rglob("*") if path.is_file()]
    print(f"{options.out}: {len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
