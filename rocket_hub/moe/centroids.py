"""Start values for routers from examples: each token goes to the expert whose examples look most like it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from rocket_hub.errors import InputError
from rocket_hub.inference import completion_nll, encode
from rocket_hub.moe.gates import fixed_gates, layers
from rocket_hub.moe.initialisation import read_stacks, write_routers

Rows = Sequence[tuple[str, str]]
See = Callable[[str, int, torch.Tensor], None]  # (place, owner, inputs [tokens, in])


def kshot_routers(
    folder: Path | str,
    base: Any,
    tokenizer: Any,
    rows: Rows,
    owners: Sequence[int] | None = None,
    *,
    sharpness: float = 1.0,
) -> tuple[int, ...]:
    """Write routers whose rows are the centroids of the experts' examples, in each layer's own input space.

    Every row is run through its own expert. A router has no bias, so what all inputs have in common would decide: the
    centroids' differences from the mean input are taken orthogonal to it, which makes the mean input's logits 0.

    Args:
        folder: Folder of the ROCKET_MOE adapter; only its routers are changed.
        base: Its base model; it is given back unchanged.
        tokenizer: Its tokenizer.
        rows: (prompt, completion).
        owners: Expert that each row belongs to; None = the expert under which the completion is likeliest.
        sharpness: Root mean square of a layer's logits over all tokens of the rows.

    Returns:
        The owners. Experts that own no row get logit 0.

    Raises:
        AdapterError: The folder holds no ROCKET_MOE adapter (`not_rocket_moe`).
        InputError: There are no rows, or `owners` does not fit them.
    """
    config, _ = read_stacks(folder)
    experts = config.num_experts
    if not rows or (owners is not None and len(owners) != len(rows)):
        raise InputError(
            f"rows: {len(rows)} rows, {len(owners or ())} owners; give at least one row, and one owner each"
        )
    if owners is not None and not all(0 <= owner < experts for owner in owners):
        raise InputError(f"owners: expected experts from 0 to {experts - 1}, found {sorted(set(owners))}")
    model = PeftModel.from_pretrained(base, str(folder)).eval()
    try:
        chosen = likeliest_experts(model, tokenizer, rows, experts) if owners is None else tuple(owners)
        shared = config.router == "shared"
        # Layers that share a router share their examples too.
        places = {name: str(layer.in_features) if shared else name for name, layer in layers(model).items()}
        run = partial(_run_rows, model, tokenizer, rows, chosen, places, experts)
        weights = _scaled(_centred(run, experts), run, sharpness)
    finally:
        model.unload()
    write_routers(folder, {name: weights[place] for name, place in places.items()}, router_logits="linear")
    return chosen


def likeliest_experts(model: Any, tokenizer: Any, rows: Rows, num_experts: int) -> tuple[int, ...]:
    """Find the expert under which each completion is likeliest, every expert alone at the weight it came with.

    Args:
        model: Model with an active ROCKET_MOE adapter.
        tokenizer: Its tokenizer.
        rows: (prompt, completion).
        num_experts: E.

    Returns:
        One expert per row.
    """
    losses = []
    for gates in torch.eye(num_experts) / model.active_peft_config.expert_weight:
        with fixed_gates(model, dict.fromkeys(layers(model), gates)):
            losses.append(torch.from_numpy(completion_nll(model, tokenizer, rows)[0]))
    return tuple(torch.stack(losses).argmin(0).tolist())


@torch.no_grad()
def _run_rows(
    model: Any, tokenizer: Any, rows: Rows, owners: Sequence[int], places: dict[str, str], experts: int, see: See
) -> None:
    """Run every row through its own expert and show the inputs of every layer to `see`."""
    found = layers(model)
    alone = torch.eye(experts) / model.active_peft_config.expert_weight
    for row, owner in zip(rows, owners, strict=True):
        ids = torch.tensor([encode(tokenizer, *row)[0]], device=model.device)

        def hook(place: str, owner: int, layer: Any, args: tuple[torch.Tensor, ...]) -> None:
            see(place, owner, args[0].reshape(-1, args[0].shape[-1]).float())

        with ExitStack() as stack:
            for name, place in places.items():
                stack.callback(found[name].register_forward_pre_hook(partial(hook, place, owner)).remove)
            stack.enter_context(fixed_gates(model, dict.fromkeys(places, alone[owner])))
            model(input_ids=ids, use_cache=False)


def _centred(run: Callable[[See], None], experts: int) -> dict[str, torch.Tensor]:
    """Compute the centroids of each place, [E, in], less the mean and orthogonal to it."""
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, torch.Tensor] = {}

    def see(place: str, owner: int, x: torch.Tensor) -> None:
        if place not in sums:
            sums[place], counts[place] = torch.zeros(experts, x.shape[1]).double(), torch.zeros(experts).double()
        sums[place][owner] += x.sum(0).cpu()
        counts[place][owner] += len(x)

    run(see)
    found = {}
    for place, total in sums.items():
        number = counts[place]
        mean = total.sum(0) / number.sum()
        weight = (total / number.clamp_min(1)[:, None] - mean) * (number > 0)[:, None]
        unit = mean / mean.norm().clamp_min(1e-12)
        found[place] = (weight - (weight @ unit)[:, None] * unit).float()
    return found


def _scaled(weights: dict[str, torch.Tensor], run: Callable[[See], None], rms: float) -> dict[str, torch.Tensor]:
    """Scale each router so that the logits of the experts that have examples have the given root mean square."""
    squares = dict.fromkeys(weights, 0.0)
    logits = dict.fromkeys(weights, 0)

    def see(place: str, owner: int, x: torch.Tensor) -> None:
        weight = weights[place].to(x.device)
        squares[place] += float((x @ weight.t()).square().sum())
        logits[place] += len(x) * int(weight.any(1).sum())

    run(see)
    return {
        place: weight * (rms * (logits[place] / squares[place]) ** 0.5) if squares[place] > 1e-12 else weight * 0
        for place, weight in weights.items()
    }
