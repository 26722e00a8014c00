from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import click
from rich.markup import escape
from rich.table import Table

from rocket_hub.cli.options import COMPUTE, adjusted, connected, file, find_recipe, shared
from rocket_hub.cli.screen import Screen, new_table
from rocket_hub.errors import InputError
from rocket_hub.options import ComputeOptions, EvaluateOptions, Scoring
from rocket_hub.recipe import Recipe
from rocket_hub.records import Example
from rocket_hub.rows.kshot import load_kshot
from rocket_hub.runs import write_json
from rocket_hub.tasks import Task, get_task


@click.command()
@click.argument("dataset", metavar="DATA")
@shared("hub", "task", "recipe", "base", "out", "seed", "allow_licence", "max_rows")
@click.option("--rank", type=click.IntRange(1), default=16, show_default=True, help="Rank of the LoRA.")
@click.option("--alpha", type=click.IntRange(1), help="Its alpha; default twice the rank.")
@click.option("--targets", default="all-linear", show_default=True, help="Modules it adapts, separated by commas.")
@shared("lr_grid", "max_steps", *COMPUTE)
@click.option("--batch-size", type=int, help="Rows a step.")
@shared("push_to", "private", "option")
def train_command(dataset: str, **given: Any) -> None:
    """Train one plain LoRA expert on DATA, a data set's id or a file, and publish it with --push-to."""
    with connected(given["hub"]) as connection:
        recipe = adjusted(find_recipe(given["task"], given["recipe"], connection.recipes), given)
        from huggingface_hub import HfApi

        from rocket_hub.pipeline.standalone import ExpertPlan, make_expert, push_expert

        out = given["out"] or Path("runs") / f"expert-{Path(dataset).name}"
        plan = ExpertPlan(
            dataset,
            rank=given["rank"],
            alpha=given["alpha"] or 2 * given["rank"],
            targets=tuple(given["targets"].split(",")),
            max_rows=given["max_rows"] or ExpertPlan.max_rows,
        )
        screen = Screen()
        screen.say(f"one training on {recipe.base} of {recipe.train.max_steps} steps x {recipe.train.batch_size} rows "
                   f"at learning rate {recipe.train.learning_rate[0]:g}, into {out}")  # fmt: skip
        with screen:
            facts = make_expert(HfApi(), plan, recipe, out, screen)
        screen.say(f"expert: {out}, last loss {facts['training']['loss']:.3f}, licence {facts['licence']}")
        if given["push_to"]:
            commit = push_expert(HfApi(), out, given["push_to"], bool(given["private"]))
            screen.say(f"pushed to {given['push_to']} at {commit[:12]}")


MEASURED = {  # an option of `model evaluate` -> its key in the recipe
    "dataset": "evaluate.dataset",
    "split": "evaluate.split",
    "scoring": "evaluate.scoring",
    "few_shot": "evaluate.few_shot",
    "batch_size": "evaluate.batch_size",
    "max_new_tokens": "evaluate.max_new_tokens",
    "max_rows": "evaluate.max_rows",
    "allow_code_execution": "evaluate.allow_code_execution",
    **{name: f"compute.{name}" for name in COMPUTE},
}


@click.command()
@click.argument("model", required=False)
@click.option("--adapter", multiple=True, metavar="ID|FOLDER", help="Measure this PEFT adapter, too; may be repeated.")
@shared("hub", "task", "kshot")
@click.option("--few-shot", type=int, help="Examples of --kshot that stand before every problem.")
@click.option("--dataset", metavar="ID", help="Another evaluation set, in the columns of the task's own.")
@click.option("--split", metavar="NAME", help="Its split; default the task's own.")
@click.option("--scoring", type=click.Choice(get_args(Scoring)),
              help="What is written, or which option is likeliest; default generation.")  # fmt: skip
