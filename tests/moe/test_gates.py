import torch
from peft import PeftModel

from rocket_hub.moe.gates import collect_gates, fixed_gates, routers


def test_means_are_over_the_tokens_that_are_not_padding(fresh_base, routed, ids):
    model = PeftModel.from_pretrained(fresh_base(), routed)
    seen = {name: [] for name in routers(model)}
    for name, router in routers(model).items():
        router.register_forward_hook(lambda module, args, gates, name=name: seen[name].append(gates[:, 2:]))
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
    assert set(recorder._tokens.values()) == {11 + 2 * 3}


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
