"""Start values for the routers of a ROCKET_MOE adapter, so that a merge routes sensibly before any training."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file

from rocket_hub.errors import AdapterError, InputError
from rocket_hub.inference import completion_nll, encode
from rocket_hub.lora.attach import load_adapter
from rocket_hub.moe.config import RocketMoeConfig
from rocket_hub.moe.gates import fixed_gates, layers

_PREFIX, _DOWN, _UP, _ROUTER = (
    "base_model.model.",
    ".rocket_moe_A.weight",
    ".rocket_moe_B.weight",
    ".rocket_moe_router.weight",
)
Stack = tuple[torch.Tensor, torch.Tensor, Sequence[int]]


def arrow_routers(folder: Path | str, *, scale: float = 1.0) -> None:
    """Write Arrow's routers: the direction of input that each expert amplifies most (Ostapenko et al. 2024, 4.1).

    The sign of a direction means nothing, so the adapter's `router_logits` becomes `absolute`. With `softmax`, `top_k`
    and `scale` 1 this is PEFT's Arrow at temperature 1.

    Args:
        folder: Folder of the adapter.
        scale: Length of every row; the inverse of Arrow's temperature.

    Raises:
        AdapterError: The folder holds no ROCKET_MOE adapter (`not_rocket_moe`), or its router is shared
            (`shared_router`): an expert has another direction in each module.
    """
    config, stacks = read_stacks(folder)
    if config.router == "shared":
        raise AdapterError(
            "shared_router",
            f"{folder}: Arrow gives every module its own router, this adapter shares one; merge with router: layer",
        )
    weights = {module: scale * arrow_prototypes(a, b, ranks) for module, (a, b, ranks) in stacks.items()}
    write_routers(folder, weights, router_logits="absolute")


def arrow_prototypes(a: torch.Tensor, b: torch.Tensor, ranks: Sequence[int]) -> torch.Tensor:
    """Compute the top right singular vector of `B_e A_e` for each expert, exactly and without forming the product.

    With `A^T = Q R` and `B = P S`, `B A = P (S R^T) Q^T`: Q turns the right singular vectors of the small matrix.

    Args:
        a: Stacked experts A, [ΣR, in].
        b: Stacked experts B, [out, ΣR].
        ranks: Rank of each expert; 0 = absent.

    Returns:
        [E, in] in fp32, rows of length 1, the largest entry of each positive; rows of experts that do nothing are 0.
    """
    rows = []
    for part_a, part_b in zip(a.double().split(list(ranks)), b.double().split(list(ranks), dim=1), strict=True):
        if not part_a.any() or not part_b.any():
            rows.append(a.new_zeros(a.shape[1], dtype=torch.float64))
            continue
        q, r = torch.linalg.qr(part_a.t())
        top = q @ torch.linalg.svd(torch.linalg.qr(part_b)[1] @ r.t()).Vh[0]
        rows.append(top * top[top.abs().argmax()].sign())
    return torch.stack(rows).float()


def write_routers(folder: Path | str, weights: Mapping[str, torch.Tensor], **settings: Any) -> None:
    """Replace routers (module name -> [E, in]) and fields of `adapter_config.json` in an adapter folder."""
    path = Path(folder) / "adapter_model.safetensors"
    tensors = load_file(path)
    for module, weight in weights.items():
        tensors[f"{_PREFIX}{module}{_ROUTER}"] = weight.detach().float().cpu().clone().contiguous()
    written = path.with_suffix(".new")
    save_file(tensors, written, metadata={"format": "pt"})
    if settings:
        config_path = Path(folder) / "adapter_config.json"
        config = {**json.loads(config_path.read_text(encoding="utf-8")), **settings}
        config_path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    written.replace(path)


def read_stacks(folder: Path | str) -> tuple[RocketMoeConfig, dict[str, Stack]]:
    """Read the folder of a routed adapter.

    Returns:
        (configuration, module name as in the base model -> (A [ΣR, in], B [out, ΣR], rank of each expert)).
    """
    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, RocketMoeConfig):
        raise AdapterError("not_rocket_moe", f"{folder}: a {config.peft_type} adapter; merge experts into one first")
    tensors = load_file(Path(folder) / "adapter_model.safetensors")
    stacks: dict[str, Stack] = {}
    for key in sorted(tensors):
        if key.endswith(_DOWN):
            module = key.removesuffix(_DOWN).removeprefix(_PREFIX)
            pattern = get_pattern_key(list(config.rank_pattern), module)
            ranks = config.rank_pattern.get(pattern, config.expert_ranks)
            stacks[module] = (tensors[key], tensors[key.removesuffix(_DOWN) + _UP], ranks)
    return config, stacks


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

    Every row is run through its own expert. The centroids' differences from the mean input are taken orthogonal to it:
    a router has no bias, and so the mean input's logits are 0.

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
    model = load_adapter(base, folder).eval()
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
    """Find the expert under which each completion is likeliest, every expert alone at the weight it came with."""
    losses = []
    for gates in torch.eye(num_experts) / model.active_peft_config.expert_weight:
        with fixed_gates(model, dict.fromkeys(layers(model), gates)):
            losses.append(torch.from_numpy(completion_nll(model, tokenizer, rows)[0]))
    return tuple(torch.stack(losses).argmin(0).tolist())


@torch.no_grad()
def _run_rows(
    model: Any, tokenizer: Any, rows: Rows, owners: Sequence[int], places: dict[str, str], experts: int, see: See
) -> None:
    """Run every row through its own expert, and call `see` with the inputs of every layer."""
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
