"""The README is true: its commands exist, its code runs, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import click
import pytest

from rocket_hub.cli.app import COMMANDS, cli

from .conftest import ROOT, python

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([ROOT / "README.md", *(ROOT / "recipes").rglob("*.md"), *ROOT.glob("*.md")])
SHELL = {"cd", "export", "git", "pip", "source"}
"""Programs of others, about which nothing can be checked here."""


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands():
    """Every command of a bash block, and every one of ours that stands in a sentence."""
    lines = [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    found = [" ".join(shlex.split(line, comments=True)) for line in lines]
    sentences = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    found += [" ".join(span.split()) for span in re.findall(r"`((?:rocket-hub|make) [^`]*)`", sentences)]
    return sorted({command for command in found if command})


def targets():
    return set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def check_ours(words):
    """Parse a command line of ours without running it; an unknown command or option is an error."""
    command = cli
    while isinstance(command, click.Group):
        assert words, "a group of commands needs one of its own"
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, f"there is no command '{words[0]}'"
        command, words = found, words[1:]
    command.make_context("readme", words)  # raises for an unknown option, a missing one, or a value of another kind


def test_it_shows_how_to_start_and_how_to_load():
    assert any("make demo" in block for block in blocks("bash"))
    assert any("PeftModel.from_pretrained" in block for block in blocks("python"))


@pytest.mark.parametrize("command", commands())
def test_a_command_exists(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    first, *words = shlex.split(command)
    if first == "make":
        assert {word for word in words if "=" not in word} <= targets()
    elif first in ("rocket-hub", "hf-rocket", ".venv/bin/rocket-hub"):
        check_ours(words)
    elif Path(first).name.startswith("python"):
        assert words[0] == "-m" or Path(words[0]).is_file()
    else:
        assert first in SHELL, f"what is '{first}'?"


@pytest.mark.parametrize("target", sorted(targets()))
def test_a_target_runs_files_that_are_there(target):
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n?)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    for line in recipe[1].splitlines():
        if "rocket-hub " in line:
            check_ours(shlex.split(line.partition("rocket-hub ")[2]))
        for path in re.findall(r"\S+\.(?:py|jsonl|yaml)\b", line):
            assert path.startswith("runs/") or (ROOT / path).is_file(), path  # a target makes what is below `runs`


@pytest.mark.parametrize("code", blocks("python"), ids=range(len(blocks("python"))))
def test_code_runs(code, served, tmp_path):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    python(code, tmp_path, served)


def test_every_command_is_in_it():
    listed = "\n".join(blocks("text"))
    assert [name for name in COMMANDS if not re.search(rf"rocket-hub .*\b{name}\b", listed)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_files_it_names_are_there():
    """The table of criteria and the tree name files of the package."""
    named = set(re.findall(r"[\w/]+\.py\b", README))
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rocket_hub").rglob("*.py")}
    package |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").rglob("*.py")}
    assert named
    assert [name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in package)] == []
