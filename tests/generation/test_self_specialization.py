import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from transformers import LlamaConfig, LlamaForCausalLM

from rocket_hub.cli.generate import self_specialization_command
from rocket_hub.errors import InputError, NothingLeftError
from rocket_hub.generation.self_specialization import SOURCE, lora_specialiser, rates, self_specialize
from rocket_hub.options import SelfSpecializationOptions, TrainOptions
from rocket_hub.pipeline.generated import find_generated, read_generated
from rocket_hub.records import Example, count_reasons
from rocket_hub.rows.kshot import load_kshot
from rocket_hub.serialization import check
from rocket_hub.tasks.custom import read_task
from tests.helping import lines

TASK = """
name: sums
evaluation: {dataset: nobody/sums}
prompt: "user : {question}\\nassistant :"
extractor: number
stop: ["user :"]
"""
PAIRS = [(a, b) for a in range(10) for b in range(10 - a)]
SEEDS = [(1, 2), (4, 4), (0, 9), (3, 5), (6, 1), (2, 2)]


def question(a, b):
    return f"what is {a} plus {b} ?"


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    path = tmp_path_factory.mktemp("task") / "sums.yaml"
    path.write_text(TASK)
    return read_task(path)


@pytest.fixture(scope="module")
def seeds(task):
    return [task.example(Example(question(a, b), f"#### {a + b}", "")) for a, b in SEEDS]


