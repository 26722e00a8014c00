"""Run by `test_losses.py` under torchrun in two gloo processes: DDP averages the injected gradients too."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.layer import Linear
from rocket_hub.moe.losses import AuxiliaryLosses


def made() -> Linear:
    torch.manual_seed(0)
    config = RocketMoeConfig(expert_ranks=[2, 3, 1], top_k=1, load_balance_coef=0.3, entropy_coef=0.2, z_coef=0.1)
    layer = Linear(nn.Linear(6, 5), "default", config.expert_ranks, config, losses=AuxiliaryLosses(config))
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    layer.base_layer.requires_grad_(False)
    return layer.train()


def gradients(layer: nn.Module, rank: int) -> list[torch.Tensor]:
    layer.zero_grad()
    layer(torch.randn(4, 6, generator=torch.Generator().manual_seed(rank))).square().mean().backward()
    return [parameter.grad.clone() for parameter in layer.parameters() if parameter.requires_grad]


def main() -> None:
    dist.init_process_group("gloo")
    alone = [gradients(made(), rank) for rank in range(2)]
    together = gradients(DistributedDataParallel(made()), dist.get_rank())
    for mine, first, second in zip(together, *alone, strict=True):
        torch.testing.assert_close(mine, (first + second) / 2, atol=1e-6, rtol=1e-5)
    if dist.get_rank() == 0:
        print(f"same: {len(together)}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
