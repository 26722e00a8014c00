"""The stage of a build that makes rows: how much is there already, what is refused before it, METEOR over real HTTP."""

import json
from dataclasses import replace

import pytest

from rocket_hub.errors import InputError, LicenceError
from rocket_hub.generation.prompts import answer_prompt
from rocket_hub.inference.models import load_base
from rocket_hub.options import GenerationOptions, MeteorOptions, SelfSpecializationOptions
from rocket_hub.pipeline.context import Context
from rocket_hub.pipeline.generate import NOTHING, generate
from rocket_hub.recipe import Recipe
from rocket_hub.records import AdapterDiscovery, DatasetCandidate, DatasetDiscovery, Example, Pinned
from rocket_hub.results import Discovery
from rocket_hub.runs import RunFolder
from rocket_hub.tasks import get_task
from tests.helping import Heard, lines, push_rows

TASK = get_task("gsm8k")
SHOTS = tuple(Example(f"what is {n} plus {n} ?", f"{n} + {n} = {2 * n} #### {2 * n}", "") for n in range(1, 5))
ENCODER = Pinned("acme/encoder", "e" * 40)
SMALL = MeteorOptions(stages=("distilled",), guideline=False, epochs=1.0, batch_size=2, max_length=96, max_new_tokens=8)


@pytest.fixture
def api(api):
    """A Hub with rows, of which every other one has an answer."""
    both = [(shot.prompt, text) for shot in SHOTS for text in (shot.completion, "no answer")]
    push_rows(api, "local/rows", [{"prompt": prompt, "completion": text} for prompt, text in both])
    return api


def found(api):
    rows = DatasetCandidate("local/rows", str(api.dataset_info("local/rows").sha), shape="prompt_completion",
                             files=("train.jsonl",))  # fmt: skip
    return Discovery(AdapterDiscovery(ENCODER, ()), DatasetDiscovery((rows,)), ENCODER, ENCODER)


def place(api, tiny_model, folder, **options):
    """A build before its stage 0, with its base loaded."""
    said, recipe = Heard(), Recipe("gsm8k", "acme/base", generation=GenerationOptions(**options))
    context = Context(recipe, TASK, SHOTS, tuple(map(TASK.example, SHOTS)), RunFolder(folder, said), api, "", said,
                      Pinned("acme/base", "b" * 40, "model", "mit"))  # fmt: skip
    context.__dict__["base"] = load_base(str(tiny_model), None)
    return context, said


def test_nothing_is_made_where_it_was_not_asked_for(api, tiny_model, tmp_path):
    context, said = place(api, tiny_model, tmp_path / "run")
    assert generate(context, found(api)) == NOTHING
    assert (said.heard, (tmp_path / "run").exists()) == ([], False)


def test_nothing_is_made_where_enough_was_found(api, tiny_model, tmp_path):
    context, said = place(api, tiny_model, tmp_path / "run", method="self_specialization", below_rows=4)
    done = generate(context, found(api))
    assert done == replace(NOTHING, found=4)
    assert "at least 4 rows with an answer were found: none are made" in said.heard
    assert generate(context, found(api)) == done
    assert said.heard[-1] == "0-generate done earlier"
    few = SelfSpecializationOptions(target_rows=2, max_prompts=2, max_new_tokens=4, batch_size=2)
    context, said = place(api, tiny_model, tmp_path / "run", method="self_specialization", below_rows=5,
                          self_specialization=few)  # fmt: skip
    made = generate(context, found(api))
    assert (made.method, made.counts["prompts"]) == ("self_specialization", 2)
    assert said.heard[0].startswith("0-generate again, because of generation.below_rows")


def test_meteor_makes_rows_of_a_teachers_answers(api, tiny_model, tmp_path, script):
    questions = [f"what is {n} plus 1 ?" for n in range(4)]
    asked = tmp_path / "asked.jsonl"
    asked.write_text(lines({"question": question} for question in questions))
    script.answers = {answer_prompt(question): "the answer #### 2" for question in questions}
    context, said = place(api, tiny_model, tmp_path / "run", method="meteor", questions=str(asked),
                          teacher=f"endpoint:{script.url}#big", calls=3, meteor=SMALL)  # fmt: skip
    made = generate(context, found(api))
    assert (made.rows, made.bill["calls"], len(script.seen)) == (3, 3, 3)
    assert made.reasons == {"over_budget": 1}
    assert made.maker == "big at 127.0.0.1, with acme/base at bbbbbbbbbbbb"
    assert [pin.kind for pin in made.made_from] == ["model", "teacher", "file"]
    assert any("4 questions for big at 127.0.0.1: at most 4 calls" in line for line in said.heard)
    rows = [json.loads(line) for line in (tmp_path / "run" / made.rows_file).read_text().splitlines()]
    assert {row["prompt"] for row in rows} < set(questions)
    assert generate(context, found(api)) == made and len(script.seen) == 3


def test_what_is_refused_before_anything_is_computed(api, tiny_model, tmp_path):
    card = b"---\nlicense: cc-by-nc-4.0\n---\n"
    api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="local/rows", repo_type="dataset")
    context, _ = place(api, tiny_model, tmp_path / "run", method="self_specialization", documents="local/rows")
    del context.__dict__["base"]
    with pytest.raises(LicenceError, match=r"local/rows: its licence cc-by-nc-4\.0 restricts"):
        generate(context, found(api))
    with pytest.raises(InputError, match="votes: expected at least 0"):
        replace(context.recipe, generation=GenerationOptions(self_specialization=SelfSpecializationOptions(votes=-1)))
    assert not (tmp_path / "run").exists()
