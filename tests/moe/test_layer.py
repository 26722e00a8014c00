import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.layer import MANY_TOKENS, Linear
from rocket_hub.moe.router import Gate, Router
from tests.benchmarks.memory import kept

WEIGHTS = ("rocket_moe_A", "rocket_moe_B", "rocket_moe_router")


def naive_gates(logits, config):
    """Gate one token at a time: logits is [tokens, E]."""
    rows = []
    for token in logits.abs() if config.router_logits == "absolute" else logits:
        k = config.top_k or len(token)
        experts = sorted(range(len(token)), key=token.detach().neg().tolist().__getitem__)[:k]
        shares = token[experts].exp() / token[experts].exp().sum()
        if config.gate == "sigmoid":
            shares = 2 * config.gate_start / (1 + (-token[experts]).exp())
        elif k == 1:  # straight-through: worth 1, moved as the softmax over all experts
            everyone = token.exp() / token.exp().sum()
            rows.append(torch.eye(len(token))[experts[0]] + everyone - everyone.detach())
            continue
        elif config.gate_scale == "unit":
            shares = shares * k
        rows.append(torch.zeros(len(token)).index_add(0, torch.tensor(experts), shares))
    return torch.stack(rows)


def naive(layer, ranks, x, config):
    """Loop over tokens for the gates and over experts for what they add: x is [tokens, in]."""
    a, b, router = (getattr(layer, name)["default"].weight for name in WEIGHTS)
    gates = naive_gates(x @ router.t(), config)
    out, start = layer.base_layer(x), 0
    for expert, rank in enumerate(ranks):
        part = slice(start, start + rank)
        out = out + gates[:, expert, None] * (x @ a[part].t() @ b[:, part].t())
        start += rank
    return out


def made(config, width_in, width_out):
    layer = Linear(nn.Linear(width_in, width_out), "default", config.expert_ranks, config)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


@st.composite
def configs(draw):
    ranks = draw(st.lists(st.integers(0, 4), min_size=1, max_size=6).filter(any))
    gate = draw(st.sampled_from(["sigmoid", "softmax"] if len(ranks) > 1 else ["sigmoid"]))
    scale = draw(st.sampled_from([None, "unit"]))
    least = 1 if gate == "sigmoid" or scale == "unit" else 2
    return RocketMoeConfig(
        expert_ranks=ranks,
        gate=gate,
        gate_scale=scale,
        top_k=draw(st.none() | st.integers(least, len(ranks))),
        gate_start=draw(st.sampled_from([0.25, 0.5, 1.0])),
        router_logits=draw(st.sampled_from(["linear", "absolute"])),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(configs(), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 6, MANY_TOKENS]), st.integers(0, 2**16))
def test_stacked_layer_equals_a_loop_over_experts(config, width_in, width_out, tokens, seed):
    torch.manual_seed(seed)
    layer = made(config, width_in, width_out)
    x = torch.randn(1, tokens, width_in, requires_grad=True)
    d_y = torch.randn(1, tokens, width_out) / tokens
    wanted = [x, *(getattr(layer, name)["default"].weight for name in WEIGHTS)]
    expected = naive(layer, config.expert_ranks, x[0], config)[None]
    found = layer(x)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-6)
    pairs = zip(torch.autograd.grad(found, wanted, d_y), torch.autograd.grad(expected, wanted, d_y), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, atol=2e-6, rtol=1e-6)
        torch.testing.assert_close(layer(x[0, 0]), expected[0, 0], atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("frozen", [WEIGHTS[:2], WEIGHTS[2:], WEIGHTS[:1]])
def test_gradients_where_some_weights_are_frozen(frozen):
    torch.manual_seed(0)
    config = RocketMoeConfig(expert_ranks=[2, 0, 3])
    layer = made(config, 6, 5)
    whole = torch.randn(MANY_TOKENS, 6)
    expected = torch.autograd.grad(layer(whole).square().mean(), [getattr(layer, n)["default"].weight for n in WEIGHTS])
    for name in frozen:
        getattr(layer, name).requires_grad_(False)
    layer(whole).square().mean().backward()
    for name, gradient in zip(WEIGHTS, expected, strict=True):
        grad = getattr(layer, name)["default"].weight.grad
        assert grad is None if name in frozen else torch.allclose(grad, gradient, atol=1e-6)


def test_hooks_and_subclasses_keep_the_weights_to_themselves():
    """FSDP, DeepSpeed and accelerate bring a weight when its module is called."""
    torch.manual_seed(0)
    layer = made(RocketMoeConfig(expert_ranks=[2, 3]), 6, 5)
    x = torch.randn(MANY_TOKENS, 6)
    expected, called = layer(x), []
    for name in WEIGHTS:
        getattr(layer, name)["default"].register_forward_pre_hook(lambda module, args, name=name: called.append(name))
    torch.testing.assert_close(layer(x), expected)
    assert sorted(called) == sorted(WEIGHTS)


def test_dropout_is_on_the_experts_input_only():
    torch.manual_seed(0)
    layer = made(RocketMoeConfig(expert_ranks=[2, 3], dropout=0.5), 6, 5)
    x, seen = torch.randn(MANY_TOKENS, 6), []
    layer.rocket_moe_gate["default"].register_forward_hook(lambda *call: seen.append(call[2]))
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second) and torch.equal(seen[0], seen[1])
    assert torch.equal(layer.eval()(x), layer(x))


