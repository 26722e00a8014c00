"""Every kind of LoRA that PEFT can make, against what PEFT computes with it after a reload; and what is no LoRA."""

import json

import peft
import pytest
import torch
from peft.tuners.lora.config import BdLoraConfig, EvaConfig, KasaConfig, MontecloraConfig, VeloraConfig
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from rocket_hub.errors import AdapterError
from rocket_hub.lora.expert import read_expert
from rocket_hub.moe.gates import fixed_gates, routers
from rocket_hub.moe.merging import merge_experts, stack_experts

CLOSE = {"atol": 1e-6, "rtol": 1e-6}
PATTERNS = {"rank_pattern": {"layers.1.self_attn.q_proj": 6}, "alpha_pattern": {"q_proj": 3, "mlp.down_proj": 5}}
TARGETS = ["q_proj", "down_proj"]

# Name -> options of LoraConfig, and whether the base's weights are needed.
KINDS = {
    "all-linear": ({"target_modules": "all-linear"}, False),
    "regex": ({"target_modules": r".*\.0\..*(q|k)_proj"}, False),
    "layers": ({"layers_to_transform": [1]}, False),
    "exclude": ({"exclude_modules": ["model.layers.0.self_attn.q_proj"]}, False),
    "rslora": ({"use_rslora": True}, False),
    "patterns": (PATTERNS, False),
    "rslora-patterns": ({**PATTERNS, "use_rslora": True}, False),
    "random": ({"init_lora_weights": False}, False),
    "gaussian": ({"init_lora_weights": "gaussian"}, False),
    "orthogonal": ({"init_lora_weights": "orthogonal"}, False),
    "eva": ({"init_lora_weights": "eva", "eva_config": EvaConfig(), **PATTERNS}, False),
    "mica": ({"init_lora_weights": "mica"}, False),
    "velora": ({"velora_config": VeloraConfig(num_groups=4)}, False),
    "monteclora": ({"monteclora_config": MontecloraConfig(num_samples=2)}, False),
    "pissa": ({"init_lora_weights": "pissa"}, True),
    "pissa-patterns": ({"init_lora_weights": "pissa", **PATTERNS}, True),
    "pissa-rslora-all": ({"init_lora_weights": "pissa", "use_rslora": True, "target_modules": "all-linear"}, True),
    "olora": ({"init_lora_weights": "olora"}, True),
    "olora-patterns": ({"init_lora_weights": "OLoRA", **PATTERNS}, True),
    "kasa": ({"kasa_config": KasaConfig()}, True),
    "kasa-rslora-patterns": ({"kasa_config": KasaConfig(), "use_rslora": True, **PATTERNS}, True),
    "no-biases": ({"bias": "all"}, False),
}


