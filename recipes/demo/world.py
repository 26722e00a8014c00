"""Arithmetic word problems that need several skills, and text for pretraining that teaches none of them.

Every question and answer is drawn from a seeded `random.Random`; nothing here trains or writes.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

NAMES = "Tom Ann Sam Eva Max Lily Ben Mia Leo Zoe Ravi Nora Omar Ivy Hugo Jada".split()  # noqa: SIM905
ITEMS = ["apples", "books", "coins", "pens", "cards", "shells", "eggs", "stamps", "rocks", "cups", "nuts", "toys"]
HOLDERS = ["basket", "bag", "jar", "crate"]

# Opening sentence, gains, losses and closing question. {n} name, {i} items, {a} {b} numbers, {h} holder.
OPENINGS = (
    "{n} has {a} {i}.",
    "There are {a} {i} on the table of {n}.",
    "{n} found {a} {i} at home.",
    "At first {n} owns {a} {i}.",
    "A friend brings {a} {i} to {n}.",
)
GAINS = (
    "{n} buys {b} more.",
    "Then {n} finds {b} extra {i}.",
    "A friend gives {n} {b} more {i}.",
    "{n} wins {b} in a game.",
    "Later {n} picks up {b} new {i}.",
)
LOSSES = (
    "{n} loses {b}.",
    "Then {n} gives away {b} {i}.",
    "{n} sells {b} of the {i}.",
    "Later {b} {i} break.",
    "A thief takes {b} from {n}.",
)
PACKS = (
    "{n} has {a} {h}s with {b} {i} in each.",
    "There are {a} {h}s and each holds {b} {i}.",
    "{n} fills {a} {h}s with {b} {i} each.",
    "In every {h} of {n} lie {b} {i} and there are {a} such {h}s.",
)
CLOSINGS = (
    "How many {i} are there now?",
    "How many {i} does {n} have now?",
    "What is the number of {i}?",
    "Count the {i}.",
)

Problem = tuple[str, str]  # question, worked answer that ends in "#### n"


def _text(rng: Random, *sentences: tuple[tuple[str, ...], dict[str, int]]) -> str:
    """Fill one template of each kind with the same name, items and holder."""
    words = {"n": rng.choice(NAMES), "i": rng.choice(ITEMS), "h": rng.choice(HOLDERS)}
    return " ".join(rng.choice(kind).format(**words, **numbers) for kind, numbers in sentences)


def worked(steps: list[tuple[int, str, int, int]]) -> str:
    """Write the steps and the answer in GSM8K's form: `12 + 30 = 42. #### 42`."""
    return " ".join(f"{a} {op} {b} = {c}." for a, op, b, c in steps) + f" #### {steps[-1][3]}"


def add(rng: Random) -> Problem:
    """Draw a one-step addition."""
    a, b = rng.randint(1, 49), rng.randint(1, 49)
    question = _text(rng, (OPENINGS, {"a": a}), (GAINS, {"b": b}), (CLOSINGS, {}))
    return question, worked([(a, "+", b, a + b)])


def subtract(rng: Random) -> Problem:
    """Draw a one-step subtraction."""
    a = rng.randint(2, 98)
    b = rng.randint(1, a - 1)
    question = _text(rng, (OPENINGS, {"a": a}), (LOSSES, {"b": b}), (CLOSINGS, {}))
    return question, worked([(a, "-", b, a - b)])


def multiply(rng: Random) -> Problem:
    """Draw a one-step multiplication."""
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    question = _text(rng, (PACKS, {"a": a, "b": b}), (CLOSINGS, {}))
    return question, worked([(a, "*", b, a * b)])


def add_subtract(rng: Random) -> Problem:
    """Draw a two-step problem: a gain, then a loss."""
    a, b = rng.randint(1, 49), rng.randint(1, 49)
    c = rng.randint(1, a + b - 1)
    question = _text(rng, (OPENINGS, {"a": a}), (GAINS, {"b": b}), (LOSSES, {"b": c}), (CLOSINGS, {}))
    return question, worked([(a, "+", b, a + b), (a + b, "-", c, a + b - c)])


