"""A whole tiny world in temporary folders: no network but loopback, nothing written outside pytest's own folder."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The Hub libraries read these when they are imported, so they are set before any test module is.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="rocket-hub-tests-")
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_DISABLED"] = "true"

import pytest

collect_ignore = ["benchmarks"]

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from rocket_hub.localhub import LocalHub

# A shell in the background starts its jobs deaf to Ctrl-C, and they would pass that on to what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).parents[2] / "shared" / "data"

WORDS = "<pad> <s> </s> <unk> what is plus ? the answer #### 0 1 2 3 4 5 6 7 8 9 = + - user assistant : .".split()  # noqa: SIM905


def pytest_configure(config: pytest.Config) -> None:
    # huggingface_hub 2.4.0 gives httpx the parts of a large file in a form that httpx is about to drop.
    config.addinivalue_line("filterwarnings", "ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data beside the repository, or a clean skip."""
    if not SHARED.is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return SHARED


@pytest.fixture
def hub(tmp_path: Path) -> Iterator["LocalHub"]:
    """An empty Hub."""
    from rocket_hub.localhub import LocalHub

    with LocalHub(tmp_path / "store") as hub:
        yield hub


@pytest.fixture
def api(hub: "LocalHub") -> "HfApi":
    """A client of the empty Hub."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=hub.url, token="hf_local")


@pytest.fixture(scope="module")
def lasting_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator["HfApi"]:
    """A client of a Hub that a whole module fills."""
    from huggingface_hub import HfApi

    from rocket_hub.localhub import LocalHub

    with LocalHub(tmp_path_factory.mktemp("hub") / "store") as hub:
        yield HfApi(endpoint=hub.url, token="hf_local")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama (hidden 16) with a word-level tokenizer of 28 words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("tiny-llama")
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tokenizer(tiny_model: Path) -> Any:
    """The tiny model's tokenizer; whoever changes it changes it back."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def save_lora(base: Any, folder: Path, seed: int = 0, **options: Any) -> Path:
    """Write a LoRA adapter of a base, which PEFT changes in place, with random weights unless told otherwise.

    Args:
        base: A loaded model, or the folder of a Llama.
        folder: Where to.
        seed: Seeds the weights.
        options: Those of `LoraConfig`.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    torch.manual_seed(seed)
    model = LlamaForCausalLM.from_pretrained(base) if isinstance(base, Path) else base
    get_peft_model(model, LoraConfig(**{"init_lora_weights": False, **options})).save_pretrained(
        folder, save_embedding_layers=False
    )
    return folder


@pytest.fixture(scope="session")
def lora_bank(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four LoRA adapters: different ranks, alphas and targets, one of them rslora."""
    configs: list[dict[str, Any]] = [
        {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]},
        {"r": 4, "lora_alpha": 4, "target_modules": ["q_proj", "up_proj"], "use_rslora": True},
        {"r": 3, "lora_alpha": 9, "target_modules": ["down_proj", "o_proj"]},
        {"r": 2, "lora_alpha": 2, "target_modules": ["q_proj", "v_proj"],
         "rank_pattern": {"layers.1.self_attn.q_proj": 5}, "alpha_pattern": {"v_proj": 7}},
    ]  # fmt: skip
    return [save_lora(tiny_model, tmp_path_factory.mktemp(f"lora-{seed}"), seed, **config)
            for seed, config in enumerate(configs)]  # fmt: skip
