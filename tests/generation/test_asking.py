"""A teacher that fails in every way: no answer lost, none invented, nothing asked twice, the bill right."""

import logging

import pytest

from rocket_hub.errors import InputError, StorageError
from rocket_hub.generation.teachers import (
    TRIES,
    Budget,
    Decoding,
    EndpointTeacher,
    InferenceTeacher,
    LocalTeacher,
    TeacherClient,
)
from rocket_hub.inference.models import load_base

from .conftest import Script

KEY, NO_LIMIT = "sk-very-secret", Budget()


def put(asked, prompts, folder, budget=NO_LIMIT, max_tokens=50):
    """Ask; the bill is that of all runs in the folder."""
    teacher = EndpointTeacher(asked.url, "wise", key=KEY, timeout=0.4) if isinstance(asked, Script) else asked
    client = TeacherClient(teacher, folder, budget)
    return client.ask(prompts, Decoding(max_tokens)), client.bill


FAULTS = {
    "429": "rate_limited", "500": "server_error", "503": "server_error", "hang": "timeout", "cut": "no_answer",
    "not json": "unreadable", "no choices": "unreadable", "list": "unreadable", "number": "unreadable",
    "deep": "unreadable",
}  # fmt: skip


def put_all(asked, prompts, folder):
    """Ask, and expect the script's answer to every prompt."""
    replies, bill = put(asked, prompts, folder)
    assert [reply.text for reply in replies] == [f"answer to {prompt}" for prompt in prompts]
    return bill


@pytest.mark.parametrize("fault", FAULTS)
def test_a_passing_fault_costs_a_call_and_loses_nothing(script, tmp_path, waits, fault):
    script.faults = {"two": [fault]}
    bill = put_all(script, ["one", "two", "three"], tmp_path)
    assert (bill.calls, bill.faults) == (len(script.seen), {FAULTS[fault]: 1}) == (4, {FAULTS[fault]: 1})
    assert bill.tokens_in + bill.tokens_out == script.tokens
    assert waits == [3.0 if fault == "429" else 1.0]


def test_a_lasting_outage_is_no_answer_and_is_asked_again_later(script, tmp_path, waits):
    script.faults = {"two": ["500"] * TRIES}
    replies, bill = put(script, ["one", "two"], tmp_path)
    assert [reply.fault for reply in replies] == ["", "server_error"]
    assert (bill.calls, waits) == (1 + TRIES, [1.0, 2.0, 4.0])
    bill = put_all(script, ["one", "two"], tmp_path)
    assert (bill.calls, bill.cached) == (1 + TRIES + 1, 1)


@pytest.mark.parametrize(("fault", "named"), [("empty", "empty"), ("length", "cut_off")])
def test_an_answer_that_is_none_is_kept_as_none(script, tmp_path, fault, named):
    script.faults = {"two": [fault]}
    replies, _ = put(script, ["two"], tmp_path)
    assert (replies[0].text, replies[0].fault) == ("", named)
    again, bill = put(script, ["two"], tmp_path)
    assert (again, bill.calls, bill.cached) == (replies, 1, 1)


@pytest.mark.parametrize("status", ["400", "401", "404", "redirect"])
def test_a_refusal_stops_at_once_and_names_no_key(script, tmp_path, status):
    script.faults = {"one": [status]}
    with pytest.raises(InputError, match="refuses to answer") as raised:
        put(script, ["one"], tmp_path)
    assert KEY not in str(raised.value)
    assert len(script.seen) == 1


def test_without_a_count_of_tokens_the_call_is_unmetered(script, tmp_path):
    script.faults = {"two": ["no usage"]}
    bill = put_all(script, ["one", "two"], tmp_path)
    assert (bill.calls, bill.unmetered, bill.tokens_in + bill.tokens_out) == (2, 1, script.tokens)


