"""METEOR, stage 3: the model prefers what it finds by a beam search to what it writes greedily; there is no teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rocket_hub.adapting import fingerprint
from rocket_hub.errors import AdapterError
from rocket_hub.generation.learned import Learned
from rocket_hub.generation.weak import Weak, once, read_completion, steps, write
from rocket_hub.generation.writing import Question
from rocket_hub.inference import Search
from rocket_hub.runs import digest


@dataclass(frozen=True)
class Pair:
    """Two completions of one prompt, with what stands between prompt and completion."""

    prompt: str
    chosen: str
    rejected: str


def evolve(weak: Weak, questions: Sequence[Question], adapter: Path, folder: Path) -> Learned:
    """Tune the model to prefer its beam-search answer to its greedy answer, where they differ, by TRL's DPO.

    Nobody says which of them is right: whether this helps has to be measured.

    Args:
        weak: The model, and how it learns.
        questions: What is asked.
        adapter: The adapter that is gone on from, and the reference of DPO.
        folder: The stage's.

    Returns:
        The tuned adapter, the same where there is no pair; counts say how many answers were the same, did not come to
        an end or were not in the task's form.
    """
    options, learned = weak.options, Learned(adapter)
    prompts = [weak.task.prompt(question.text) for question in questions]
    greedy = write(weak, adapter, prompts, options.max_new_tokens)
    beams = write(weak, adapter, prompts, options.max_new_tokens, Search(beams=options.beams))
    pairs = []
    for question, prompt, plain, best in zip(questions, prompts, greedy, beams, strict=True):
        chosen, rejected = best.text.strip(), plain.text.strip()
        if chosen == rejected or not rejected:
            learned.count("same" if rejected else "empty")
        elif not best.ended:  # it would be taught to end where it was cut
            learned.count("unended")
        elif read_completion(weak, question.text, chosen)[1]:
            learned.count("not_in_form")
        else:
            pairs.append(Pair(prompt, weak.task.delimiter + chosen, weak.task.delimiter + rejected))
    learned.count("pairs", len(pairs))
    if pairs:
        inputs = {"pairs": digest([(each.prompt, each.chosen, each.rejected) for each in pairs]), "seed": options.seed,
                  "start": fingerprint(adapter)}  # fmt: skip
        learned.adapter = once(
            folder / "training", inputs, lambda place: prefer(weak, pairs, adapter, place / "adapter")
        )
    return learned


def prefer(weak: Weak, pairs: Sequence[Pair], adapter: Path, output: Path) -> str:
    """Run TRL's DPO over a LoRA, whose reference is a frozen copy that TRL makes of the adapter as it was.

    Args:
        weak: The model; its base is given back unchanged.
        pairs: What is preferred to what.
        adapter: The adapter before.
        output: Folder for the adapter after.

    Returns:
        The name of that folder.

    Raises:
        AdapterError: The adapter is no plain LoRA.
    """
    from peft import PeftModel, PeftType

    mode, use_cache = weak.base.training, weak.base.config.use_cache
    model: Any = PeftModel.from_pretrained(weak.base, str(adapter), is_trainable=True)
    try:
        if model.peft_config["default"].peft_type != PeftType.LORA:
            raise AdapterError("not_lora", f"{adapter}: 'evolved' tunes a plain LoRA; collapse this one first")
        trainer = _trainer(weak, model, pairs, output)
        trainer.train()
        # without the frozen copy, which TRL added under the name "ref"
        model.save_pretrained(str(output), selected_adapters=["default"])
    finally:
        model.unload()
        weak.base.train(mode)
        weak.base.config.use_cache = use_cache
    return output.name


def _trainer(weak: Weak, model: Any, pairs: Sequence[Pair], output: Path) -> Any:
    """Set up TRL's trainer; one reference pass a step, no checkpoints: it is one pass over few pairs."""
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    options, on_gpu = weak.options, torch.cuda.is_available()
    batch_size = min(options.batch_size, len(pairs))
    arguments = DPOConfig(
        output_dir=str(output),
        max_steps=steps(len(pairs), options.evolve_epochs, batch_size),
        per_device_train_batch_size=batch_size,
        learning_rate=options.evolve_learning_rate,
        lr_scheduler_type="cosine",
        beta=options.beta,
        max_length=options.max_length,
        activation_checkpointing=False,
        bf16=on_gpu and str(weak.base.dtype) == "torch.bfloat16",
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=options.seed,
    )
    rows = Dataset.from_list(
        [{"prompt": each.prompt, "chosen": each.chosen, "rejected": each.rejected} for each in pairs]
    )
    trainer = DPOTrainer(model=model, args=arguments, train_dataset=rows, processing_class=weak.tokenizer)
    trainer.remove_callback(PrinterCallback)
    return trainer