def save(base, config, folder, seed=0):
    """Save an adapter of these options as if it had been trained a little."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("lora_A", "lora_B", "lora_E", "lora_diag")):
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


def what_peft_adds(make_base, folder):
    """Module name -> merged minus base weight, after a reload by PEFT."""
    merged = peft.PeftModel.from_pretrained(make_base(), folder).merge_and_unload().state_dict()
    base = make_base().state_dict()
    return {name.removesuffix(".weight"): merged[name] - base[name] for name in base if "proj" in name}


def check_same(expert, expected):
    """Compare with what PEFT adds; returns the modules that are adapted."""
    for name, delta in expected.items():
        a, b = expert.modules.get(name, (torch.zeros(1, delta.shape[1]), torch.zeros(delta.shape[0], 1)))
        torch.testing.assert_close(b @ a, delta, **CLOSE)
    adapted = {name for name, delta in expected.items() if delta.abs().max() > 1e-3}
    assert adapted and adapted == set(expert.modules)


def reason_of(folder, *args, **options):
    with pytest.raises(AdapterError) as caught:
        read_expert(folder, *args, **options)
    assert str(folder) in str(caught.value)
    return caught.value.reason


@pytest.mark.filterwarnings("ignore:lora with eva initialization")
@pytest.mark.parametrize("kind", KINDS)
def test_folded_is_what_peft_computes(tmp_path, fresh_base, kind):
    options, needs_base = KINDS[kind]
    folder = save(
        fresh_base(), peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": TARGETS, **options}), tmp_path
    )
    expected = what_peft_adds(fresh_base, folder)
    with_base = read_expert(folder, base_weights=fresh_base().get_parameter)
    check_same(with_base, expected)
    if needs_base:
        assert reason_of(folder) == "needs_base_weights"
        ranks = {name: a.shape[0] for name, (a, _) in with_base.modules.items()}
        doubled = 12 if options.keys() & PATTERNS.keys() else 8
        assert ranks["model.layers.1.self_attn.q_proj"] == doubled and ranks["model.layers.0.self_attn.q_proj"] == 8
    else:
        check_same(read_expert(folder), expected)


# A learned rank pattern, as the allocator leaves it: two modules pruned, one of them away.
PRUNED = {
    "model.layers.0.self_attn.q_proj.lora_E.default": [True, False, True, False],
    "model.layers.1.self_attn.q_proj.lora_E.default": [False] * 4,
}


# PEFT warns of rank 0, which AdaLoRA may have, and of the form of AdaLoRA's own rank_pattern.
@pytest.mark.filterwarnings("ignore:Adapter 'default'", "ignore:The following rank_pattern keys")
@pytest.mark.parametrize(("pattern", "alpha"), [(None, 6), (PRUNED, 6), (None, 0)])
def test_adalora(tmp_path, fresh_base, pattern, alpha):
    config = peft.AdaLoraConfig(init_r=4, target_r=2, lora_alpha=alpha, total_step=10, target_modules=TARGETS)
    model = peft.get_peft_model(fresh_base(), config)
    model.peft_config["default"].rank_pattern = dict(pattern) if pattern else None
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "expert")
    expert = read_expert(tmp_path / "expert", base_weights=fresh_base().get_parameter)
    check_same(expert, what_peft_adds(fresh_base, tmp_path / "expert"))
    assert len(expert.modules) == (3 if pattern else 4)
    # A pruned module must not come back to life as one of random weights.
    stacked = stack_experts([expert], 1.0, tmp_path / "stack", base_model="demo/base")
    check_same(expert, what_peft_adds(fresh_base, stacked))


@pytest.mark.filterwarnings("ignore:PiSSA changes the base weights")
def test_converted_pissa_is_the_fold_of_the_unconverted(tmp_path, fresh_base):
    model = peft.get_peft_model(fresh_base(), peft.LoraConfig(r=4, target_modules=TARGETS, init_lora_weights="pissa"))
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = "pissa"
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "as-it-is")
    model.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    converted = read_expert(tmp_path / "converted")
    folded = read_expert(tmp_path / "as-it-is", base_weights=fresh_base().get_parameter)
    for name, (a, b) in converted.modules.items():
        assert a.shape == folded.modules[name][0].shape == (8, a.shape[1])
        torch.testing.assert_close(b @ a, folded.modules[name][1] @ folded.modules[name][0], **CLOSE)


def test_mlx_is_transposed_and_scaled(tmp_path, fresh_base):
    folder = save(fresh_base(), peft.LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS), tmp_path / "peft")
    expected = what_peft_adds(fresh_base, folder)
    plain, mlx = load_file(folder / "adapter_model.safetensors"), tmp_path / "mlx"
    mlx.mkdir()
    tensors = {
        key.removeprefix("base_model.model.").replace("lora_A.weight", "lora_a").replace("lora_B.weight", "lora_b"): (
            tensor.T.contiguous()
        )
        for key, tensor in plain.items()
    }
    save_file(tensors, mlx / "adapters.safetensors")
    config = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 4, "scale": 1.5, "dropout": 0.0}}
    (mlx / "adapter_config.json").write_text(json.dumps(config))
    check_same(read_expert(mlx, base_weights=fresh_base().get_parameter), expected)
    for changed, reason in (
        ({"fine_tune_type": "dora"}, "dora"),
        ({"fine_tune_type": "full"}, "not_lora"),
        ({"lora_parameters": {"rank": 4, "alpha": 8}}, "broken_config"),
        ({"lora_parameters": {"rank": 16, "scale": 1.5}}, "rank_mismatch"),
    ):
        (mlx / "adapter_config.json").write_text(json.dumps({**config, **changed}))
        assert reason_of(mlx) == reason


def test_each_kind_comes_back_alone_from_one_adapter(tiny_model, lora_bank, fresh_base, ids, tmp_path):
    kinds = ("pissa-patterns", "olora", "kasa-rslora-patterns", "velora")
    folders = [*lora_bank]
    for seed, kind in enumerate(kinds):
        config = peft.LoraConfig(**{"r": 2 + seed, "lora_alpha": 6, "target_modules": TARGETS, **KINDS[kind][0]})
        folders.append(save(fresh_base(), config, tmp_path / kind, seed))
    adalora = peft.AdaLoraConfig(init_r=3, target_r=2, lora_alpha=4, total_step=10, target_modules=["v_proj", "q_proj"])
    folders.append(save(fresh_base(), adalora, tmp_path / "adalora", seed=9))
    weights = fresh_base().get_parameter
    merged = merge_experts(folders, tmp_path / "merged", base_model=str(tiny_model), base_weights=weights)
    peft.PeftModel.from_pretrained(fresh_base(), merged).save_pretrained(tmp_path / "saved")
    model = peft.PeftModel.from_pretrained(fresh_base(), tmp_path / "saved")
    with torch.no_grad():
        bare = fresh_base()(input_ids=ids).logits
        for number, folder in enumerate(folders):
            with fixed_gates(model, dict.fromkeys(routers(model), torch.eye(len(folders))[number] / 0.5)):
                alone = model(input_ids=ids).logits
            expected = peft.PeftModel.from_pretrained(fresh_base(), folder).eval()(input_ids=ids).logits
            torch.testing.assert_close(alone, expected, **CLOSE, msg=lambda text, folder=folder: f"{folder}: {text}")
            assert (alone - bare).abs().max() > 1e-3
        stacked = stack_experts(folders[4:5], 1.0, tmp_path / "s", base_model=str(tiny_model), base_weights=weights)
        expected = peft.PeftModel.from_pretrained(fresh_base(), folders[4]).eval()(input_ids=ids).logits
        found = peft.PeftModel.from_pretrained(fresh_base(), stacked).eval()(input_ids=ids).logits
        torch.testing.assert_close(found, expected, **CLOSE)


def test_square_factors_that_were_not_transposed_are_refused(tmp_path, fresh_base):
    """They load in PEFT's form too, and would be wrong without a word."""
    folder = save(fresh_base(), peft.LoraConfig(r=4, target_modules=["q_proj"]), tmp_path)
    path = folder / "adapter_model.safetensors"
    save_file({key: tensor.T.contiguous() for key, tensor in load_file(path).items()}, path)
    assert reason_of(folder) == "rank_mismatch"
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "r": 16}))
    assert reason_of(folder, base_weights=fresh_base().get_parameter) == "shape_mismatch"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (peft.LoraConfig(target_modules=TARGETS, init_lora_weights="pissa_niter_4"), "unsupported_init"),
        (
            peft.LoraConfig(target_modules=TARGETS, alora_invocation_tokens=[1], task_type="CAUSAL_LM"),
            "unsupported_config",
        ),
        (peft.LoraConfig(target_modules=TARGETS, use_bdlora=BdLoraConfig(TARGETS, nblocks=2)), "unsupported_config"),
        (peft.LoraConfig(target_modules=TARGETS, layer_replication=[[0, 2], [0, 2]]), "unsupported_config"),
        (peft.LoraConfig(target_modules=TARGETS, use_dora=True), "dora"),
        (peft.LoHaConfig(target_modules=TARGETS), "not_lora"),
        (peft.LoKrConfig(target_modules=TARGETS), "not_lora"),
        (peft.OFTConfig(target_modules=TARGETS, oft_block_size=4), "not_lora"),
        (peft.VeraConfig(target_modules=["q_proj"]), "not_lora"),
        (peft.IA3Config(target_modules=TARGETS, feedforward_modules=["down_proj"]), "not_lora"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.peft_type.value,
)
def test_what_is_no_plain_lora_is_refused_even_with_the_base(tmp_path, fresh_base, config, reason):
    folder = save(fresh_base(), config, tmp_path)
    assert reason_of(folder, base_weights=fresh_base().get_parameter) == reason


