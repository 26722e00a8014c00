"""The tables, their variants and their cells, as plain data.

A cell is one variant on one task and one draw: draw d has the K-shot examples that are drawn with seed d, and seed d
for everything else. Its key does not name the table, so a cell that two tables need is measured once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

TASKS = ("gsm8k", "mbpp", "arc_challenge", "arc_easy", "boolq", "piqa")
DRAWS, TUNING, SHOTS = (1, 2, 3, 4, 5), 0, 50
SKILL_PROBLEMS, LOSS_PROBLEMS = 200, 200
Options = tuple[tuple[str, Any], ...]
GROUP: Options = (("experts.follow_verdict", False),)  # the whole group, whatever the verdict on it
PREPARING = ("shots", "experts.", "instructions.", "discover.")  # options that change what is chosen


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        task: Name of the task.
        draw: Seed of the K-shot and of all else.
        method: What `rocket_hub.pipeline.merge.methods` calls it.
        options: What differs from the Hub's recipe: `group.key` of a recipe, or `shots` (K), `useless` (so many useless
            experts are forced into the group), `retention` (the experts' own skills are measured, on so many problems
            each), `loss` (how likely the solutions of so many test problems are), or `learning_rate` and `weight` (a
            point of the grid, on the draw that is used for nothing else).
    """

    task: str
    draw: int
    method: str
    options: Options = ()

    @property
    def key(self) -> str:
        """Name the cell in the files of results."""
        return "/".join([self.task, str(self.draw), self.method, *filter(None, [written(self.options)])])

    @property
    def pair(self) -> Cell:
        """Return the cell without its method: task, draw and the options that change the choice of experts and rows."""
        return Cell(self.task, self.draw, "", tuple(o for o in self.options if o[0].startswith(PREPARING)))

    @property
    def folder(self) -> str:
        """Name the run folder of its pair."""
        return "-".join([self.task, str(self.draw), *filter(None, [written(self.pair.options)])])

    @property
    def point(self) -> bool:
        """Whether it is a point of a grid."""
        return any(name == "learning_rate" for name, _ in self.options)


def written(options: Options) -> str:
    """Write options for keys and folders."""
    return ",".join(f"{name}={value}" for name, value in options)


