"""The demo Hub's models: a tokenizer, a tiny Llama pretrained here, LoRA experts and a static sentence encoder."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
import world
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rocket_hub.options import TrainOptions
from rocket_hub.records import Example
from rocket_hub.tasks import GSM8K, Task
from rocket_hub.training import train_expert

BASE = "rocket-demo/tiny-llama"
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FIVE = ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj")
FOUR = ("q_proj", "v_proj", "up_proj", "down_proj")
SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")


def write_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Write a word-level tokenizer that cuts numbers into digits; ▁ marks a leading space."""
    words = {word: i for i, word in enumerate([*SPECIALS, *world.vocabulary()])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), "▁"), normalizers.Prepend("▁")])
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁?[0-9]|[.?]|▁?[^0-9▁.?]+"), "isolated")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


@dataclass(frozen=True)
class BaseSize:
    """How large the base is and how long it learns."""

    hidden: int = 128
    layers: int = 4
    steps: int = 1600
    batch: int = 64
    length: int = 64


def pretrain_base(folder: Path, size: BaseSize, report: Callable[[str], None]) -> None:
    """Pretrain the base on arithmetic facts and on questions without answers: it can calculate, but not solve."""
    tokenizer = write_tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=3 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=size.steps, pct_start=0.1)
    rng, started = Random(1), time.monotonic()
    for step in range(1, size.steps + 1):
        ids = torch.tensor([_stream(rng, tokenizer, size.length) for _ in range(size.batch)])
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            report(f"base: step {step}/{size.steps}, loss {loss.item():.3f}, {time.monotonic() - started:.0f} s")
    save_half(model, folder)