@pytest.mark.parametrize("init", ["pissa", "olora", "kasa"])
def test_an_untrained_adapter_of_a_changed_base_is_untrained(tmp_path, fresh_base, init):
    options = {"kasa_config": KasaConfig()} if init == "kasa" else {"init_lora_weights": init}
    peft.get_peft_model(fresh_base(), peft.LoraConfig(r=4, target_modules=TARGETS, **options)).save_pretrained(tmp_path)
    assert reason_of(tmp_path, base_weights=fresh_base().get_parameter) == "untrained"


def test_another_base_is_refused(tmp_path, fresh_base):
    for number, options in enumerate(({"init_lora_weights": "pissa"}, {})):
        folder = save(fresh_base(), peft.LoraConfig(r=4, target_modules=["q_proj"], **options), tmp_path / str(number))
        wider = LlamaForCausalLM(LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2))  # fmt: skip  # noqa: E501
        assert reason_of(folder, base_weights=wider.get_parameter) == "shape_mismatch"
        assert reason_of(folder, base_weights={}.__getitem__) == "shape_mismatch"
    quantised = {f"model.layers.{n}.self_attn.q_proj.weight": torch.zeros(128, 1, dtype=torch.uint8) for n in (0, 1)}
    assert reason_of(tmp_path / "0", base_weights=quantised.__getitem__) == "needs_base_weights"
    assert read_expert(tmp_path / "1", base_weights=quantised.__getitem__).modules  # plain: nothing to look up
    config = json.loads((tmp_path / "1" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "demo/pissa-r16-Residual"
    (tmp_path / "1" / "adapter_config.json").write_text(json.dumps(config))
    assert reason_of(tmp_path / "1") == "wrong_base"


@pytest.mark.parametrize("change", ["nothing", "lm_head.weight", "q_proj.base_layer.bias", "lora_B.bias"])
@pytest.mark.filterwarnings("ignore:.*have invalid shape")  # PEFT means the biases
def test_whole_tensors_are_accepted_if_they_are_the_base_s_own(tmp_path, change):
    torch.manual_seed(0)
    sizes = {"vocab_size": 9, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    base = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, attention_bias=True))
    own = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    options = {"lora_bias": True, "bias": "all", "modules_to_save": ["lm_head"], "init_lora_weights": False}
    save(base, peft.LoraConfig(r=2, target_modules=["q_proj"], **options), tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert {"lm_head", "base_layer", "lora_B"} <= {part for key in tensors for part in key.split(".")}
    for key in tensors:
        if key.endswith("lora_B.bias"):
            tensors[key].zero_()
        if key.endswith(change):
            tensors[key].view(-1)[0] += 1
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    reasons = {
        "lm_head.weight": "modules_to_save",
        "q_proj.base_layer.bias": "bias_trained",
        "lora_B.bias": "lora_bias",
    }
    if change in reasons:
        assert reason_of(tmp_path, base_weights=own.__getitem__) == reasons[change]
        return
    assert list(read_expert(tmp_path, base_weights=own.__getitem__).modules) == ["model.layers.0.self_attn.q_proj"]
    assert reason_of(tmp_path) in {"modules_to_save", "bias_trained"}
    for missing, reason in (("lm_head", "modules_to_save"), ("lora_B.bias", "lora_bias")):
        save_file({k: v for k, v in tensors.items() if missing not in k}, tmp_path / "adapter_model.safetensors")
        assert reason_of(tmp_path, base_weights=own.__getitem__) == reason
