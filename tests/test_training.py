"""Training: what moves, how fast, what is given back, and what an interrupted run costs."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import PreTrainedModel

from rocket_hub.errors import StorageError
from rocket_hub.inference import completion_nll
from rocket_hub.inference.models import load_base
from rocket_hub.moe.merging import merge_experts
from rocket_hub.recipe import TrainOptions
from rocket_hub.records import Example
from rocket_hub.results import Training
from rocket_hub.training import train_expert

ROWS = [
    Example(f"question what is {a} plus {b} ?", f" the answer #### {a + b}", str(a + b))
    for a in range(5)
    for b in range(5)
    if a + b < 10
]
RATE = 1e-2
OPTIONS = TrainOptions(learning_rate=(RATE,), max_steps=8, batch_size=8, max_length=32)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return load_base(str(tiny_model), None, "float32")[1]


@pytest.fixture
def base(tiny_model: Path) -> PreTrainedModel:
    return load_base(str(tiny_model), None, "float32")[0]


@pytest.fixture(scope="module")
def plain(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new LoRA: it changes nothing yet."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "up_proj"], task_type="CAUSAL_LM")
    folder = tmp_path_factory.mktemp("plain")
    get_peft_model(load_base(str(tiny_model), None, "float32")[0], config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def routed(tiny_model: Path, lora_bank: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return merge_experts(lora_bank[:2], tmp_path_factory.mktemp("routed"), base_model=str(tiny_model))


def weights(adapter: Path | str) -> dict[str, torch.Tensor]:
    return load_file(Path(adapter) / "adapter_model.safetensors")


def moved(before: Path, after: Path | str, part: str) -> float:
    """How far the weights of one kind moved at most."""
    one, other = weights(before), weights(after)
    assert one.keys() == other.keys()
    return max(float((other[key] - one[key]).abs().max()) for key in one if part in key)


def nll(base: PreTrainedModel, tokenizer: Any, adapter: Path | str) -> float:
    """Loss per completion token on the rows, as training defines it."""
    model = PeftModel.from_pretrained(base, str(adapter))
    sums, tokens = completion_nll(model, tokenizer, [(row.prompt, row.completion) for row in ROWS])
    model.unload()
    return float(sums.sum() / tokens.sum())


def picture(model: PreTrainedModel) -> dict[str, Any]:
    """Everything about a model that a training could leave changed."""
    return {
        "modules": {name: (type(module), module.training) for name, module in model.named_modules()},
        "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "hooks": {name: len(m._forward_hooks) + len(m._forward_pre_hooks) for name, m in model.named_modules()},
        "config": model.config.to_dict(),
        "generation": model.generation_config.to_dict(),
    }


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
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
def test_the_loss_falls(kind: str, base: Any, tokenizer: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    start = request.getfixturevalue(kind)
    at_first = nll(base, tokenizer, start)
    steps: list[tuple[int, int]] = []
    options = TrainOptions(learning_rate=(5 * RATE,), max_steps=30, batch_size=8, max_length=32)
    done = train_expert(
        base, tokenizer, start, ROWS, options, tmp_path / "out", progress=lambda step, of, _: steps.append((step, of))
    )
    assert nll(base, tokenizer, done.adapter) < at_first - 0.1  # the head is frozen, so there is not far to fall
    assert steps == [(step, 30) for step in range(1, 31)]
    assert (done.adapter, done.learning_rate, done.steps) == (str(tmp_path / "out"), 5 * RATE, 30)
    assert done.loss < at_first
    assert done.seconds > 0
    assert not list((tmp_path / "out").glob("checkpoint-*"))


def test_only_the_completion_is_learned(base: Any, tokenizer: Any, plain: Path, tmp_path: Path) -> None:
    # One step over all rows: the loss is the mean over completion and end-of-sequence tokens, none of the prompt's.
    options = TrainOptions(learning_rate=(RATE,), max_steps=1, batch_size=len(ROWS), max_length=32)
    expected = nll(base, tokenizer, plain)
    whole = train_expert(base, tokenizer, plain, ROWS, options, tmp_path / "out")
    assert whole.loss == pytest.approx(expected, rel=1e-4)
    everything = [Example("", row.prompt + row.completion, row.answer) for row in ROWS]
    assert completion_nll(base, tokenizer, [("", row.completion) for row in everything])[1].sum() > 2 * len(ROWS)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 1.0])
def test_routers_learn_at_their_own_rate(ratio: float, base: Any, tokenizer: Any, routed: Path, tmp_path: Path) -> None:
    # Two steps of a cosine, at 1 and at 1/2 of the rate: a weight whose gradient keeps its sign moves by 1.5 of it.
    options = TrainOptions(
        learning_rate=(RATE,), router_learning_rate_ratio=ratio, max_steps=2, batch_size=8, max_length=32
    )
    done = train_expert(base, tokenizer, routed, ROWS, options, tmp_path / "out")
    assert moved(routed, done.adapter, "rocket_moe_router") == pytest.approx(1.5 * RATE * ratio, rel=0.2)
    assert moved(routed, done.adapter, "rocket_moe_B") == pytest.approx(1.5 * RATE, rel=0.2)


def test_frozen_experts_stay_and_their_routers_learn(
    base: Any, tokenizer: Any, lora_bank: list[Path], tiny_model: Path, tmp_path: Path
) -> None:
    start = merge_experts(lora_bank[:2], tmp_path / "start", base_model=str(tiny_model), train_experts=False)
    done = train_expert(base, tokenizer, start, ROWS, OPTIONS, tmp_path / "out")
    assert moved(start, done.adapter, "rocket_moe_A") == moved(start, done.adapter, "rocket_moe_B") == 0.0
    assert moved(start, done.adapter, "rocket_moe_router") > 0.0


def test_the_seed_decides(base: Any, tokenizer: Any, plain: Path, tmp_path: Path) -> None:
    runs = [
        train_expert(base, tokenizer, plain, ROWS, OPTIONS, tmp_path / f"{n}", seed=s) for n, s in enumerate((0, 0, 1))
    ]
    one, same, other = (weights(run.adapter) for run in runs)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_the_given_rate_is_used(base: Any, tokenizer: Any, plain: Path, tmp_path: Path) -> None:
    options = TrainOptions(learning_rate=(1e-5,), max_steps=2, batch_size=8, max_length=32)
    done = train_expert(base, tokenizer, plain, ROWS, options, tmp_path / "out", learning_rate=0.02)
    assert done.learning_rate == 0.02
    assert moved(plain, done.adapter, "lora_B") == pytest.approx(1.5 * 0.02, rel=0.2)


Run = Callable[[Path, list[int], int | None], Training]


@pytest.fixture
def run(base: Any, tokenizer: Any, routed: Path) -> Run:
    """Train in a folder, note the steps, and stop in one of them as Ctrl-C does."""

    def train(output: Path, steps: list[int], stop: int | None = None) -> Training:
        def progress(step: int, of: int, loss: float) -> None:
            steps.append(step)
            if step == stop:
                raise KeyboardInterrupt

        return train_expert(base, tokenizer, routed, ROWS, OPTIONS, output, progress=progress)

    return train


@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
def test_a_stopped_training_goes_on(torn: bool, run: Run, tmp_path: Path) -> None:
    straight, first, second = [], [], []
    uninterrupted = run(tmp_path / "straight", straight, None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", first, 7)
    if torn:  # the machine went down while the next checkpoint was written
        (tmp_path / "out" / "checkpoint-8").mkdir()
        (tmp_path / "out" / "checkpoint-8" / "adapter_config.json").write_text("{")
    resumed = run(tmp_path / "out", second, None)
    assert (straight, first, second) == (list(range(1, 9)), list(range(1, 8)), [7, 8])
    one, other = weights(uninterrupted.adapter), weights(resumed.adapter)
    assert all(torch.allclose(one[key], other[key], atol=1e-6) for key in one)
    assert not list((tmp_path / "out").glob("checkpoint-*"))


@pytest.mark.parametrize("stop", [None, 3], ids=["finished", "stopped"])
def test_the_base_comes_back_unchanged(stop: int | None, run: Run, base: Any, tmp_path: Path) -> None:
    before = picture(base)
    with suppress(KeyboardInterrupt):
        run(tmp_path / "out", [], stop)
    assert_same(picture(base), before)


def test_a_stopped_training_reports_the_loss_of_a_straight_one(run: Run, tmp_path: Path) -> None:
    straight = run(tmp_path / "straight", [], None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", [], 7)
    assert run(tmp_path / "out", [], None).loss == pytest.approx(straight.loss, rel=0.1)


def test_an_unwritable_output(base: Any, tokenizer: Any, plain: Path, tmp_path: Path) -> None:
    before = picture(base)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file.*cannot save.*free some space"):
        train_expert(base, tokenizer, plain, ROWS, OPTIONS, tmp_path / "file" / "out")
    assert_same(picture(base), before)
