"""TIES and DARE as in their papers, by PEFT's hand; LoRAHub's weights."""

import numpy as np
import pytest
import torch
from peft import PeftModel

from rocket_hub.controls.merges import DENSITY, kshot_weights, peft_merge
from rocket_hub.lora.expert import Expert, read_expert
from rocket_hub.selection.selectors import mixture_loss

from .conftest import ROWS, delta, says

MODULE = "model.layers.0.self_attn.q_proj"
OTHER = "model.layers.1.mlp.up_proj"


def random_experts(count, rank):
    """Experts of one module of 16 x 16, and the first with one of its own."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        shapes = {MODULE: (16, 16)} | ({OTHER: (16, 32)} if number == 0 else {})
        pairs = {
            name: (torch.randn(rank, width, generator=generator), torch.randn(height, rank, generator=generator))
            for name, (width, height) in shapes.items()
        }
        made.append(Expert(str(number), pairs, {"peft_type": "LORA"}))
    return made


def trimmed(matrix):
    """Keep the largest entries of a matrix."""
    entries = sorted(matrix.abs().flatten().tolist(), reverse=True)
    return torch.where(matrix.abs() >= entries[int(DENSITY * len(entries)) - 1], matrix, torch.zeros(()))


def ties_by_hand(matrices):
    """Trim, elect the sign that weighs more, average what has that sign: entry by entry."""
    kept = [trimmed(matrix) for matrix in matrices]
    merged = torch.zeros_like(kept[0])
    for i in range(merged.shape[0]):
        for j in range(merged.shape[1]):
            values = [matrix[i, j].item() for matrix in kept]
            side = 1 if sum(values) >= 0 else -1
            agreeing = [value for value in values if value * side > 0]
            merged[i, j] = sum(agreeing) / len(agreeing) if agreeing else 0.0
    return merged


def test_ties_is_ties(base, pin, tmp_path):
    experts = random_experts(4, 4)  # of rank 16 in all: nothing is cut from the result
    merged = read_expert(peft_merge(base, experts, "ties", 1.0, tmp_path / "ties", **pin))
    expected = ties_by_hand([delta(expert, MODULE) for expert in experts])
    torch.testing.assert_close(delta(merged, MODULE), expected, atol=1e-4, rtol=1e-4)
    assert merged.modules.keys() == {MODULE, OTHER}
    assert merged.modules[OTHER][0].shape == (4, 16), "a module that one expert has gets that expert's rank"


def test_of_ties_the_largest_singular_values_are_kept(base, pin, tmp_path):
    experts = random_experts(3, 2)
    merged = read_expert(peft_merge(base, experts, "ties", 1.0, tmp_path / "ties", **pin))
    u, s, v = torch.linalg.svd(ties_by_hand([delta(expert, MODULE) for expert in experts]))
    torch.testing.assert_close(delta(merged, MODULE), (u[:, :6] * s[:6]) @ v[:6], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["dare_linear", "dare_ties"])
def test_dare_drops_and_rescales(kind, base, pin, tmp_path):
    experts, weight = random_experts(2, 8), 1.0 if kind == "dare_ties" else 0.5
    folders = [peft_merge(base, experts, kind, weight, tmp_path / str(n), seed=n // 2, **pin) for n in range(3)]
    first, again, other = (delta(read_expert(folder), MODULE) for folder in folders)
    assert torch.equal(first, again) and not torch.allclose(first, other), "what is dropped is the seed's alone"
    one, two = (weight * delta(expert, MODULE) / DENSITY for expert in experts)
    both = one + two if kind == "dare_linear" else torch.where(one * two > 0, (one + two) / 2, _larger(one, two))
    possible = torch.stack([torch.zeros_like(one), one, two, both])
    assert (possible - first).abs().amin(dim=0).max() < 1e-3
    assert 0.2 < (first.abs() > 1e-3).float().mean() < 0.55  # 0.36 in the mean: 1 - 0.8 ** 2


def _larger(one, two):
    return torch.where(one.abs() >= two.abs(), one, two)


@pytest.mark.parametrize("kind", ["ties", "dare_ties", "dare_linear"])
def test_experts_of_any_shape(kind, base, experts, pin, tmp_path):
    state, before = torch.random.get_rng_state(), says(base)
    folder = peft_merge(base, experts, kind, 1.0, tmp_path / kind, **pin)
    assert torch.equal(torch.random.get_rng_state(), state)
    merged = read_expert(folder)
    ranks = {name: sum(e.modules[name][0].shape[0] for e in experts if name in e.modules) for name in merged.modules}
    assert {name: a.shape[0] for name, (a, _) in merged.modules.items()} == {n: min(r, 16) for n, r in ranks.items()}
    model = PeftModel.from_pretrained(base, str(folder))
    assert not torch.allclose(says(model), before, atol=1e-3)
    model.unload()
    assert torch.equal(says(base), before)


def test_lorahub_finds_what_helps(base, tokenizer, experts):
    shots = ROWS[:4]
    weights = kshot_weights(base, tokenizer, experts, shots)
    factors = {str(number): expert.modules for number, expert in enumerate(experts)}
    loss = mixture_loss(base, tokenizer, factors, shots, batch_size=4)

    def objective(found):
        return loss(dict(zip(factors, found, strict=True))) + 0.05 * float(np.abs(found).sum())

    assert len(weights) == 4 and all(abs(weight) <= 1.5 for weight in weights)
    assert objective(weights) < min(objective((0.0,) * 4), objective((0.25,) * 4), objective((1.0,) * 4))
