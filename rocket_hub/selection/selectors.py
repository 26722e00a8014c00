from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rocket_hub.errors import InputError
from rocket_hub.inference.likelihood import completion_nll, row_losses
from rocket_hub.inference.tokens import batches, encode, evaluating
from rocket_hub.lora.attach import Pair, swapping
from rocket_hub.options import ExpertOptions
from rocket_hub.records import Example, ExpertScore
from rocket_hub.selection.groups import Factors, ranked_groups, similarity_of

SAME = 0.99999  # cosine of two equal updates, but for the rounding of bf16 files
NEARLY = 0.95
LORAHUB_BOUND = 1.5  # LoRAHub (Huang et al. 2023), Section 3.3: weights from -1.5 to 1.5, L1 factor 0.05
LORAHUB_L1 = 0.05
LORAHUB_STEPS = 40
_USED = 1e-3  # a smaller weight is none
_LEAST = 1e-9  # a smaller gain is none

Loss = Callable[[Mapping[str, float]], float]  # weight of each adapter -> mean K-shot loss of their weighted sum
Tokens = Callable[[Sequence[str]], np.ndarray]  # M adapters -> probability of each token of the K-shot [M, T]
Votes = Callable[[Mapping[str, np.ndarray]], np.ndarray]  # module -> prototypes [M, in] -> votes [M]; see `arrow`


@dataclass(frozen=True)
class Probes:
    """Measurements of the K-shot on the base model (`mixture_loss`, `kshot_votes`, `kshot_tokens`), or none."""

    loss: Loss | None = None  # K-shot loss of a weighted sum of adapters, for `lorahub`
    votes: Votes | None = None  # counts the prototypes that the K-shot's hidden states are most like, for `arrow`
    tokens: Tokens | None = None  # probability of each token of the K-shot under each adapter, for `coverage`


NO_PROBES = Probes()


@dataclass(frozen=True)
class Bank:
    """The input of a selector.

    Attributes:
        scores: All M adapters, best rank sum first; equal ones by perplexity, then by repository id.
        factors: repository id -> module -> (A, B).
        options: M, N, which similarity.
        pool: The adapters that the group may be made of, best first: no two of them are the same update.
        similarity: Of those [P, P].
        copies: Adapter that is left out of the pool -> the better one with the same update.
        seed: Of `random`.
        probes: Measurements on the base model.
    """

    scores: tuple[ExpertScore, ...]
    factors: Mapping[str, Factors]
    options: ExpertOptions
    pool: tuple[ExpertScore, ...]
    similarity: np.ndarray
    copies: Mapping[str, str]
    seed: int = 0
    probes: Probes = NO_PROBES

    @property
    def shortlist(self) -> tuple[ExpertScore, ...]:
        """The M best of the pool (Algorithm 1)."""
        return self.pool[: self.options.shortlist]

    def groups(self) -> tuple[np.ndarray, np.ndarray]:
        """Order the groups of N of the shortlist: (groups [n, N], totals [n]), see `ranked_groups`."""
        count = len(self.shortlist)
        rank_sums = np.array([rank_sum(score) for score in self.shortlist])
        return ranked_groups(rank_sums, self.similarity[:count, :count], min(self.options.num_experts, count))


def rank_sum(score: ExpertScore) -> float:
    """Add RP and RA."""
    return score.rank_perplexity + score.rank_accuracy


