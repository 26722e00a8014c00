"""METEOR with a teacher that fails in every way: no row lost, none invented, the bill right."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from rocket_hub.generation.prompts import read_judgement
from rocket_hub.generation.teachers import TRIES, Budget

from .meteor_world import DISTILLED, OPTIONS, QUESTIONS, RIGHT, Faults, Replies, answer_in, say

LASTING = ["500"] * TRIES
DEAL = [
    [], ["429"], ["500", "503"], ["cut"], ["not json"], ["empty"], [], ["length"], ["deep", "list"], ["no choices"],
    ["number"], LASTING, ["no usage"], [], ["429", "500", "cut"], [],
]  # fmt: skip
ODD = [  # what a teacher may say instead of an answer or a verdict
    "", "I cannot answer.", "Correct", f"Sure! {RIGHT}", f"{RIGHT}\n{RIGHT}", "#### 5 </s> #### 6",
    "x " * 3000 + "#### 5",
    '{"correct": "true", "advice": ""}', "```json\n" + RIGHT + "\n```", "Question: what is 1 ?\nAnswer: #### 5",
    "five hundred", '{"correct": false, "advice": ""}', "</s>", "\x00\x1b[31m #### 5",
]  # fmt: skip


def check(made, script, folder, sent):
    """Hold what was made against what the server saw."""
    assert made.bill["calls"] == len(script.seen)
    assert made.bill.get("tokens_in", 0) + made.bill.get("tokens_out", 0) == script.tokens
    fates = {name: Counter() for name in made.adapters}
    rows = {row.prompt for row in made.generated.rows}
    for name in made.adapters:
        plain = json.loads((folder / name / "result.json").read_text())["result"]
        fates[name].update(index for index, _ in plain["rows"])
        fates[name].update(index for index, _, _ in plain["rejected"])
        for index, text in plain["rows"]:
            asked = {prompt: reply for prompt, reply in sent.items() if f"> {QUESTIONS[index]}\n" in prompt}
            if name == "distilled":
                answers = [reply for prompt, reply in asked.items() if prompt.startswith("Answer")]
            else:  # the model's own answers that a readable verdict found right
                judged = {prompt: read_judgement(reply) for prompt, reply in asked.items() if "Verdict:" in prompt}
                answers = [answer_in(prompt) for prompt, verdict in judged.items() if verdict and verdict.correct]
            assert any(answer and text.startswith(re.split("Question:|</s>", answer)[0].strip()) for answer in answers)
    assert all(fate == Counter(range(len(QUESTIONS))) for fate in fates.values())  # each question once
    assert rows <= set(QUESTIONS)


def recorded(script, sent, answer):
    """Let the server remember what it said."""

    def reply(prompt):
        return sent.setdefault(prompt, answer(prompt))

    script.answers = Replies(reply)


def test_no_row_is_lost_and_none_invented_whatever_fails(script, tmp_path, run):
    sent = {}
    script.faults = Faults(DEAL)
    recorded(script, sent, say)
    made = run()
    check(made, script, tmp_path, sent)
    reasons = Counter(each.reason for each in made.generated.rejected)
    assert reasons["server_error"] and reasons["no_answer"]
    assert made.counts["distilled"]["rows"] == 13  # of 16: one outage, one empty, one cut off
    assert set(made.bill["faults"]) == {"rate_limited", "server_error", "no_answer", "unreadable", "empty", "cut_off"}
    asked = Counter(script.prompts())
    for prompt, dealt in script.faults.dealt.items():
        settled = dealt == LASTING or dealt[-1:] in (["empty"], ["length"], ["no usage"])
        assert asked[prompt] == len(dealt) + (not settled)


def test_timeouts_cost_calls_and_lose_nothing(script, tmp_path, run):
    sent = {}
    script.faults = Faults([["hang"], [], [], []])
    recorded(script, sent, say)
    made = run(".", DISTILLED, timeout=0.5)
    check(made, script, tmp_path, sent)
    timeouts = made.bill["faults"]["timeout"]
    assert timeouts == made.bill["unmetered"] >= 4 and len(made.generated.rows) == 16


def test_adversarial_answers_are_no_rows(script, tmp_path, run):
    sent = {}
    told = [*ODD, "#### 5", "<unk> #### 5"]
    recorded(script, sent, lambda prompt: told[asked_about(prompt)])
    made = run(".", DISTILLED)
    check(made, script, tmp_path, sent)
    lost = {each.item: each.reason for each in made.generated.rejected}
    form = "no_answer_in_form"
    assert [lost.get(f"distilled#{index}", "") for index in range(len(QUESTIONS))] == [
        "no_answer", form, form, form, form, "", "too_long", form, form, form, "", form, form, "", "", "control_tokens"
    ]  # fmt: skip
    assert [row.completion for row in made.generated.rows if "</s>" in row.completion] == []


def test_adversarial_verdicts_are_none(script, tmp_path, run):
    taught = run("taught", DISTILLED)
    script.seen, script.tokens = [], 0
    sent = {}
    recorded(script, sent, lambda prompt: [*ODD, RIGHT, RIGHT][asked_about(prompt)])
    made = run(".", replace(OPTIONS, stages=("refined",)),
               adapter=Path(taught.adapters["distilled"]))  # fmt: skip
    check(made, script, tmp_path, sent)
    right = {QUESTIONS[8], QUESTIONS[14], QUESTIONS[15]}  # JSON in a code fence, and two in plain form
    assert {row.prompt for row in made.generated.rows} == right
    reasons = Counter(each.reason for each in made.generated.rejected)
    assert reasons == {"no_judgement": 12, "no_answer": 1}
    assert made.counts["refined"]["judged"] == 3


def asked_about(prompt):
    return next(index for index, question in enumerate(QUESTIONS) if f"> {question}\n" in prompt)


def test_an_outage_is_asked_again_by_the_same_command_and_nothing_else(script, run):
    script.faults = Faults([[], LASTING, []])
    first = run(".", DISTILLED)
    assert (len(first.generated.rows), first.bill["faults"]) == (11, {"server_error": 5 * TRIES})
    before = len(script.seen)
    second = run(".", DISTILLED)
    assert (len(second.generated.rows), second.generated.rejected) == (16, ())
    assert len(script.seen) - before == 5 and second.bill["calls"] == len(script.seen)
    assert run(".", DISTILLED).bill["calls"] == len(script.seen) == before + 5


def test_the_budget_holds_over_all_runs(script, run):
    made = run(budget=Budget(calls=10))
    assert (made.bill["calls"], len(script.seen)) == (10, 10)
    assert {each.reason for each in made.generated.rejected} == {"over_budget"}
    assert made.counts["refined"] == {"judged": 0, "rows": 0}
    again = run(budget=Budget(calls=10))
    assert (len(script.seen), again.generated.rows) == (10, made.generated.rows)
    more = run(budget=Budget(calls=16))
    assert (len(script.seen), more.counts["distilled"]["rows"]) == (16, 16)
