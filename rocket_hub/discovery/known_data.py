"""Benchmarks and a task's own data: what is measured on must not be trained on."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

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
_EXTRAS = frozenset({"main", "train", "full", "hf", "mirror", "dataset", "data"})  # words of a name that say nothing


def benchmark_of(repo_id: str) -> str:
    """Return the name of the benchmark that a repository is; empty if it is none that is known here."""
    name = repo_id.lower()
    known = next((benchmark for benchmark, ids in BENCHMARKS.items() if name in ids), "")
    called = _NAMES.fullmatch(re.sub(r"[^a-z0-9]", "", name.rpartition("/")[2]))
    return known or (called[1] if called else "")


def mirrors_of(repo_id: str) -> set[str]:
    """Return the ids, in lower case, under which the same benchmark is known; with the given one."""
    name = repo_id.lower()
    return {name, *(other for ids in BENCHMARKS.values() if name in ids for other in ids)}


def own_data(names: Iterable[str], closed: Collection[str], *, copies: bool = False) -> dict[str, str]:
    """Find the names that mean one of a task's own data sets.

    Exactly, a name is an id in any letter case, or its last part alone: old cards leave out the namespace, but
    `someone/gsm8k` is somebody else's. With `copies`, `openai/gsm8k`, `GSM8K`, `someone/gsm8k-main` and a link to any
    of them are one data set: namespace, letter case, signs and words such as `main` or `train` are left out.
    `someone/gsm8k-cot` is another one either way.

    Args:
        names: Data sets as a list or card names them.
        closed: Ids of the task's own data sets.
        copies: Whether somebody else's copies count; a list can be read again, what an adapter has seen cannot.

    Returns:
        Those of `names` that are closed, as they were given, in their order -> the closed id.
    """
    known = {form: entry for entry in closed for form in (_forms(entry) if copies else [_last(entry)])}
    known |= {} if copies else {entry.lower(): entry for entry in closed}
    found = {}
    for name in names:
        forms = _forms(name) if copies else [name.lower()]
        if meant := next((known[form] for form in forms if form in known), ""):
            found[name] = meant
    return found


def _last(dataset: str) -> str:
    return dataset.rpartition("/")[2].lower()


def _forms(dataset: str) -> list[str]:
    """Return the normal forms of a data set's id or address: without its namespace, and with it."""
    path = re.sub(r"^(?:https?://[^/]*/)?(?:datasets/)?", "", dataset.strip().casefold()).split("@")[0].split("?")[0]
    parts = [re.findall(r"[^\W_]+", part) for part in path.split("/")[:2]]
    named = ["".join(word for word in words if word not in _EXTRAS) or "".join(words) for words in parts]
    return [name for name in dict.fromkeys((named[-1], "".join(named))) if name]
