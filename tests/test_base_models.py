import shutil

import numpy as np
import peft  # noqa: F401  see rocket_hub/inference/models.py
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaForCausalLM

from rocket_hub.errors import HubError, InputError
from rocket_hub.inference.models import DeferredEncoder, encoder_key, load_base, load_encoder
from rocket_hub.options import ComputeOptions


def test_load_base(tiny_model):
    model, tokenizer = load_base(str(tiny_model), None, ComputeOptions(dtype="bfloat16"))
    assert model.dtype == torch.bfloat16 and not model.training and tokenizer.pad_token == "<pad>"


def test_load_base_sets_a_missing_pad_token_without_resizing(tiny_model, tmp_path):
    LlamaForCausalLM.from_pretrained(tiny_model).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    model, tokenizer = load_base(str(tmp_path), None)
    assert tokenizer.pad_token == "</s>" and model.get_input_embeddings().num_embeddings == 28


def test_load_base_refuses_weights_that_are_pickled_broken_or_missing(tiny_model, tmp_path):
    model = LlamaForCausalLM.from_pretrained(tiny_model)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=tmp_path.name):
        load_base(str(tmp_path), None)
    weights = {name: weight for name, weight in model.state_dict().items() if "lm_head" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(InputError, match=r"1 weights are not in .* 'lm_head.weight'"):
        load_base(str(tmp_path), None)
    safetensors = tmp_path / "model.safetensors"
    safetensors.write_bytes(safetensors.read_bytes()[:900])
    with pytest.raises(InputError, match=tmp_path.name):
        load_base(str(tmp_path), None)


def test_load_base_names_what_cannot_be_had(tmp_path):
    with pytest.raises((HubError, InputError), match="no-such-folder"):
        load_base(str(tmp_path / "no-such-folder"), None)


WORDS = ["[UNK]", "apples", "pears", "add", "take", "sing", "song"]


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    weights = 3 * np.eye(len(WORDS), dtype=np.float32)
    path = tmp_path_factory.mktemp("encoder")
    SentenceTransformer(modules=[StaticEmbedding(backend, embedding_weights=weights)], device="cpu").save(str(path))
    return path


def test_a_local_encoder_gives_rows_of_length_one(encoder_folder, capfd):
    encoder = load_encoder(str(encoder_folder), None)
    vectors = encoder.encode(["add apples", "apples add", "sing song", "add pears"])
    assert vectors.shape == (4, len(WORDS)) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    assert (vectors @ vectors[0]).tolist() == pytest.approx([1, 1, 0, 0.5])
    assert "".join(capfd.readouterr()) == ""  # no progress bar


def test_no_texts_have_no_rows_but_the_right_width(encoder_folder):
    assert load_encoder(str(encoder_folder), None).encode([]).shape == (0, len(WORDS))


def test_what_is_no_encoder_is_refused_by_name(tmp_path):
    (tmp_path / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "", "type": "no.such.Module"}]')
    with pytest.raises(InputError, match=tmp_path.name):
        load_encoder(str(tmp_path), None)


def test_code_in_the_repository_is_not_run(tmp_path, encoder_folder):
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"import pathlib; pathlib.Path({str(ran)!r}).touch()\nclass Module: pass\n")
    (tmp_path / "modules.json").write_text('[{"idx": 0, "name": "0", "path": "", "type": "evil.Module"}]')
    with pytest.raises(InputError):
        load_encoder(str(tmp_path), None)
    assert not ran.exists()


def test_a_name_that_no_repository_can_have_is_refused(tmp_path):
    with pytest.raises(HubError, match="not/an/id"):
        load_encoder("not/an/id", "0" * 40)


def test_a_deferred_encoder_is_loaded_when_it_is_needed(tmp_path, encoder_folder):
    encoder = DeferredEncoder(str(encoder_folder), None)
    assert (
        encoder.encode(["add apples"]).tolist()
        == load_encoder(str(encoder_folder), None).encode(["add apples"]).tolist()
    )
    with pytest.raises(InputError, match=tmp_path.name):
        DeferredEncoder(str(tmp_path), None).encode(["add"])


def test_a_key_names_an_encoder_at_a_revision(tmp_path, encoder_folder):
    keys = {encoder_key(*place) for place in (("u/one", "0" * 40), ("u/one", "1" * 40), ("u-one", "0" * 40))}
    assert len(keys) == 3 and all("/" not in key for key in keys)
    with pytest.raises(InputError, match="revision"):
        encoder_key("u/one", None)
    copy = tmp_path / encoder_folder.name
    shutil.copytree(encoder_folder, copy)
    assert encoder_key(str(copy), None) == encoder_key(str(encoder_folder), None)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert encoder_key(str(copy), None) != encoder_key(str(encoder_folder), None)


@pytest.mark.slow
def test_a_real_encoder_puts_alike_texts_together(shared_data):
    encoder = load_encoder(str(shared_data / "models" / "potion-base-4m"), None)
    sums, other, song = encoder.encode(
        ["Tom has 3 apples and buys 4 more. How many?", "Ann owns 9 pears and sells 2. How many are left?", "Sing it!"]
    )
    assert sums.shape == (128,) and sums @ other > sums @ song + 0.2
