import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, create_arrow_model, get_peft_model
from peft.tuners.lora import ArrowConfig
from safetensors.torch import load_file

from rocket_hub.errors import InputError
from rocket_hub.inference import completion_nll
from rocket_hub.moe.gates import fixed_gates, layers, routers
from rocket_hub.moe.merging import merge_experts
from rocket_hub.moe.router_init import arrow_prototypes, arrow_routers, kshot_routers, likeliest_experts
from tests.helping import reason_of

ROWS = [
    ("what is 1 plus 2 ?", " the answer is 3 ."),
    ("what is 2 plus 2 ?", " the answer is 4 ."),
    ("user : 9 - 8 =", " assistant : 1"),
    ("user : 7 - 5 =", " assistant : 2"),
]


def tensors(folder):
    return load_file(folder / "adapter_model.safetensors")


def routers_in(folder):
    return {key: value for key, value in tensors(folder).items() if "router" in key}


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(2, 9), st.integers(2, 9), st.integers(0, 999))
def test_prototypes_are_the_top_right_singular_vectors(ranks, width_in, width_out, seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(sum(ranks), width_in, generator=generator)
    b = torch.randn(width_out, sum(ranks), generator=generator)
    found = arrow_prototypes(a, b, ranks)
    sizes = torch.tensor([1e-3] * len(ranks)).repeat_interleave(torch.tensor(ranks))
    torch.testing.assert_close(arrow_prototypes(a, b * sizes, ranks), found, atol=1e-5, rtol=1e-5)
    start = 0
    for row, rank in zip(found.double(), ranks, strict=True):
        product = (b[:, start : start + rank] @ a[start : start + rank]).double()
        start += rank
        assert float((product @ row).norm()) == pytest.approx(float(torch.linalg.matrix_norm(product, 2)), rel=1e-5)
        assert float(row.norm()) == pytest.approx(1.0 if rank else 0.0, abs=1e-6)


def test_prototype_of_an_expert_that_does_nothing_is_zero():
    assert not arrow_prototypes(torch.ones(4, 3), torch.zeros(5, 4), [2, 2]).any()


def test_arrow_start_equals_pefts_arrow(tiny_model, fresh_base, ids, tmp_path):
    folders = []
    for seed in range(3):
        torch.manual_seed(seed)
        config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        folders.append(tmp_path / f"expert-{seed}")
        expert = get_peft_model(fresh_base(), config)
        for name, parameter in expert.named_parameters():
            if "lora_A" in name:
                parameter.data[0] *= 10  # PEFT iterates only 15 times, which needs a clear first direction
        expert.save_pretrained(folders[-1])
    theirs = create_arrow_model(fresh_base(), [str(f) for f in folders], ArrowConfig(top_k=2, router_temperature=1.0))
    merged = merge_experts(folders, tmp_path / "m", base_model=str(tiny_model), gate="softmax", top_k=2)
    before = tensors(merged)
    arrow_routers(merged)
    after = tensors(merged)
    assert all(torch.equal(after[key], before[key]) == ("router" not in key) for key in before)
    ours = PeftModel.from_pretrained(fresh_base(), merged)
    with torch.no_grad():
        found, expected = ours(input_ids=ids).logits, theirs.eval()(input_ids=ids).logits
    assert (expected - fresh_base()(input_ids=ids).logits).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_arrow_s_rows_have_the_length_asked_for(tiny_model, lora_bank, tmp_path):
    merged = merge_experts(lora_bank, tmp_path / "dense", base_model=str(tiny_model))
    arrow_routers(merged, scale=2.0)
    assert all(weight.norm(dim=1).max() == pytest.approx(2) for weight in routers_in(merged).values())
    assert json.loads((merged / "adapter_config.json").read_text())["router_logits"] == "absolute"
    sparse = merge_experts(lora_bank, tmp_path / "sparse", base_model=str(tiny_model), top_k=2, router="shared")
    for folder, reason in ((sparse, "shared_router"), (lora_bank[0], "not_rocket_moe")):
        assert reason_of(arrow_routers, folder) == reason


@pytest.mark.parametrize("router", ["layer", "shared"])
def test_examples_route_to_their_own_experts(tiny_model, lora_bank, fresh_base, tokenizer, tmp_path, router):
    merged = merge_experts(lora_bank, tmp_path / "m", base_model=str(tiny_model), router=router)
    base, owners = fresh_base(), [0, 0, 2, 2]
    assert kshot_routers(merged, base, tokenizer, ROWS, owners, sharpness=2.0) == (0, 0, 2, 2)
    assert not any("rocket_moe" in name for name, _ in base.named_modules())
    model = PeftModel.from_pretrained(fresh_base(), merged)
    assert all(not weight.weight[[1, 3]].any() and weight.weight[[0, 2]].any() for weight in routers(model).values())
    for owner, rows in ((0, ROWS[:2]), (2, ROWS[2:])):
        sums = {}
        for name, layer in layers(model).items():
            place = layer.in_features if router == "shared" else name

            def see(gate, args, gates, place=place, sums=sums):
                sums[place] = sums.get(place, 0) + args[0].reshape(-1, 4).sum(0)

            layer.rocket_moe_gate["default"].register_forward_hook(see)
        with torch.no_grad(), fixed_gates(model, dict.fromkeys(layers(model), torch.eye(4)[owner] / 0.5)):
            for row in rows:
                model(**tokenizer("".join(row) + " </s>", return_tensors="pt"))
        assert len(sums) == (2 if router == "shared" else 10)
        for logits in sums.values():
            assert logits[owner] > 0 > logits[2 - owner] and logits[1] == logits[3] == 0


def test_logits_have_the_sharpness_asked_for(tiny_model, lora_bank, fresh_base, tokenizer, tmp_path):
    merged = merge_experts(lora_bank[:2], tmp_path / "m", base_model=str(tiny_model))
    kshot_routers(merged, fresh_base(), tokenizer, ROWS, [0, 0, 1, 1], sharpness=3.0)
    model = PeftModel.from_pretrained(fresh_base(), merged)
    layer, seen = layers(model)["model.layers.0.self_attn.q_proj"], []
    layer.rocket_moe_gate["default"].register_forward_hook(lambda *call: seen.append(call[1][0].reshape(-1, 2)))
    with torch.no_grad():
        for prompt, completion in ROWS:
            model(**tokenizer(prompt + completion + " </s>", return_tensors="pt"))
    logits = torch.cat(seen)
    assert float(logits.square().mean().sqrt()) == pytest.approx(3.0, rel=1e-4)
    torch.testing.assert_close(logits.mean(0), torch.zeros(2), atol=1e-3, rtol=0)


def test_rows_go_to_the_expert_under_which_they_are_likeliest(tiny_model, lora_bank, fresh_base, tokenizer, tmp_path):
    merged = merge_experts(lora_bank, tmp_path / "m", base_model=str(tiny_model))
    alone = [PeftModel.from_pretrained(fresh_base(), folder) for folder in lora_bank]
    losses = [completion_nll(model, tokenizer, ROWS)[0] for model in alone]
    expected = tuple(np.stack(losses).argmin(0).tolist())
    model = PeftModel.from_pretrained(fresh_base(), merged)
    assert likeliest_experts(model, tokenizer, ROWS, 4) == expected
    assert kshot_routers(merged, fresh_base(), tokenizer, ROWS) == expected


def test_what_does_not_fit_is_refused(tiny_model, lora_bank, fresh_base, tokenizer, tmp_path):
    merged = merge_experts(lora_bank, tmp_path / "m", base_model=str(tiny_model))
    for rows, owners, message in (
        ([], None, "rows: 0 rows"),
        (ROWS, [0], "4 rows, 1 owners"),
        (ROWS, [0, 1, 2, 4], "owners: expected experts from 0 to 3"),
    ):
        with pytest.raises(InputError, match=message):
            kshot_routers(merged, fresh_base(), tokenizer, rows, owners)
