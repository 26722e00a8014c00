"""METEOR's arms: a weak model learns two-step problems from the demo's teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from made_world import BATCH, RATE, ROWS, STEPS, TEACHER, WORK, World, scored

from rocket_hub.lora.attach import adapted
from rocket_hub.options import MeteorOptions

ARMS = ("distilled, no guideline", "distilled", "distilled, refined", "distilled, refined, evolved", "teacher")


def taught(world: World, arm: str, draw: int) -> dict[str, Any]:
    """Run METEOR up to an arm's stage and measure."""
    from rocket_hub.generation.meteor import meteor
    from rocket_hub.generation.prompts import answer_prompt
    from rocket_hub.generation.teachers import Budget, LocalTeacher

    teacher, tokenizer = world.teacher()
    if arm == "teacher":
        return scored(world, teacher, "word-problems", tokenizer, answer_prompt)
    questions = world.examples("word-problems", "train", ROWS // 2, draw)
    stages = ("distilled", "refined", "evolved")[: 1 + arm.count(", ") * ("no" not in arm)]
    options = MeteorOptions(
        stages=stages, guideline="no guideline" not in arm, max_new_tokens=40, max_guideline_tokens=32,
        max_judgement_tokens=24, learning_rate=RATE, epochs=STEPS * BATCH / (ROWS // 2), collect=50, collect_epochs=1,
        beams=4, evolve_learning_rate=RATE / 10, evolve_epochs=3, batch_size=BATCH, max_length=128, rank=8, alpha=16,
        seed=draw,
    )  # fmt: skip
    where = f"meteor-{draw}{'' if options.guideline else '-no-guideline'}"
    made = meteor(
        world.base,
        world.tokenizer,
        world.task,
        [world.task.question_of(q) for q in questions],
        None,
        LocalTeacher(teacher, tokenizer, TEACHER),
        options,
        folder=WORK / where,
        budget=Budget(),
        maker=TEACHER,
    )
    with adapted(world.base, Path(made.adapters[stages[-1]])) as model:
        return {**scored(world, model, "word-problems"), "rows": len(made.generated.rows), "counts": made.counts,
                "bill": made.bill}  # fmt: skip
