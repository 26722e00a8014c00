"""The command line: quick help, exit codes, one line for every error, and a Hub for other programs."""

import json
import resource
import subprocess
import sys

import numpy as np
import pytest

from rocket_hub.cli import main
from rocket_hub.cli.app import BUILD, COMMANDS, DATA, GENERATE, HUB, METEOR, MODEL, RENAMED, SELECT, SELF_SPECIALIZATION
from tests import helping
from tests.helping import table

from .conftest import COMMAND, STAGES, Done, environment, finish, python, serving

HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "numpy", "huggingface_hub")


def test_help_lists_the_commands_in_order_of_the_pipeline(tmp_path):
    done = finish([COMMAND, "--help"], tmp_path, tmp_path)
    listed = [line.split()[0] for line in done.out.splitlines() if line.startswith("  ") and line.split()]
    assert [word for word in listed if word in COMMANDS] == list(COMMANDS)
    assert list(COMMANDS) == [
        "build", "discover", "generate", "select", "merge", "train", "evaluate", "push", "model", "data", "hub",
    ]  # fmt: skip


def test_help_is_quick_and_imports_nothing_heavy(tmp_path):
    seconds = []  # of the processor, which other work on the machine does not add to
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([COMMAND, "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5
    script = f"import sys\nfrom rocket_hub.cli import main\nmain(['--help'])\nprint(sorted(sys.modules & {set(HEAVY)}))"
    script = script.replace("sys.modules &", "sys.modules.keys() &")
    assert finish([sys.executable, "-c", script], tmp_path, tmp_path).out.splitlines()[-1] == "[]"


def several(commands, folder, home):
    return [Done(*answer) for answer in helping.several(commands, folder, environment(home))]


def test_every_command_explains_itself(tmp_path):
    groups = {"generate": GENERATE, "select": SELECT, "model": MODEL, "data": DATA, "hub": HUB}
    commands = [[name, *sub] for name in COMMANDS for sub in ([], *([word] for word in groups.get(name, ())))]
    answers = several([[*command, "--help"] for command in commands], tmp_path, tmp_path)
    for command, done in zip(commands, answers, strict=True):
        assert (done.code, done.error) == (0, ""), command
        usage, _, text = done.out.partition("\n\n")
        assert usage.startswith(f"Usage: rocket-hub {' '.join(command)}")
        assert text.strip()


# Name -> command, exit code, what the last line says, what must not have begun.
WRONG = {name: case for name, *case in table("whole/command_faults.jsonl")}


@pytest.fixture(scope="module")
def answers(demo, tmp_path_factory):
    """What the command line says to everything that is wrong."""
    folder = tmp_path_factory.mktemp("wrong")
    for name, text in table("whole/fault_files.jsonl"):
        (folder / name).write_text(text)
    hub, kshot = ["--hub", str(demo.hub)], ["--kshot", str(demo.kshot)]
    at_demo = [*hub, "--task", "gsm8k"]
    named = {"HUB": hub[1:], "KSHOT": kshot[1:], "DEMO": at_demo, "RECIPE": [*hub, *kshot, "--recipe"]}
    named["ALL"] = [*at_demo, *kshot, "--max-steps", "2"]
    commands = [[word for said in command for word in named.get(said, [said])] for command, *_ in WRONG.values()]
    return dict(zip(WRONG, several(commands, folder, folder / "home"), strict=True))


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_line(name, answers):
    done, (_, code, line, not_begun) = answers[name], WRONG[name]
    assert "Traceback" not in done.error, done.error[-1500:]
    assert line in done.last
    assert done.code == code
    assert not any(text.startswith(not_begun) for text in done.out.splitlines())


OLD = [(old.split(), f"`rocket-hub {old}` is now `rocket-hub {new}`") for old, new in RENAMED.items()]
OLD += [
    ([*command.split(), option, "4"], f": use -o {key.partition('=')[0]}=")
    for command, gone in (("build", BUILD), ("select data", BUILD), ("generate meteor", METEOR),
                          ("generate self-specialization", SELF_SPECIALIZATION))
    for option, key in gone.items()
]  # fmt: skip
OLD += [
    (["train", "--task", "gsm8k", "--dataset=x"], "`rocket-hub train --dataset` is now `rocket-hub model train DATA`"),
    (["build", "--num-experts", "4"], "--num-experts 4: use -o experts.num_experts=4"),
    (["build", "--budget=2M tokens"], "--budget 2M tokens: use -o 'experts.budget=2M tokens'"),
    (["build", "--generate", "self-specialization"], "use -o generation.method=self_specialization"),
    (["build", "--gate-grid", "0.5,1"], "--gate-grid 0.5,1: use -o merge.gate_start=[0.5,1]"),
    (["build", "--ignore-verdict"], "--ignore-verdict: use -o experts.follow_verdict=false"),
]


@pytest.mark.parametrize(("command", "line"), OLD, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_an_old_spelling_is_told_the_new_one(command, line, capsys):
    with pytest.raises(SystemExit) as left:
        main(command)
    told = capsys.readouterr()
    assert (left.value.code, told.out, len(told.err.splitlines())) == (2, "", 1)
    assert told.err.startswith("error: ") and line in told.err


def test_a_dead_hub_is_a_process_that_ends_with_3(demo, tmp_path):
    command = [COMMAND, "build", "--hub", "http://127.0.0.1:1", "--task", "gsm8k", "--kshot", str(demo.kshot)]
    done = finish(command, tmp_path, tmp_path / "home", code=3)
    assert done.out == ""
    assert len(done.error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_discover_prints_a_verdict_for_everything(place):
    done = place.call("discover", "--allow-licence", "cc-by-nc-4.0")
    assert done.note("1-discover") == "again, because of discover.allow_licences"
    assert done.note("2-select-experts") is None
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.out.splitlines() if "│" in line]
    verdicts = {row[0]: row[1] for row in cells}
    assert verdicts["rocket-demo/packs"] == verdicts["rocket-demo/first-steps"] == "usable"
    assert verdicts["rocket-demo/pickled"] == "pickle_only"
    assert verdicts["rocket-demo/members-only"] == "gated"
    assert verdicts["rocket-demo/classroom"] == "usable"  # it was not, without the option
    found = place.result("1-discover")
    everything = [entry["repo_id"] for kind in ("adapters", "datasets") for entry in found[kind]["selected"]]
    everything += [entry["item"] for kind in ("adapters", "datasets") for entry in found[kind]["rejected"]]
    assert sorted(verdicts) == sorted(everything)


def test_build_ends_with_its_tables(built):
    place, done = built
    out = done.out
    assert "5 trainings of 4 steps x 32 rows" in out
    best = place.result("2-select-experts")["scores"][0]
    assert f"{best['perplexity']:.3f}" in out
    found = place.result("6-evaluate")
    assert all(found["labels"][entry["method"]] in out for entry in found["evaluations"])
    assert f"recommended: {place.result('6-evaluate')['recommendation']['method']}" in out
    assert f"pushed to local/gsm8k-routed at {place.result('7-push')['commit'][:12]}" in out
    assert done.error == ""
    assert len(STAGES) == sum(line.startswith(STAGES) for line in out.splitlines())


def test_collapse(place):
    more = ["--hub", str(place.hub), "--task", "gsm8k", "--kshot", str(place.kshot), "--out"]
    adapter = str(place.run / "5-train" / "adapter")
    commands = [
        ["model", "collapse", adapter, *more, "local"],
        ["model", "collapse", "local/gsm8k-routed", *more, "pushed"],
    ]
    for done in several(commands, place.folder, place.home):
        assert done.code == 0, done.error
        assert "100.00% of the energy kept" in done.out and "nats per token" in done.out
        assert done.error == ""
    weights = [(place.folder / name / "adapter_model.safetensors").read_bytes() for name in ("local", "pushed")]
    assert weights[0] == weights[1]
    assert json.loads((place.folder / "local" / "adapter_config.json").read_text())["peft_type"] == "LORA"


CLIENT = """
import json
from datasets import load_dataset
from huggingface_hub import HfApi, hf_hub_download
from transformers import AutoConfig
rows = load_dataset("rocket-demo/word-problems", split="test")
print(json.dumps({
    "adapters": sorted(model.id for model in HfApi().list_models(filter="base_model:rocket-demo/tiny-llama")),
    "layers": AutoConfig.from_pretrained("rocket-demo/tiny-llama").num_hidden_layers,
    "rows": len(rows), "columns": rows.column_names,
    "recipe": open(hf_hub_download("rocket-demo/packs", "README.md")).read()[:16],
}))
"""


def test_import_says_what_the_store_holds(demo, tmp_path):
    command = [COMMAND, "hub", "import", str(demo.hub), "--store", "store"]
    repositories = sum(1 for kind in ("models", "datasets") for _ in (demo.hub / kind).glob("*/*"))
    for _ in range(2):
        told = finish(command, tmp_path, tmp_path).out
        assert told == f"store: holds the {repositories} repositories of {demo.hub}\n"


def test_a_hub_for_stock_clients(demo, tmp_path):
    store, home = tmp_path / "store", tmp_path / "home"
    command = [COMMAND, "hub", "import", str(demo.hub), "--store", str(store)]
    finish(command, tmp_path, home)
    with serving(store, home) as variables:
        done = python(CLIENT, tmp_path, variables)
    seen = json.loads(done.out.splitlines()[-1])
    assert len(seen["adapters"]) > 12
    assert seen | {"adapters": []} == {
        "adapters": [], "layers": 2, "rows": 20, "columns": ["question", "answer"], "recipe": "---\nlicense: apa",
    }  # fmt: skip


LOADING = """
import json, sys
{first}
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained("rocket-demo/tiny-llama", dtype=torch.float32)
ids = torch.arange(4, 20)[None]
bare = base(ids).logits
model = PeftModel.from_pretrained(base, "local/gsm8k-routed"{more})
found = [model.peft_config["default"].peft_type, "rocket_hub" in sys.modules]
print(json.dumps([*found, (model(ids).logits - bare).flatten().tolist()]))
"""


def test_the_result_loads_in_a_fresh_process(served, tmp_path):
    loading = {
        "routed": LOADING.format(first="import rocket_hub", more=""),
        "stock": LOADING.format(first="", more=', subfolder="static-lora"'),
    }
    done = {name: python(script, tmp_path, served) for name, script in loading.items()}
    routed, stock = (json.loads(each.out.splitlines()[-1]) for each in done.values())
    assert (routed[:2], stock[:2]) == (["ROCKET_MOE", True], ["LORA", False])
    # What they add to the base is nearly the same: after four steps the gates have hardly moved.
    assert np.linalg.norm(np.subtract(routed[2], stock[2])) < 0.2 * np.linalg.norm(routed[2])
