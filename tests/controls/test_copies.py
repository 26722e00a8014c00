"""What is trained on a copy of the base: X-LoRA's classifier, and all parameters."""

from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from peft.tuners.xlora.model import XLoraModel
from safetensors.torch import load_file
from trl.trainer.utils import add_fused_lm_head

from rocket_hub.controls.peft_models import copied, full_model, new_classifier, xlora_model
from rocket_hub.inference import completion_nll, generate, option_nll
from rocket_hub.training import train_expert

from .conftest import IDS, OPTIONS, ROWS, says

PROMPTS = ["question what is 1 plus 2 ?", "what is 3 plus", "the answer"]


@pytest.fixture
def xlora(base, experts, pin, tmp_path):
    """A new classifier, and what opens it."""
    torch.manual_seed(0)
    return new_classifier(base, experts, tmp_path / "new", **pin), partial(xlora_model, experts=experts, pin=pin)


def of_peft(model, tokenizer, prompt):
    """What PEFT itself generates, without a cache."""
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    new = model.generate(input_ids=ids, max_new_tokens=6, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    return str(tokenizer.decode(new, skip_special_tokens=True))


def test_xlora_is_pefts_and_its_classifier_alone_is_trained(base, tokenizer, xlora, tmp_path):
    start, opened = xlora
    before = says(base)
    training = train_expert(base, tokenizer, start, ROWS, OPTIONS, tmp_path / "trained", opened=opened)
    folder = Path(training.adapter)
    old, new = (load_file(place / "adapter_model.safetensors") for place in (start, folder))
    assert len(new) == 2 and all(not torch.equal(new[name], old[name]) for name in old)
    with opened(base, folder, True) as model:
        assert isinstance(model.base_model, XLoraModel)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert trained == set(new)
        model.eval()
        expected, texts = says(model), [of_peft(model, tokenizer, prompt) for prompt in PROMPTS]
        gates = model.base_model.get_latest_scalings()
        torch.testing.assert_close(gates.sum(dim=-1), torch.ones(gates.shape[:-1]))
    assert not torch.allclose(expected, before, atol=1e-3)
    with opened(base, folder, False) as model:
        assert torch.equal(says(model), expected)
        assert generate(model, tokenizer, PROMPTS, max_new_tokens=6, batch_size=2) == texts  # with a cache
        assert torch.equal(says(model), expected)
    assert torch.equal(says(base), before)


def test_xlora_reads_options_from_a_cache(base, tokenizer, xlora):
    start, opened = xlora
    questions = [(prompt, [" 3", " the answer #### 4", " the answer"]) for prompt in PROMPTS]
    with opened(base, start, False) as model:
        found = [each.nll.tolist() for each in option_nll(model, tokenizer, questions)]
        rows = [(prompt, option) for prompt, options in questions for option in options]
        ended, _ = completion_nll(model, tokenizer, rows)
        ends = [_end_nll(model, tokenizer, prompt + option) for prompt, option in rows]
    expected = (torch.tensor(ended) - torch.tensor(ends)).reshape(3, 3)
    torch.testing.assert_close(torch.tensor(found), expected, atol=1e-4, rtol=1e-4, check_dtype=False)


def _end_nll(model, tokenizer, text):
    """How unlikely the end of a text is, without a cache."""
    with torch.no_grad():
        logits = model(input_ids=tokenizer(text, return_tensors="pt")["input_ids"], use_cache=False).logits[0, -1]
    return float(-torch.log_softmax(logits, dim=-1)[tokenizer.eos_token_id])


def test_a_stopped_training_goes_on(base, tokenizer, xlora, tmp_path):
    start, opened = xlora

    def train(name, stop=99):
        def progress(step, *_):
            if step == stop:
                raise KeyboardInterrupt

        with suppress(KeyboardInterrupt):
            train_expert(base, tokenizer, start, ROWS, OPTIONS, tmp_path / name, progress=progress, opened=opened)

    train("whole")
    train("stopped", stop=3)
    assert any((tmp_path / "stopped").glob("checkpoint-*"))
    train("stopped")
    whole, gone_on = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(gone_on[name], tensor) for name, tensor in whole.items())


def test_full_finetuning_moves_every_parameter(base, tokenizer, tmp_path):
    before = says(base)
    train_expert(base, tokenizer, tmp_path / "nothing", ROWS, OPTIONS, tmp_path / "trained", opened=full_model)
    assert torch.equal(says(base), before)
    with full_model(base, tmp_path / "trained") as model:
        assert not model.training and not torch.allclose(says(model), before, atol=1e-3)
        moved = {
            name for name, tensor in model.state_dict().items() if not torch.equal(tensor, base.state_dict()[name])
        }
        assert moved == set(base.state_dict())


def test_a_copy_never_asks_the_original(base):
    """What TRL hangs on a model in training still calls the model that it was hung on."""
    add_fused_lm_head(base)
    copy = copied(base)
    del base.forward
    with torch.no_grad():
        copy.lm_head.weight.zero_()
        assert copy(input_ids=IDS).logits.abs().max() == 0
        assert base(input_ids=IDS).logits.abs().max() > 0
