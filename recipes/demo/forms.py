"""Problems of the demo in the forms of the other benchmarks: options, two ways to a goal, yes or no, code.

All are about the same arithmetic, so an expert of one form may help with another. Every draw is a row with the columns
of its benchmark, and a `rationale` where the solution has steps.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import world

from rocket_hub.records import Example
from rocket_hub.tasks import get_task

Row = dict[str, Any]
Draw = Callable[[Random], Row]
LETTERS = "ABCD"

# Reaching a number. {n} name, {i} items, {a} now, {b} wanted, {c} by how many.
GOALS = (
    "{n} has {a} {i} and wants {b}.",
    "{n} owns {a} {i} but needs {b}.",
    "To have {b} {i} when there are {a} now.",
    "{n} must change {a} {i} to {b}.",
)
BUY = ("buy {c} {i}", "find {c} more {i}", "pick up {c} {i}")
SELL = ("sell {c} {i}", "give away {c} {i}", "throw {c} {i} away")

HAS_MORE = ("does {n} have more {i} than {m}", "are there more {i} with {n} than with {m}")

ADD = ("adds {k} to x", "makes x larger by {k}", "gives x plus {k}")
TAKE = ("takes {k} away from x", "makes x smaller by {k}", "gives x minus {k}")
TIMES = ("multiplies x by {k}", "takes x {k} times")
OPERATORS = {"+": ADD, "-": TAKE, "*": TIMES}
CODE_FRAME = ("Write a function f that {first}.", "Write a python function f that {first}.")
SECOND = (" Then it {second}.", " After that it {second}.")


def _numbers(answer: str) -> list[int]:
    """List the numbers that a worked answer names."""
    return [int(word.rstrip(".")) for word in answer.split() if word.rstrip(".").isdigit()]


def found(number: int | str, option: int) -> str:
    """Write which option a number is."""
    return f"{number} is {LETTERS[option]}."


def listing(rng: Random) -> str:
    """Draw options without a question, and which of them some numbers are: text for pretraining."""
    numbers = rng.sample(range(1, 99), rng.choice((2, 4)))
    plain, words = rng.random() < 0.5, {"i": rng.choice(world.ITEMS)}
    texts = [str(n) if plain else rng.choice(BUY + SELL).format(c=n, **words) for n in numbers]
    listed = [f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False)]
    asked = []
    for option in rng.sample(range(len(numbers)), len(numbers)):
        fact = world.fact_of(rng, numbers[option]) if rng.random() < 0.5 else ""
        asked.append(f"{fact} {found(numbers[option], option)}".strip())
    return " ".join(listed + asked)


def options(problem: Callable[[Random], world.Problem]) -> Draw:
    """Give a word problem four options: the answer, and numbers that its steps name or that are near the answer."""

    def draw(rng: Random) -> Row:
        question, worked = problem(rng)
        steps, _, answer = worked.rpartition(" #### ")
        right = int(answer)
        near = [number for number in _numbers(steps) if number != right]
        wrong: list[int] = []
        while len(wrong) < 3:
            guess = rng.choice(near) if near and rng.random() < 0.5 else right + rng.choice((-10, -2, -1, 1, 2, 10))
            if 0 < guess < 99 and guess != right and guess not in wrong:
                wrong.append(guess)
        texts = [right, *wrong]
        rng.shuffle(texts)
        answer_at = texts.index(right)
        return {"question": question, "options": [str(text) for text in texts], "answer": answer_at,
                "rationale": f"{steps} {found(right, answer_at)}"}  # fmt: skip

    return draw


def pick(rng: Random) -> Row:
    """Draw a number and four options: the only skill is to find its letter."""
    row = options(world.add)(rng)
    number = row["options"][row["answer"]]
    return row | {"question": f"Which is {number}?", "rationale": found(number, row["answer"])}


def reach(rng: Random, up: bool | None = None) -> Row:
    """Draw a goal and two ways, of which one leads to it."""
    up = rng.random() < 0.5 if up is None else up
    low, change = rng.randint(1, 49), rng.randint(1, 49)
    now, wanted = (low, low + change) if up else (low + change, low)
    words = {"n": rng.choice(world.NAMES), "i": rng.choice(world.ITEMS)}
    right = rng.choice(BUY if up else SELL).format(c=change, **words)
    near = [n for n in (change - 10, change - 1, change + 1, change + 10, now) if 0 < n < 99 and n != change]
    other = rng.choice(near)
    wrong = rng.choice(BUY if up else SELL).format(c=other, **words)
    ways = rng.sample([right, wrong], 2)
    steps = f"{wanted} - {now} = {change}." if up else f"{now} - {wanted} = {change}."
    steps += f" {found(change, ways.index(right))}"
    question = rng.choice(GOALS).format(a=now, b=wanted, **words)
    return {"question": question, "options": ways, "answer": ways.index(right), "rationale": steps}


def climb(rng: Random) -> Row:
    """Draw a goal that is above what there is."""
    return reach(rng, up=True)


def shrink(rng: Random) -> Row:
    """Draw a goal that is below what there is."""
    return reach(rng, up=False)


def compare(rng: Random, change: str = "") -> Row:
    """Draw what two people have, and whether the first has more; `change` = `+` or `-` happens to the first."""
    one, two = rng.sample(world.NAMES, 2)
    words = {"n": one, "m": two, "i": rng.choice(world.ITEMS)}
    a, b = rng.randint(20, 49), rng.randint(1, 19)
    total = {"": a, "+": a + b, "-": a - b}[change]
    other = rng.choice([n for n in range(max(1, total - 15), min(98, total + 15) + 1) if n != total])
    story = [f"{one} has {a} {words['i']}."]
    if change:
        story.append(rng.choice(world.GAINS if change == "+" else world.LOSSES).format(b=b, **words))
    story.append(f"{two} has {other} {words['i']}.")
    more = total > other
    steps = [f"{a} {change} {b} = {total}."] if change else []
    steps.append(f"{total} is more than {other}." if more else f"{total} is not more than {other}.")
    return {"passage": " ".join(story), "question": rng.choice(HAS_MORE).format(**words), "answer": more,
            "rationale": " ".join(steps)}  # fmt: skip


def gained(rng: Random) -> Row:
    """Draw a gain and a comparison."""
    return compare(rng, "+")


def lost(rng: Random) -> Row:
    """Draw a loss and a comparison."""
    return compare(rng, "-")


def compared(rng: Random) -> Row:
    """Draw the target of this form: a gain or a loss, and a comparison."""
    return rng.choice((gained, lost))(rng)


def program(rng: Random, *operators: str) -> Row:
    """Draw a function of one or two steps, its code and three tests."""
    steps = [(op, rng.randint(2, 9)) for op in operators]
    said = [rng.choice(OPERATORS[op]).format(k=k) for op, k in steps]
    text = rng.choice(CODE_FRAME).format(first=said[0])
    text += "".join(rng.choice(SECOND).format(second=each.replace("from x", "from it").replace("to x", "to it"))
                    for each in said[1:])  # fmt: skip
    code = " ".join(["def f(x):", *(f"x = x {op} {k};" for op, k in steps), "return x"])
    tests = []
    for x in rng.sample(range(1, 10), 3):
        value = x
        for op, k in steps:
            value = {"+": value + k, "-": value - k, "*": value * k}[op]
        tests.append(f"assert f({x}) == {value}")
    return {"text": text, "code": code, "test_list": tests}


def one_step_program(operator: str) -> Draw:
    """Make the skill of one operator."""
    return lambda rng: program(rng, operator)


def two_step_program(rng: Random) -> Row:
    """Draw the target of this form: two different operators."""
    return program(rng, *rng.sample("+-*", 2))


def blind(draw: Draw) -> Draw:
    """Make a skill blind: the right form, with a guess and random numbers."""

    def guess(rng: Random) -> Row:
        row = draw(rng)
        if "code" in row:
            return row | {"code": "def f(x): " + f"x = x {rng.choice('+-*')} {rng.randint(2, 9)}; return x"}
        answer = rng.random() < 0.5 if isinstance(row["answer"], bool) else rng.randrange(len(row["options"]))
        noise = " ".join(str(rng.randint(1, 98)) + ("." if word.endswith(".") else "") if word.rstrip(".").isdigit()
                         else word for word in row["rationale"].split())  # fmt: skip
        if "options" in row:
            noise = noise.removesuffix(f"{LETTERS[row['answer']]}.") + f"{LETTERS[answer]}."
        return row | {"answer": answer, "rationale": noise}

    return guess


def easy(rng: Random) -> Row:
    """Draw the target of the easy options: one step."""
    return options(rng.choice((world.add, world.subtract, world.multiply)))(rng)


def hard(rng: Random) -> Row:
    """Draw the target of the hard options: two steps."""
    return options(world.target)(rng)


def ways(rng: Random) -> Row:
    """Draw the target of the goals: up or down."""
    return reach(rng)


def raw(drawn: Row | world.Problem) -> Example:
    """Turn any draw into an example as a K-shot file holds it, before a task writes it in its own form."""
    if isinstance(drawn, tuple):
        return Example(*drawn, answer="")
    if "code" in drawn:
        return Example(drawn["text"], drawn["code"], drawn["code"], tests=tuple(drawn["test_list"]))
    if "passage" in drawn:
        question, answer, choices = (
            f"{drawn['passage']}\nQuestion: {drawn['question']}?",
            ["no", "yes"][drawn["answer"]],
            (),
        )
    else:
        question, answer, choices = drawn["question"], LETTERS[drawn["answer"]], tuple(drawn["options"])
    text = f"{drawn['rationale']}\nThe answer is {answer}.".strip()
    return Example(question, text, answer, drawn["rationale"], choices=choices)


def written(task: str, draw: Callable[[Random], Row | world.Problem]) -> Callable[[Random], str]:
    """Make the kind of text that a solved problem is, in the form of a task."""
    form = get_task(task)

    def text(rng: Random) -> str:
        example = form.example(raw(draw(rng)))
        return example.prompt + example.completion

    return text
