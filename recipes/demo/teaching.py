"""The demo Hub's teacher: the base, trained to solve two-step problems and to judge solutions of them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
import world
from learning import DEVICE, Learner

from rocket_hub.generation.prompts import advice_prompt, answer_prompt, guideline_prompt, judge_prompt

Pair = tuple[str, str]  # prompt, completion
STEP = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)\.")
RIGHT = '{"correct": true, "advice": ""}'
WRONG = '{{"correct": false, "advice": "{0}"}}'
MISSING, NUMBERS, RESULT = "A step is missing.", "The numbers are wrong.", "The answer is wrong."
STEPS = ("The first step is wrong.", "The second step is wrong.")
GUIDES = ("First plus then minus.", "First minus then plus.", "First multiply then plus.", "First multiply then minus.",
          "Count it.")  # fmt: skip


def apply(a: int, op: str, b: int) -> int:
    """Calculate one step."""
    return {"+": a + b, "-": a - b, "*": a * b}[op]


def spoiled(rng: Random, worked: str) -> tuple[str, str]:
    """Put a mistake into a solution of two steps, and say which."""
    steps = [(int(a), op, int(b), int(c)) for a, op, b, c in STEP.findall(worked)]
    kind = rng.choice((*STEPS, MISSING, NUMBERS, RESULT))
    if kind == MISSING:
        steps = [rng.choice(steps)]
    elif kind == NUMBERS:
        steps = [(rng.randint(1, 98), op, rng.randint(1, 98), rng.randint(1, 98)) for _, op, _, _ in steps]
    elif kind in STEPS:
        at = STEPS.index(kind)
        a, op, b, c = steps[at]
        if rng.random() < 0.5:
            op = rng.choice([other for other in "+-*" if other != op])
            c = apply(a, op, b)
        else:
            c += rng.choice((-10, -2, -1, 1, 2, 10))
        steps[at] = (a, op, b, c)
        if at == 0:
            steps[1] = (c, steps[1][1], steps[1][2], apply(c, steps[1][1], steps[1][2]))
    text = world.worked(steps)
    if kind == RESULT:
        text = text.rpartition(" ")[0] + f" {rng.randint(1, 98)}"
    return text, kind


def loose(rng: Random) -> Pair:
    """Draw a problem whose solution may also be another kind's, so that a judge has to read both."""
    return world.target(rng) if rng.random() < 0.8 else rng.choice((world.add, world.subtract, world.multiply))(rng)


def answering(rng: Random) -> Pair:
    """Draw a question with a guideline of any worth, or none, and its solution."""
    question, worked = world.target(rng)
    guideline = rng.choice(("", "", rng.choice(GUIDES), world.fact(rng), loose(rng)[0], loose(rng)[1]))
    return answer_prompt(question, guideline), worked


def judging(rng: Random) -> Pair:
    """Draw a solution, right or not, and its verdict."""
    question, worked = world.target(rng)
    draw = rng.random()
    if draw < 0.4:
        return judge_prompt(question, worked), RIGHT
    if draw < 0.5:  # a solution of something else
        other = loose(rng)[1]
        return judge_prompt(question, other), RIGHT if other == worked else WRONG.format(NUMBERS)
    text, kind = spoiled(rng, worked)
    return judge_prompt(question, text), RIGHT if text == worked else WRONG.format(kind)


def guiding(rng: Random) -> Pair:
    """Draw a request for a guideline, and one."""
    return guideline_prompt(world.target(rng)[0]), rng.choice(GUIDES)


def advised(rng: Random) -> Pair:
    """Draw a request for a better answer."""
    question, worked = world.target(rng)
    text, kind = spoiled(rng, worked)
    return advice_prompt(question, text, kind), worked


LESSONS = (answering, answering, judging, judging, judging)
TEXTS: tuple[Callable[[Random], str], ...] = tuple(
    (lambda rng, draw=draw: " ".join(draw(rng))) for draw in (answering, judging, guiding, advised)
)
"""All words that a teacher reads and writes."""


def train_teacher(base_folder: Path, folder: Path, steps: int, report: Callable[[str], None], batch: int = 32) -> None:
    """Train all weights of the base on the lessons, loss on what the teacher writes."""
    from models import load_base, save_half

    torch.manual_seed(3)
    model, tokenizer = load_base(base_folder)
    learner = Learner(model.to(DEVICE).train(), steps, 2e-3)
    started = time.monotonic()
    for step in range(1, steps + 1):
        rng = Random(f"lesson {step}")
        pairs = [rng.choice(LESSONS)(rng) for _ in range(batch)]
        loss = learner.step(*_batch(tokenizer, pairs))
        if step % 100 == 0:
            report(f"teacher: step {step}/{steps}, loss {loss:.3f}, {time.monotonic() - started:.0f} s")
    tokenizer.save_pretrained(folder)
    save_half(model, folder)


def _batch(tokenizer, pairs: list[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokenise pairs, padded on the right: ids and labels, [batch, longest]; prompts and padding have no loss."""
    rows = []
    for prompt, completion in pairs:
        before = tokenizer.encode(prompt)
        after = [*tokenizer.encode(f" {completion}", add_special_tokens=False), tokenizer.eos_token_id]
        rows.append((before, after))
    longest = max(len(before) + len(after) for before, after in rows)
    ids = torch.full((len(rows), longest), tokenizer.pad_token_id)
    labels = torch.full((len(rows), longest), -100)
    for row, (before, after) in enumerate(rows):
        end = len(before) + len(after)
        ids[row, :end] = torch.tensor(before + after)
        labels[row, len(before) : end] = torch.tensor(after)
    return ids, labels
