"""The groups of options of a recipe, in the order of the stages.

Every legal value and every bound stands here, once; `rocket_hub.serialization` checks them.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from rocket_hub.records import Setting

Retrieval = Literal["bm25", "dense", "both"]
Novelty = Literal["rouge_l", "embedding"]
MeteorStage = Literal["distilled", "refined", "evolved"]
GenerationMethod = Literal["none", "self_specialization", "meteor"]
Diversity = Literal["delta_w", "paper", "behaviour"]
Selector = Literal["rocket", "coverage", "random", "best_single", "arrow", "lorahub", "all"]
Signal = Literal["likelihood", "accuracy"]
Perplexity = Literal["geometric", "arithmetic"]
Rationales = Literal["given", "base"]
Similarity = Literal["max", "mean", "kde", "round_robin"]
Gate = Literal["sigmoid", "softmax"]
GateScale = Literal["unit", "renormalised"]
Router = Literal["layer", "shared"]
RouterInit = Literal["random", "arrow", "kshot"]
Schedule = Literal["joint", "router_only", "two_stage"]
Device = Literal["auto", "cpu", "cuda", "xpu", "mps"]
Dtype = Literal["auto", "float32", "bfloat16"]
Quantize = Literal["none", "4bit", "8bit"]
Attention = Literal["auto", "eager", "sdpa", "flash_attention_2"]
Optimizer = Literal["adamw", "adamw_8bit"]
Scoring = Literal["generation", "likelihood", "both"]
Publish = Literal["all", "best"]

MAX_SEED = 2**32 - 1  # numpy's
_SAMPLED = "the likeliest text is always the same one"


def _bounded(default: Any, **bounds: Any) -> Any:
    """Make a field for a number, or for numbers, within bounds: `minimum`, `above`, `maximum`; `note` explains them."""
    return field(default=default, metadata=bounds)


@dataclass(frozen=True)
class SelfSpecializationOptions:
    """How the base model makes its own data.

    Attributes:
        target_rows: Rows that are wanted.
        rounds: 2 = all answers are written again, by the model that was specialised on the first round's rows.
        seeds_in_prompt: Seed questions that stand before a new one (Self-MoE: 3).
        seeds_for_answer: Solved seeds that stand before a question that is answered (Self-MoE: 5).
        temperature: Of new questions (Self-MoE: 1.0); answers are greedy.
        top_p: Of new questions and of votes (Self-MoE: 0.98).
        passages: Passages of the documents that stand before every question that is answered; 0 = none.
        retrieval: How they are found: `bm25` (words), `dense` (the encoder) or `both` (reciprocal rank fusion).
        filtered: Whether rows are filtered; where not, only nothing and the same question once more are left out.
        novelty: A question as similar as this to a seed, or to one that was kept, is not new; above 1 all are.
        novelty_by: `rouge_l` (Self-Instruct: 0.7) or `embedding` (cosine by the encoder).
        votes: Samples that are asked the same, and most of which must give the same answer; 0 = none are asked.
        vote_temperature: Temperature of those samples.
        max_new_tokens: Longest question, and longest answer.
        batch_size: Prompts at once; another batch size samples other questions.
        max_prompts: Questions that are asked for at most; none = ten for each row that is wanted.
    """

    target_rows: int = _bounded(1000, minimum=1)
    rounds: int = _bounded(1, minimum=1)
    seeds_in_prompt: int = _bounded(3, minimum=1)
    seeds_for_answer: int = _bounded(5, minimum=0)
    temperature: float = _bounded(1.0, above=0, note=_SAMPLED)
    top_p: float = _bounded(0.98, above=0, maximum=1)
    passages: int = _bounded(3, minimum=0)
    retrieval: Retrieval = "bm25"
    filtered: bool = True
    novelty: float = _bounded(0.7, above=0)
    novelty_by: Novelty = "rouge_l"
    votes: int = _bounded(0, minimum=0)
    vote_temperature: float = _bounded(0.7, above=0, note=_SAMPLED)
    max_new_tokens: int = _bounded(256, minimum=1)
    batch_size: int = _bounded(32, minimum=1)
    max_prompts: int | None = _bounded(None, minimum=1)

    @property
    def most_prompts(self) -> int:
        """Return how many questions are asked for at most."""
        return self.max_prompts or 10 * self.target_rows

    @property
    def most_generations(self) -> int:
        """Return how many texts are written at most: questions, answers, votes, and answers of further rounds."""
        return self.most_prompts * (1 + self.rounds * (1 + (self.votes if self.filtered else 0)))


@dataclass(frozen=True)
class MeteorOptions:
    """How a weak model learns from a stronger teacher (METEOR), and in the end from itself.

    Attributes:
        stages: `distilled` (it learns the teacher's answers), `refined` (it learns its own answers that the teacher
            finds right) and `evolved` (it prefers its beam-search answers), or some of them; always in this order.
        guideline: The weak model writes a guideline to each question, which the teacher reads before it answers.
        rounds: Answers to one question that the teacher judges, each after its advice on the one before.
        collect: Rows that are right before the next short training of `refined`.
        max_new_tokens: Longest answer, the teacher's and the model's own.
        max_guideline_tokens: Longest guideline.
        max_judgement_tokens: Longest judgement.
        learning_rate: Peak learning rate of `distilled` and `refined`.
        epochs: Passes over the rows of `distilled`.
        collect_epochs: Passes over the rows of one short training of `refined`.
        beams: Beams of the search whose answers `evolved` prefers.
        beta: DPO's beta: how strongly it is held near the adapter before.
        evolve_learning_rate: Peak learning rate of `evolved`.
        evolve_epochs: Passes over its pairs.
        batch_size: Rows, or pairs, a step.
        max_length: Longest row, in tokens; longer ones are not learned from.
        rank: Rank of a fresh LoRA, where no adapter is given.
        alpha: Its alpha; the update counts alpha / rank.
        targets: Endings of the names of the modules that it adapts; `all-linear` = every linear layer but the head.
        judge: Model that compares the answers after the last stage with those before the first in METEOR's five
            aspects; named as a teacher is, and not the teacher; none = nobody does.
        seed: Seeds the fresh LoRA, the order of the rows, and the teacher where it can be seeded.
    """

    stages: tuple[MeteorStage, ...] = ("distilled", "refined", "evolved")
    guideline: bool = True
    rounds: int = _bounded(3, above=0)
    collect: int = _bounded(10, above=0)
    max_new_tokens: int = _bounded(256, above=0)
    max_guideline_tokens: int = _bounded(64, above=0)
    max_judgement_tokens: int = _bounded(128, above=0)
    learning_rate: float = _bounded(2.0e-4, above=0)
    epochs: float = _bounded(3.0, above=0)
    collect_epochs: float = _bounded(1.0, above=0)
    beams: int = _bounded(10, minimum=2, note="one beam is the greedy answer")
    beta: float = _bounded(0.1, above=0)
    evolve_learning_rate: float = _bounded(1.0e-5, above=0)
    evolve_epochs: float = _bounded(1.0, above=0)
    batch_size: int = _bounded(8, above=0)
    max_length: int = _bounded(1024, above=0)
    rank: int = _bounded(16, above=0)
    alpha: int = _bounded(32, above=0)
    targets: tuple[str, ...] = ("all-linear",)
    judge: str | None = None
    seed: int = _bounded(0, minimum=0, maximum=MAX_SEED)


@dataclass(frozen=True)
class GenerationOptions:
    """Rows that are made where the Hub has too few.

    Attributes:
        method: `none`, `self_specialization` (the base model writes them) or `meteor` (with a stronger teacher).
        below_rows: Make them only where the data sets that were found hold fewer rows than this with an answer in the
            task's form; none = always.
        documents: Domain text that the base model may draw on: a file, a folder or a data set's id; none = none.
        questions: What METEOR's teacher is asked: a file or a data set's id; none = the base model brainstorms them.
        teacher: METEOR's teacher: a model's id or folder (on this machine), `inference:ID` (Hugging Face Inference) or
            `endpoint:URL#MODEL` (an OpenAI-compatible address; its key is in `ROCKET_HUB_TEACHER_KEY`).
        calls: At most this many calls of the teacher; none = no limit.
        tokens: At most this many tokens of the teacher's, in and out; none = no limit.
        self_specialization: How the base model writes; METEOR's own questions, too.
        meteor: How METEOR works; none = its defaults without the last stage, which makes no rows.
    """

    method: GenerationMethod = "none"
    below_rows: int | None = _bounded(None, minimum=1)
    documents: str | None = None
    questions: str | None = None
    teacher: str | None = None
    calls: int | None = _bounded(None, minimum=1)
    tokens: int | None = _bounded(None, minimum=1)
    self_specialization: SelfSpecializationOptions = field(default_factory=SelfSpecializationOptions)
    meteor: MeteorOptions | None = None


@dataclass(frozen=True)
class ComputeOptions:
    """Where, and in which precision, the base model is computed in every stage.

    Attributes:
        device: `auto` (the accelerator that torch finds, else the CPU), or `cpu`, `cuda`, `xpu`, `mps`.
        dtype: `auto` (bfloat16 on an accelerator that computes in it, float32 on a CPU), or `float32`, `bfloat16`.
        quantize: `none`, `4bit` (NF4, as in QLoRA) or `8bit`; needs the extra `quantized`.
        attention: `auto` (transformers' choice), or `eager`, `sdpa`, `flash_attention_2`.
    """

    device: Device = "auto"
    dtype: Dtype = "auto"
    quantize: Quantize = "none"
    attention: Attention = "auto"


@dataclass(frozen=True)
class DiscoverOptions:
    """What may be taken from the Hub.

    Attributes:
        max_adapters: At most this many adapters go on to scoring, likeliest first.
        max_datasets: At most this many data sets are read.
        max_rows_per_dataset: At most this many rows are read from one data set.
        max_bytes_per_dataset: No further row of a data set is read when so many bytes of it are.
        datasets: Only these data sets, by id; empty = search.
        queries: Words to search data sets for; empty = taken from the task and the K-shot.
        languages: Codes of languages; data sets that declare only others are left out. Empty = any.
        allow_licences: Licences that are accepted although they restrict the result, for example `cc-by-nc-4.0`.
        leave_task_out: Reject adapters and data made from the task's own training split.
        mirrors: Ids of copies of the base model, beside the known ones; each has to be proven.
        workers: How many adapters are looked at at once.
    """

    max_adapters: int = _bounded(50, minimum=1)
    max_datasets: int = _bounded(20, minimum=1)
    max_rows_per_dataset: int = _bounded(20_000, minimum=1)
    max_bytes_per_dataset: int = _bounded(256 * 2**20, minimum=1)
    datasets: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("en",)
    allow_licences: tuple[str, ...] = ()
    leave_task_out: bool = False
    mirrors: tuple[str, ...] = ()
    workers: int = _bounded(8, minimum=1)


@dataclass(frozen=True)
class Budget:
    """What scoring may spend; see `rocket_hub.recipe.read_budget`.

    Attributes:
        amount: How much, above 0.
        unit: `%` (of all pairs), `pairs`, `tokens` or `minutes`.
    """

    amount: float
    unit: str


@dataclass(frozen=True)
class ExpertOptions:
    """How the K-shot chooses experts (Algorithm 1).

    Attributes:
        shortlist: M, the adapters with the best rank sums.
        num_experts: N, the size of the group.
        diversity: `delta_w` (cosine of BA, gauge-invariant), `paper` (Eq. 6) or `behaviour` (how often exactly one of
            two experts answers right).
        selector: `rocket` (Algorithm 1), `coverage` (the group under whose best expert for each the K-shot's tokens
            are likeliest), or a baseline: `random`, `best_single`, `arrow`, `lorahub` or `all`.
        follow_verdict: Keep none where none helps, with `rocket` and `coverage`, and one expert where one is enough,
            with `rocket`.
        budget: What scoring may spend: `40%` (of all pairs of an adapter and a shot), `800 pairs`, `2M tokens`,
            `10 minutes` or `all`. It counts for `rocket` and `best_single`; the others choose among all adapters.
        signal: What halving goes by where the budget is less than all: `likelihood`, or `accuracy`, the probability of
            the whole completion, which keeps experts for one kind of question, but needs short completions.
        perplexity: Mean of the token probabilities whose inverse the reasoning perplexity is: `geometric` (the paper)
            or `arithmetic`. The first favours experts that know the form and guess the rest over experts that are sure
            and sometimes wrong; in the second one wrong token costs no more than its share.
        rationales: Where reasoning of shots that have only an answer comes from: `given` (they are scored without it)
            or `base` (the base model writes it, and what contradicts the answer is dropped).
    """

    shortlist: int = _bounded(8, minimum=1)
    num_experts: int = _bounded(4, minimum=1)
    diversity: Diversity = "delta_w"
    selector: Selector = "rocket"
    follow_verdict: bool = True
    budget: str = "40%"
    signal: Signal = "likelihood"
    perplexity: Perplexity = "geometric"
    rationales: Rationales = "given"


@dataclass(frozen=True)
class InstructionOptions:
    """How the K-shot chooses rows (Algorithm 2).

    Attributes:
        encoder: Sentence encoder, a repository id.
        max_rows: C, the rows nearest to the K-shot.
        max_tokens: Tokens of prompts and completions in all; none = any. The budget that is spent first counts.
        similarity: How a row is compared with the K-shot: `max` (its largest cosine to any shot, the paper), `mean`,
            `kde` (a Gaussian kernel density of the shots) or `round_robin` (each shot in turn takes its nearest row).
        kde_gamma: gamma of `kde`, one over twice the squared bandwidth (Table 3 has 2 and 10).
        threshold: tau, the cosine above which two rows are near-duplicates; at 1 nothing is dropped.
        min_similarity: Rows below this similarity to the K-shot are not taken; -1 takes all.
        languages: Languages that rows may be in, as two letters; none = any.
    """

    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    max_rows: int = _bounded(1000, minimum=1)
    max_tokens: int | None = _bounded(None, minimum=1)
    similarity: Similarity = "max"
    kde_gamma: float = _bounded(10.0, above=0)
    threshold: float = _bounded(0.9, minimum=-1)
    min_similarity: float = _bounded(-1.0, minimum=-1)
    languages: tuple[str, ...] = ("en",)


@dataclass(frozen=True)
class MergeOptions:
    """How experts become one routed adapter.

    Attributes:
        gate: `sigmoid` (one gate an expert, starts exactly at the static stack) or `softmax` (the paper's Eq. 7-9).
        gate_scale: What softmax weights sum to: `unit` (the number of active experts) or `renormalised` (1, the paper);
            none = the gate's own.
        gate_start: Weights at which the experts start; more than one = a grid to choose from. One expert alone starts
            at 1, and softmax gates where their scale puts them.
        top_k: Experts active per token; none = all.
        router: `layer` (one for each adapted layer) or `shared` (one for all layers of a width, Self-MoE).
        router_init: `random` (or 0, where that is exactly the static stack), `arrow` (from the experts' weights) or
            `kshot` (from the K-shot's hidden states).
        load_balance_coef: Factor of the load-balance loss; 0 = off.
        entropy_coef: Factor of the entropy loss; 0 = off.
        z_coef: Factor of the z-loss; 0 = off.
    """

    gate: Gate = "sigmoid"
    gate_scale: GateScale | None = None
    gate_start: tuple[float, ...] = _bounded((0.5,), above=0)
    top_k: int | None = _bounded(None, minimum=1)
    router: Router = "layer"
    router_init: RouterInit = "random"
    load_balance_coef: float = _bounded(0.0, minimum=0)
    entropy_coef: float = _bounded(0.0, minimum=0)
    z_coef: float = _bounded(0.0, minimum=0)


@dataclass(frozen=True)
class TrainOptions:
    """How the merged adapter, and every trained control, is fine-tuned.

    Attributes:
        learning_rate: Peak learning rates; more than one = a grid to choose from.
        router_learning_rate_ratio: The routers' learning rate as a share of the experts', where both are trained.
        schedule: What of a routed adapter is trained when: `joint` (routers and experts), `router_only`, or `two_stage`
            (routers alone for the first quarter of the steps, then both). Other adapters are trained whole.
        max_steps: Optimiser steps.
        batch_size: Rows a step.
        micro_batch_size: Rows in memory at once, a divisor of `batch_size`, over which a step adds its gradients up;
            none = all, halved when memory runs out.
        gradient_checkpointing: Compute activations again in the backward pass; none = above 10^9 parameters.
        group_by_length: Batches of rows of one length, for speed; small sets are learned worse so. None = as above.
        optimizer: `adamw`, or `adamw_8bit`, whose state takes a quarter of the memory (bitsandbytes).
        warmup_ratio: Share of the steps in which the learning rate rises.
        weight_decay: AdamW's decoupled weight decay.
        max_length: Longest row, in tokens.
    """

    learning_rate: tuple[float, ...] = _bounded((2.0e-4,), above=0)
    router_learning_rate_ratio: float = _bounded(0.1, minimum=0)
    schedule: Schedule = "joint"
    max_steps: int = _bounded(200, minimum=1)
    batch_size: int = _bounded(16, minimum=1)
    micro_batch_size: int | None = _bounded(None, minimum=1)
    gradient_checkpointing: bool | None = None
    group_by_length: bool | None = None
    optimizer: Optimizer = "adamw"
    warmup_ratio: float = _bounded(0.1, minimum=0, maximum=1)
    weight_decay: float = _bounded(0.0, minimum=0)
    max_length: int = _bounded(1024, minimum=1)


@dataclass(frozen=True)
class EvaluateOptions:
    """How the result and its controls are measured.

    Attributes:
        dataset: Evaluation set, a repository id; none = the task's own.
        config: Configuration of the evaluation set; none = its only one.
        split: Its split; none = the task's own.
        max_rows: At most this many problems; none = all.
        batch_size: Prompts generated at once.
        max_new_tokens: Longest answer, in tokens.
        scoring: `generation` (what the model writes), `likelihood` (which option it finds likeliest) or `both`.
        few_shot: Examples of the K-shot that stand before every problem.
        allow_code_execution: Run what the model wrote where the answer is a program, shut in (`rocket_hub.sandbox`).
        controls: Names of the controls to run beside the result, `core` or `all`.
        settings: Fixed settings of trained controls, by name; a control without one gets the same grid as the result.
    """

    dataset: str | None = None
    config: str | None = None
    split: str | None = None
    max_rows: int | None = _bounded(None, minimum=1)
    batch_size: int = _bounded(32, minimum=1)
    max_new_tokens: int = _bounded(256, minimum=1)
    scoring: Scoring = "generation"
    few_shot: int = _bounded(0, minimum=0)
    allow_code_execution: bool = False
    controls: tuple[str, ...] = ()
    settings: dict[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class PushOptions:
    """Where and how the result is published.

    Attributes:
        repo_id: Target repository; none = do not push.
        private: Create it as a private repository.
        publish: `all` (routed adapter, its stock-LoRA form, card) or `best` (only what the card recommends).
        verify: Reload the pushed adapter in a fresh process, on the same kind of device and in the same precision, and
            compare the logits.
    """

    repo_id: str | None = None
    private: bool = False
    publish: Publish = "all"
    verify: bool = True
