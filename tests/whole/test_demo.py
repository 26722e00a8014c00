"""The demo's world is sound: right answers, no leaks but the planted one, the same files every time."""

import json
import re
import sys
from importlib import import_module
from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from rocket_hub.rows.kshot import load_kshot
from rocket_hub.tasks import GSM8K

from .conftest import ROOT

HOME = Path("datasets/rocket-demo")


@pytest.fixture(scope="module")
def world():
    """The scripts beside the recipe import each other by their bare names."""
    sys.path.insert(0, str(ROOT / "recipes" / "demo"))
    yield import_module("world")
    sys.path.pop(0)
    for name in ("world", "words", "forms", "prices", "data", "families", "models", "teaching", "pretraining"):
        sys.modules.pop(name, None)


SKILLS = ["add", "subtract", "multiply", "add_subtract", "subtract_add", "multiply_add", "multiply_subtract", "swapped"]


@pytest.mark.parametrize("skill", SKILLS)
def test_every_answer_is_worked_out_rightly(skill, world):
    rng = Random(0)
    for _ in range(200):
        question, answer = getattr(world, skill)(rng)
        work, _, final = answer.partition(" #### ")
        steps = [step.strip().rstrip(".").split(" = ") for step in work.split(". ")]
        assert all(eval(sum_) == int(result) for sum_, result in steps)
        assert final == steps[-1][1] == GSM8K.extract(answer)
        assert 0 <= int(final) < 100, "numbers below 100 are one token"
        given = {word.strip(".?") for word in question.split()}
        known = {part for _, *parts in (steps[0][0].split(" "),) for part in parts if part.isdigit()}
        assert known <= given


def test_the_tokenizer_knows_every_word(world, demo):
    tokenizer = AutoTokenizer.from_pretrained(demo.hub / "models" / "rocket-demo" / "tiny-llama")
    rng = Random(1)
    pretraining, models = import_module("pretraining"), import_module("models")
    kinds = (*pretraining.SHARES, *pretraining.OTHER_TEXTS)
    for draw in (*kinds, *(models.texts_of(skill) for skill in models.BANK)):
        for _ in range(50):
            text = draw(rng)
            ids = tokenizer(text.rstrip())["input_ids"]
            assert tokenizer.unk_token_id not in ids, text
            said = tokenizer.decode(ids, skip_special_tokens=True)
            assert said.split() == text.replace("\n", " ").split()


def test_listings_say_which_option_a_number_is(world):
    rng, forms = Random(2), import_module("forms")
    for draw in (forms.listing, forms.written("piqa", forms.ways), forms.written("arc_easy", forms.easy)):
        for _ in range(50):
            text = draw(rng)
            options = dict(reversed(re.findall(r"([A-D])\.[^.]*?(\d+)", text)))  # the first of each letter
            said = re.findall(r"(\d+) is ([A-D])\.", text)
            assert said and all(options[letter] == number for number, letter in said)
    for number in range(1, 99):
        for _ in range(5):
            sum_, result = world.fact_of(rng, number).rstrip(".").split(" = ")
            assert eval(sum_) == int(result) == number and all(0 < int(n) < 99 for n in re.findall(r"\d+", sum_))


def questions(path):
    """The questions of a data file in any of the demo's shapes; where a question needs more to be one, with that."""
    if path.suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [_question(row) for row in rows]


def _question(row):
    """The question of a row."""
    if "passage" in row or "choices" in row or "goal" in row:
        return json.dumps({name: value for name, value in row.items() if name not in ("answer", "answerKey", "label")})
    named = (row.get(name) for name in ("prompt", "instruction", "question", "text"))
    return next(filter(None, named), None) or _first(row)


def _first(row):
    """What the user says in a chat."""
    (turns,) = row.values()
    return turns[0].get("content") or turns[0]["value"]


def test_only_the_planted_leak_leaks(demo):
    folder = demo.hub / HOME
    test = set(questions(folder / "word-problems" / "data" / "test-00000.parquet"))
    train = set(questions(folder / "word-problems" / "data" / "train-00000.parquet"))
    shots = {shot.prompt for shot in load_kshot(demo.kshot)}
    assert not test & train
    assert shots <= train
    leaking = set()
    for path in folder.rglob("*"):
        if path.suffix in (".parquet", ".jsonl") and "word-problems" not in path.parts:
            asked = set(questions(path))
            assert len(asked) >= 8
            assert not asked & train, "the K-shot comes from there"
            if asked & test:
                leaking.add(path.parent.name)
    assert leaking == {"leaked"}


def test_the_same_data_every_time(world, demo, tmp_path):
    import_module("data").write_all(tmp_path, tmp_path / "kshot.jsonl", 0.02)
    import_module("families").write_families(tmp_path, tmp_path, 0.02)
    again = {path.relative_to(tmp_path): path.read_bytes() for path in (tmp_path / HOME).rglob("*") if path.is_file()}
    before = {path.relative_to(demo.hub): path.read_bytes() for path in (demo.hub / HOME).rglob("*") if path.is_file()}
    assert again == before
    assert (tmp_path / "kshot.jsonl").read_text() == demo.kshot.read_text()


def test_the_manifest_names_what_is_there(demo):
    manifest = json.loads((demo.hub / "hub.json").read_text())
    assert manifest["name"] == "demo"
    assert all((demo.hub / name).is_dir() for name in manifest["repositories"])
    assert (demo.hub / manifest["recipes"]["gsm8k"]).read_text() == (ROOT / "recipes/demo/gsm8k.yaml").read_text()
    cards = [path / "README.md" for kind in ("models", "datasets") for path in (demo.hub / kind).glob("*/*")]
    assert all(card.read_text().startswith("---\nlicense: ") for card in cards)


def test_no_file_of_the_hub_names_this_machine(demo):
    files = [path for path in demo.hub.rglob("*") if path.suffix in (".json", ".md", ".yaml", ".jsonl")]
    assert len(files) > 50
    named = [path.name for path in files if str(demo.work.parent) in path.read_text() or "/tmp" in path.read_text()]
    assert named == []
