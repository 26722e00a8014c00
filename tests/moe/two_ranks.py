"""Run by `test_peft_training.py` under torchrun, in two gloo processes: every way to train on several devices.

Rank 0 writes what it found as JSON; an exception on any rank fails the launch.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.distributed as dist
from peft import PeftModel
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoTokenizer, LlamaForCausalLM

from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.layer import Linear
from rocket_hub.moe.losses import AuxiliaryLosses
from tests.moe.routing_world import sft_trainer

STEPS = 3


def load(base: str, adapter: str) -> PeftModel:
    """The adapter, ready to be trained."""
    return PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), adapter, is_trainable=True).train()


def trainable(model: nn.Module) -> dict[str, torch.Tensor]:
    """Name -> weight, whole, of everything that is trained."""
    return {
        name.removeprefix("module."): (p.full_tensor() if isinstance(p, DTensor) else p).detach()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def steps(model: nn.Module, batches: Callable[[int], Iterable[torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Train with SGD, on the mean of each step's batches, and return the weights."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for step in range(STEPS):
        optimizer.zero_grad()
        for share in (batch := list(batches(step))):
            (model(input_ids=share, labels=share).loss / len(batch)).backward()
        optimizer.step()
    return trainable(model)


def rows(step: int, rank: int) -> torch.Tensor:
    """What a rank sees at a step, [2, 7]."""
    return torch.randint(4, 28, (2, 7), generator=torch.Generator().manual_seed(10 * step + rank))


def apart(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    """Largest difference of two sets of weights."""
    assert weights.keys() == others.keys()
    return max((weights[name] - others[name]).abs().max().item() for name in weights)


def between_ranks(weights: dict[str, torch.Tensor]) -> float:
    """Largest difference of the ranks' weights."""
    flat = torch.cat([weights[name].reshape(-1) for name in sorted(weights)])
    both = [torch.empty_like(flat) for _ in range(2)]
    dist.all_gather(both, flat)
    return (both[0] - both[1]).abs().max().item()


def with_trainer(base: str, adapter: str, folder: str) -> dict[str, torch.Tensor]:
    """Let TRL train, which sets up DDP by itself."""
    data = [{"prompt": f"what is {n} plus 2 ?", "completion": f" the answer is {n + 2} ."} for n in range(8)]
    options = {"ddp_backend": "gloo", "max_steps": 2, "learning_rate": 0.01, "per_device_train_batch_size": 2}
    options |= {"save_strategy": "no", "activation_checkpointing": True}
    trainer = sft_trainer(load(base, adapter), AutoTokenizer.from_pretrained(base), data, folder, **options)
    trainer.train()
    assert trainer.args.world_size == 2
    return trainable(trainer.model)


def sharded(base: str, adapter: str) -> nn.Module:
    """The model under FSDP2, one group of weights per layer."""
    model = load(base, adapter)
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.get_base_model().model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def of_losses(rank: int) -> float:
    """Largest difference of DDP's gradients of the auxiliary losses from the mean of both ranks'."""

    def made() -> Linear:
        torch.manual_seed(0)
        config = RocketMoeConfig(expert_ranks=[2, 3, 1], top_k=1, load_balance_coef=0.3, entropy_coef=0.2, z_coef=0.1)
        layer = Linear(nn.Linear(6, 5), "default", config.expert_ranks, config, losses=AuxiliaryLosses(config))
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.5)
        layer.base_layer.requires_grad_(False)
        return layer.train()

    def gradients(layer: nn.Module, rank: int) -> dict[str, torch.Tensor]:
        layer(torch.randn(4, 6, generator=torch.Generator().manual_seed(rank))).square().mean().backward()
        return {name.removeprefix("module."): p.grad for name, p in layer.named_parameters() if p.requires_grad}

    first, second = (gradients(made(), each) for each in range(2))
    assert len(first) == 3
    together = gradients(DistributedDataParallel(made()), rank)
    return apart(together, {name: (first[name] + second[name]) / 2 for name in first})


def main(base: str, adapter: str, idle: str, folder: str) -> None:
    """Run everything; `idle` is an adapter of which an expert gets no token."""
    found = {"trainer": between_ranks(with_trainer(base, adapter, folder))}
    rank = dist.get_rank()
    found["losses"] = of_losses(rank)
    start = trainable(load(base, adapter))
    for name, path in (("ddp", adapter), ("ddp_idle", idle)):
        weights = steps(DistributedDataParallel(load(base, path)), lambda step: [rows(step, rank)])
        alone = steps(load(base, path), lambda step: [rows(step, 0), rows(step, 1)])
        found[name] = {"ranks": between_ranks(weights), "alone": apart(weights, alone)}
    alone = steps(load(base, adapter), lambda step: [rows(step, 0), rows(step, 1)])
    weights = steps(sharded(base, adapter), lambda step: [rows(step, rank)])
    found["fsdp"] = {"ranks": between_ranks(weights), "alone": apart(weights, alone), "moved": apart(weights, start)}
    if rank == 0:
        (Path(folder) / "found.json").write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # all is said; gloo's threads now and then abort an interpreter that tears itself down


if __name__ == "__main__":
    main(*sys.argv[1:])
