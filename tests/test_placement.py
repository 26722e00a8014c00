"""Where a base is computed: device, precision, and what does not fit."""

from importlib.util import find_spec

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM

from rocket_hub.errors import InputError
from rocket_hub.inference import models, placement
from rocket_hub.inference.placement import GIB, Placement, device_map, place, weights_bytes
from rocket_hub.options import ComputeOptions

CPU, GPU = Placement(torch.device("cpu"), torch.float32), Placement(torch.device("cuda", 0), torch.bfloat16)


@pytest.fixture
def accelerator(monkeypatch):
    """Make torch find accelerators of a kind."""

    def found(kind, count=1, capability=(9, 0)):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)

    return found


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")
def test_without_an_accelerator_it_is_the_cpu_in_float32():
    assert place(ComputeOptions()) == CPU
    assert place(ComputeOptions(dtype="bfloat16")).precision == "bfloat16"
    with pytest.raises(InputError, match=r"compute.device: cuda is asked for, .* finds no accelerator"):
        place(ComputeOptions(device="cuda"))


@pytest.mark.parametrize(("kind", "capability", "dtype"), [
    ("cuda", (9, 0), torch.bfloat16), ("cuda", (7, 5), torch.float32), ("xpu", None, torch.bfloat16),
    ("mps", None, torch.bfloat16),
])  # fmt: skip
def test_what_is_there_is_taken_in_the_precision_that_it_computes_in(kind, capability, dtype, accelerator):
    accelerator(kind, capability=capability)
    assert place(ComputeOptions()) == Placement(torch.device(kind, 0), dtype)
    assert place(ComputeOptions(dtype="float32")).dtype == torch.float32
    assert place(ComputeOptions(device="cpu")) == CPU


def test_each_process_of_a_launch_has_a_device_of_its_own(accelerator, monkeypatch):
    accelerator("cuda", count=2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert place(ComputeOptions()).device == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="has 2 devices of the kind cuda, and process 3"):
        place(ComputeOptions())


def test_what_cannot_be_quantised_is_refused(accelerator):
    if find_spec("bitsandbytes") is None:
        with pytest.raises(InputError, match=r"compute.quantize: 4bit needs bitsandbytes.*rocket-hub\[quantized\]"):
            place(ComputeOptions(quantize="4bit"))
    accelerator("mps")
    with pytest.raises(InputError, match="no form for mps"):
        place(ComputeOptions(quantize="8bit"))


def test_a_base_goes_where_it_fits():
    assert device_map(6 * GIB, CPU, {"cpu": 8 * GIB}) is None
    assert device_map(6 * GIB, GPU, {0: 8 * GIB, 1: 8 * GIB, "cpu": GIB}) == torch.device("cuda", 0)
    assert device_map(12 * GIB, GPU, {0: 8 * GIB, 1: 8 * GIB, "cpu": GIB}) == "auto"
    for memory in ({0: 8 * GIB, "cpu": 64 * GIB}, {0: 5 * GIB, 1: 5 * GIB}):
        with pytest.raises(InputError, match=r"needs 13\.2 GiB in bfloat16, .* GiB free on cuda:0.*4bit"):
            device_map(12 * GIB, GPU, memory)


def test_the_size_is_known_from_the_headers_alone(tiny_model, api, monkeypatch):
    count = AutoModelForCausalLM.from_pretrained(tiny_model).num_parameters()
    api.create_repo("local/base")
    api.upload_folder(repo_id="local/base", folder_path=tiny_model)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    for name in (str(tiny_model), "local/base"):
        assert weights_bytes(name, None, CPU) == 4 * count
        assert weights_bytes(name, None, GPU) == 2 * count
        assert weights_bytes(name, None, Placement(GPU.device, GPU.dtype, "4bit")) == round(0.6 * count)
    assert weights_bytes("local/nothing", None, CPU) == 0
    nowhere = HfApi(endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: nowhere)
    assert weights_bytes("local/base", None, CPU) == 0


def test_a_base_larger_than_all_memory_is_refused_before_it_is_loaded(tiny_model, monkeypatch):
    monkeypatch.setattr(placement, "get_max_memory", lambda: {"cpu": 1000})
    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("was loaded"))
    with pytest.raises(InputError, match=r"take compute.quantize: 4bit, or a smaller base"):
        models.load_base(str(tiny_model), None)
