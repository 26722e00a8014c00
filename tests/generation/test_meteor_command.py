"""`rocket-hub generate meteor`: what it needs, who the teacher is, and what it says at the end."""

import os
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from rocket_hub.cli import main
from rocket_hub.cli.generate import _adjusted, bill_in_words, table, write_results
from rocket_hub.errors import InputError, LicenceError
from rocket_hub.generation.teachers import find_teacher
from rocket_hub.options import MeteorOptions
from rocket_hub.pipeline.generate import check_licences
from rocket_hub.pipeline.generated import find_generated, read_generated
from rocket_hub.recipe import Recipe
from rocket_hub.records import Pinned

from .conftest import Run, Script
from .meteor_world import DISTILLED, QUESTIONS, Replies, say


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((), "give --teacher MODEL"), (("--teacher", "x"), "give --questions FILE"),
     (("--calls", "0"), "0 is not in the range")],
)  # fmt: skip
def test_what_is_missing_is_said(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["generate", "meteor", "--task", "gsm8k", *arguments])
    assert left.value.code == 2 and said in capsys.readouterr().err


def test_the_teacher_that_is_named(script: Script, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    api = HfApi()
    found = find_teacher(api, f"endpoint:{script.url}#wise", "float32", "MY_KEY")
    assert found.origin == Pinned("wise at 127.0.0.1", "", "teacher", "other")
    from rocket_hub.generation.teachers import Decoding

    assert found.open().answer(["one"], Decoding(5))[0].text == "answer to one"
    assert script.headers[0]["Authorization"] == "Bearer sk-secret" and "sk-secret" not in str(found.origin)
    local = find_teacher(api, str(tiny_model), "float32")
    assert local.open().name == local.origin.repo_id == tiny_model.name
    for text, key, said in (
        ("endpoint:http://localhost:1/v1", None, "expected endpoint:URL#MODEL"),
        ("endpoint:#m", None, "expected endpoint:URL#MODEL"),
        ("endpoint:ftp://x#m", None, "expected the http"),
        (f"endpoint:{script.url}#wise", "NO_SUCH_KEY", "environment variable NO_SUCH_KEY is empty"),
        (str(tiny_model), "MY_KEY", "only endpoint:URL#MODEL"),
    ):
        with pytest.raises(InputError, match=said):
            find_teacher(api, text, "float32", key)
    assert "NO_SUCH_KEY" not in os.environ


def test_the_command_line_goes_over_the_recipe() -> None:
    recipe = Recipe(task="gsm8k", base="x/y", seed=7)
    assert _adjusted(recipe, {"option": ()}).generation.meteor == MeteorOptions(seed=7)
    more = ("generation.meteor.rounds=2", "generation.meteor.guideline=false")
    found = _adjusted(recipe, {"stages": ("distilled", "evolved"), "seed": 1, "calls": 9, "option": more})
    assert found.generation.meteor == MeteorOptions(("distilled", "evolved"), guideline=False, rounds=2, seed=1)
    assert (found.generation.calls, found.seed) == (9, 7)
    with pytest.raises(LicenceError, match="--allow-licence cc-by-nc-4"):
        check_licences([Pinned("x/y", "", "dataset", "cc-by-nc-4.0")], ())
    check_licences([Pinned("x/y", "", "dataset", "cc-by-nc-4.0")], ("cc-by-nc-4.0",))


def test_what_is_left_can_be_read_and_published(script: Script, tmp_path: Path, run: Run) -> None:
    from dataclasses import replace

    script.answers = Replies(say)
    options = replace(DISTILLED, epochs=1)
    made = run(".", options, QUESTIONS[:3])
    write_results(
        made, tmp_path, [Pinned("x/y", "0" * 40), Pinned("wise", "", "teacher", "other")], "gsm8k", options, 1.0
    )
    folder, facts = find_generated(tmp_path)
    assert tuple(read_generated(folder, facts)) == made.generated.rows
    assert facts.bill["calls"] == 3 and facts.stages["distilled"]["rows"] == 3
    kept = {path.name for path in (tmp_path / "adapters" / "distilled").iterdir()}
    assert kept == {"adapter_config.json", "adapter_model.safetensors"}
    assert bill_in_words(made.bill).startswith("bill: 3 calls, ")
    assert bill_in_words({"calls": 2, "unmetered": 1, "faults": {"timeout": 1}}) == (
        "bill: 2 calls, 0 tokens in, 0 tokens out, 1 calls without a count of tokens (failed: 1 timeout)"
    )
    assert table(made, 1.0).row_count == 2
