from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from peft import PeftConfig, PeftType

from rocket_hub.errors import AdapterError, RecipeError
from rocket_hub.options import Gate, GateScale, Router

FORMAT_VERSION = 1
CHOICES: dict[str, tuple[Any, ...]] = {
    "gate": get_args(Gate),
    "gate_scale": (*get_args(GateScale), None),
    "router": get_args(Router),
    "router_logits": ("linear", "absolute"),
}


@dataclass
class RocketMoeConfig(PeftConfig):
    """Describe a routed mixture of LoRA experts.

    Routers compute in fp32 whatever the model's dtype is. One thing gets past that: on a quantised base (QLoRA), TRL's
    SFTTrainer casts all that is trained to bf16, routers too. `train_expert` casts them back; with a trainer of your
    own, do so once it is made: `for _, p in router_parameters(model): p.data = p.data.float()`.

    Args:
        target_modules: Module names (or endings of names), or one regular expression, or `"all-linear"`.
        exclude_modules: Module names, or one regular expression, that stay unadapted.
        expert_ranks: Rank of each expert, for modules that `rank_pattern` does not name.
        rank_pattern: Regular expression for the end of a module's name -> rank of each expert there; 0 = absent.
        expert_names: One name per expert.
        top_k: Experts active per token; None = all of them (dense).
        gate: `sigmoid`: independent gates `w = 2 * gate_start * sigmoid(W x)`. `softmax`: softmax over the `top_k`
            largest logits (Eq. 7-9 of the paper). Dense gates of unit scale start with W = 0, as a static stack of
            experts at weight `gate_start` (sigmoid) or 1 (softmax); the others with W random, see `init_router`.
        gate_scale: What softmax weights sum to. `renormalised` (and None): 1, as in the paper, which weakens every
            expert to 1/k. `unit`, as sigmoid gates always: the number of active experts; with `top_k` 1 the likeliest
            expert has weight 1 and the router learns straight-through.
        gate_start: Weight of every expert at the start; `sigmoid` only.
        expert_weight: Weight that is folded into B; a gate of `1 / expert_weight` gives back an expert as it was.
        router: `layer`: a router for each adapted layer. `shared`: one for all layers of the same input width, each
            on its own input (Self-MoE); they must be on one device, with DDP's gradient checkpointing non-reentrant.
        router_logits: `linear`: W x. `absolute`: |W x|, for prototypes whose sign means nothing (Arrow).
        load_balance_coef: Factor of the load-balance loss (`losses.load_balance`); 0 = off.
        entropy_coef: Factor of the entropy loss (`losses.entropy`): makes tokens choose; 0 = off.
        z_coef: Factor of the z-loss (`losses.z_loss`): keeps logits small; 0 = off.
        train_experts: Train experts and routers; False trains the routers alone.
        dropout: Dropout on the experts' input.
        modules_to_save: Modules trained whole and saved beside the adapter.
        layers_to_transform: Indices of the layers to adapt; None = all.
        layers_pattern: Name of the list of layers that the indices count in.
        trainable_token_indices: Token embeddings to train, as in `LoraConfig`.
        experts: Where each expert comes from: mappings with `repo_id`, `revision`, `licence`.
        base_quantization: How the base was quantised when the adapter was trained, None if it was not.
        format_version: Version of the saved form.

    Raises:
        RecipeError: A field is out of range or contradicts another.
        AdapterError: The saved form is newer than this version of rocket_hub can read (`newer_format`).
    """

    target_modules: list[str] | str | None = field(default=None)
    exclude_modules: list[str] | str | None = field(default=None)
    expert_ranks: list[int] = field(default_factory=lambda: [8, 8, 8, 8])
    rank_pattern: dict[str, list[int]] = field(default_factory=dict)
    expert_names: list[str] | None = field(default=None)
    top_k: int | None = field(default=None)
    gate: str = field(default="sigmoid")
    gate_scale: str | None = field(default=None)
    gate_start: float = field(default=0.5)
    expert_weight: float = field(default=1.0)
    router: str = field(default="layer")
    router_logits: str = field(default="linear")
    load_balance_coef: float = field(default=0.0)
    entropy_coef: float = field(default=0.0)
    z_coef: float = field(default=0.0)
    train_experts: bool = field(default=True)
    dropout: float = field(default=0.0)
    modules_to_save: list[str] | None = field(default=None)
    layers_to_transform: list[int] | int | None = field(default=None)
    layers_pattern: list[str] | str | None = field(default=None)
    trainable_token_indices: list[int] | dict[str, list[int]] | None = field(default=None)
    experts: list[dict[str, Any]] = field(default_factory=list)
    base_quantization: str | None = field(default=None)
    format_version: int = field(default=FORMAT_VERSION)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["ROCKET_MOE"]
        # PEFT matches sets faster, and expects them.
        self.target_modules = set(self.target_modules) if isinstance(self.target_modules, list) else self.target_modules  # type: ignore[assignment]
        self.exclude_modules = (
            set(self.exclude_modules) if isinstance(self.exclude_modules, list) else self.exclude_modules  # type: ignore[assignment]
        )
        self.rank_pattern = self.rank_pattern or {}
        self._check_format()
        self._check_experts()
        self._check_layers()
        self._check_gates()

    @property
    def num_experts(self) -> int:
        """Number of experts, E."""
        return len(self.expert_ranks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; sets come sorted, so that the same adapter is saved to the same bytes."""
        return {key: sorted(value) if isinstance(value, set) else value for key, value in super().to_dict().items()}

    def _check_format(self) -> None:
        """Refuse a newer form: PEFT drops unknown fields with a warning, and a wrong model would come out."""
        if not isinstance(self.format_version, int) or not 1 <= self.format_version <= FORMAT_VERSION:
            raise AdapterError(
                "newer_format",
                f"format_version: this adapter is saved in form {self.format_version!r}, this rocket_hub reads up to "
                f"{FORMAT_VERSION}; run `pip install -U rocket-hub`",
            )

    def _check_experts(self) -> None:
        """Check that every list of ranks is usable and has one entry per expert."""
        for where, ranks in [("expert_ranks", self.expert_ranks), *self.rank_pattern.items()]:
            if (
                not isinstance(ranks, Sequence)
                or not all(isinstance(r, int) and r >= 0 for r in ranks)
                or not any(ranks)
            ):
                raise RecipeError(
                    f"{where}: expected one rank per expert, none negative and at least one positive, found {ranks!r}"
                )
            if len(ranks) != self.num_experts:
                raise RecipeError(
                    f"rank_pattern: '{where}' has {len(ranks)} ranks, expert_ranks has {self.num_experts}; "
                    "give an absent expert rank 0"
                )
        for where, values in [("expert_names", self.expert_names), ("experts", self.experts)]:
            if values and len(values) != self.num_experts:
                raise RecipeError(f"{where}: {len(values)} entries for {self.num_experts} experts; give one for each")

    def _check_layers(self) -> None:
        """Refuse layers that PEFT would ignore: it looks at them only where modules are named one by one."""
        if self.layers_to_transform is not None and isinstance(self.target_modules, str):
            raise RecipeError(
                f"layers_to_transform: has no effect beside target_modules {self.target_modules!r}; name the modules "
                "in a list, or say the layers in the regular expression"
            )

    def _check_gates(self) -> None:
        """Check gates, router and dropout."""
        for where, known in CHOICES.items():
            if (found := getattr(self, where)) not in known:
                names = ", ".join(name for name in known if name)
                raise RecipeError(f"{where}: expected one of {names}, found {found!r}")
        if not self.gate_start > 0:
            raise RecipeError(f"gate_start: expected a positive weight, found {self.gate_start!r}; 0.5 is the default")
        if not 0 <= self.dropout < 1:
            raise RecipeError(f"dropout: expected a number from 0 to below 1, found {self.dropout!r}")
        for where in ("load_balance_coef", "entropy_coef", "z_coef"):
            if not 0 <= (found := getattr(self, where)) < float("inf"):
                raise RecipeError(f"{where}: expected 0 (off) or a positive factor, found {found!r}; 0.01 is common")
        self._check_top_k()

    def _check_top_k(self) -> None:
        """Check top_k, and that the router can learn with it."""
        if self.top_k is not None and not (isinstance(self.top_k, int) and 1 <= self.top_k <= self.num_experts):
            raise RecipeError(
                f"top_k: expected 1 to {self.num_experts}, the number of experts, found {self.top_k!r}; "
                "leave it out to use all experts"
            )
        if self.gate == "sigmoid" and self.gate_scale == "renormalised":
            raise RecipeError(
                "gate_scale: sigmoid gates are independent of each other and never renormalised; leave gate_scale out, "
                "or use gate: softmax"
            )
        if self.gate == "softmax" and self.num_experts == 1:
            raise RecipeError(
                "gate: softmax over one expert is always 1, so the router would never get a gradient; "
                "use gate: sigmoid, or give more experts"
            )
        if self.gate == "softmax" and self.top_k == 1 and self.gate_scale != "unit":
            raise RecipeError(
                "top_k: softmax over one expert is always 1, so the router would never get a gradient; "
                "set top_k to 2 or more, or gate_scale: unit (straight-through), or use gate: sigmoid"
            )
