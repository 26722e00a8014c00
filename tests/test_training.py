"""Training: what moves, how fast, what is given back, and what an interrupted run costs."""

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from transformers import TrainingArguments

from rocket_hub import training
from rocket_hub.errors import InputError, RecipeError, StorageError
from rocket_hub.inference import completion_nll
from rocket_hub.inference.models import load_base
from rocket_hub.lora.attach import write_fresh
from rocket_hub.moe.merging import merge_experts
from rocket_hub.moe.model import quantization_of
from rocket_hub.options import TrainOptions
from rocket_hub.records import Example
from rocket_hub.results import Training
from rocket_hub.training import _optimizer, _prepare, _trainer, _two_stages, row_order, train_expert

ROWS = [
    Example(f"question what is {a} plus {b} ?", f" the answer #### {a + b}", str(a + b))
    for a in range(5)
    for b in range(5)
    if a + b < 10
]
RATE = 1e-2
OPTIONS = TrainOptions(learning_rate=(RATE,), max_steps=8, batch_size=8, max_length=32)


@pytest.fixture
def base(tiny_model):
    return load_base(str(tiny_model), None)[0]


@pytest.fixture(scope="module")
def plain(tiny_model, tmp_path_factory):
    """A new LoRA: it changes nothing yet."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "up_proj"], task_type="CAUSAL_LM")
    return write_fresh(load_base(str(tiny_model), None)[0], config, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def routed(tiny_model, lora_bank, tmp_path_factory):
    return merge_experts(lora_bank[:2], tmp_path_factory.mktemp("routed"), base_model=str(tiny_model))


Train = Callable[..., Training]


@pytest.fixture
def train(base, tokenizer, tmp_path):
    """Train in a folder below `tmp_path`; options by name go over `OPTIONS`."""

    def train(start, folder="out", rows=ROWS, *, given=None, **options):
        return train_expert(
            base, tokenizer, start, rows, replace(OPTIONS, **options), tmp_path / folder, **(given or {})
        )

    return train


def weights(adapter):
    return load_file(Path(adapter) / "adapter_model.safetensors")


def moved(before, after, part):
    """How far the weights of one kind moved at most."""
    one, other = weights(before), weights(after)
    assert one.keys() == other.keys()
    return max(float((other[key] - one[key]).abs().max()) for key in one if part in key)


def what_moved(before, after):
    """Tell for routers and experts whether any of them moved."""
    return {part: moved(before, after, f"rocket_moe_{part}") > 0 for part in ("router", "A", "B")}


def nll(base, tokenizer, adapter):
    """Loss per completion token on the rows, as training defines it."""
    model = PeftModel.from_pretrained(base, str(adapter))
    sums, tokens = completion_nll(model, tokenizer, [(row.prompt, row.completion) for row in ROWS])
    model.unload()
    return float(sums.sum() / tokens.sum())


def picture(model):
    """Everything about a model that a training could leave changed."""
    return {
        "modules": {name: (type(module), module.training) for name, module in model.named_modules()},
        "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "hooks": {name: len(m._forward_hooks) + len(m._forward_pre_hooks) for name, m in model.named_modules()},
        "config": model.config.to_dict(),
        "generation": model.generation_config.to_dict(),
    }


def assert_same(one, other):
    assert one["weights"].keys() == other["weights"].keys()
    assert all(torch.equal(tensor, other["weights"][name]) for name, tensor in one["weights"].items())
    changed = {
        f"{part}.{key}": (before, other[part].get(key))
        for part in ("hooks", "modules", "config", "generation")
        for key, before in one[part].items()
        if other[part].get(key) != before
    }
    assert changed == {}


@pytest.mark.parametrize("kind", ["plain", "routed"])
def test_the_loss_falls(kind, base, tokenizer, train, request):
    start = request.getfixturevalue(kind)
    at_first = nll(base, tokenizer, start)
    steps = []
    given = {"progress": lambda step, of, _: steps.append((step, of))}
    done = train(start, given=given, learning_rate=(5 * RATE,), max_steps=30)
    assert nll(base, tokenizer, done.adapter) < at_first - 0.1  # the head is frozen, so there is not far to fall
    assert steps == [(step, 30) for step in range(1, 31)]
    assert (Path(done.adapter).name, done.learning_rate, done.steps) == ("out", 5 * RATE, 30)
    assert done.loss < at_first
    assert done.seconds > 0
    assert not list(Path(done.adapter).glob("checkpoint-*"))


def test_only_the_completion_is_learned(base, tokenizer, plain, train):
    # One step over all rows: the loss is the mean over completion and end-of-sequence tokens, none of the prompt's.
    expected = nll(base, tokenizer, plain)
    assert train(plain, max_steps=1, batch_size=len(ROWS)).loss == pytest.approx(expected, rel=1e-4)
    assert completion_nll(base, tokenizer, [("", row.completion) for row in ROWS])[1].sum() > 2 * len(ROWS)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 1.0])
def test_routers_learn_at_their_own_rate(ratio, routed, train):
    # Two steps of a cosine, at 1 and at 1/2 of the rate: a weight whose gradient keeps its sign moves by 1.5 of it.
    done = train(routed, router_learning_rate_ratio=ratio, max_steps=2)
    assert moved(routed, done.adapter, "rocket_moe_router") == pytest.approx(1.5 * RATE * ratio, rel=0.2)
    assert moved(routed, done.adapter, "rocket_moe_B") == pytest.approx(1.5 * RATE, rel=0.2)


def test_the_given_rate_is_used(plain, train):
    done = train(plain, given={"learning_rate": 0.02}, learning_rate=(1e-5,), max_steps=2)
    assert done.learning_rate == 0.02
    assert moved(plain, done.adapter, "lora_B") == pytest.approx(1.5 * 0.02, rel=0.2)


def test_frozen_experts_stay_and_their_routers_learn(lora_bank, tiny_model, train, tmp_path):
    start = merge_experts(lora_bank[:2], tmp_path / "start", base_model=str(tiny_model), train_experts=False)
    assert what_moved(start, train(start).adapter) == {"router": True, "A": False, "B": False}


def test_the_seed_decides(plain, train):
    runs = [train(plain, f"{number}", given={"seed": seed}) for number, seed in enumerate((0, 0, 1))]
    one, same, other = (weights(run.adapter) for run in runs)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(("schedule", "experts"), [("joint", True), ("router_only", False), ("two_stage", True)])
def test_schedules_train_what_they_say(schedule, experts, routed, train):
    done = train(routed, schedule=schedule, max_steps=4)
    assert what_moved(routed, done.adapter) == {"router": True, "A": experts, "B": experts}
    assert done.steps == 4 and done.loss > 0
    config = json.loads((Path(done.adapter) / "adapter_config.json").read_text())
    assert config["base_quantization"] is None and config["train_experts"] is True


def stopped_at(last, steps):
    """Note the steps, and stop in one of them as Ctrl-C does."""

    def progress(step, of, loss):
        steps.append(step)
        if step == last:
            raise KeyboardInterrupt

    return {"progress": progress}


@pytest.mark.parametrize(
    ("schedule", "stop", "torn"),
    [("joint", 7, False), ("joint", 7, True), ("router_only", 3, False), ("two_stage", 3, False),
     ("two_stage", 7, False)],
)  # fmt: skip
def test_a_stopped_training_goes_on_and_ends_like_a_straight_one(schedule, stop, torn, routed, train, tmp_path):
    """Stopped at the first checkpoint, where the routers' stage ends, or at the last one."""
    steps = []
    straight = train(routed, "straight", schedule=schedule)
    with pytest.raises(KeyboardInterrupt):
        train(routed, given=stopped_at(stop, steps), schedule=schedule)
    if torn:  # the machine went down while the next checkpoint was written
        (tmp_path / "out" / "checkpoint-8").mkdir()
        (tmp_path / "out" / "checkpoint-8" / "adapter_config.json").write_text("{")
    resumed = train(routed, given=stopped_at(None, steps), schedule=schedule)
    assert steps == [*range(1, stop + 1), *range(stop, 9)]
    assert moved(straight.adapter, resumed.adapter, "") < 1e-6
    assert (moved(routed, resumed.adapter, "rocket_moe_B") > 0) == (schedule != "router_only")
    assert resumed.loss == pytest.approx(straight.loss, rel=1e-6)
    assert not list((tmp_path / "out").glob("checkpoint-*"))


