import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model
from routing_world import fresh_config, randomised, sft_trainer
from torch.utils.checkpoint import checkpoint

from rocket_hub.errors import RecipeError
from rocket_hub.moe.losses import (
    AuxiliaryLossCallback,
    AuxiliaryLosses,
    auxiliary_losses,
    entropy,
    load_balance,
    z_loss,
)
from rocket_hub.moe.router import Gate, router_parameters

COEFFICIENTS = {"load_balance_coef": 0.3, "entropy_coef": 0.2, "z_coef": 0.1}


def small(**options):
    return fresh_config(expert_ranks=[2, 3, 1], **options)


def routed_model(base, **options):
    return randomised(get_peft_model(base, small(**COEFFICIENTS, **options)), seed=3).train()


def test_values_at_the_ends_of_their_ranges():
    even, one = torch.full((8, 4), 0.25), torch.eye(4)[:1].expand(8, 4)
    assert load_balance(even, even) == 1 and load_balance(one, one) == 4
    assert entropy(even) == pytest.approx(1) and entropy(one) == 0
    assert float(z_loss(torch.zeros(8, 4))) == pytest.approx(math.log(4) ** 2)


@pytest.mark.parametrize("options", [{}, {"gate": "softmax", "top_k": 2}, {"top_k": 1}])
def test_values_are_the_definitions(options):
    config = small(**COEFFICIENTS, **options)
    losses = AuxiliaryLosses(config)
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    gates = Gate([1, 1, 1], config)(logits)
    losses.mask = torch.tensor([[0, 1, 1, 1, 1], [0, 0, 0, 1, 1]])
    found = losses.values(gates, logits)
    kept = logits[losses.mask.bool()].double()
    scores = kept.softmax(1) if config.gate == "softmax" else kept.sigmoid() / kept.sigmoid().sum(1, keepdim=True)
    active = (gates[losses.mask.bool()] > 0).double()
    shares = scores if config.top_k is None else active / active.sum(1, keepdim=True)
    assert float(found["load_balance"]) == pytest.approx(3 * float(shares.mean(0) @ scores.mean(0)))
    assert float(found["entropy"]) == pytest.approx(float(-(scores * scores.log()).sum(1).mean() / math.log(3)))
    assert float(found["z"]) == pytest.approx(float(kept.exp().sum(1).log().square().mean()))


def gradients(model, backward):
    model.zero_grad()
    backward()
    return [parameter.grad.clone() for _, parameter in router_parameters(model)]


