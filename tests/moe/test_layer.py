import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.layer import Linear
from rocket_hub.moe.router import Router


def naive_gates(x: torch.Tensor, weight: torch.Tensor, config: RocketMoeConfig) -> torch.Tensor:
    """Gate one token at a time: x is [in]."""
    logits = weight @ x
    experts = sorted(range(len(logits)), key=lambda e: -float(logits[e]))[: config.top_k or len(logits)]
    gates = torch.zeros(len(logits))
    for e in experts:
        if config.gate == "softmax":
            gates[e] = logits[e].exp() / sum(logits[other].exp() for other in experts)
        else:
            gates[e] = 2 * config.gate_start / (1 + (-logits[e]).exp())
    return gates


@torch.no_grad()
def naive(layer: Linear, ranks: list[int], x: torch.Tensor, config: RocketMoeConfig) -> torch.Tensor:
    """Loop over tokens and experts: x is [tokens, in]."""
    a, b = layer.rocket_moe_A["default"].weight, layer.rocket_moe_B["default"].weight
    rows = []
    for token in x:
        out = layer.base_layer(token)
        gates = naive_gates(token, layer.rocket_moe_router["default"].weight, config)
        start = 0
        for gate, rank in zip(gates, ranks, strict=True):
            out = out + gate * (b[:, start : start + rank] @ (a[start : start + rank] @ token))
            start += rank
        rows.append(out)
    return torch.stack(rows)


@st.composite
def cases(draw):
    ranks = draw(st.lists(st.integers(0, 4), min_size=1, max_size=6).filter(any))
    gate = draw(st.sampled_from(["sigmoid", "softmax"] if len(ranks) > 1 else ["sigmoid"]))
    top_k = draw(st.none() | st.integers(2 if gate == "softmax" else 1, len(ranks)))
    config = RocketMoeConfig(
        expert_ranks=ranks, gate=gate, top_k=top_k, gate_start=draw(st.sampled_from([0.25, 0.5, 1.0]))
    )
    return config, draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(0, 2**16))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(cases())
def test_stacked_layer_equals_a_loop_over_experts(case):
    config, width_in, width_out, seed = case
    torch.manual_seed(seed)
    layer = Linear(nn.Linear(width_in, width_out), "default", config.expert_ranks, config)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.7)
    x = torch.randn(2, 3, width_in)
    expected = naive(layer, config.expert_ranks, x.reshape(6, width_in), config).reshape(2, 3, width_out)
    torch.testing.assert_close(layer(x), expected, atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(layer(x[0, 0]), expected[0, 0], atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("top_k", [None, 2, 4])
def test_softmax_weights_sum_to_one_over_the_top_k(top_k):
    torch.manual_seed(0)
    gates = Router(8, [1, 2, 3, 4], "softmax", 0.5, top_k)(torch.randn(50, 8))
    torch.testing.assert_close(gates.sum(-1), torch.ones(50))
    assert ((gates > 0).sum(-1) == (top_k or 4)).all()


def test_dense_sigmoid_starts_exactly_at_gate_start():
    gates = Router(8, [1, 2], "sigmoid", 0.25, None)(torch.randn(5, 8))
    assert torch.equal(gates, torch.full((5, 2), 0.25))


@pytest.mark.parametrize(("gate", "top_k"), [("softmax", None), ("softmax", 2), ("sigmoid", 1)])
def test_other_routers_start_random_so_that_every_expert_gets_tokens(gate, top_k):
    torch.manual_seed(0)
    gates = Router(64, [1, 1, 1], gate, 0.5, top_k)(torch.randn(200, 64))
    assert (gates.argmax(-1).bincount(minlength=3) > 20).all()


def test_sigmoid_top_k_keeps_the_largest():
    torch.manual_seed(0)
    x = torch.randn(20, 8)
    dense, sparse = (Router(8, [1, 1, 1, 1], "sigmoid", 1.0, k) for k in (None, 2))
    nn.init.normal_(dense.weight)
    sparse.weight.data.copy_(dense.weight.data)
    kept = dense(x).topk(2).indices
    expected = torch.zeros(20, 4).scatter(-1, kept, dense(x).gather(-1, kept))
    assert torch.equal(sparse(x), expected)