@pytest.mark.parametrize("stop", [None, 3], ids=["finished", "stopped"])
def test_the_base_comes_back_unchanged(stop, base, routed, train):
    before = picture(base)
    with suppress(KeyboardInterrupt):
        train(routed, given=stopped_at(stop, []))
    assert_same(picture(base), before)


def test_an_unwritable_output(base, plain, train, tmp_path):
    before = picture(base)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file.*cannot save.*free some space"):
        train(plain, "file/out")
    assert_same(picture(base), before)


def test_an_unknown_schedule_is_refused_before_anything_is_written(base, routed, train, tmp_path):
    with pytest.raises(RecipeError, match=r"train\.schedule: expected one of joint, router_only, two_stage"):
        train(routed, schedule="routers")
    assert not (tmp_path / "out").exists() and quantization_of(base) is None


def test_other_adapters_ignore_the_schedule(lora_bank, train):
    done = train(lora_bank[0], schedule="router_only", max_steps=2)
    before, after = weights(lora_bank[0]), weights(done.adapter)
    assert all(not torch.equal(before[key], after[key]) for key in before)


def test_experts_wait_for_the_routers(base, tokenizer, routed, tmp_path):
    """One step of eight is in the first quarter: until it is over, only the routers move."""
    model = PeftModel.from_pretrained(base, routed, is_trainable=True)
    settings = replace(OPTIONS, schedule="two_stage")
    trainer = _trainer(model, tokenizer, ROWS, settings, tmp_path / "out", 0.01, 0, None)
    trainer.args.max_steps = 2
    trainer.train()
    model.save_pretrained(tmp_path / "early")
    assert what_moved(routed, tmp_path / "early") == {"router": True, "A": False, "B": False}