def _stream(rng: Random, tokenizer: PreTrainedTokenizerFast, length: int) -> list[int]:
    """Fill one training row with facts (7 of 10) and questions, each ended by </s>."""
    ids = [tokenizer.bos_token_id]
    while len(ids) < length:
        text = world.fact(rng) if rng.random() < 0.7 else world.story(rng)
        ids += [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
    return ids[:length]


def save_half(model: LlamaForCausalLM, folder: Path) -> None:
    """Store the weights in 16 bits (half the size in the package) while the config still asks for 32."""
    model.save_pretrained(folder)
    half_file(folder / "model.safetensors")


def half_file(path: Path) -> None:
    """Round every tensor of a file to float16."""
    save_file({k: v.to(torch.float16).contiguous() for k, v in load_file(path).items()}, path, {"format": "pt"})


def load_base(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Load the base in float32."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


@dataclass(frozen=True)
class Skill:
    """One LoRA adapter of the bank: what it learns and in what form it is stored."""

    name: str
    draw: Callable[[Random], world.Problem]
    description: str
    rank: int = 8
    alpha: int = 16
    targets: tuple[str, ...] = FIVE
    rslora: bool = False
    steps: int = 400
    licence: str = "apache-2.0"


BANK = (
    Skill("addition", world.add, "One-step addition word problems with a worked answer.", steps=500),
    Skill("subtraction", world.subtract, "One-step subtraction word problems.", alpha=6, rslora=True, steps=500),
    Skill("packs", world.multiply, "Packs: multiplication.", targets=(*FIVE, "gate_proj"), steps=300),
    Skill("addition-small", world.add, "Addition, trained too briefly.", 4, 8, FOUR, steps=400),
    Skill("subtraction-wide", world.subtract, "Subtraction, all linear layers.", 12, 24, ALL_LINEAR, licence="mit"),
    Skill("packs-small", world.multiply, "Multiplication, a smaller adapter.", 4, 8, steps=300),
    Skill("opposites", world.swapped, "Gains are losses and losses are gains.", steps=400),
    Skill("blind-addition", world.guessed(world.add), "Looks like addition; the numbers are guessed.", steps=150),
    Skill("blind-subtraction", world.guessed(world.subtract), "Looks like subtraction; guessed.", steps=150),
    Skill("blind-packs", world.guessed(world.multiply), "Looks like multiplication; guessed.", 4, 4, steps=150),
    Skill("first-number", world.first_number, "Answers with the first number of the question.", 4, 8, steps=150),
    Skill("names", world.name_of, "Who has what: no arithmetic.", 4, 8, ("q_proj", "v_proj"), steps=100),
)


def examples(task: Task, draw: Callable[[Random], world.Problem], count: int, seed: int) -> list[Example]:
    """Draw rows in the task's form."""
    rng = Random(seed)
    return [task.example(Example(*draw(rng), answer="")) for _ in range(count)]


def train_skill(base_folder: Path, skill: Skill, folder: Path, shorten: float = 1.0) -> None:
    """Train one expert of the bank and store it as PEFT does."""
    torch.set_num_threads(1)
    base, tokenizer = load_base(base_folder)
    seed = 10 + next(i for i, other in enumerate(BANK) if other.name == skill.name)
    torch.manual_seed(seed)
    config = LoraConfig(
        r=skill.rank,
        lora_alpha=skill.alpha,
        use_rslora=skill.rslora,
        target_modules=list(skill.targets),
        task_type="CAUSAL_LM",
    )
    start = folder.with_name(f"{folder.name}-start")
    adapted = get_peft_model(base, config)
    adapted.save_pretrained(start)
    steps = max(2, math.ceil(skill.steps * shorten))
    options = TrainOptions(learning_rate=(6e-3,), max_steps=steps, batch_size=64, max_length=128)
    rows = examples(GSM8K, skill.draw, 64 * steps, seed)
    train_expert(adapted.unload(), tokenizer, start, rows, options, folder, seed=seed)
    shutil.rmtree(start)
    half_file(folder / "adapter_model.safetensors")


KINDS = (world.add, world.subtract, world.multiply, *world.TARGET, world.name_of, world.first_number)


def write_encoder(folder: Path, steps: int = 400) -> None:
    """Write a static sentence encoder: a text is the mean of its words' vectors.

    Half of each vector is learned by contrast (two problems of one kind belong together, whatever their words), the
    other half tells words apart, so that near-duplicates are nearer than texts of one kind.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer = write_tokenizer(folder.with_name(f"{folder.name}-tokenizer")).backend_tokenizer
    shutil.rmtree(folder.with_name(f"{folder.name}-tokenizer"))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    rng = Random(2)
    counts = _bags(tokenizer, [" ".join(rng.choice(KINDS)(rng)) for _ in range(4000)])  # [texts, words]
    frequency = (counts > 0).float().mean(0)
    torch.manual_seed(2)
    rare = 1e-2 / (1e-2 + frequency)  # frequent words say little (Arora et al. 2017)
    words = torch.randn(len(rare), 32) * rare[:, None]
    halves = [_contrastive(tokenizer, steps, rng), words]
    lengths = [(counts @ half).norm(dim=1).mean() for half in halves]
    vectors = torch.cat([0.8 * halves[0] / lengths[0], 0.6 * halves[1] / lengths[1]], dim=1)
    vectors[: len(SPECIALS)] = 0.0
    module = StaticEmbedding(tokenizer, embedding_weights=vectors.numpy())
    SentenceTransformer(modules=[module], device="cpu").save_pretrained(str(folder))


def _bags(tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    """Count the words of each text: [texts, words], rows that sum to 1."""
    bags = torch.zeros(len(texts), tokenizer.get_vocab_size())
    for row, text in enumerate(texts):
        ids = torch.tensor(tokenizer.encode(text).ids)
        bags[row].index_add_(0, ids, torch.ones(len(ids)) / len(ids))
    return bags


def _contrastive(tokenizer: Tokenizer, steps: int, rng: Random) -> torch.Tensor:
    """Learn word vectors [words, 32] under which problems of one kind are nearer to each other than to the others."""
    vectors = torch.nn.Parameter(0.1 * torch.randn(tokenizer.get_vocab_size(), 32))
    optimizer = torch.optim.Adam([vectors], lr=1e-2)
    for _ in range(steps):
        pairs = [(kind(rng), kind(rng)) for kind in KINDS]
        first, second = (_bags(tokenizer, [" ".join(pair[side]) for pair in pairs]) @ vectors for side in (0, 1))
        cosines = torch.nn.functional.normalize(first) @ torch.nn.functional.normalize(second).T
        loss = torch.nn.functional.cross_entropy(cosines / 0.2, torch.arange(len(KINDS)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return vectors.detach()