def test_nothing_is_asked_twice(script, tmp_path):
    assert put_all(script, ["one", "one", "two"], tmp_path).calls == 2
    assert sorted(script.prompts()) == ["one", "two"]
    put(script, ["two", "three"], tmp_path)
    assert sorted(script.prompts()) == ["one", "three", "two"]
    put(script, ["two"], tmp_path, max_tokens=60)  # another question
    assert script.prompts().count("two") == 2


def test_a_line_that_a_kill_cut_short_is_asked_again(script, tmp_path):
    put(script, ["one"], tmp_path)
    put(script, ["two"], tmp_path)
    path = tmp_path / "answers.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    for cached in (1, 3):
        bill = put_all(script, ["one", "two", "three"], tmp_path)
        assert (bill.calls, bill.cached) == (4, cached)


def test_the_budget_holds(script, tmp_path):
    prompts = [f"question {number}" for number in range(20)]
    script.faults = {"question 0": ["500"]}
    replies, bill = put(script, prompts, tmp_path, Budget(calls=10))
    assert (bill.calls, len(script.seen)) == (10, 10)
    assert sum(reply.fault == "over_budget" for reply in replies) == sum(not reply.text for reply in replies) == 11
    few, bill = put(script, prompts, tmp_path / "other", Budget(tokens=1))
    assert bill.calls == EndpointTeacher.at_once  # what a call uses is known only after it
    assert sum(bool(reply.text) for reply in few) == EndpointTeacher.at_once


def test_the_key_is_sent_and_never_kept(script, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", "hf_token_of_the_hub")
    with caplog.at_level(logging.DEBUG):
        put(script, ["one"], tmp_path)
        EndpointTeacher(script.url, "wise").answer(["two"], Decoding(5))
    assert script.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert "Authorization" not in script.headers[1]
    kept = "".join(path.read_text() for path in tmp_path.iterdir())
    kept += EndpointTeacher(script.url, "wise", key=KEY).name + caplog.text
    assert KEY not in kept and "hf_token" not in str(script.headers) + kept


def test_hugging_face_inference_answers_and_fails_alike(script, tmp_path):
    script.faults = {"two": ["429"], "three": ["number"], "four": ["not json"], "five": ["hang"]}
    bill = put_all(InferenceTeacher(script.url, timeout=0.4), ["one", "two", "three", "four", "five"], tmp_path)
    assert bill.calls == len(script.seen) == 9
    assert bill.faults == {"rate_limited": 1, "unreadable": 2, "timeout": 1}


def test_a_local_model_teaches(tiny_model, tmp_path):
    model, tokenizer = load_base(str(tiny_model), None)
    wise, prompts = LocalTeacher(model, tokenizer, "tiny"), ["what is 1 plus 2 ?", "what is 3 plus 4 ?"]
    replies, bill = put(wise, prompts, tmp_path, max_tokens=6)
    assert all(reply.text for reply in replies)
    assert (bill.calls, bill.tokens_in) == (2, sum(len(tokenizer(prompt)["input_ids"]) for prompt in prompts))
    assert 0 < bill.tokens_out <= 14
    sampled = [wise.answer(prompts, Decoding(6, temperature=1.0, seed=seed)) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_a_local_chat_model_is_asked_in_its_template(tiny_model):
    model, tokenizer = load_base(str(tiny_model), None)
    plain = LocalTeacher(model, tokenizer, "tiny").answer(["user : what is 1 ? assistant :"], Decoding(6))
    tokenizer.chat_template = "user : {{ messages[0]['content'] }} assistant :"
    assert LocalTeacher(model, tokenizer, "tiny").answer(["what is 1 ?"], Decoding(6)) == plain


def test_wrong_addresses_and_files_are_said(tmp_path):
    with pytest.raises(InputError, match="http"):
        EndpointTeacher("localhost:8000", "m")
    (tmp_path / "answers.jsonl").mkdir()
    with pytest.raises(StorageError, match="cannot be read"):
        TeacherClient(EndpointTeacher("http://localhost", "m"), tmp_path, Budget())
