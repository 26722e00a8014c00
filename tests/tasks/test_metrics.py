"""The metrics are `evaluate.Metric`s, come with the package, and ask nobody for anything."""

import socket
import sys
from dataclasses import replace

import pytest

from rocket_hub.errors import InputError, SandboxError, TaskError
from rocket_hub.records import Example
from rocket_hub.tasks import ARC_EASY, GSM8K, MBPP, load_metric, score

ADD = Example("", "", "def add(a, b): return a + b", tests=("assert add(1, 2) == 3",))


def test_metrics_are_those_of_the_evaluate_library():
    import evaluate

    for task in (GSM8K, MBPP):
        metric = load_metric(task)
        assert isinstance(metric, evaluate.Metric)
        assert metric.description.startswith("Share of ")


def test_exact_match():
    examples = [Example("", "", answer) for answer in ("72", "72", "-3", "5")]
    texts = ["#### 72", "The answer is 7.", "So -3.", "I do not know"]
    assert score(GSM8K, texts, examples) == {"exact_match": 0.5, "correct": [1, 0, 1, 0]}


def test_an_empty_answer_is_never_right():
    computed = load_metric(GSM8K).compute(predictions=["", "1"], references=["", "1"])
    assert computed == {"exact_match": 0.5, "correct": [0, 1]}


def test_options_are_read_with_their_texts():
    problem = Example("", "", "B", choices=("the sky", "a rose"))
    assert score(ARC_EASY, ["a rose", "The sky."], [problem, problem])["correct"] == [1, 0]


def test_a_program_is_not_run_unless_it_may_be():
    with pytest.raises(SandboxError, match="running programs that a model wrote; allow it with --allow-code-execution"):
        score(MBPP, [ADD.answer], [ADD])
    assert issubclass(SandboxError, InputError)


def test_pass_at_1():
    texts = [f"```python\n{ADD.answer}\n```", "def add(a, b): return 0", "no program", "import sys; sys.exit(0)"]
    judged = score(MBPP, texts, [ADD] * 4, allow_code_execution=True)
    assert (judged["pass_at_1"], judged["correct"]) == (0.25, [1, 0, 0, 0])
    assert judged["reasons"] == ["passed", "AssertionError: ", "NameError: name 'add' is not defined", "SystemExit: 0"]


def test_a_problem_without_tests_is_not_passed():
    assert score(MBPP, [ADD.answer], [replace(ADD, tests=())], allow_code_execution=True)["correct"] == [0]


@pytest.mark.parametrize(("texts", "examples"), [([], []), (["#### 1"], []), ([], [ADD])])
def test_as_many_texts_as_problems(texts, examples):
    with pytest.raises(TaskError, match=r"texts for . problems of 'gsm8k'; give one a problem"):
        score(GSM8K, texts, examples)


def test_an_unknown_metric():
    with pytest.raises(TaskError, match="'gsm8k': unknown metric 'bleu'; known: exact_match, pass_at_1"):
        load_metric(replace(GSM8K, metric="bleu"))


_LISTENING = {"on": False, "events": []}


def _listen(event, arguments):
    if _LISTENING["on"] and event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        _LISTENING["events"].append((event, arguments[-1]))


def test_nothing_is_fetched():
    sys.addaudithook(_listen)
    _LISTENING["on"] = True
    try:
        for task in (GSM8K, MBPP):
            load_metric(task)
        score(GSM8K, ["#### 1"], [Example("", "", "1")])
        score(MBPP, [ADD.answer], [ADD], allow_code_execution=True)
        assert _LISTENING["events"] == []
        with socket.create_server(("127.0.0.1", 0)) as server:  # the listener does hear
            socket.create_connection(server.getsockname()).close()
        assert len(_LISTENING["events"]) > 0
    finally:
        _LISTENING["on"] = False