def make_bank(
    scores: Sequence[ExpertScore],
    factors: Mapping[str, Factors],
    options: ExpertOptions,
    *,
    seed: int = 0,
    probes: Probes = NO_PROBES,
) -> Bank:
    """Order the adapters, compare them, and leave copies out of the pool.

    Two adapters with the same update, whatever their factors, ranks or size, are one skill: the one that the K-shot
    ranks higher stays in the pool. The paper has no such rule, so it does not apply to the paper's own diversity.
    Adapters outside the shortlist may lack factors; they are only ranked.
    """
    ordered = tuple(sorted(scores, key=lambda score: (rank_sum(score), score.perplexity, score.repo_id)))
    missing = [score.repo_id for score in ordered[: options.shortlist] if score.repo_id not in factors]
    if missing:
        raise InputError(f"no weights given for {', '.join(missing)}, which the diversity of the group needs")
    pool = [score for score in ordered if score.repo_id in factors]
    copies: dict[str, str] = {}
    if options.diversity == "paper":
        shortlist, rest = pool[: options.shortlist], pool[options.shortlist :]
        pool = [*shortlist, *(score for score in rest if _shapes(score, factors) == _shapes(shortlist[0], factors))]
        return Bank(ordered, factors, options, tuple(pool), similarity_of(pool, factors, options.diversity), copies,
                    seed, probes)  # fmt: skip
    cosines = similarity_of(pool, factors, "delta_w")
    for i, j in zip(*np.nonzero(np.triu(cosines >= SAME, 1)), strict=True):
        if pool[i].repo_id not in copies:
            copies.setdefault(pool[j].repo_id, pool[i].repo_id)
    kept = [i for i, score in enumerate(pool) if score.repo_id not in copies]
    pool = [pool[i] for i in kept]
    similarity = cosines[np.ix_(kept, kept)]
    if options.diversity != "delta_w":
        similarity = similarity_of(pool, factors, options.diversity)
    return Bank(ordered, factors, options, tuple(pool), similarity, copies, seed, probes)


def _shapes(score: ExpertScore, factors: Mapping[str, Factors]) -> dict[str, tuple[tuple[int, ...], ...]]:
    return {name: (a.shape, b.shape) for name, (a, b) in factors[score.repo_id].items()}


def covering_group(probabilities: np.ndarray, size: int) -> tuple[int, ...]:
    """Find the N experts with the largest mean over tokens of the best expert's probability; rows, ascending.

    A router that gives each token to one expert could reach that at best, untrained. The objective is submodular
    (facility location), so the greedy group is within 1 - 1/e of the best one (Nemhauser et al. 1978); after that
    single experts are exchanged as long as that gains. Of equal experts the first is taken.

    Args:
        probabilities: Of each token under each of M experts [M, T].
        size: N; with M < N, all are taken.
    """
    group: list[int] = []
    for _ in range(min(size, len(probabilities))):
        group.append(_best_addition(probabilities, group))
    value, improved = _covered(probabilities, group), True
    while improved:
        improved = False
        for place in range(len(group)):
            rest = [*group[:place], *group[place + 1 :]]
            other = [*rest, _best_addition(probabilities, rest)]
            if (found := _covered(probabilities, other)) > value + _LEAST:
                group, value, improved = other, found, True
    return tuple(sorted(group))


def _best_addition(probabilities: np.ndarray, group: list[int]) -> int:
    """Return the expert outside a group that adds most to it."""
    covered = probabilities[group].max(axis=0) if group else np.zeros(probabilities.shape[1])
    values = np.maximum(probabilities, covered).mean(axis=1)
    values[group] = -np.inf
    return int(values.argmax())


def _covered(probabilities: np.ndarray, group: list[int]) -> float:
    """Average the probability of each token under the group's best expert for it."""
    return float(probabilities[group].max(axis=0).mean())


def rocket(bank: Bank) -> tuple[str, ...]:
    """Choose the N of the shortlist with the least Σ (RP + RA) + RD (Algorithm 1)."""
    groups, _ = bank.groups()
    return tuple(bank.shortlist[i].repo_id for i in groups[0])


def coverage(bank: Bank) -> tuple[str, ...]:
    """Choose the N adapters that together find the K-shot's tokens likeliest, each token under its best one.

    This is for tasks that need several skills in one answer: there no adapter answers anything right, and by whole
    answers two of one skill look as good as two of different skills.
    """
    if bank.probes.tokens is None:
        raise InputError("experts.selector: 'coverage' needs the likelihoods of the K-shot's tokens; use it in a build")
    names = [score.repo_id for score in bank.pool]
    return tuple(names[i] for i in covering_group(bank.probes.tokens(names), bank.options.num_experts))


def random(bank: Bank) -> tuple[str, ...]:
    """Draw N of all adapters."""
    count = min(bank.options.num_experts, len(bank.scores))
    drawn = np.random.default_rng(bank.seed).choice(len(bank.scores), count, replace=False)
    return tuple(bank.scores[i].repo_id for i in sorted(drawn))


