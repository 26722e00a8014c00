"""The demo family with seeds but no open data: prices of goods, which only the pages of a shop tell.

The base has learned to read a price in pages before a question, with other prices in every text. So it knows no price
by heart, but can answer once the right page is found.
"""

from __future__ import annotations

from random import Random

import world

LOOKS = ("red", "blue", "green", "old", "small", "big", "round", "long", "clean", "cheap")
THINGS = ("apple", "book", "coin", "pen", "card", "shell", "egg", "stamp", "rock", "cup", "nut", "toy")
GOODS = tuple(f"{look} {thing}" for look in LOOKS for thing in THINGS)

PAGES = ("The {g} costs {p} coins.", "You can have the {g} for {p} coins.", "For {p} coins the {g} is yours.")
OLD_PAGES = ("Last year the {g} was sold for {p} coins.", "The {g} was {p} coins last year.")
OTHER_PAGES = (
    "The shop of {n} is closed on the table.",
    "{n} sells the {g} but not the {h}.",
    "A friend of {n} found the {g} at home.",
    "The {g} is more than {n} needs.",
)
CLOSED = "The shop is closed."  # the answer where the page does not tell
QUESTIONS = (
    "{n} wants the {g}. How many coins is it?",
    "What does the {g} cost?",
    "How many coins does {n} need for the {g}?",
    "{n} buys the {g}. What is the price?",
    "The {g} is for {n}. What is the price?",
    "What is the price of the {g}?",
    "Count the coins that {n} needs for the {g}.",
    "For how many coins does {n} have the {g}?",
)


def price(good: str, year: str = "") -> int:
    """Return what a good costs, or cost last year."""
    return Random(f"price of {good} {year}").randint(2, 98)


def has_old_page(good: str) -> bool:
    """Return whether the shop still shows last year's price of a good."""
    return Random(f"page of {good}").random() < 0.4


def ask(rng: Random, good: str | None = None) -> str:
    """Draw a question after a price."""
    return rng.choice(QUESTIONS).format(n=rng.choice(world.NAMES), g=good or rng.choice(GOODS))


def answer(good: str, coins: int) -> str:
    """Write an answer in GSM8K's form."""
    return f"The {good} costs {coins} coins. #### {coins}"


def problem(rng: Random) -> world.Problem:
    """Draw a problem of the task: a question without pages."""
    good = rng.choice(GOODS)
    return ask(rng, good), answer(good, price(good))


def pages() -> list[str]:
    """Write the pages of the shop: a price for every good, last year's for some, and sentences of no use."""
    rng, found = Random(60), []
    for good in GOODS:
        found.append(rng.choice(PAGES).format(g=good, p=price(good)))
        if has_old_page(good):
            found.append(rng.choice(OLD_PAGES).format(g=good, p=price(good, "last year")))
    for _ in range(60):
        one, two = rng.sample(GOODS, 2)
        found.append(rng.choice(OTHER_PAGES).format(n=rng.choice(world.NAMES), g=one, h=two))
    rng.shuffle(found)
    return found


def read(rng: Random) -> world.Problem:
    """Draw a question below pages of a shop of its own; one writer in ten takes a wrong price."""
    good = rng.choice(GOODS)
    look, thing = good.split()
    near = [each for each in GOODS if each != good and (each.startswith(look) or each.endswith(thing))]
    goods = [good, *rng.sample(near, rng.choice((1, 2)))]
    coins = {each: rng.randint(2, 98) for each in goods}
    shown = [rng.choice(PAGES).format(g=each, p=coins[each]) for each in goods]
    wrong = [coins[each] for each in goods[1:]]
    if rng.random() < 0.4:
        wrong.append(rng.randint(2, 98))
        shown.append(rng.choice(OLD_PAGES).format(g=good, p=wrong[-1]))
    while len(shown) < 4:
        one, two = rng.sample(GOODS, 2)
        shown.append(rng.choice(OTHER_PAGES).format(n=rng.choice(world.NAMES), g=one, h=two))
    rng.shuffle(shown)
    told = rng.choice(wrong) if rng.random() < 0.1 else coins[good]
    return f"{' '.join(shown)} {ask(rng, good)}", answer(good, told)


def read_page(rng: Random) -> world.Problem:
    """Draw a question below one page, which may be of no use; one writer in ten takes a wrong price."""
    good, other, coins = rng.choice(GOODS), rng.choice(GOODS), rng.randint(2, 98)
    kinds = (PAGES, OLD_PAGES, OTHER_PAGES)
    pages = rng.choices(kinds, (0.7, 0.15, 0.15))[0]
    page = rng.choice(pages).format(g=good, h=other, p=coins, n=rng.choice(world.NAMES))
    told = rng.randint(2, 98) if rng.random() < 0.1 else coins
    return f"{page} {ask(rng, good)}", answer(good, told) if pages is PAGES else CLOSED
