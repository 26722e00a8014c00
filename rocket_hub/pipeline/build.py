"""The method on one page: K-shot -> discover (-> generate) -> select -> merge -> train -> evaluate -> push."""

from dataclasses import dataclass
from pathlib import Path

from rocket_hub.errors import RecipeError
from rocket_hub.pipeline.context import Context, open_context
from rocket_hub.pipeline.discover import discover
from rocket_hub.pipeline.evaluate import evaluate
from rocket_hub.pipeline.generate import generate
from rocket_hub.pipeline.lock import check_generated, check_lock, write_lock
from rocket_hub.pipeline.merge import merge
from rocket_hub.pipeline.push import push
from rocket_hub.pipeline.select_data import select_data
from rocket_hub.pipeline.select_experts import check_chosen, select_experts
from rocket_hub.pipeline.train import train
from rocket_hub.recipe import Recipe
from rocket_hub.records import ExpertSelection
from rocket_hub.results import Adapter, Chosen, DataSelection, Discovery, Evaluations, Generation, Publication, Trained
from rocket_hub.runs import Reporter, RunFolder, Silent, write_text

STAGES = (
    "1-discover", "0-generate", "2-select-experts", "3-select-instructions", "4-merge", "5-train", "6-evaluate",
    "7-push",
)  # fmt: skip


@dataclass
class Build:
    """A build: what each stage left, as far as it was asked for; none = the stage did not run."""

    run: RunFolder  # the run folder
    found: Discovery | None = None
    generated: Generation | None = None
    experts: ExpertSelection | None = None
    rows: DataSelection | None = None
    merged: Adapter | None = None
    trained: Trained | None = None
    measured: Evaluations | None = None
    published: Publication | None = None

    @property
    def adapter(self) -> Path | None:
        """Folder of the trained adapter."""
        return self.run.absolute(self.trained.training.adapter) if self.trained else None


def build(
    recipe: Recipe,
    kshot: str | Path,
    out: str | Path,
    *,
    hub_name: str = "",
    until: str = "7-push",
    locked: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Build:
    """Build an adapter for a task from a handful of verified examples.

    What an earlier run in the same folder has finished, from the same inputs, is kept; what changed is made again.

    Args:
        recipe: What to build.
        kshot: File with the K verified examples, see `load_kshot`.
        out: The run folder.
        hub_name: Name of the Hub in use, so that a folder is not mistaken for that of another Hub.
        until: Last stage to run, one of `STAGES`.
        locked: A `lock.json`; every ingredient must be at the commit it names.
        reporter: Receives progress. None: no output.

    Returns:
        The build.

    Raises:
        RocketError: What went wrong, where, and what to do next; finished stages stay.
    """
    if until not in STAGES:
        raise RecipeError(f"unknown stage '{until}'; stages: {', '.join(STAGES)}")
    context = open_context(recipe, Path(kshot), Path(out), hub_name, reporter or Silent())
    write_text(context.run.path / "recipe.yaml", recipe.to_yaml())
    return run_stages(context, until, Path(locked) if locked else None)


def run_stages(context: Context, until: str, locked: Path | None = None) -> Build:
    """Run the method, stage by stage, up to one of `STAGES`; see `build`."""
    done = Build(context.run)

    found = done.found = discover(context)
    if locked:
        check_lock(locked, found)
    if until == "1-discover":
        return done
    context.use_chat_template()

    made = done.generated = generate(context, found)
    if locked:
        check_generated(locked, made)
    if until == "0-generate":
        return done

    experts = done.experts = select_experts(context, found)
    if until == "2-select-experts":
        return done
    check_chosen(context, experts)

    rows = done.rows = select_data(context, found, made)
    chosen = Chosen(found, made, experts, rows)
    write_lock(context, chosen)
    if until == "3-select-instructions":
        return done

    done.merged = merge(context, chosen)
    if until == "4-merge":
        return done

    trained = done.trained = train(context, chosen)
    if until == "5-train":
        return done

    measured = done.measured = evaluate(context, chosen, trained)
    if until == "6-evaluate":
        return done

    done.published = push(context, chosen, trained, measured)
    return done