def best_single(bank: Bank) -> tuple[str, ...]:
    """Choose the one adapter with the least RP + RA."""
    return (bank.scores[0].repo_id,)


def every(bank: Bank) -> tuple[str, ...]:
    """Choose all adapters."""
    return tuple(score.repo_id for score in bank.scores)


def arrow(bank: Bank) -> tuple[str, ...]:
    """Choose the N adapters whose prototypes the K-shot's hidden states match most often, without training.

    Arrow (Ostapenko et al. 2024, Section 4.1) routes a hidden state x to the adapters with the largest |v · x|, v being
    the unit direction of input that ΔW amplifies most. Here each token of the K-shot in each adapted module, as the
    bare base computes it, votes for the first of them; an adapter that does not adapt the module gets no vote there.
    """
    if bank.probes.votes is None:
        raise InputError("experts.selector: 'arrow' needs the hidden states of the K-shot; use it in a build")
    experts = [bank.factors[score.repo_id] for score in bank.scores]
    widths = {name: a.shape[1] for factors in experts for name, (a, _) in factors.items()}
    prototypes = {name: np.zeros((len(experts), width)) for name, width in widths.items()}
    for row, factors in enumerate(experts):
        for name in factors:
            prototypes[name][row] = top_direction(factors, name)
    order = np.argsort(-bank.probes.votes(prototypes), kind="stable")[: bank.options.num_experts]
    return tuple(bank.scores[i].repo_id for i in order)


def lorahub(bank: Bank) -> tuple[str, ...]:
    """Choose the N adapters of largest weight in the sum of all that does best on the K-shot (LoRAHub).

    The paper adds up A and B separately, which needs equal ranks and mixes experts; here the updates ΔW, alpha
    included, are added up. An adapter of negative weight is not chosen, unless there is no other.
    """
    if bank.probes.loss is None:
        raise InputError("experts.selector: 'lorahub' needs the K-shot's loss under a mixture; use it in a build")
    weights = lorahub_weights(bank.probes.loss, [score.repo_id for score in bank.scores])
    order = sorted(weights, key=lambda name: -weights[name])[: bank.options.num_experts]
    return tuple(name for name in order if weights[name] > _USED) or (order[0],)


def lorahub_weights(loss: Loss, names: Sequence[str]) -> dict[str, float]:
    """Find weights of adapters by their K-shot loss as LoRAHub does (Huang et al. 2023, Section 3.3).

    COBYLA, which needs no gradients, minimises loss + 0.05 · Σ|w|, from 0 and within ±1.5.
    """
    from scipy.optimize import minimize

    def named(weights: np.ndarray) -> dict[str, float]:
        return dict(zip(names, np.clip(weights, -LORAHUB_BOUND, LORAHUB_BOUND).tolist(), strict=True))

    def objective(weights: np.ndarray) -> float:
        inside = named(weights)
        return loss(inside) + LORAHUB_L1 * sum(map(abs, inside.values()))

    steps = max(LORAHUB_STEPS, 4 * len(names))  # the method's first guess at the slopes alone takes M + 1
    bounds = [(-LORAHUB_BOUND, LORAHUB_BOUND)] * len(names)
    options = {"maxiter": steps, "rhobeg": 0.5}
    return named(minimize(objective, np.zeros(len(names)), method="COBYLA", bounds=bounds, options=options).x)


def top_direction(factors: Factors, module: str) -> np.ndarray:
    """Compute the unit direction of input that ΔW = BA of a module amplifies most [in], from r × r matrices."""
    a, b = (matrix.astype(np.float64) for matrix in factors[module])
    if not a.any() or not b.any():
        return np.zeros(a.shape[1])
    q, r = np.linalg.qr(a.T)  # A = rᵀ qᵀ
    # [k, r] [r, r] -> right singular vectors in the span of q
    direction: np.ndarray = q @ np.linalg.svd(np.linalg.qr(b)[1] @ r.T)[2][0]
    return direction