def kept_bytes(run):
    """Count what autograd keeps for the backward pass, parameters aside."""
    kept = {}

    def pack(tensor):
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run()
    assert out.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("tokens", [32, MANY_TOKENS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_more_is_kept_than_hidden_values_and_gates(tokens, dtype):
    layer = made(RocketMoeConfig(expert_ranks=[8, 8]), 16, 16)
    layer.base_layer.requires_grad_(False)
    x = torch.randn(tokens, 16)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        kept = kept_bytes(lambda: layer(x))
    expand, logits = 2 * 16 * 4, tokens * 2 * 4
    if dtype == torch.float32:
        assert kept <= tokens * (16 + 16 + 2) * 4 + logits + expand  # x, hidden values, gates
    else:  # beside x in fp32, autocast keeps x and the weights in bf16, as for any linear layer
        assert kept <= tokens * (16 * 4 + 16 * 2 + 16 * 2 + 2 * 4) + logits + expand + 3 * 16 * 16 * 2


@pytest.mark.parametrize(
    ("options", "tokens"), [({}, MANY_TOKENS), ({"gate": "softmax", "top_k": 1, "gate_scale": "unit"}, 3)]
)
def test_compiled_without_graph_breaks(options, tokens):
    torch.manual_seed(0)
    torch._dynamo.reset()
    layer = made(RocketMoeConfig(expert_ranks=[2, 3, 1], **options), 6, 5)
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    x = torch.randn(1, tokens, 6)
    for each in (layer, compiled):
        each(x).square().mean().backward()
    for ours, theirs in zip(compiled.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), layer(x), atol=1e-6, rtol=1e-5)


def gates_of(config, x):
    return Gate(config.expert_ranks, config)(Router(x.shape[-1], config)(x))


@pytest.mark.parametrize("top_k", [None, 2, 4])
@pytest.mark.parametrize("scale", ["renormalised", "unit"])
def test_softmax_weights_sum_to_one_or_to_k(top_k, scale):
    torch.manual_seed(0)
    config = RocketMoeConfig(expert_ranks=[1, 2, 3, 4], gate="softmax", top_k=top_k, gate_scale=scale)
    gates = gates_of(config, torch.randn(50, 8))
    torch.testing.assert_close(gates.sum(-1), torch.full((50,), float(top_k or 4) if scale == "unit" else 1.0))
    assert ((gates > 0).sum(-1) == (top_k or 4)).all()


@pytest.mark.parametrize(
    ("options", "start"),
    [({"gate_start": 0.25}, 0.25), ({"gate_scale": "unit"}, 0.5), ({"gate": "softmax", "gate_scale": "unit"}, 1.0)],
)
def test_dense_gates_of_unit_scale_start_exactly_at_a_static_stack(options, start):
    gates = gates_of(RocketMoeConfig(expert_ranks=[1, 2, 1, 1], **options), torch.randn(5, 8))
    assert torch.equal(gates, torch.full((5, 4), start))


@pytest.mark.parametrize(("gate", "top_k"), [("softmax", None), ("softmax", 2), ("sigmoid", 1)])
def test_other_routers_start_random_so_that_every_expert_gets_tokens(gate, top_k):
    torch.manual_seed(0)
    gates = gates_of(RocketMoeConfig(expert_ranks=[1, 1, 1], gate=gate, top_k=top_k), torch.randn(200, 64))
    assert (gates.argmax(-1).bincount(minlength=3) > 20).all()


def test_hard_top_one_weighs_exactly_one():
    torch.manual_seed(0)
    config = RocketMoeConfig(expert_ranks=[1, 1, 1], gate="softmax", top_k=1, gate_scale="unit")
    gates = gates_of(config, torch.randn(40, 8))
    assert gates.requires_grad and set(gates.flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(gates.sum(-1), torch.ones(40))


def test_under_autocast_it_keeps_no_more_than_a_lora_of_its_rank():
    """`python -m tests.benchmarks.memory` measures the same at the sizes of a real base."""
    sizes = {"hidden_size": 256, "intermediate_size": 896, "num_attention_heads": 8, "num_key_value_heads": 2}
    lora, routed = kept("lora", 1024, sizes=sizes), kept("routed", 1024, sizes=sizes)
    assert routed <= 1.05 * lora
    assert kept("routed", 1024, True, sizes) < 0.3 * routed
