"""What tests of the adapter type do again and again: adapters that do something, logits, a short training."""

import torch
from torch import nn

from rocket_hub.moe.config import RocketMoeConfig

QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "bf16": False}


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def fresh_config(**options) -> RocketMoeConfig:
    return RocketMoeConfig(**{"target_modules": ["q_proj", "down_proj"], "expert_ranks": [2, 3], **options})


def randomised(model, seed=2):
    """Move every trainable weight away from its start, so that the adapter does something."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    return model


def sft_trainer(model, tokenizer, rows, folder, callbacks=(), peft_config=None, **options):
    """Set up TRL's trainer over prompts and completions, on the CPU and without a word."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    return SFTTrainer(
        model=model, args=SFTConfig(output_dir=str(folder), **{**QUIET, **options}),
        train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=list(callbacks),
        peft_config=peft_config,
    )  # fmt: skip