@click.option("--max-rows", type=int, help="At most this many problems.")
@click.option("--batch-size", type=int, help="Problems at once.")
@click.option("--max-new-tokens", type=int, help="Longest answer.")
@click.option("--json", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the results here; answers are kept beside it, and not asked again.")  # fmt: skip
@shared(*COMPUTE, "allow_code_execution", "option")
def evaluate_command(**given: Any) -> None:
    """Measure MODEL, an id or a folder, and PEFT adapters on it, on a task.

    Every adapter is compared with the bare model, problem by problem. MODEL may be left out where the adapters name it.
    """
    if not (given["model"] or given["adapter"]):
        raise InputError("give MODEL or --adapter ID: what is measured")
    with connected(given["hub"]) as connection:
        task, options, compute = _measured(given, connection.recipes)
        shots = _shots(given["kshot"], options.few_shot)
        task = task.with_shots([task.example(shot) for shot in shots])
        from huggingface_hub import HfApi

        from rocket_hub.pipeline.context import check_measurable
        from rocket_hub.pipeline.standalone import measure_models

        check_measurable(task, options)
        screen, report = Screen(), given["json"]
        with screen:
            found = measure_models(
                HfApi(), task, given["model"], given["adapter"], options, compute=compute,
                kept=report.with_name(f"{report.stem}-answers") if report else None, reporter=screen,
            )  # fmt: skip
    screen.console.print(_table(found))
    if report:
        write_json(report, found)
        screen.say(f"written to {report}")


def _shots(kshot: Path | None, count: int) -> tuple[Example, ...]:
    """Read the examples that stand before every problem."""
    if not count:
        return ()
    if kshot is None:
        raise InputError(f"--few-shot {count}: give --kshot FILE, which holds the examples")
    shots = load_kshot(kshot)
    if len(shots) < count:
        raise InputError(f"--few-shot {count}: {kshot} holds only {len(shots)} examples")
    return shots[:count]


def _measured(given: Mapping[str, Any], brought: Mapping[str, str]) -> tuple[Task, EvaluateOptions, ComputeOptions]:
    """Find the task, and how and where it is measured: by its recipe, with the command line over it."""
    name = given["task"]
    if name is None:
        raise InputError("give --task NAME, or --task FILE.yaml for a task of your own")
    task = get_task(name)
    own = name.endswith((".yaml", ".yml"))
    recipe = Recipe(name, base="") if own else find_recipe(name, None, brought)
    recipe = adjusted(recipe, given, MEASURED)
    options = recipe.evaluate
    return task.at(options.dataset, options.config), options, recipe.compute


def _table(found: Mapping[str, Any]) -> Table:
    """Show the model beside its adapters."""
    data, gaps = found["evaluation_set"], {each["method"]: each for each in found["differences"]}
    extra = [name for name in ("acc", "acc_norm") if name in found["evaluations"][0]["details"]]
    title = f"{found['task']}: {len(found['evaluations'][0]['correct'])} problems of {data['repo_id']}"
    columns = ("model", "accuracy", "95 %", *extra, "− bare model", "95 %", "seconds")
    table = new_table(title, *columns, numbers=range(1, len(columns)))
    for each in found["evaluations"]:
        gap = gaps.get(each["method"])
        table.add_row(
            escape(each["method"]), *_share(each), *(" ".join(_share(each["details"][name])) for name in extra),
            f"{gap['difference']:+.1%} ± {gap['standard_error']:.1%}" if gap else "",
            f"{100 * gap['low']:+.1f} to {100 * gap['high']:+.1f}" if gap else "", f"{each['seconds']:.1f}",
        )  # fmt: skip
    asked = "in its chat template" if found["chat_template"] else "as a base model"
    table.caption = f"split {data['split']} at {data['revision'][:12]}, {found['options']['scoring']}, asked {asked}"
    return table


def _share(measured: Mapping[str, Any]) -> tuple[str, str]:
    """Write an accuracy and its interval."""
    return f"{measured['accuracy']:.1%}", f"{100 * measured['low']:.1f} to {100 * measured['high']:.1f}"


@click.command()
@click.argument("adapter")
@shared("hub")
@click.option("--task", required=True, help="Task whose prompt the examples are put into.")
@file("--kshot", "Examples to average the gates over.", required=True)
@file("--out", "Folder of the plain LoRA.", required=True)
@click.option("--rank", type=click.IntRange(1), help="Cut every module to this rank; default: keep everything.")
def collapse_command(adapter: str, hub: str | None, task: str, kshot: Path, out: Path, rank: int | None) -> None:
    """Turn ADAPTER, a folder or a repository id, into one plain LoRA that any PEFT loads.

    Every expert is held at its mean gate weight over one half of the examples; the loss of what is written is measured
    on the other.
    """
    found = get_task(task)
    texts = [example.prompt + example.completion for example in map(found.example, load_kshot(kshot))]
    with connected(hub):
        from huggingface_hub import HfApi
        from peft import PeftConfig

        from rocket_hub.inference.models import load_base
        from rocket_hub.lora.attach import load_adapter
        from rocket_hub.moe.collapsing import collapse_to_lora
        from rocket_hub.pipeline.adapters import find_adapter

        adapter = str(find_adapter(HfApi(), adapter)[1])
        config = PeftConfig.from_pretrained(adapter)
        model, tokenizer = load_base(str(config.base_model_name_or_path), config.revision)
        routed = load_adapter(model, adapter)
        done = collapse_to_lora(routed, tokenizer, texts[::2], out, rank=rank, held_out=texts[1::2] or None)
    click.echo(
        f"{done.path}: rank {done.rank}, {done.energy:.2%} of the energy kept; "
        f"perplexity {done.collapsed_perplexity:.4f} against {done.routed_perplexity:.4f} of the routed adapter "
        f"({done.loss:+.4f} nats per token), over {done.tokens} tokens"
    )
    names = routed.active_peft_config.expert_names or range(len(done.expert_means))
    for name, mean, share in zip(names, done.expert_means, done.expert_shares, strict=True):
        click.echo(f"expert {name}: mean gate {mean:.3f}, weighs most for {share:.1%} of the tokens")
