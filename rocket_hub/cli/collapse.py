"""`rocket-hub collapse`: a routed adapter as one plain LoRA."""

from __future__ import annotations

from pathlib import Path

import click

from rocket_hub.errors import InputError

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
    from rocket_hub.cli.running import quiet_libraries
    from rocket_hub.kshot import load_kshot
    from rocket_hub.localhub import connect
    from rocket_hub.tasks import get_task

    found = get_task(task)
    texts = [example.prompt + example.completion for example in map(found.example, load_kshot(kshot))]
    with connect(hub):
        quiet_libraries()
        from peft import PeftConfig, PeftModel

        from rocket_hub.base_models import load_base
        from rocket_hub.moe.collapse import collapse_to_lora

        adapter = str(_folder(adapter))
        config = PeftConfig.from_pretrained(adapter)
        model, tokenizer = load_base(str(config.base_model_name_or_path), config.revision, "float32")
        routed = PeftModel.from_pretrained(model, adapter)
        done = collapse_to_lora(routed, tokenizer, texts[::2], out, rank=rank, held_out=texts[1::2] or None)
    click.echo(
        f"{done.path}: rank {done.rank}, {done.energy:.2%} of the energy kept; "
        f"perplexity {done.collapsed_perplexity:.4f} against {done.routed_perplexity:.4f} of the routed adapter "
        f"({done.loss:+.4f} nats per token), over {done.tokens} tokens"
    )


def _folder(adapter: str) -> Path:
    """Return the adapter's folder; from the Hub, pinned to its newest commit and checked."""
    if Path(adapter).is_dir():
        if not (Path(adapter) / "adapter_config.json").is_file():
            raise InputError(f"{adapter}: holds no adapter_config.json; give the folder or id of a routed adapter")
        return Path(adapter)
    from huggingface_hub import HfApi

    from rocket_hub.discovery.access.hub import call
    from rocket_hub.pipeline.loading import fetch_adapter

    api = HfApi()
    return fetch_adapter(api, adapter, str(call(adapter, api.model_info, adapter).sha), max_bytes=MAX_BYTES)
