"""`rocket-hub evaluate`: measure plain models and PEFT adapters on a task; or stage 6 of a build."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rocket_hub.cli.options import adjusted, expert_options, find_recipe, recipe_options
from rocket_hub.errors import InputError
from rocket_hub.options import EvaluateOptions

if TYPE_CHECKING:
    from rich.table import Table

    from rocket_hub.records import Example
    from rocket_hub.tasks import Task


# Options that only say something with --dataset; and those of a build that then say something, too.
EXPERT = ("rank", "alpha", "targets", "batch_size", "max_length", "dtype", "quantize")
TRAIN_SHARED = (
    "hub", "task", "recipe", "base", "out", "seed", "allow_licence", "max_rows", "lr_grid", "max_steps", "push_to",
    "private",
)  # fmt: skip


@click.command()
@recipe_options
@expert_options
@click.pass_context
def train_command(context: click.Context, /, dataset: str | None, **given: Any) -> None:
    """Fine-tune the merged adapter on the K-shot and the chosen rows; earlier stages run first where they must.

    With --dataset instead of --kshot, train one plain LoRA expert on that data and publish it with --push-to.
    """
    if dataset is None and given["kshot"] is None:
        raise InputError("give --kshot FILE to train the merged adapter, or --dataset ID to train an expert")
    asked = [name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    unread = [name for name in asked if (name in EXPERT if dataset is None else name not in (*EXPERT, *TRAIN_SHARED))]
    if unread:
        strange = [f"--{name.replace('_', '-')}" for name in unread]
        what = "the merged adapter: they are" if dataset is None else "an expert: they are not"
        raise InputError(f"{', '.join(strange)} cannot be used to train {what} for --dataset; leave them out")
    if dataset is not None:
        _expert(dataset, given)
    else:
        from rocket_hub.cli.build import run

        run(given, "5-train")


def _expert(dataset: str, given: dict[str, Any]) -> None:
    """Train one expert and publish it."""
    from rocket_hub.cli.build import quiet_libraries
    from rocket_hub.cli.screen import Screen
    from rocket_hub.localhub import connect

    with connect(given["hub"]) as connection:
        recipe = adjusted(find_recipe(given["task"], given["recipe"], dict(connection.recipes)), given)
        recipe = recipe.updated(
            "train", batch_size=given["batch_size"], max_length=given["max_length"], dtype=given["dtype"]
        )
        recipe.check("command line")
        quiet_libraries()
        from huggingface_hub import HfApi

        from rocket_hub.pipeline.standalone import ExpertPlan, make_expert, push_expert

        out = given["out"] or Path("runs") / f"expert-{Path(dataset).name}"
        plan = ExpertPlan(
            dataset,
            rank=given["rank"],
            alpha=given["alpha"] or 2 * given["rank"],
            targets=tuple(given["targets"].split(",")),
            max_rows=given["max_rows"] or ExpertPlan.max_rows,
            quantization=given["quantize"],
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


# Options that say something only when models are measured alone; and those of a build that then also do.
ALONE = (
    "model", "adapter", "dataset", "split", "scoring", "few_shot", "batch_size", "max_new_tokens", "dtype", "json",
)  # fmt: skip
EVALUATE_SHARED = ("hub", "task", "kshot", "max_rows", "eval_rows", "allow_code_execution")


@click.command()
@click.option("--model", metavar="ID|FOLDER", help="Measure this model.")
@click.option("--adapter", multiple=True, metavar="ID|FOLDER", help="And a PEFT adapter on it; may be repeated.")
@click.option("--dataset", metavar="ID", help="Another evaluation set, in the columns of the task's own.")
@click.option("--split", metavar="NAME", help="Its split; default the task's own.")
@click.option("--scoring", type=click.Choice(["generation", "likelihood", "both"]),
              help="What is written, or which option is likeliest; default generation.")  # fmt: skip
@click.option("--few-shot", type=click.IntRange(0), help="Examples of --kshot that stand before every problem.")
@click.option("--batch-size", type=click.IntRange(1), help="Problems at once.")
@click.option("--max-new-tokens", type=click.IntRange(1), help="Longest answer.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--json", type=click.Path(path_type=Path, dir_okay=False),
              help="Write the results here; answers are kept beside it, and not asked again.")  # fmt: skip
@recipe_options
@click.pass_context
def evaluate_command(context: click.Context, /, **given: Any) -> None:
    """Measure a model, and PEFT adapters on it, on a task: --model, --adapter, or both.

    Every adapter is compared with the bare model, problem by problem; --max-rows is the number of problems.

    With --kshot and no model: measure the result of a build and its controls; earlier stages run first where they are
    not done yet.
    """
    alone = bool(given["model"] or given["adapter"])
    asked = [name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    strange = [name for name in asked if (name not in (*ALONE, *EVALUATE_SHARED) if alone else name in ALONE)]
    if strange:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in strange)
        how = "without --model and --adapter" if alone else "with --model or --adapter"
        raise InputError(f"{names}: can be used only {how}")
    if alone:
        _measure(given)
    elif given["kshot"] is None:
        raise InputError("give --model ID or --adapter ID to measure them, or --kshot FILE to measure a build's result")
    else:
        from rocket_hub.cli.build import run

        run({name: value for name, value in given.items() if name not in ALONE}, "6-evaluate")


def _measure(given: Mapping[str, Any]) -> None:
    """Measure models without a build."""
    from rocket_hub.cli.build import quiet_libraries
    from rocket_hub.cli.screen import Screen
    from rocket_hub.localhub import connect
    from rocket_hub.runs import write_json

    shots = _shots(given)
    with connect(given["hub"]) as connection:
        task, options = _what(given, connection.recipes)
        task = task.with_shots([task.example(shot) for shot in shots])
        quiet_libraries()
        from huggingface_hub import HfApi

        from rocket_hub.pipeline.context import check_measurable
        from rocket_hub.pipeline.standalone import measure_models

        check_measurable(task, options)
        screen, report = Screen(), given["json"]
        with screen:
            found = measure_models(
                HfApi(), task, given["model"], given["adapter"], options, dtype=given["dtype"],
                kept=report.with_name(f"{report.stem}-answers") if report else None, reporter=screen,
            )  # fmt: skip
    screen.console.print(_table(found))
    if report:
        write_json(report, found)
        screen.say(f"written to {report}")


def _shots(given: Mapping[str, Any]) -> tuple[Example, ...]:
    """Read the examples that stand before every problem."""
    from rocket_hub.rows.kshot import load_kshot

    count = given["few_shot"] or 0
    if not count:
        return ()
    if given["kshot"] is None:
        raise InputError(f"--few-shot {count}: give --kshot FILE, which holds the examples")
    shots = load_kshot(given["kshot"])
    if len(shots) < count:
        raise InputError(f"--few-shot {count}: {given['kshot']} holds only {len(shots)} examples")
    return shots[:count]


def _what(given: Mapping[str, Any], brought: Mapping[str, str]) -> tuple[Task, EvaluateOptions]:
    """Find the task and how it is measured: by its recipe, with the command line over it."""
    from rocket_hub.tasks import get_task

    name = given["task"]
    if name is None:
        raise InputError("give --task NAME, or --task FILE.yaml for a task of your own")
    task = get_task(name)
    own = name.endswith((".yaml", ".yml"))
    options = EvaluateOptions() if own else find_recipe(name, None, dict(brought)).evaluate
    said = {
        "dataset": given["dataset"], "split": given["split"], "scoring": given["scoring"],
        "few_shot": given["few_shot"], "batch_size": given["batch_size"], "max_new_tokens": given["max_new_tokens"],
        "max_rows": given["eval_rows"] if given["max_rows"] is None else given["max_rows"],
        "allow_code_execution": given["allow_code_execution"] or None,
    }  # fmt: skip
    options = replace(options, **{key: value for key, value in said.items() if value is not None})
    for key in ("max_rows", "batch_size"):
        if (number := getattr(options, key)) is not None and number < 1:
            raise InputError(f"--{key.replace('_', '-')}: expected at least 1, found {number}")
    return task.at(options.dataset, options.config), options


def _table(found: Mapping[str, Any]) -> Table:
    """Show the model beside its adapters."""
    from rich.markup import escape
    from rich.table import Table

    data, gaps = found["evaluation_set"], {each["method"]: each for each in found["differences"]}
    extra = [name for name in ("acc", "acc_norm") if name in found["evaluations"][0]["details"]]
    table = Table(title=f"{found['task']}: {len(found['evaluations'][0]['correct'])} problems of {data['repo_id']}",
                  title_justify="left", title_style="bold")  # fmt: skip
    for column in ("model", "accuracy", "95 %", *extra, "− bare model", "95 %", "seconds"):
        table.add_column(column, justify="left" if column == "model" else "right")
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


MAX_BYTES = 8 * 2**30


@click.command()
@click.argument("adapter")
@click.option("--hub", metavar="demo|FOLDER|URL", help="Which Hub; the real one when left out.")
@click.option("--task", required=True, help="Task whose prompt the examples are put into.")
@click.option("--kshot", type=click.Path(path_type=Path), required=True, help="Examples to average the gates over.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the plain LoRA.")
@click.option(
    "--rank", type=click.IntRange(min=1), help="Cut every module to this rank; everything is kept when left out."
)
def collapse_command(adapter: str, hub: str | None, task: str, kshot: Path, out: Path, rank: int | None) -> None:
    """Turn ADAPTER, a folder or a repository id, into one plain LoRA that any PEFT loads.

    Every expert is held at its mean gate weight over one half of the examples; the loss of what is written is measured
    on the other.
    """
    from rocket_hub.cli.build import quiet_libraries
    from rocket_hub.localhub import connect
    from rocket_hub.rows.kshot import load_kshot
    from rocket_hub.tasks import get_task

    found = get_task(task)
    texts = [example.prompt + example.completion for example in map(found.example, load_kshot(kshot))]
    with connect(hub):
        quiet_libraries()
        from peft import PeftConfig

        from rocket_hub.inference.models import load_base
        from rocket_hub.lora.attach import load_adapter
        from rocket_hub.moe.collapsing import collapse_to_lora

        adapter = str(_folder(adapter))
        config = PeftConfig.from_pretrained(adapter)
        model, tokenizer = load_base(str(config.base_model_name_or_path), config.revision, "float32")
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


def _folder(adapter: str) -> Path:
    """Return the adapter's folder; from the Hub, pinned to its newest commit and checked."""
    if Path(adapter).is_dir():
        if not (Path(adapter) / "adapter_config.json").is_file():
            raise InputError(f"{adapter}: holds no adapter_config.json; give the folder or id of a routed adapter")
        return Path(adapter)
    from huggingface_hub import HfApi

    from rocket_hub.discovery.hub.client import call
    from rocket_hub.pipeline.adapters import fetch_adapter

    api = HfApi()
    return fetch_adapter(api, adapter, str(call(adapter, api.model_info, adapter).sha), max_bytes=MAX_BYTES)
