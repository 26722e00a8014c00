import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rocket_hub.controls.methods import ROUTED_FORMS
from rocket_hub.errors import NothingLeftError
from rocket_hub.lora.attach import adapted, copy_adapter
from rocket_hub.moe.collapsing import collapse_to_lora
from rocket_hub.pipeline.card import card, published
from rocket_hub.pipeline.context import Context, evaluation_set
from rocket_hub.pipeline.lock import lock_file, made
from rocket_hub.publishing import STATIC, compute, push_to_hub, verify_reload
from rocket_hub.results import Chosen, Evaluations, Publication, Trained
from rocket_hub.runs import write_json, write_text

RELOADED = 4  # prompts on which the published adapter is compared with the local one
HELD_OUT = 64  # problems on which the loss of the stock-LoRA form is measured


def push(context: Context, chosen: Chosen, trained: Trained, measured: Evaluations) -> Publication:
    """Stage 7: publish the result with its stock-LoRA form and card in one commit; reload it in a fresh process."""
    options = context.recipe.push

    def make(folder: Path) -> Publication:
        content = package(context, chosen, measured, folder / "content")
        where = context.run.relative(content)
        if options.repo_id is None:
            return Publication(None, where)
        commit = push_to_hub(context.api, content, options.repo_id, private=options.private)
        if not options.verify:
            return Publication(options.repo_id, where, commit)
        context.reporter.say("reloading it in a fresh process")
        prompts = [example.prompt for example in context.examples[:RELOADED]]
        computed = compute(*context.base, prompts, content)
        context.release()  # the fresh process has the device, and its memory, to itself
        checked = verify_reload(computed, context.placement, context.pinned, options.repo_id, commit, folder / "reload")
        return Publication(options.repo_id, where, commit, checked)

    before = [chosen.found, chosen.experts, chosen.rows, trained]
    inputs = context.inputs("push", evaluated=measured, before=before, recipe=context.recipe.to_yaml())
    return context.run.stage("7-push", inputs, make, Publication)


def package(context: Context, chosen: Chosen, measured: Evaluations, content: Path) -> Path:
    """Write everything that is published into one folder, from scratch."""
    shutil.rmtree(content, ignore_errors=True)
    method = measured.recommendation.method if context.recipe.push.publish == "best" else made(chosen)
    source = measured.of(method).details.get("adapter")
    if source is None:
        raise NothingLeftError(f"'{method}' is recommended and has no adapter of its own; nothing is published")
    copy_adapter(context.run.absolute(source), content)
    collapse = _static(context, chosen, content) if method in ROUTED_FORMS else None
    write_json(content / "lock.json", lock_file(context, chosen, method))
    write_text(content / "recipe.yaml", published(context.recipe).to_yaml())
    write_text(content / "README.md", card(context, chosen, measured, method, collapse))
    return content


def _static(context: Context, chosen: Chosen, content: Path) -> dict[str, Any]:
    """Write the stock-LoRA form and measure what it costs."""
    problems = evaluation_set(context, chosen.found.evaluation)[:HELD_OUT]
    texts = [example.prompt + example.completion for example in context.examples]
    held_out = [example.prompt + example.completion for example in problems]
    model, tokenizer = context.base
    with adapted(model, content) as routed:
        found = collapse_to_lora(routed, tokenizer, texts, content / STATIC, held_out=held_out)
    return {**asdict(found), "loss": found.loss}