@pytest.mark.parametrize("options", [{}, {"gate": "softmax", "top_k": 2}, {"router": "shared"}])
def test_injected_gradient_is_that_of_the_sum(fresh_base, ids, options):
    model = routed_model(fresh_base(), **options)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    run = partial(model, input_ids=ids, attention_mask=mask, labels=ids)
    (losses,) = auxiliary_losses(model)
    seen, gates = [], [module for module in model.modules() if isinstance(module, Gate)]
    for gate in gates:
        gate.register_forward_hook(lambda gate, args, gates: seen.append(losses.values(gates, args[0])))

    def by_hand():
        for gate in gates:
            gate.losses = None
        seen.clear()
        loss = run().loss
        extra = sum(losses.coefficients[name] * value for values in seen for name, value in values.items())
        (loss + 0.5 * extra).backward()

    losses.scale = 0.5
    injected = gradients(model, lambda: run().loss.backward())
    expected = gradients(model, by_hand)
    for ours, theirs in zip(injected, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_no_gradient(fresh_base, ids, reentrant):
    model = routed_model(fresh_base(), gate="softmax", top_k=2)
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    plain = gradients(model, lambda: model(input_ids=ids, attention_mask=mask, labels=ids).loss.backward())
    model.enable_input_require_grads()
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": reentrant})
    again = gradients(
        model, lambda: model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False).loss.backward()
    )
    for ours, theirs in zip(again, plain, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    (losses,) = auxiliary_losses(model)
    assert set(losses.pop_means()) == {"load_balance", "entropy", "z"} and losses.pop_means() == {}


def test_losses_are_for_training_and_for_routers_that_learn(fresh_base, ids):
    model = routed_model(fresh_base())
    (losses,) = auxiliary_losses(model)
    with torch.no_grad():
        model(input_ids=ids)
    model.eval()(input_ids=ids)
    assert losses.pop_means() == {}
    model.train()(input_ids=ids, attention_mask=torch.zeros_like(ids))
    assert losses.pop_means() == {"load_balance": 0, "entropy": 0, "z": 0}  # nothing but padding
    assert auxiliary_losses(get_peft_model(fresh_base(), small())) == []
    inner = model.get_base_model()
    assert len(inner._forward_pre_hooks) == 1
    model.unload()
    assert not inner._forward_pre_hooks and model.base_model._losses() == {}


def test_the_gradient_passes_a_reentrant_checkpoint_of_one_gate():
    config = small(**COEFFICIENTS)
    gate = Gate([1, 1, 1], config, AuxiliaryLosses(config)).train()
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (plain,) = torch.autograd.grad(gate(logits).sum(), logits)
    checkpoint(gate, logits, use_reentrant=True).sum().backward()
    assert torch.equal(logits.grad, plain)


@pytest.mark.parametrize(("accumulation", "loss_scale"), [(1, None), (2, None), (2, 1024.0)])
def test_trl_gets_gradients_and_log_whatever_the_scale(tiny_model, fresh_base, tmp_path, accumulation, loss_scale):
    """One step over two equal rows is the same step at once, one after the other, and with the loss scale of fp16."""
    from transformers import AutoTokenizer

    model = routed_model(fresh_base(), gate="softmax", top_k=2)
    start = [parameter.detach().clone() for _, parameter in router_parameters(model)]
    rows = [{"prompt": "what is 1 plus 2 ?", "completion": " the answer is 3 ."}] * 2
    options = {"learning_rate": 1.0, "optim": "sgd", "max_grad_norm": 0.0, "activation_checkpointing": False}
    options |= {"lr_scheduler_type": "constant", "logging_steps": 1, "save_strategy": "no", "max_steps": 1}
    options |= {"per_device_train_batch_size": 2 // accumulation, "gradient_accumulation_steps": accumulation}
    tokenizer, callbacks = AutoTokenizer.from_pretrained(tiny_model), [AuxiliaryLossCallback()]
    trainer = sft_trainer(model, tokenizer, rows, tmp_path, callbacks, **options)
    if loss_scale:  # accelerate makes one for fp16 on a GPU
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=loss_scale)
    trainer.train()
    assert auxiliary_losses(model)[0].scale == (loss_scale or 1) / accumulation
    steps = [a.detach() - b for (_, a), b in zip(router_parameters(model), start, strict=True)]
    logged = trainer.state.log_history[0]
    assert 1 <= logged["load_balance_loss"] < 3 and 0 < logged["entropy_loss"] < 1 and logged["z_loss"] > 0

    # The same gradient, by hand: TRL's loss is the mean over completion tokens.
    reference = routed_model(fresh_base(), gate="softmax", top_k=2)
    batch = {name: value for name, value in next(iter(trainer.get_train_dataloader())).items()}
    reference(**batch).loss.backward()
    for step, (_, parameter) in zip(steps, router_parameters(reference), strict=True):
        torch.testing.assert_close(step, -parameter.grad, atol=2e-6, rtol=1e-4)


def test_a_loss_scale_that_cannot_be_seen_is_refused(fresh_base):
    args = SimpleNamespace(fp16=True, device=torch.device("cuda"), gradient_accumulation_steps=1)
    callback, optimizer = AuxiliaryLossCallback(), torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(RecipeError, match=r"fp16: this trainer does not say.*train in bf16"):
        callback.on_step_begin(args, None, None, model=routed_model(fresh_base()), optimizer=optimizer)
    callback.on_step_begin(args, None, None, model=get_peft_model(fresh_base(), small()), optimizer=optimizer)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, in its tracer
def test_compiled_without_graph_breaks():
    torch._dynamo.reset()
    config = small(**COEFFICIENTS)
    logits, found = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_(), []
    for compiled in (False, True):
        gate = Gate([1, 1, 1], config, AuxiliaryLosses(config)).train()
        run = torch.compile(gate, fullgraph=True, backend="aot_eager") if compiled else gate
        found.append((torch.autograd.grad(run(logits).sum(), logits)[0], gate.losses.pop_means()))
    torch.testing.assert_close(found[1][0], found[0][0])
    assert found[1][1] == pytest.approx(found[0][1])