@dataclass(frozen=True)
class Variant:
    """One row of a table; `at` = where it is on the horizontal axis of the table's curves."""

    label: str
    method: str
    options: Options = ()
    at: int | None = None


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: What the command line and the files call it.
        title: Its heading.
        text: What it shows, for the page.
        variants: Its rows, most important first.
        reference: Label of the row that the others are compared with; empty = they are not compared.
        tasks: Its columns.
    """

    name: str
    title: str
    text: str
    variants: tuple[Variant, ...]
    reference: str = "routed"
    tasks: tuple[str, ...] = TASKS


def plain(*methods: str) -> tuple[Variant, ...]:
    """List methods as the recipe has them."""
    return tuple(Variant(method, method) for method in methods)


def swept(
    methods: Sequence[str], name: str, values: Iterable[Any], text: str, more: Options = ()
) -> tuple[Variant, ...]:
    """List methods at each value of an option."""
    return tuple(
        Variant(
            f"{method}, {text.format(value)}", method, (*more, (name, value)), value if isinstance(value, int) else None
        )
        for value in values
        for method in methods
    )


def gates() -> tuple[Variant, ...]:
    """List the forms of the gates."""
    forms: tuple[tuple[str, Options], ...] = (
        ("softmax, weights that sum to 4", (("merge.gate", "softmax"), ("merge.gate_scale", "unit"))),
        (
            "softmax, weights that sum to 1 (the paper's)",
            (("merge.gate", "softmax"), ("merge.gate_scale", "renormalised")),
        ),
        ("sigmoid, one router for all layers", (("merge.router", "shared"),)),
        *((f"sigmoid, start {start}", (("merge.gate_start", start),)) for start in (1.0, 0.5, 0.25)),
        ("sigmoid, routers as fast as the experts", (("train.router_learning_rate_ratio", 1.0),)),
    )
    return (Variant("routed", "routed"), *(Variant(label, "routed", options) for label, options in forms))


BOTH, THREE = ("routed", "stack_trained"), ("routed", "stack_trained", "fresh_lora")
FOUR = ("routed", "router_only", "stack_trained", "fresh_lora")
PAPER: Options = (*GROUP, ("merge.gate", "softmax"), ("merge.gate_scale", "renormalised"))
TABLES = {table.name: table for table in (
    Table("core", "Methods and tasks", "The build's own form, `routed`, beside every control.", plain(
        "routed", "router_only", "stack_trained", "fresh_lora", "best_single_trained", "base", "best_single",
        "uniform_merge", "ties", "dare_ties", "lorahub", "arrow", "xlora")),
    Table("controls", "Further controls", "What each ingredient of the build is worth.", (*plain("routed"), *plain(
        "full_finetune", "random_experts", "random_init", "two_stage", "no_diversity", "no_data", "random_data"))),
    Table("selectors", "How the K-shot chooses experts", "`routed` with the group that `coverage` chooses, as in "
          "the recipes, and with the groups of Algorithm 1, which ranks whole answers.", (
              Variant("routed", "routed"),
              Variant("Algorithm 1", "routed", (("experts.selector", "rocket"), ("experts.perplexity", "geometric"))),
              Variant("Algorithm 1, arithmetic mean", "routed", (("experts.selector", "rocket"),)),
              *plain("random_experts"))),
    Table("shots", "K, the number of examples", "The first K of a draw choose experts and rows; the paper's Table 4.",
          (*plain(*THREE), *swept(THREE, "shots", (20, 5, 1), "K = {}"))),
    Table("experts", "N, the number of experts", "Groups of N, whatever the verdict on them; the paper's Table 6.",
          (*swept(BOTH, "experts.num_experts", (4, 2, 8, 6), "N = {}", GROUP),
           *swept(BOTH, "experts.selector", ("all",), "the whole bank", GROUP)), "routed, N = 4"),
    Table("top_k", "k, the experts active per token", "Groups of four, whatever the verdict; the paper's Table 7, once "
          "with this project's gates and once with the paper's (softmax weights of the k that sum to 1; "
          "k = 1 gives that router no gradient).",
          (*swept(("routed",), "experts.num_experts", (4,), "all four, not cut", GROUP),
           *swept(("routed",), "merge.top_k", (2, 1, 3, 4), "k = {}", (*GROUP, ("experts.num_experts", 4))),
           *(Variant(f"the paper's gates, k = {k}", "routed", (*PAPER, ("experts.num_experts", 4), ("merge.top_k", k)))
             for k in (2, 3, 4))), "routed, all four, not cut"),
    Table("rows", "n, the selected rows", "Rows beside the K-shot; every training has the same number of steps. With "
          "n = 200 it is the core table's.",
          (*(Variant(f"{method}, n = 200", method, at=200) for method in FOUR),
           *swept(FOUR, "instructions.max_rows", (50, 1000, 100, 500, 2000), "n = {}")), ""),
    Table("gates", "Gates and routers", "Forms of the gates, at the learning rate and weight of `routed`.", gates()),
    Table("useless", "Useless experts in the group", "The four best experts that were made to help, and with them the "
          "best-looking blind or conflicting ones, forced into the group.",
          swept(THREE, "useless", (0, 2, 4), "{} useless", GROUP), ""),
    Table("retention", "What is left of the experts' own skills", "Accuracy on the chosen experts' own skills after "
          "the build, as a share of what each had alone (experts that had at least 20 % alone).",
          tuple(Variant(method, method, (("retention", SKILL_PROBLEMS),)) for method in (
              "routed", "stack_trained", "router_only", "two_stage"))),
    Table("real", "The real bank", "24 experts, made from other people's instruction sets, of a pretrained Llama of "
          "260,032 parameters. It answers at chance, so what is compared is how likely it finds the right solutions of "
          f"{LOSS_PROBLEMS} test problems: nats per token, lower is better.",
          tuple(Variant(method, method, (("loss", LOSS_PROBLEMS),)) for method in (
              "routed", "stack_trained", "fresh_lora", "best_single_trained", "base", "best_single", "uniform_merge",
              "router_only")), tasks=("gsm8k", "arc_challenge", "arc_easy", "boolq", "piqa")),
)}  # fmt: skip

# Grids, once per method, on one task and a draw that is used for nothing else: (learning rates, weights).
TUNING_TASK = "gsm8k"
RATES, WEIGHTS = (3e-3, 1e-2), (0.5,)  # of the weights, 1 is far behind on that draw
GRIDS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "routed": (RATES, WEIGHTS),
    "stack_trained": (RATES, WEIGHTS),
    "fresh_lora": (RATES, (1.0,)),
    "best_single_trained": (RATES, (1.0,)),
    "xlora": (RATES, (1.0,)),
    "full_finetune": ((3e-4, 1e-3, 3e-3), (1.0,)),  # all weights of the base bear less
    "random_init": (RATES, (1.0,)),  # experts that start at 0 have no weight
    "router_only": ((1e-3, 1e-2), WEIGHTS),
}
# Forms of `routed` that differ in what is chosen, or when it is trained: they take its setting.
TUNED_AS = dict.fromkeys(("two_stage", "random_experts", "no_diversity", "no_data", "random_data"), "routed")


def tuned_as(method: str) -> str | None:
    """Return the method whose setting a trained method takes, or none where it is not trained."""
    name = TUNED_AS.get(method, method)
    return name if name in GRIDS else None


def points(method: str) -> list[Cell]:
    """List the cells that choose a method's setting."""
    rates, weights = GRIDS[method]
    return [Cell(TUNING_TASK, TUNING, method, (("learning_rate", r), ("weight", w))) for r in rates for w in weights]


def cells_of(
    table: str,
    tasks: Sequence[str] = TASKS,
    draws: Sequence[int] = DRAWS,
    methods: Sequence[str] = (),
    options: str | None = None,
) -> list[Cell]:
    """List the cells of a table: all of one pair before the next, the tasks of one draw before the next draw."""
    variants = [v for v in TABLES[table].variants
                if (not methods or v.method in methods) and options in (None, written(v.options))]  # fmt: skip
    known = [task for task in tasks if task in TABLES[table].tasks]
    return [Cell(task, draw, v.method, v.options) for draw in draws for task in known for v in variants]