@pytest.fixture(scope="module")
def model(tokenizer):
    """A base that has read lists of sums, solved and unsolved: it goes on with them, and gets some right."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=28, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=160, pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)

    def row(generator):
        drawn = [PAIRS[i] for i in torch.randint(len(PAIRS), (4,), generator=generator)]
        solved = torch.rand(1, generator=generator) < 0.6
        return " ".join(f"user : {question(a, b)}" + solved * f" assistant : #### {a + b}" for a, b in (drawn * 2)[:6])

    generator, optimizer = torch.Generator().manual_seed(1), torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=100)
    for _ in range(100):
        ids = torch.tensor([tokenizer(row(generator))["input_ids"][:40] for _ in range(12)])
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval()


def options(**changed):
    small = {"target_rows": 6, "max_prompts": 64, "batch_size": 8, "max_new_tokens": 12, "novelty": 0.99,
             "seeds_in_prompt": 2, "seeds_for_answer": 2}  # fmt: skip
    return SelfSpecializationOptions(**small | changed)


@pytest.fixture
def made(model, tokenizer, task, seeds, tmp_path):
    def make(folder="made", changed_model=None, progress=None, documents=(), specialise=None, seed=0, **changed):
        return self_specialize(
            changed_model or model, tokenizer, task, seeds, options(**changed), folder=tmp_path / folder, maker="tiny",
            documents=documents, specialise=specialise, progress=progress, seed=seed,
        )  # fmt: skip

    return make


def test_rows_are_new_questions_with_answers_in_the_tasks_form(made, task, tokenizer):
    torch.manual_seed(7)
    state, told = torch.get_rng_state(), []
    found = made(progress=lambda *call: told.append(call))
    assert torch.equal(torch.get_rng_state(), state)
    assert found.method == "self_specialization" and found.maker == "tiny" and len(found.rows) == 6
    asked = [row.prompt for row in found.rows]
    assert len(set(asked)) == 6 and not {question(*pair) for pair in SEEDS} & set(asked)
    assert all(row.prompt.startswith("what is") and row.prompt.endswith("?") and row.source == SOURCE
               for row in found.rows)  # fmt: skip
    assert all(task.example(Example(row.prompt, row.completion, "")).answer for row in found.rows)
    counts, reasons = found.counts, count_reasons(found.rejected)
    sound = counts["kept"] + counts["surplus"]
    assert counts["prompts"] + counts["answered"] == counts["questions"] + sound + len(found.rejected)
    assert counts["answered"] >= sound and reasons.get("duplicate", 0) == counts["duplicate"]
    assert rates(counts)["yield"] == (6 + counts["surplus"]) / counts["prompts"]
    assert told[-1] == ("rows kept", 6, 6)
    assert made(folder="again").rows == found.rows != made(folder="other", seed=1).rows


@pytest.mark.parametrize("after", [1, 4])
def test_a_stopped_run_goes_on_to_the_same_result(made, after, tmp_path, model, monkeypatch):
    whole = made(folder="whole", votes=3)
    batches = len((tmp_path / "whole" / "written.jsonl").read_text().splitlines())
    assert batches > 4
    calls, own = [], model.generate

    def generate(**inputs):
        if len(calls) == after and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        calls.append(len(inputs["input_ids"]))
        return own(**inputs)

    stopped = []
    monkeypatch.setattr(model, "generate", generate)
    with pytest.raises(KeyboardInterrupt):
        made(votes=3)
    with (tmp_path / "made" / "written.jsonl").open("a") as file:
        file.write('{"problem": "ab')  # what a kill leaves of a line
    torch.manual_seed(after)
    assert made(votes=3) == whole
    assert len(calls) == batches
    assert made(votes=3, target_rows=3).rows == whole.rows[:3]
    assert len(calls) == batches  # what was written serves another target, too


def test_votes_reject_what_most_samples_contradict(made):
    wide = {"target_rows": 200, "max_prompts": 24}
    plain, voted = made(**wide), made(**wide, votes=5, vote_temperature=1.5)
    contradicted = {each.item for each in voted.rejected if each.reason == "inconsistent"}
    assert contradicted and contradicted <= {f"{SOURCE}#{row.index}" for row in plain.rows}
    assert {(row.prompt, row.completion) for row in voted.rows} <= {(row.prompt, row.completion) for row in plain.rows}


def test_without_filters_all_but_repeated_questions_stay(made):
    raw = made(target_rows=200, max_prompts=40, filtered=False, max_new_tokens=7, votes=3)
    assert set(count_reasons(raw.rejected)) <= {"duplicate", "empty"}
    assert raw.counts["kept"] == 40 - len(raw.rejected)
    strict = made(target_rows=200, max_prompts=40, max_new_tokens=7)
    assert count_reasons(strict.rejected)["unfinished"] > 0 and len(strict.rows) < len(raw.rows)


def test_a_second_round_is_written_by_the_specialised_model(made, model, tokenizer, task, seeds, tmp_path):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train = TrainOptions(learning_rate=(3e-2,), max_steps=3, batch_size=4, max_length=64)
    first, lent, steps = made(), [], []
    trained = lora_specialiser(
        model, tokenizer, task, seeds, train, tmp_path / "special", progress=lambda *step: steps.append(step)
    )

    @contextmanager
    def specialise(rows):
        lent.append(rows)
        with trained(rows) as (special, name):
            assert special.peft_config["default"].r == 8
            yield special, name

    second = made(rounds=2, specialise=specialise)
    assert lent == [list(first.rows)] and len(steps) == 3
    assert second.counts["kept_round_1"] == 6 and second.counts["answered"] == first.counts["answered"]
    assert second.rows != first.rows
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert made(rounds=2, specialise=specialise) == second and len(steps) == 3  # nothing is trained again
    kept = (tmp_path / "made" / "written.jsonl").read_bytes()
    longer = lora_specialiser(model, tokenizer, task, seeds, replace(train, max_steps=2), tmp_path / "special")
    made(rounds=2, specialise=longer)
    assert len((tmp_path / "made" / "written.jsonl").read_bytes()) > len(kept)  # another training writes anew


def test_batches_cost_a_quarter_of_one_prompt_at_a_time(made, model, monkeypatch):
    calls, own = [], model.forward

    def forward(*inputs, **named):
        calls.append(1)
        return own(*inputs, **named)

    monkeypatch.setattr(model, "forward", forward)
    spent = []
    for size in (8, 1):
        calls.clear()
        made(folder=f"batch {size}", target_rows=99, max_prompts=16, batch_size=size)
        spent.append(len(calls))
    assert 4 * spent[0] <= spent[1]


def test_what_cannot_be_done_is_refused_before_anything_is_written(made, model, tokenizer, task, seeds, tmp_path):
    for changed, message in (
        ({"rounds": 2}, "specialise"),
        ({"novelty_by": "embedding"}, "needs an encoder"),
        ({"documents": ["A text."], "retrieval": "dense"}, "needs an encoder"),
        ({"max_new_tokens": 155}, "lower max_new_tokens"),
    ):
        with pytest.raises(InputError, match=message):
            made(**changed)
    with pytest.raises(InputError, match="at least one"):
        self_specialize(model, tokenizer, task, [], options(), folder=tmp_path, maker="x")
    with pytest.raises(InputError, match="without shots"):
        self_specialize(model, tokenizer, task.with_shots(seeds[:1]), seeds, options(), folder=tmp_path, maker="x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong", [{"target_rows": 0}, {"rounds": 0}, {"temperature": 0}, {"top_p": 0}, {"novelty": 0}, {"votes": -1},
              {"retrieval": "magic"}, {"novelty_by": "x"}, {"passages": -1}, {"max_prompts": 0}, {"batch_size": 0}]
)  # fmt: skip
def test_options_that_mean_nothing_are_refused(wrong):
    with pytest.raises(InputError, match="expected"):
        check(SelfSpecializationOptions(**wrong), "self_specialization")


@pytest.fixture(scope="module")
def files(tmp_path_factory, model, tokenizer):
    folder = tmp_path_factory.mktemp("files")
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    (folder / "sums.yaml").write_text(TASK)
    recipe = f"task: {folder / 'sums.yaml'}\nbase: {folder / 'base'}\ntrain: "
    (folder / "recipe.yaml").write_text(recipe + "{max_steps: 2, batch_size: 2, max_length: 64}\n")
    rows = [{"question": question(a, b), "answer": f"#### {a + b}"} for a, b in SEEDS]
    (folder / "seeds.jsonl").write_text(lines(rows))
    return folder


def set_by_key(**options):
    return [f"-ogeneration.self_specialization.{key}={value}" for key, value in options.items()]


def test_the_command_writes_rows_that_can_be_read_again(files, tmp_path, task):
    command = [
        "--recipe", files / "recipe.yaml", "--kshot", files / "seeds.jsonl", "--target-rows", 6,
        "--out", tmp_path / "out", *set_by_key(max_prompts=48, batch_size=8, max_new_tokens=20, novelty=0.99, rounds=2),
    ]  # fmt: skip
    done = CliRunner().invoke(self_specialization_command, list(map(str, command)), catch_exceptions=False)
    assert done.exit_code == 0
    said = " ".join(done.output.split())
    assert "at most 48 questions and writes at most 144 texts of 20 tokens" in said and "yield" in said
    assert "a training of 2 steps between two rounds" in said
    left = json.loads((tmp_path / "out" / "result.json").read_text())
    result = left["result"]
    rows = load_kshot(tmp_path / "out" / "rows.jsonl")
    assert len(rows) == result["counts"]["kept"] > 0 and all(task.example(row).answer for row in rows)
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert len(rejected) == sum(result["reasons"].values())
    assert result["maker"] == result["made_from"][0]["repo_id"] == "base"  # no place of this machine
    assert result["settings"]["self_specialization"]["rounds"] == 2 and left["seconds"] > 0 and result["seeds"] == 6
    folder, facts = find_generated(tmp_path / "out")
    assert [row.prompt for row in read_generated(folder, facts)] == [row.prompt for row in rows]


def test_the_command_refuses_what_it_cannot_use(files, tmp_path):
    def run(*arguments):
        CliRunner().invoke(self_specialization_command, list(map(str, arguments)), catch_exceptions=False)

    recipe = ("--recipe", files / "recipe.yaml")
    seeds, out = ("--kshot", files / "seeds.jsonl"), ("--out", tmp_path / "out")
    (tmp_path / "wordy.jsonl").write_text('{"question": "a?", "answer": "many"}\n')
    (tmp_path / "nothing").mkdir()
    for arguments, message in (
        (recipe, "give --kshot"),
        ((*recipe, *seeds, "--target-rows", 0), "--target-rows: expected at least 1, found 0"),
        (seeds, "give --task NAME or --recipe"),
        ((*recipe, "--kshot", tmp_path / "wordy.jsonl", *out), "example 1: the task"),
        ((*recipe, *seeds, "--documents", tmp_path / "nothing", *out), "no documents"),
    ):
        with pytest.raises(InputError, match=message):
            run(*arguments)
    with pytest.raises(NothingLeftError, match="no row was kept"):
        run(*recipe, *seeds, *out, *set_by_key(max_prompts=2, max_new_tokens=1))
