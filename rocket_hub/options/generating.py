"""The options of generated data."""

from __future__ import annotations

from dataclasses import dataclass, field

RETRIEVALS = ("bm25", "dense", "both")
NOVELTIES = ("rouge_l", "embedding")


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

    target_rows: int = 1000
    rounds: int = 1
    seeds_in_prompt: int = 3
    seeds_for_answer: int = 5
    temperature: float = 1.0
    top_p: float = 0.98
    passages: int = 3
    retrieval: str = "bm25"
    filtered: bool = True
    novelty: float = 0.7
    novelty_by: str = "rouge_l"
    votes: int = 0
    vote_temperature: float = 0.7
    max_new_tokens: int = 256
    batch_size: int = 32
    max_prompts: int | None = None

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
        seed: Seeds the fresh LoRA, the order of the rows, and the teacher where it can be seeded.
    """

    stages: tuple[str, ...] = ("distilled", "refined", "evolved")
    guideline: bool = True
    rounds: int = 3
    collect: int = 10
    max_new_tokens: int = 256
    max_guideline_tokens: int = 64
    max_judgement_tokens: int = 128
    learning_rate: float = 2.0e-4
    epochs: float = 3.0
    collect_epochs: float = 1.0
    beams: int = 10
    beta: float = 0.1
    evolve_learning_rate: float = 1.0e-5
    evolve_epochs: float = 1.0
    batch_size: int = 8
    max_length: int = 1024
    rank: int = 16
    alpha: int = 32
    targets: tuple[str, ...] = ("all-linear",)
    seed: int = 0


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

    method: str = "none"
    below_rows: int | None = None
    documents: str | None = None
    questions: str | None = None
    teacher: str | None = None
    calls: int | None = None
    tokens: int | None = None
    self_specialization: SelfSpecializationOptions = field(default_factory=SelfSpecializationOptions)
    meteor: MeteorOptions | None = None
