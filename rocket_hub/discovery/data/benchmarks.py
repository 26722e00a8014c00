"""Registered benchmarks: what is measured on must not be trained on. A table of plain data."""

from __future__ import annotations

import re

# Name -> ids on the Hub, in lower case. The first five are the tasks that come with the package.
BENCHMARKS: dict[str, tuple[str, ...]] = {
    "gsm8k": ("openai/gsm8k", "gsm8k", "openai/grade-school-math", "madrylab/gsm8k-platinum"),
    "mbpp": ("google-research-datasets/mbpp", "mbpp", "evalplus/mbppplus"),
    "arc": ("allenai/ai2_arc", "ai2_arc"),
    "piqa": ("ybisk/piqa", "piqa", "baber/piqa"),
    "boolq": ("google/boolq", "boolq", "google-research-datasets/boolq"),
    "superglue": ("aps/super_glue", "super_glue"),
    "gsm": ("apple/gsm-symbolic", "reasoning-machines/gsm-hard", "juletxara/mgsm"),
    "math": ("huggingfaceh4/math-500", "huggingfaceh4/aime_2024", "maxwell-jia/aime_2024", "math-ai/aime25"),
    "humaneval": ("openai/openai_humaneval", "openai_humaneval", "evalplus/humanevalplus", "bigcode/humanevalpack"),
    "code": ("bigcode/bigcodebench", "livecodebench/code_generation_lite", "princeton-nlp/swe-bench"),
    "mmlu": ("cais/mmlu", "tiger-lab/mmlu-pro", "openai/mmmlu", "edinburgh-dawg/mmlu-redux"),
    "hellaswag": ("rowan/hellaswag", "hellaswag"),
    "truthfulqa": ("truthfulqa/truthful_qa", "truthful_qa"),
    "gpqa": ("idavidrein/gpqa",),
    "bbh": ("lukaemon/bbh", "maveriq/bigbenchhard", "google/bigbench"),
    "ifeval": ("google/ifeval",),
    "lambada": ("eleutherai/lambada_openai", "cimec/lambada"),
    "chat": ("tatsu-lab/alpaca_eval", "huggingfaceh4/mt_bench_prompts", "lmsys/mt_bench_human_judgments"),
    "hle": ("cais/hle",),
}

# A copy under another account keeps the name: what is called so is a benchmark, whoever put it there.
_NAMES = re.compile(
    r"(?:openai|ai2)?(gsm8k|mbpp|arc|piqa|boolq|superglue|humaneval|mmlu|hellaswag|truthfulqa|gpqa|bbh|ifeval|math500|"
    r"aime|bigcodebench|swebench|hle|mtbench)"
    r"(?:easy|challenge|e|c|main|full|test|eval|official|plus|platinum|sanitized|diamond|hard|verified|lite|pro|hf|"
    r"mirror|copy|20\d\d|\d\d)*"
)


def benchmark_of(repo_id: str) -> str:
    """Return the name of the benchmark that a repository is; empty if it is none that is known here.

    Args:
        repo_id: `namespace/name`, in any case.
    """
    name = repo_id.lower()
    known = next((benchmark for benchmark, ids in BENCHMARKS.items() if name in ids), "")
    called = _NAMES.fullmatch(re.sub(r"[^a-z0-9]", "", name.rpartition("/")[2]))
    return known or (called[1] if called else "")


def mirrors_of(repo_id: str) -> set[str]:
    """Return the ids, in lower case, under which the same benchmark is known; with the given one."""
    name = repo_id.lower()
    return {name, *(other for ids in BENCHMARKS.values() if name in ids for other in ids)}
