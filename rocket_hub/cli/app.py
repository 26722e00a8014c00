import shlex
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from rocket_hub.errors import InputError

Commands = Mapping[str, tuple[str, str]]  # name -> (where it is below rocket_hub.cli, one line for --help)


class Lazy(click.Group):
    """A group that knows its commands by name alone, and lists them in their order."""

    def __init__(self, *args: Any, lazy: Commands, heading: str = "Commands", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy, self._heading = lazy, heading

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the commands."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import one command."""
        if name not in self._lazy:
            return None
        module, _, attribute = self._lazy[name][0].partition(":")
        command: click.Command = getattr(import_module(f"rocket_hub.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section(self._heading):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])


SELECT = {
    "experts": ("build:experts_command", "Score adapters on the K-shot, and choose the group."),
    "data": ("build:rows_command", "Choose the rows nearest to the K-shot, and draw the map."),
}
GENERATE = {
    "self-specialization": ("generate:self_specialization_command", "The base model makes rows from a few seeds."),
    "meteor": ("generate:meteor_command", "A stronger teacher answers, judges and advises."),
}
MODEL = {
    "search": ("discover:adapters_command", "List LoRA adapters that fit a base model, and why the rest do not."),
    "train": ("models:train_command", "Train one plain LoRA expert on a data set, and publish it."),
    "evaluate": ("models:evaluate_command", "Measure a model, and PEFT adapters on it, on a task."),
    "collapse": ("models:collapse_command", "Turn a routed adapter into one plain LoRA, with the measured loss."),
}
DATA = {
    "search": ("discover:datasets_command", "List instruction data that can be read, and why the rest cannot."),
    "push": ("generate:push_command", "Publish generated rows as a data set with a card."),
}
HUB = {
    "serve": ("app:serve_command", "Serve a folder, or the demo Hub, on this machine."),
    "import": ("app:import_command", "Copy a folder of repositories into a Hub."),
}
COMMANDS = {
    "build": ("build:build_command", "Build an adapter for a task: every stage below, in order."),
    "discover": ("build:discover_command", "Stage 1: find adapters and data on the Hub that fit."),
    "generate": ("app:generate_command", "Make rows for a task without a build: by the base model, or with a teacher."),
    "select": ("app:select_command", "Stages 2 and 3: let the K-shot choose: `select experts`, `select data`."),
    "merge": ("build:merge_command", "Stage 4: merge the chosen experts into one routed adapter."),
    "train": ("build:train_command", "Stage 5: fine-tune it on the K-shot and the chosen rows."),
    "evaluate": ("build:evaluate_command", "Stage 6: measure it and its controls."),
    "push": ("build:push_command", "Stage 7: publish it with its card."),
    "model": ("app:model_command", "One model without a build: `search`, `train`, `evaluate`, `collapse`."),
    "data": ("app:data_command", "Data without a build: `search`, `push`."),
    "hub": ("app:hub_command", "A small Hub in a folder: `serve`, `import`."),
}


select_command = Lazy("select", lazy=SELECT, help="Let the K-shot choose among adapters and among rows of data.")
generate_command = Lazy("generate", lazy=GENERATE, help="Make rows for a task without a build.")
model_command = Lazy("model", lazy=MODEL, help="Find, train, measure or collapse one model, without a build.")
data_command = Lazy("data", lazy=DATA, help="Find data on the Hub, or publish generated rows, without a build.")
hub_command = Lazy("hub", lazy=HUB, help="Serve and fill a small Hub in a folder; HTTP on this machine only.")


@click.group(
    cls=Lazy, lazy=COMMANDS, heading="Commands, in order", context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="rocket-hub", prog_name="rocket-hub")
def cli() -> None:
    """From K verified examples of a task to a published mixture of LoRA experts.

    \b
    Try it offline:  rocket-hub build --hub demo --task gsm8k --kshot recipes/demo/kshot.jsonl
    """  # noqa: D301


@click.command()
@click.argument("folder")
@click.option("--port", type=int, default=8765, show_default=True, help="Port on 127.0.0.1; 0 = any free one.")
def serve_command(folder: str, port: int) -> None:
    """Serve FOLDER, a store or a folder of repositories, or `demo`; stops with Ctrl-C."""
    from rocket_hub.localhub import LocalHub, local_place

    place = local_place(folder)
    hub = LocalHub(place.store, port)
    click.echo(f"serving {folder} at {hub.url}; stop it with Ctrl-C. In another shell:")
    click.echo(f"  export HF_ENDPOINT={hub.url} HF_HOME={place.home} HF_TOKEN=hf_local HF_HUB_DISABLE_XET=1")
    hub.serve_forever()


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--store", type=click.Path(path_type=Path), required=True, help="Folder of the Hub; made if missing.")
def import_command(folder: Path, store: Path) -> None:
    """Copy FOLDER (models/<namespace>/<name>/..., datasets/<namespace>/<name>/...) into a Hub."""
    from rocket_hub.localhub import LocalHub

    imported = LocalHub(store).import_tree(folder)
    click.echo(f"{store}: holds the {len(imported)} repositories of {folder}")


RENAMED = {  # old spelling -> new one
    "collapse": "model collapse ADAPTER",
    "discover adapters": "model search",
    "discover datasets": "data search",
    "evaluate --adapter": "model evaluate --adapter ID",
    "evaluate --model": "model evaluate MODEL",
    "push --dataset": "data push FOLDER",
    "select instructions": "select data",
    "train --dataset": "model train DATA",
}
BUILD = {  # an option that is gone -> the option of the recipe
    "--budget": "experts.budget",
    "--diversity": "experts.diversity",
    "--gate-grid": "merge.gate_start=[{}]",
    "--generate": "generation.method",
    "--ignore-verdict": "experts.follow_verdict=false",
    "--max-adapters": "discover.max_adapters",
    "--max-tokens": "instructions.max_tokens",
    "--num-experts": "experts.num_experts",
    "--selector": "experts.selector",
    "--similarity": "instructions.similarity",
    "--threshold": "instructions.threshold",
}
SELF_SPECIALIZATION = {
    "--encoder": "instructions.encoder",
    "--max-steps": "train.max_steps",
    "--no-filters": "generation.self_specialization.filtered=false",
    **{f"--{name.replace('_', '-')}": f"generation.self_specialization.{name}" for name in (
        "passages", "retrieval", "max_prompts", "rounds", "novelty", "novelty_by", "votes", "max_new_tokens",
        "batch_size")},
}  # fmt: skip
METEOR = {
    "--no-guideline": "generation.meteor.guideline=false",
    **{f"--{name.replace('_', '-')}": f"generation.meteor.{name}" for name in (
        "rounds", "collect", "max_new_tokens", "learning_rate", "epochs", "beams", "batch_size", "rank")},
}  # fmt: skip
GONE = {
    **dict.fromkeys(("build", "discover", "select", "merge", "train", "evaluate", "push"), BUILD),
    "generate self-specialization": SELF_SPECIALIZATION,
    "generate meteor": METEOR,
}


def refuse_old_spelling(arguments: Sequence[str]) -> None:
    """Say the new spelling of a command or an option that was renamed."""
    command, pair = " ".join(arguments[:1]), " ".join(arguments[:2])
    words = [word.partition("=")[0] for word in arguments]
    spelled = {command, pair, *(f"{command} {word}" for word in words if word.startswith("-"))}
    for old in spelled & RENAMED.keys():
        raise InputError(f"`rocket-hub {old}` is now `rocket-hub {RENAMED[old]}`")
    gone = GONE.get(command) or GONE.get(pair, {})
    for position, word in enumerate(words):
        if word in gone:
            raise InputError(_new_option(gone[word], *arguments[position : position + 2]))


def _new_option(key: str, option: str, following: str = "VALUE") -> str:
    """Say how an option is given that has no name of its own any more; `{}` in its key stands for the value."""
    name, equals, value = option.partition("=")
    key, _, form = key.partition("=")
    if form and "{}" not in form:  # a flag
        return f"{name}: use -o {key}={form}"
    value = value if equals else following
    setting = f"{key}={(form or '{}').format(value.replace('-', '_') if name == '--generate' else value)}"
    return f"{name} {value}: use -o {shlex.quote(setting) if ' ' in setting else setting}"