def test_each_stage_warms_up_and_falls():
    layer, settings = torch.nn.Linear(2, 2), replace(OPTIONS, schedule="two_stage", max_steps=40)
    parts = ((layer.weight, 1.0, False), (layer.bias, 0.1, True))
    groups = [{"params": [part], "lr": rate, "routers": routers} for part, rate, routers in parts]
    optimizer = torch.optim.SGD(groups)
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


def test_routers_have_their_own_rate(base, routed):
    model = PeftModel.from_pretrained(base, routed, is_trainable=True)
    groups = _optimizer(model, replace(OPTIONS, router_learning_rate_ratio=0.25), 0.01).param_groups
    assert [(group["lr"], group["routers"]) for group in groups] == [(0.01, False), (0.0025, True)]
    alone = replace(OPTIONS, schedule="router_only")
    _prepare(model, alone)
    (group,) = _optimizer(model, alone, 0.01).param_groups
    assert (group["lr"], group["routers"]) == (0.01, True), "there is nothing that they could be a share of"
    model.set_adapter("default")
    assert not any(p.requires_grad for n, p in model.named_parameters() if "rocket_moe_A" in n)


def test_auxiliary_losses_are_in_the_log(base, tokenizer, tiny_model, lora_bank, tmp_path):
    merged = merge_experts(lora_bank[:2], tmp_path / "merged", base_model=str(tiny_model))
    path = merged / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "load_balance_coef": 0.1}))
    model = PeftModel.from_pretrained(base, merged, is_trainable=True)
    settings = replace(OPTIONS, max_steps=2)
    trainer = _trainer(model, tokenizer, ROWS, settings, tmp_path / "out", 0.01, 0, None)
    trainer.train()
    assert trainer.state.log_history[0]["load_balance_loss"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("options", [{"micro_batch_size": 2}, {"gradient_checkpointing": True}])
def test_less_memory_trains_the_same(options, routed, train, base):
    before = picture(base)
    whole, parts = weights(train(routed, "whole").adapter), weights(train(routed, "parts", **options).adapter)
    assert_same(before, picture(base))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=1e-4)


def test_rows_are_grouped_by_length_where_it_is_asked_for(plain, train, monkeypatch):
    asked = []
    monkeypatch.setattr(training, "row_order", lambda *given: asked.append(given) or row_order(*given))
    train(plain, "random")
    train(plain, "grouped", group_by_length=True)
    monkeypatch.setattr(training, "LARGE", 10)
    train(plain, "large", gradient_checkpointing=False)
    assert [(len(lengths), *rest) for lengths, *rest in asked] == [(len(ROWS), 8, 8, 0)] * 2


def test_a_training_that_does_not_fit_goes_on_with_fewer_rows_at_once(plain, train, base):
    run, seen = base.model.forward, []

    def forward(*args, **kwargs):
        seen.append(len(kwargs["input_ids"]))
        if seen[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return run(*args, **kwargs)

    whole = weights(train(plain, "whole").adapter)
    base.model.forward = forward
    parts = weights(train(plain, "parts").adapter)
    assert (seen[0], seen[1]) == (8, 4) and set(seen[2:]) <= {1, 2} and sum(seen[2:]) == 2 * len(ROWS)
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=1e-4)


def test_two_visible_gpus_are_no_data_parallel(plain, train, monkeypatch):
    made = TrainingArguments.__post_init__

    def with_two_gpus(self):
        made(self)
        self._n_gpu = 2

    monkeypatch.setattr(TrainingArguments, "__post_init__", with_two_gpus)
    assert train(plain, max_steps=1).steps == 1


@pytest.mark.parametrize(("rows", "size"), [(1000, 16), (50, 16), (5, 16)])
def test_rows_of_one_length_are_trained_together_and_none_is_left_out(rows, size):
    lengths = np.random.default_rng(0).lognormal(4, 0.7, rows).astype(int).tolist()
    steps = 3 * rows // size + 1
    order = row_order(lengths, size, steps, 0)
    assert order == row_order(lengths, size, steps, 0) != row_order(lengths, size, steps, 1)
    assert len(order) == steps * size
    counts = np.bincount(order, minlength=rows)
    assert counts.max() - counts.min() <= (2 if rows > size else 1 + steps)
    if rows == 1000:
        groups = [[lengths[i] for i in order[at : at + size]] for at in range(0, len(order), size)]
        assert sum(max(group) * size for group in groups) / sum(map(sum, groups)) < 1.1
        means = [float(np.mean(group)) for group in groups]
        assert means[:62] not in (sorted(means[:62]), sorted(means[:62], reverse=True))  # no curriculum of lengths


def test_a_state_in_8_bits_needs_bitsandbytes(plain, train):
    if find_spec("bitsandbytes") is None:
        with pytest.raises(InputError, match=r"train.optimizer: adamw_8bit needs bitsandbytes"):
            train(plain, optimizer="adamw_8bit")
