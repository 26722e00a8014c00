import torch
from peft import PeftModel

from rocket_hub.moe.gates import collect_gates, fixed_gates, layers, routers


def test_means_are_over_the_tokens_that_are_not_padding(fresh_base, routed, ids):
    model = PeftModel.from_pretrained(fresh_base(), routed)
    seen = {name: [] for name in routers(model)}
    for name, layer in layers(model).items():
        layer.rocket_moe_gate["default"].register_forward_hook(
            lambda module, args, gates, name=name: (
                seen[name].append(gates.unflatten(0, (2, -1))[:, 2:])
                if gates.dim() == 2
                else seen[name].append(gates[:, 2:])
            )
        )
    mask = torch.ones_like(ids)
    mask[:, :2] = 0
    with torch.no_grad(), collect_gates(model) as recorder:
        assert recorder.means() == {}
        model(input_ids=ids, attention_mask=mask)
        model(input_ids=ids.flip(0), attention_mask=mask)
    means = recorder.means()
    assert len(means) == 10 and means.keys() == seen.keys()
    for name, mean in means.items():
        torch.testing.assert_close(mean.float(), torch.cat(seen[name]).flatten(0, 1).mean(0))
    with torch.no_grad():
        model(input_ids=ids)
    assert all(torch.equal(mean, means[name]) for name, mean in recorder.means().items())


def test_generation_counts_every_token_once(fresh_base, routed, ids):
    model = PeftModel.from_pretrained(fresh_base(), routed)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    with collect_gates(model) as recorder:
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    # 14 prompt tokens less 3 of padding; the last of the 4 new tokens is never fed back
    assert {int(counts.sum()) for counts in recorder._tokens.values()} == {11 + 2 * 3}


def test_works_on_a_model_that_transformers_loaded(fresh_base, routed, ids):
    model = fresh_base()
    model.load_adapter(str(routed))
    wrapped = PeftModel.from_pretrained(fresh_base(), routed)
    means = []
    for each in (model, wrapped):
        with torch.no_grad(), collect_gates(each) as recorder:
            each(input_ids=ids)
        means.append(recorder.means())
    assert means[0].keys() == means[1].keys()
    assert all(torch.equal(means[0][name], means[1][name]) for name in means[0])


def test_fixed_gates_hold_only_inside_the_block(fresh_base, routed, ids):
    model = PeftModel.from_pretrained(fresh_base(), routed)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with fixed_gates(model, dict.fromkeys(routers(model), torch.zeros(4))):
            assert torch.equal(model(input_ids=ids).logits, fresh_base()(input_ids=ids).logits)
        assert torch.equal(model(input_ids=ids).logits, before)


def test_statistics_by_class_of_tokens(fresh_base, routed, ids):
    model = PeftModel.from_pretrained(fresh_base(), routed)
    name = "model.layers.0.mlp.up_proj"
    layer, seen = layers(model)[name], []
    layer.rocket_moe_gate["default"].register_forward_hook(lambda *call: seen.append(call[2].reshape(2, 7, 4)))
    mask, labels = torch.ones_like(ids), ids.clone()
    mask[0, 0], labels[:, :4], special = 0, -100, [int(ids[1, 0])]
    classes = {"special": (ids == special[0]) & mask.bool()}
    classes["completion"] = (labels != -100) & mask.bool() & ~classes["special"]
    classes["prompt"] = (labels == -100) & mask.bool() & ~classes["special"]
    with torch.no_grad(), collect_gates(model, special_ids=special) as recorder:
        model(input_ids=ids, attention_mask=mask, labels=labels)
    found = recorder.statistics()[name]
    assert found.keys() == classes.keys() and sum(each.tokens for each in found.values()) == 13
    for kind, members in classes.items():
        gates = seen[0][members].double()
        assert found[kind].tokens == len(gates)
        torch.testing.assert_close(torch.tensor(found[kind].means).double(), gates.mean(0), atol=1e-6, rtol=1e-6)
        assert found[kind].active == (1.0,) * 4  # dense
        largest = gates.argmax(1).bincount(minlength=4) / len(gates)
        torch.testing.assert_close(torch.tensor(found[kind].largest), largest)


def test_generated_tokens_are_completion(fresh_base, routed, ids):
    model = PeftModel.from_pretrained(fresh_base(), routed)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    with collect_gates(model) as recorder:
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    for found in recorder.statistics().values():
        assert {kind: each.tokens for kind, each in found.items()} == {"prompt": 14, "completion": 6}
