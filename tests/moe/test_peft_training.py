"""Training with TRL, by either route and after an interruption; and on two ranks, under torchrun."""

import json
import os
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from routing_world import sft_trainer
from torch import nn
from transformers import TrainerCallback

from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.gates import collect_gates
from rocket_hub.moe.router import router_parameters
from tests.helping import ROOT, run


@pytest.fixture
def train(tokenizer, tmp_path):
    """Train for four steps, with a checkpoint after two, and return the trainer."""
    rows = [{"prompt": f"what is {n} plus 2 ?", "completion": f" the answer is {n + 2} ."} for n in range(8)]
    options = {"max_steps": 4, "save_steps": 2, "learning_rate": 0.02, "per_device_train_batch_size": 2}
    # TRL's default sets the deprecated name of the last option
    options |= {"logging_steps": 1, "activation_checkpointing": True}

    def train(model, folder="run", resume=None, **arguments):
        trainer = sft_trainer(model, tokenizer, rows, tmp_path / folder, **arguments, **options)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return train


class StartAlike(TrainerCallback):
    """Give the adapter the same weights, wherever it was made."""

    def on_train_begin(self, args, state, control, model, **kwargs):
        torch.manual_seed(7)
        for _, parameter in sorted((n, p) for n, p in model.named_parameters() if p.requires_grad):
            nn.init.normal_(parameter, std=0.3)


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def trained(trainer):
    return {name: p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad}


def test_both_routes_into_sft_trainer_are_the_same(fresh_base, train):
    config = RocketMoeConfig(target_modules="all-linear", expert_ranks=[2, 3], task_type="CAUSAL_LM")
    given = train(fresh_base(), peft_config=config, callbacks=[StartAlike()])
    made = train(get_peft_model(fresh_base(), config), callbacks=[StartAlike()])
    assert len(losses(given)) == 4 and losses(given)[-1] < losses(given)[0]
    assert losses(given) == losses(made)
    assert trained(given).keys() == trained(made).keys()
    assert all(torch.equal(weight, trained(made)[name]) for name, weight in trained(given).items())


def test_training_resumes_where_it_stopped(fresh_base, routed, train, tmp_path):
    model = PeftModel.from_pretrained(fresh_base(), routed, is_trainable=True)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    whole = train(model)
    changed = {name for name, p in whole.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if "rocket_moe_" in name}
    again = train(
        PeftModel.from_pretrained(fresh_base(), routed, is_trainable=True), "again", tmp_path / "run" / "checkpoint-2"
    )
    assert losses(again) == losses(whole)
    assert all(torch.equal(weight, trained(again)[name]) for name, weight in trained(whole).items())
    last = PeftModel.from_pretrained(fresh_base(), tmp_path / "run" / "checkpoint-4")
    saved = {name: p for name, p in last.named_parameters() if "rocket_moe_" in name}
    assert all(torch.equal(weight, saved[name]) for name, weight in trained(whole).items())


@pytest.fixture(scope="module")
def idle(tiny_model, tmp_path_factory):
    """Folder of a routed adapter with one expert per token, always the same: the others get none."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    config = RocketMoeConfig(target_modules=["q_proj", "down_proj"], expert_ranks=[2, 2, 2], top_k=1)
    model = get_peft_model(LlamaForCausalLM.from_pretrained(tiny_model), config)
    for name, parameter in model.named_parameters():
        if "rocket_moe_B" in name:
            nn.init.normal_(parameter, std=0.3)
    for _, router in router_parameters(model):
        nn.init.zeros_(router)
    with collect_gates(model) as recorder:
        model(input_ids=torch.arange(4, 20)[None])
    assert all((mean > 0).sum() == 1 for mean in recorder.means().values())
    folder = tmp_path_factory.mktemp("idle")
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def two_ranks(tiny_model, routed, idle, tmp_path_factory):
    """What `two_ranks.py` found."""
    folder = tmp_path_factory.mktemp("two-ranks")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = Path(__file__).with_name("two_ranks.py")
    alone = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run(*launch, script, tiny_model, routed, idle, folder, env=os.environ | alone)
    return json.loads((folder / "found.json").read_text())


def test_sft_trainer_on_two_ranks(two_ranks):
    assert two_ranks["trainer"] == 0.0


@pytest.mark.parametrize("case", ["ddp", "ddp_idle"])
def test_ddp_equals_one_process_even_if_an_expert_gets_no_token(two_ranks, case):
    assert two_ranks[case]["ranks"] == 0.0
    assert two_ranks[case]["alone"] < 1e-6


def test_ddp_averages_the_injected_gradients(two_ranks):
    assert two_ranks["losses"] < 1e-6


def test_fsdp_equals_one_process(two_ranks):
    assert two_ranks["fsdp"]["ranks"] == 0.0
    assert two_ranks["fsdp"]["alone"] < 1e-6 < two_ranks["fsdp"]["moved"]
