"""Sixty small mistakes, planted one at a time in a copy of the package: does the suite catch each of them?

Run by hand, after a change of many tests or before one: `python tests/mutants.py [WORD ...] [--jobs N]`, where words
choose mutants by their names. No file of the package is named, so that the table outlives moves: a snippet is searched
for in all of it, and a test file by its name in all of `tests/`.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing import Process, SimpleQueue
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LEFT_OUT = (".*", "__pycache__", "runs", "dist", "*.egg-info")  # of the copy
SECONDS = 300  # for the tests of one mutant; what never ends is caught
NOTHING_RAN = (4, 5)  # pytest's exit codes for files and tests that are not there


class Mutant(NamedTuple):
    """A mistake: the rule it breaks, the snippet, what stands in its place, and who should notice."""

    name: str
    old: str
    new: str
    tests: str


MUTANTS = (
    # Files beside the rooms
    Mutant(
        "kshot: the last mark of an answer counts",
        "answer = completion[mark[-1].end() :].strip()",
        "answer = completion[mark[0].end() :].strip()",
        "test_kshot.py",
    ),
    Mutant(
        "recipe: the group may be as large as the shortlist",
        "if experts.shortlist < experts.num_experts:",
        "if experts.shortlist <= experts.num_experts:",
        "test_recipe.py",
    ),
    Mutant(
        "runs: a torn line of kept results is closed before the next",
        'self._torn = bool(data) and not data.endswith(b"\\n")',
        "self._torn = False",
        "test_runs.py test_asking.py test_evaluation.py",
    ),
    Mutant(
        "records: true is no number",
        "whole = isinstance(value, int) and not isinstance(value, bool)",
        "whole = isinstance(value, int)",
        "test_recipe.py test_custom.py",
    ),
    Mutant(
        "training: the rate warms up",
        "warmup_steps=round(options.warmup_ratio * options.max_steps),",
        "warmup_steps=0,",
        "test_training.py",
    ),
    Mutant(
        "evaluation: answers of another length are not reused",
        'digest(["text", prompt, options.max_new_tokens, task.stop])',
        'digest(["text", prompt, task.stop])',
        "test_evaluation.py",
    ),
    Mutant(
        "publishing: an earlier commit of the same name is not this one",
        "if newest.title == message and newest.commit_id != parent:",
        "if newest.title == message:",
        "test_publishing.py",
    ),
    Mutant(
        "crossfit: a setting that diverged never wins",
        "means = [float(score.mean()) if np.isfinite(score).all() else math.inf for score in scores]",
        "means = [float(score.mean()) for score in scores]",
        "test_tuning.py",
    ),
    Mutant("plots: the interval of a mean", "(len(shots) - 1) / len(shots))", "len(shots))", "test_plots.py"),
    Mutant(
        "bases: a weight that is missing is no random one",
        'if info["missing_keys"]:',
        'if info["missing_keys"] and quantization:',
        "test_base_models.py",
    ),
    # Selection
    Mutant(
        "verdicts: any adapter of the bank may beat the base",
        "not any(improves(score, base) for score in scores)",
        "not any(improves(score, base) for score in group)",
        "test_statistics.py test_experts.py test_selectors.py",
    ),
    Mutant(
        "honesty: the winner is tried on the other half",
        "shots[shots % 2 != half], shots[shots % 2 == half]",
        "shots[shots % 2 != half], shots[shots % 2 != half]",
        "test_statistics.py test_experts.py",
    ),
    Mutant(
        "halving: ties are paid for at their whole price",
        "spare -= len(ties) * price",
        "spare -= len(ties)",
        "test_halving.py",
    ),
    Mutant(
        "groups: enough are listed for the second best, too",
        "totals[order[1]] < least + len(groups) + 1",
        "totals[order[0]] < least + len(groups) + 1",
        "test_groups.py",
    ),
    Mutant(
        "choice: the last row may use up the tokens",
        "if choice.tokens + tokens_of(row) > options.max_tokens:",
        "if choice.tokens + tokens_of(row) >= options.max_tokens:",
        "test_near_duplicates.py test_instructions.py",
    ),
    Mutant(
        "overlap: no share above the threshold is missed", "_EVERY = 3  #", "_EVERY = 4  #", "test_decontamination.py"
    ),
    Mutant(
        "quality: one bracket may stay open",
        "text.count(a) - text.count(b) > 1 for a, b in",
        "text.count(a) - text.count(b) > 0 for a, b in",
        "test_filters.py",
    ),
    Mutant(
        "gates: a shot inside a row is that shot",
        'hit.kind not in ("whole", "inside")',
        'hit.kind not in ("whole",)',
        "test_screening.py test_instructions.py",
    ),
    # Discovery
    Mutant(
        "licences: of several the strictest counts",
        'return min(kinds, key=[*MEANINGS, "permissive"].index)',
        'return max(kinds, key=[*MEANINGS, "permissive"].index)',
        "test_licences.py",
    ),
    Mutant(
        "pacing: a shorter wait does not end a longer one",
        "window.closed = max(window.closed, now + float(after))",
        "window.closed = now + float(after)",
        "test_pacing.py",
    ),
    Mutant(
        "headers: the file ends where its last tensor does",
        "if end + last != size:",
        "if end + last > size:",
        "test_compatibility.py test_fuzz.py",
    ),
    Mutant(
        "rules: a multilingual set may be in the language",
        'not {*self._languages, "mul"} & {*item.languages}',
        "not {*self._languages} & {*item.languages}",
        "test_instructions.py test_dataset_search.py",
    ),
    Mutant(
        "options: numbers start with 0 where one is 0",
        "return int(last and not zero)",
        "return int(last)",
        "test_layouts.py",
    ),
    Mutant(
        "crawl: the same weights at another strength are no double",
        "key = header.sha256 + json.dumps(decisive, sort_keys=True, default=str)",
        "key = header.sha256",
        "test_adapters.py test_crawl.py",
    ),
    Mutant(
        "outages: only those in a row count",
        "self._in_a_row + 1 if reason in OUTAGES else 0",
        "self._in_a_row + (reason in OUTAGES)",
        "test_crawl.py test_adapters.py",
    ),
    Mutant(
        "dialogues: what a tool was asked is no answer",
        "if text is None or role in TOOLS:",
        "if text is None:",
        "test_layouts.py",
    ),
    # Adapters and their mixture
    Mutant(
        "gate statistics: in generation the newest columns of the mask count",
        "classes[mask[:, -classes.shape[1] :] == 0] = -1",
        "classes[mask[:, : classes.shape[1]] == 0] = -1",
        "test_gates.py",
    ),
    Mutant(
        "losses: all experts of all are no sparse choice",
        "self.sparse = config.top_k not in (None, config.num_experts)",
        "self.sparse = config.top_k is not None",
        "test_losses.py",
    ),
    Mutant(
        "gates: unit scale is that of the chosen experts",
        'scale = float(config.top_k or experts) if config.gate_scale == "unit" else 1.0',
        'scale = float(experts) if config.gate_scale == "unit" else 1.0',
        "test_layer.py",
    ),
    Mutant(
        "folding: AdaLoRA divides by the rank it started with",
        '/ (config.get("init_r", 12) + 1e-5)',
        "/ (rank + 1e-5)",
        "test_folding.py",
    ),
    Mutant(
        "collapse: a text has one prediction less than tokens",
        "total += loss.item() * (ids.shape[1] - 1)",
        "total += loss.item() * ids.shape[1]",
        "test_collapse.py",
    ),
    Mutant(
        "merging: what one expert excludes is not adapted everywhere",
        'layers in (None, []) and not expert.config.get("exclude_modules"):',
        "layers in (None, []):",
        "test_merging.py",
    ),
    # Generation
    Mutant(
        "votes: half of them is no majority",
        "if 2 * votes.count(answer) > len(votes):",
        "if 2 * votes.count(answer) >= len(votes):",
        "test_filters.py",
    ),
    Mutant(
        "judging: empty advice is no judgement",
        "if not correct and not advice.strip():",
        "if not correct and not advice:",
        "test_prompts.py",
    ),
    Mutant(
        "asking: what is read costs tokens, too",
        "self.tokens_in + self.tokens_out >= budget.tokens",
        "self.tokens_out >= budget.tokens",
        "test_asking.py test_meteor_faults.py",
    ),
    Mutant(
        "evolution: what was cut off is not preferred", "elif not best.ended:", "elif not best.text:", "test_meteor.py"
    ),
    Mutant(
        "distillation: a guideline that holds an answer is not shown",
        'return ["" if mark and mark in part else part for part in parts]',
        "return parts",
        "test_meteor.py",
    ),
    # Tasks
    Mutant(
        "numbers: a thousand is one thousand",
        "total + max(current, 1) * _SCALES[word], 0",
        "total + current * _SCALES[word], 0",
        "test_sloppy.py test_gsm8k.py",
    ),
    Mutant(
        "custom rows: an option behind the last is none",
        "if not 0 <= value < options:",
        "if not 0 <= value <= options:",
        "test_custom.py",
    ),
    Mutant(
        "yes or no: of several claims the last counts",
        "return _meant(*claims[-1])",
        "return _meant(*claims[0])",
        "test_sloppy.py",
    ),
    Mutant(
        "choices: a letter is a letter before it is the text of an option",
        "if example.answer in tuple(LETTERS[: len(example.choices)]):",
        "if example.answer not in example.choices:",
        "test_prompts.py test_metrics.py test_sloppy.py",
    ),
    # The pipeline
    Mutant(
        "lock: no rows are made where the lock has none",
        "if wanted != found:",
        "if wanted and wanted != found:",
        "test_generated.py",
    ),
    Mutant(
        "random rows: each row of the pool is as likely",
        "draw.randrange(read)",
        "draw.randrange(size + 1)",
        "test_build.py test_select_data.py",
    ),
    Mutant(
        "scores: another kind of perplexity is scored again",
        "        options.perplexity,\n        options.rationales,",
        "        options.rationales,",
        "test_select_experts.py",
    ),
    Mutant(
        "generated rows: what was changed afterwards is not read",
        "if sha256(data).hexdigest() != facts.sha256:",
        "if not facts.sha256:",
        "test_generated.py",
    ),
    Mutant(
        "generation stage: restricted sources are refused",
        "check_licences(writer.read, context.recipe.discover.allow_licences)",
        "check_licences(writer.read[1:], context.recipe.discover.allow_licences)",
        "test_stage.py",
    ),
    # The local Hub
    Mutant(
        "quota: what is used up is used up",
        "self.limit is not None and used >= self.limit",
        "self.limit is not None and used > self.limit",
        "test_faults.py",
    ),
    Mutant("commits: .GIT is .git", 'part.lower() == ".git"', 'part == ".git"', "test_wire.py"),
    Mutant(
        "parts of files: more than all from the end is all",
        "return max(0, size - int(match[2])), size",
        "return size - int(match[2]), size",
        "test_wire.py test_hub_client.py",
    ),
    Mutant(
        "gated: being signed in is not enough",
        'repository.settings["gated"] and not self.may_read(repository)',
        'repository.settings["gated"] and self.user is None',
        "test_hub_client.py",
    ),
    # The command line
    Mutant(
        "exit codes: the Hub's faults have their own",
        "else 3 if isinstance(error, HubError) else 1)",
        "else 1)",
        "test_discover_command.py",
    ),
    Mutant(
        "cli: a value may hold an equals sign",
        'key, equals, value = text.partition("=")',
        'key, equals, value = text.rpartition("=")',
        "test_recipe.py test_cli.py",
    ),
    Mutant(
        "collapse: what the gates were averaged over does not measure",
        "held_out=texts[1::2] or None",
        "held_out=texts[::2] or None",
        "test_collapse.py",
    ),
    # Inference
    Mutant(
        "sampling: all tokens may be drawn",
        "top_p=search.top_p, top_k=0)",
        "top_p=search.top_p, top_k=20)",
        "test_inference.py",
    ),
    Mutant(
        "continuations: a text that a mark ends has ended",
        "Continuation(own, tokens < max_new_tokens or len(own) < len(text))",
        "Continuation(own, tokens < max_new_tokens)",
        "test_inference.py",
    ),
    Mutant(
        "likelihood: the mean of the probabilities, not of their logarithms",
        "(math.log(len(nll)) - torch.logsumexp(-nll, 0))",
        "-torch.logsumexp(-nll, 0)",
        "test_scoring.py",
    ),
    # The sandbox
    Mutant(
        "sandbox: without its filter of calls nothing runs",
        '"network, processes and signals": ("seccomp",),',
        '"network, processes and signals": ("seccomp", "no capabilities"),',
        "test_containers.py",
    ),
    Mutant(
        "sandbox: who drips output has no more time",
        "ready.select(max(deadline - time.monotonic(), 0))",
        "ready.select(limits.wall_seconds)",
        "test_outcomes.py",
    ),
    # The controls
    Mutant(
        "recommending: one standard error, not two", "if gap <= error:", "if gap <= 2 * error:", "test_recommending.py"
    ),
    Mutant("merging: a fifth of the entries is kept", "DENSITY = 0.2", "DENSITY = 0.8", "test_merging.py"),
)


def place_of(mutant: Mutant, root: Path) -> Path | None:
    """Find the one file that holds the snippet, once."""
    hits = [(path, path.read_text(encoding="utf-8").count(mutant.old)) for path in (root / "rocket_hub").rglob("*.py")]
    return next((path for path, count in hits if count), None) if sum(count for _, count in hits) == 1 else None


def tests_of(mutant: Mutant, root: Path) -> list[str]:
    """Find the test files by their names, except those of benchmarks; nothing where one of them is not there."""
    paths = [path for path in sorted((root / "tests").rglob("test_*.py")) if "benchmarks" not in path.parts]
    names = mutant.tests.split()
    return [str(path) for path in paths if path.name in names] if {path.name for path in paths} >= {*names} else []


def verdict(tests: list[str], root: Path) -> str:
    """Run test files in a copy."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    variables = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    process = subprocess.Popen(
        command, cwd=root, env=os.environ | variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        code = process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        return "caught"
    finally:
        if process.poll() is None:  # out of time, or Ctrl-C: with all that the tests started
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return "SURVIVED" if code == 0 else "lost" if code in NOTHING_RAN else "caught"


