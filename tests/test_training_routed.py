"""What training does with a routed adapter: schedules, learning rates, records."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM

from rocket_hub.errors import RecipeError
from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.merging import merge_experts
from rocket_hub.moe.model import quantization_of
from rocket_hub.options import TrainOptions
from rocket_hub.records import Example
from rocket_hub.training import _optimizer, _prepare, _trainer, _two_stages, train_expert

ROWS = [Example(f"what is {n} plus 2 ?", f" the answer is {n + 2} .", f"row-{n}") for n in range(1, 5)]


@pytest.fixture
def merged(tiny_model, lora_bank, tmp_path):
    return merge_experts(lora_bank[:2], tmp_path / "merged", base_model=str(tiny_model))


def world(tiny_model):
    return LlamaForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)


def options(schedule, steps=4, **more) -> TrainOptions:
    return TrainOptions(learning_rate=(0.01,), max_steps=steps, batch_size=2, schedule=schedule, **more)


def changed(before, after) -> dict[str, bool]:
    """Tell for routers and experts whether any of them moved."""
    old, new = (load_file(folder / "adapter_model.safetensors") for folder in (before, after))
    moved = {key for key in old if not torch.equal(old[key], new[key])}
    return {part: any(f"rocket_moe_{part}" in key for key in moved) for part in ("router", "A", "B")}


@pytest.mark.parametrize(("schedule", "experts"), [("joint", True), ("router_only", False), ("two_stage", True)])
def test_schedules_train_what_they_say(tiny_model, merged, tmp_path, schedule, experts):
    base, tokenizer = world(tiny_model)
    done = train_expert(base, tokenizer, merged, ROWS, options(schedule), tmp_path / "out")
    assert changed(merged, tmp_path / "out") == {"router": True, "A": experts, "B": experts}
    assert done.steps == 4 and done.loss > 0
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_quantization"] is None and config["train_experts"] is True


def test_experts_wait_for_the_routers(tiny_model, merged, tmp_path):
    """One step of eight is in the first quarter: until it is over, only the routers move."""
    base, tokenizer = world(tiny_model)
    model = PeftModel.from_pretrained(base, merged, is_trainable=True)
    settings = options("two_stage", steps=8)
    trainer = _trainer(model, tokenizer, ROWS, settings, tmp_path / "out", 0.01, 0, None)
    trainer.args.max_steps = 2
    trainer.train()
    model.save_pretrained(tmp_path / "early")
    assert changed(merged, tmp_path / "early") == {"router": True, "A": False, "B": False}


@pytest.mark.parametrize(("schedule", "stop"), [("router_only", 3), ("two_stage", 3), ("two_stage", 7)])
def test_a_stopped_schedule_ends_like_a_straight_one(tiny_model, merged, tmp_path, schedule, stop):
    """Stopped at the first checkpoint, where the routers' stage ends, or at the last one."""
    base, tokenizer = world(tiny_model)
    settings = options(schedule, steps=8)
    steps = []

    def until(last):
        def progress(step, of, loss):
            steps.append(step)
            if step == last:
                raise KeyboardInterrupt

        return progress

    straight = train_expert(base, tokenizer, merged, ROWS, settings, tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        train_expert(base, tokenizer, merged, ROWS, settings, tmp_path / "out", progress=until(stop))
    resumed = train_expert(base, tokenizer, merged, ROWS, settings, tmp_path / "out", progress=until(None))
    assert steps == [*range(1, stop + 1), *range(stop, 9)]
    assert changed(tmp_path / "straight", tmp_path / "out") == {"router": False, "A": False, "B": False}
    assert changed(merged, tmp_path / "out")["B"] == (schedule == "two_stage")
    assert resumed.loss == straight.loss


def test_each_stage_warms_up_and_falls():
    model = torch.nn.ModuleDict({"x": torch.nn.Linear(2, 2)})
    settings = options("two_stage", steps=40)
    optimizer = torch.optim.SGD(
        [
            {"params": [model["x"].weight], "lr": 1.0, "routers": False},
            {"params": [model["x"].bias], "lr": 0.1, "routers": True},
        ]
    )
    schedule, rates = _two_stages(optimizer, settings), []
    for _ in range(40):
        rates.append(schedule.get_last_lr())
        optimizer.step()
        schedule.step()
    experts, routers = zip(*rates, strict=True)
    assert experts[:11] == (0,) * 11 and experts[11] > 0 and max(experts) == 1.0 == experts[13]
    assert routers[0] == 0 and max(routers) == routers[4] == 0.1
    assert experts[-1] < 0.01 and routers[-1] < 0.001
    assert list(experts[13:]) == sorted(experts[13:], reverse=True)


def test_routers_have_their_own_rate(tiny_model, merged):
    base, _ = world(tiny_model)
    model = PeftModel.from_pretrained(base, merged, is_trainable=True)
    groups = _optimizer(model, options("joint", router_learning_rate_ratio=0.25), 0.01).param_groups
    assert [(group["lr"], group["routers"]) for group in groups] == [(0.01, False), (0.0025, True)]
    _prepare(model, options("router_only"))
    (group,) = _optimizer(model, options("router_only"), 0.01).param_groups
    assert (group["lr"], group["routers"]) == (0.01, True), "there is nothing that they could be a share of"
    model.set_adapter("default")
    assert not any(p.requires_grad for n, p in model.named_parameters() if "rocket_moe_A" in n)


def test_auxiliary_losses_are_in_the_log(tiny_model, merged, tmp_path):
    path = merged / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "load_balance_coef": 0.1}))
    base, tokenizer = world(tiny_model)
    model = PeftModel.from_pretrained(base, merged, is_trainable=True)
    trainer = _trainer(model, tokenizer, ROWS, options("joint", steps=2), tmp_path / "out", 0.01, 0, None)
    trainer.train()
    assert trainer.state.log_history[0]["load_balance_loss"] == pytest.approx(1, abs=0.1)


def test_other_adapters_ignore_the_schedule(tiny_model, lora_bank, tmp_path):
    base, tokenizer = world(tiny_model)
    done = train_expert(base, tokenizer, lora_bank[0], ROWS, options("router_only", steps=2), tmp_path / "out")
    assert done.steps == 2
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (lora_bank[0], tmp_path / "out"))
    assert all(not torch.equal(before[key], after[key]) for key in before)


def test_unknown_schedule(tiny_model, merged, tmp_path):
    base, tokenizer = world(tiny_model)
    with pytest.raises(RecipeError, match=r"train\.schedule: expected one of joint, router_only, two_stage"):
        train_expert(base, tokenizer, merged, ROWS, options("routers"), tmp_path / "out")
    assert not (tmp_path / "out").exists() and quantization_of(base) is None and RocketMoeConfig().gate == "sigmoid"