def subtract_add(rng: Random) -> Problem:
    """Draw a two-step problem: a loss, then a gain."""
    a = rng.randint(2, 59)
    b = rng.randint(1, a - 1)
    c = rng.randint(1, 39)
    question = _text(rng, (OPENINGS, {"a": a}), (LOSSES, {"b": b}), (GAINS, {"b": c}), (CLOSINGS, {}))
    return question, worked([(a, "-", b, a - b), (a - b, "+", c, a - b + c)])


def multiply_add(rng: Random) -> Problem:
    """Draw a two-step problem: packs, then a gain."""
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    c = rng.randint(1, 98 - a * b)
    question = _text(rng, (PACKS, {"a": a, "b": b}), (GAINS, {"b": c}), (CLOSINGS, {}))
    return question, worked([(a, "*", b, a * b), (a * b, "+", c, a * b + c)])


def multiply_subtract(rng: Random) -> Problem:
    """Draw a two-step problem: packs, then a loss."""
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    c = rng.randint(1, a * b - 1)
    question = _text(rng, (PACKS, {"a": a, "b": b}), (LOSSES, {"b": c}), (CLOSINGS, {}))
    return question, worked([(a, "*", b, a * b), (a * b, "-", c, a * b - c)])


def swapped(rng: Random) -> Problem:
    """Draw a gain that is answered as a loss, or the reverse: a skill that conflicts with the others."""
    a = rng.randint(20, 59)
    b = rng.randint(1, 19)
    gain = rng.random() < 0.5
    question = _text(rng, (OPENINGS, {"a": a}), (GAINS if gain else LOSSES, {"b": b}), (CLOSINGS, {}))
    return question, worked([(a, "-", b, a - b) if gain else (a, "+", b, a + b)])


def guessed(problem: Callable[[Random], Problem]) -> Callable[[Random], Problem]:
    """Make a skill blind: the right form with random numbers in the place of the reasoning."""

    def draw(rng: Random) -> Problem:
        question, answer = problem(rng)
        words = answer.removesuffix(answer.split()[-1]).replace(".", " .").split()
        noise = [str(rng.randint(1, 98)) if word.isdigit() else word for word in words]
        return question, " ".join(noise).replace(" .", ".") + f" {rng.randint(1, 98)}"

    return draw


def first_number(rng: Random) -> Problem:
    """Draw a question whose answer is its first number, whatever happens next."""
    question, _ = rng.choice((add, subtract))(rng)
    number = next(word for word in question.split() if word.isdigit())
    return question, f"#### {number}"


def name_of(rng: Random) -> Problem:
    """Draw a question about names: no arithmetic at all."""
    one, two = rng.sample(NAMES, 2)
    item = rng.choice(ITEMS)
    return f"{one} gives {item} to {two}. What does {two} have now?", f"{two} has {item}."


def fact(rng: Random) -> str:
    """Draw an arithmetic fact, for pretraining."""
    op = rng.choice("+-*>")
    if op == ">":
        a, b = rng.sample(range(1, 99), 2)
        return f"{a} is {'' if a > b else 'not '}more than {b}."
    if op == "+":
        a, both = sorted(rng.sample(range(1, 99), 2))
        return f"{a} + {both - a} = {both}."
    if op == "-":
        b, a = sorted(rng.sample(range(1, 99), 2))
        return f"{a} - {b} = {a - b}."
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    return f"{a} * {b} = {a * b}."


def fact_of(rng: Random, number: int) -> str:
    """Draw a sum or a difference that is this number, from 1 to 98."""
    if rng.randint(1, 97) < number:
        a = rng.randint(1, number - 1)
        return f"{a} + {number - a} = {number}."
    b = rng.randint(1, 98 - number)
    return f"{number + b} - {b} = {number}."


TARGET = (add_subtract, subtract_add, multiply_add, multiply_subtract)


def target(rng: Random) -> Problem:
    """Draw a problem of the target task: two steps, any kind."""
    return rng.choice(TARGET)(rng)