SELECTORS = {
    "rocket": rocket,
    "coverage": coverage,
    "random": random,
    "best_single": best_single,
    "arrow": arrow,
    "lorahub": lorahub,
    "all": every,
}
"""Name in a recipe -> function; `experts.selector` lists the same names."""


def mixture_loss(
    model: Any, tokenizer: Any, factors: Mapping[str, Mapping[str, Pair]], shots: Sequence[Example], *, batch_size: int
) -> Loss:
    """Make the function that `lorahub` minimises; it leaves the model as it was.

    Args:
        model: The base model.
        tokenizer: Its tokenizer.
        factors: repository id -> module -> (A [r, in], B [out, r] with the scaling folded in).
        shots: The K-shot in the task's form.
        batch_size: Rows computed at once.

    Returns:
        From weights w by repository id to the mean negative log-likelihood per token over the shots, in nats, of the
        base with Σ w ΔW.
    """
    rows = [(shot.prompt, shot.completion) for shot in shots]

    def loss(weights: Mapping[str, float]) -> float:
        mixed = mixture({name: factors[name] for name in weights}, weights)
        with swapping(model, mixed) as swap:
            swap(mixed)
            nll, tokens = completion_nll(model, tokenizer, rows, batch_size=batch_size)
        return float((nll / tokens).mean())

    return loss


def mixture(factors: Mapping[str, Mapping[str, Pair]], weights: Mapping[str, float]) -> dict[str, Pair]:
    """Make Σ w ΔW one adapter: all A above each other [Σr, in], all w B beside each other [out, Σr]."""
    modules = dict.fromkeys(module for expert in factors.values() for module in expert)
    mixed: dict[str, Pair] = {}
    for module in modules:
        owners = [name for name in factors if module in factors[name]]
        a = torch.cat([torch.as_tensor(factors[name][module][0]) for name in owners])
        b = torch.cat([torch.as_tensor(factors[name][module][1]) * weights[name] for name in owners], dim=1)
        mixed[module] = a, b
    return mixed


def kshot_tokens(
    model: Any, tokenizer: Any, factors: Mapping[str, Mapping[str, Pair]], shots: Sequence[Example], *, batch_size: int
) -> Tokens:
    """Make the function that `coverage` needs; arguments as of `mixture_loss`.

    Returns:
        From M repository ids to the probability of each completion token of the K-shot under each adapter [M, T].
    """

    def tokens(names: Sequence[str]) -> np.ndarray:
        rows = [encode(tokenizer, shot.prompt, shot.completion) for shot in shots]
        order = list(batches([len(ids) for ids, _ in rows], batch_size))
        found = []
        with swapping(model, [module for name in names for module in factors[name]]) as swap, evaluating(model):
            for name in names:
                swap(factors[name])
                losses = [loss for batch in order for loss in row_losses(model, [rows[i] for i in batch])]
                found.append(np.exp(-torch.cat(losses).double().numpy()))
        return np.array(found)

    return tokens


def kshot_votes(model: Any, tokenizer: Any, shots: Sequence[Example]) -> Votes:
    """Make the function with which `arrow` counts votes on the base model without an adapter.

    Returns:
        From module -> prototypes [M, in], zero where an adapter has none, to the votes of all tokens and modules [M].
    """
    rows = [encode(tokenizer, shot.prompt, shot.completion)[0] for shot in shots]

    def votes(prototypes: Mapping[str, np.ndarray]) -> np.ndarray:
        counts = np.zeros(len(next(iter(prototypes.values()))))

        def listen(vectors: torch.Tensor) -> Callable[..., None]:
            def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
                x = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
                # [tokens, in] [in, M] -> [tokens, M]
                first = (x @ vectors.to(x.device).t()).abs().argmax(dim=1)
                counts[:] += torch.bincount(first, minlength=len(counts)).cpu().numpy()

            return hook

        with ExitStack() as stack:
            stack.enter_context(evaluating(model))
            for module, vectors in prototypes.items():
                layer = model.get_submodule(module)
                hook = layer.register_forward_pre_hook(listen(torch.from_numpy(vectors).float()))
                stack.callback(hook.remove)
            for ids in rows:
                model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
        return counts

    return votes
