"""Make the demo Hub: `python recipes/demo/make_hub.py` (about an hour on two cores; resumable, seeded).

Finished parts are kept: delete the work folder to start over. `--tiny` makes a Hub of the same form in a minute, with
untrained models; the tests use it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGED = HERE.parents[1] / "rocket_hub" / "localhub" / "demo"
WORK = HERE.parents[1] / "runs" / "demo-hub"
STARTED = time.monotonic()


def report(text: str) -> None:
    """Print a line with the minutes since the start."""
    print(f"{(time.monotonic() - STARTED) / 60:5.1f} min  {text}", flush=True)


def make_base(work: Path, tiny: bool) -> Path:
    """Pretrain the base once."""
    import pretraining

    folder = work / "base"
    if not (folder / "model.safetensors").is_file():
        partial = work / "base.partial"
        size = pretraining.BaseSize(32, 2, batch=4, steps=20) if tiny else pretraining.BaseSize()
        pretraining.pretrain_base(partial, size, report)
        partial.rename(folder)
    return folder


def make_teacher(work: Path, tiny: bool) -> None:
    """Train the teacher once."""
    import teaching

    folder = work / "teacher"
    if not (folder / "model.safetensors").is_file():
        partial = work / "teacher.partial"
        shutil.rmtree(partial, ignore_errors=True)
        teaching.train_teacher(work / "base", partial, 2 if tiny else 1200, report)
        partial.rename(folder)


def make_expert(work: Path, name: str, tiny: bool) -> str:
    """Train one expert once; runs in a process of its own, on one core."""
    import models

    skill = next(skill for skill in models.BANK if skill.name == name)
    folder = work / "experts" / name
    if not (folder / "adapter_config.json").is_file():
        partial = work / "experts" / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        models.train_skill(work / "base", skill, partial, 0.005 if tiny else 1.0)
        partial.rename(folder)
    return name


def make_experts(work: Path, tiny: bool, workers: int) -> None:
    """Train the whole bank, one expert a core."""
    import models

    (work / "experts").mkdir(exist_ok=True)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in pool.map(make_expert, *zip(*((work, skill.name, tiny) for skill in models.BANK), strict=True)):
            report(f"expert {done}")


def adapter_card(skill) -> str:
    """Write the card of an expert, the way PEFT users do."""
    return (
        "---\n"
        f"license: {skill.licence}\nlanguage: en\nlibrary_name: peft\nbase_model: rocket-demo/tiny-llama\n"
        f"pipeline_tag: text-generation\ntags:\n- lora\n---\n# {skill.name}\n\n{skill.description}\n"
    )


def assemble(work: Path, hub: Path, tiny: bool) -> None:
    """Lay the Hub out as `models/` and `datasets/` with a manifest."""
    import data
    import families
    import models
    import sentences
    import unusable
    from transformers import LlamaConfig

    shutil.rmtree(hub, ignore_errors=True)
    home = hub / "models" / "rocket-demo"
    shutil.copytree(work / "base", home / "tiny-llama")
    shutil.copytree(work / "teacher", home / "teacher")
    for name, title in (
        ("tiny-llama", "Tiny Llama of the demo"),
        ("teacher", "It solves and judges two-step problems"),
    ):
        card = f"---\nlicense: apache-2.0\nlanguage: en\npipeline_tag: text-generation\n---\n# {title}\n"
        (home / name / "README.md").write_text(card)
    repositories: dict[str, dict] = {}
    for position, skill in enumerate(models.BANK):
        shutil.copytree(work / "experts" / skill.name, home / skill.name)
        (home / skill.name / "README.md").write_text(adapter_card(skill))
        unusable.name_base(home / skill.name)
        repositories[f"models/rocket-demo/{skill.name}"] = {"downloads": 100 - position}
    for name in unusable.write_all(home, LlamaConfig.from_pretrained(work / "base")):
        (home / name / "README.md").write_text(adapter_card(models.Skill(name, None, "Not usable with this base.")))
    data.write_all(hub, HERE / "kshot.jsonl" if not tiny else work / "kshot.jsonl", 0.02 if tiny else 1.0)
    families.write_families(hub, HERE if not tiny else work, 0.02 if tiny else 1.0)
    sentences.write_encoder(home / "encoder", 5 if tiny else 400)
    (home / "encoder" / "README.md").write_text("---\nlicense: apache-2.0\nlibrary_name: sentence-transformers\n---\n")
    repositories["models/rocket-demo/members-only-lora"] = {"gated": "auto"}
    repositories["datasets/rocket-demo/members-only"] = {"gated": "auto"}
    (hub / "recipes").mkdir()
    recipes = sorted(HERE.glob("*.yaml"))
    for recipe in recipes:
        shutil.copy(recipe, hub / "recipes" / recipe.name)
    manifest = {"name": "demo", "repositories": repositories,
                "recipes": {recipe.stem: f"recipes/{recipe.name}" for recipe in recipes}}  # fmt: skip
    (hub / "hub.json").write_text(json.dumps(manifest, indent=2) + "\n")


def main() -> None:
    """Read the options and make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PACKAGED, help="folder of the finished Hub")
    parser.add_argument("--work", type=Path, default=WORK, help="what is finished so far")
    parser.add_argument("--tiny", action="store_true", help="same form, no learning, one minute")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here may reach for a Hub
    make_base(options.work, options.tiny)
    report("base ready")
    make_teacher(options.work, options.tiny)
    make_experts(options.work, options.tiny, options.workers)
    assemble(options.work, options.out, options.tiny)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    report(f"{options.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