def try_out(mutant: Mutant, root: Path) -> str:
    """Plant one mutant in a copy, run its tests, and take it out again."""
    place, tests = place_of(mutant, root), tests_of(mutant, root)
    if place is None or not tests:
        return "lost"
    sound = root.with_name("sound")
    shutil.copy2(place, sound)  # with its time, by which Python knows what it has compiled
    place.write_text(place.read_text(encoding="utf-8").replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        return verdict(tests, root)
    finally:
        sound.replace(place)


def work(mutants: tuple[Mutant, ...], verdicts: "SimpleQueue[str]") -> None:
    """Try mutants one after the other in a copy of one's own."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        root = Path(folder) / "copy"
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(*LEFT_OUT))
        for mutant in mutants:
            started = time.monotonic()
            found = try_out(mutant, root)
            print(f"{found:8} {time.monotonic() - started:4.0f} s  {mutant.name}", flush=True)
            verdicts.put(found)


def main() -> None:
    """Try the mutants that are asked for, and say how many were caught."""
    parser = argparse.ArgumentParser(description="Plant mistakes one at a time: does the suite catch each of them?")
    parser.add_argument("words", nargs="*", metavar="WORD", help="only mutants with one of these in their names")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="mutants at once; default 1")
    given = parser.parse_args()
    if len({each.name for each in MUTANTS}) < len(MUTANTS) or any(each.old == each.new for each in MUTANTS):
        raise SystemExit("the table is broken: two mutants have one name, or one changes nothing")
    chosen = tuple(each for each in MUTANTS if not given.words or any(word in each.name for word in given.words))
    verdicts: SimpleQueue[str] = SimpleQueue()
    jobs = [Process(target=work, args=(chosen[first :: given.jobs], verdicts)) for first in range(given.jobs)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    found = []
    while not verdicts.empty():
        found.append(verdicts.get())
    print(f"{found.count('caught')} of {len(chosen)} caught")


if __name__ == "__main__":
    main()
