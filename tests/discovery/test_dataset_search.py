import json

import numpy as np
import pytest

from rocket_hub.discovery import discover_datasets
from rocket_hub.discovery.instructions import search_datasets
from rocket_hub.discovery.known_data import BENCHMARKS, benchmark_of, mirrors_of, own_data
from rocket_hub.discovery.listing import (
    ListedDataset,
    declared_rows,
    label_names,
    languages_of,
    read_dataset,
    sources_of,
)
from rocket_hub.discovery.ranking import likeliest_first, queries_for, search_words
from rocket_hub.errors import HubError, HubUnreachableError
from rocket_hub.localhub import Fault
from rocket_hub.options import DiscoverOptions
from rocket_hub.tasks.numeric import GSM8K
from tests.discovery.test_instructions import QA, verdicts_of
from tests.helping import fault, lines, put, table


class WordEncoder:
    """Turns texts into counts of the words of a vocabulary, of length 1."""

    def __init__(self, words):
        self.words = words

    def encode(self, texts):
        counts = np.array(
            [[text.lower().split().count(word) for word in self.words] for text in texts], dtype=np.float32
        )
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


@pytest.mark.parametrize(("repo_id", "name"), table("discovery/benchmark_names.jsonl"))
def test_benchmarks_are_known_by_id_and_by_name(repo_id, name):
    assert benchmark_of(repo_id) == name


def test_the_table_of_benchmarks():
    assert all(repo_id == repo_id.lower() and benchmark_of(repo_id) for ids in BENCHMARKS.values() for repo_id in ids)
    assert {"gsm8k", "mbpp", "arc", "piqa", "boolq"} <= set(BENCHMARKS)
    assert mirrors_of("OpenAI/gsm8k") >= {"openai/gsm8k", "gsm8k", "madrylab/gsm8k-platinum"}
    assert mirrors_of("me/other") == {"me/other"}


# One matcher for a task's own data, by every way that lists and cards name it.
SAME = (
    "openai/gsm8k", "gsm8k", "GSM8K", "someone/gsm8k-main", "openai-gsm8k", "datasets/openai/gsm8k",
    "https://huggingface.co/datasets/openai/gsm8k", "openai/gsm8k@0123abc", "someone/GSM-8K_train",
)  # fmt: skip
OTHERS = ("u/gsm8k-cot", "gsm", "openai/humaneval", "openai", "main", "", "/", "openai/data")


def test_own_data_by_copies_under_any_usual_name():
    found = own_data([*OTHERS, *SAME], ["openai/gsm8k"], copies=True)
    assert tuple(found) == SAME and set(found.values()) == {"openai/gsm8k"}
    arc = own_data(["allenai/ai2_arc", "u/AI2-ARC"], {"ai2_arc"}, copies=True)
    assert arc == {"allenai/ai2_arc": "ai2_arc", "u/AI2-ARC": "ai2_arc"}


def test_own_data_by_its_exact_names():
    found = own_data([*OTHERS, *SAME], ["openai/gsm8k", "gsm8k"])
    assert found == {"openai/gsm8k": "openai/gsm8k", "gsm8k": "gsm8k", "GSM8K": "gsm8k"}
    assert own_data(["GSM8K"], ["openai/gsm8k"]) == {"GSM8K": "openai/gsm8k"}


@pytest.mark.parametrize("copies", [False, True])
def test_no_data_is_closed_or_named(copies):
    assert own_data(SAME, [], copies=copies) == own_data([], SAME, copies=copies) == {}


@pytest.mark.parametrize(("card", "tags", "expected"), table("discovery/card_languages.jsonl"))
def test_languages(card, tags, expected):
    assert languages_of(card, tags) == tuple(expected)
    assert languages_of({"language": [1, None, "x" * 9999]}, []) == ("x" * 200,)


def test_what_a_card_says_is_read_whatever_it_is():
    assert sources_of({"source_datasets": ["original", "extended|squad", "GSM8K"]}, ["source_datasets:a/b"]) == (
        "squad", "gsm8k", "a/b")  # fmt: skip
    label = {"name": "label", "dtype": {"class_label": {"names": {"0": "no", "1": "yes"}}}}
    card = {"dataset_info": [{"features": [3, {"name": "x"}, label], "splits": [{"name": "train", "num_examples": 7}]}]}
    assert (label_names(card), declared_rows(card)) == (("no", "yes"), 7)
    huge = {"name": "label", "dtype": {"class_label": {"names": {str(n): "x" for n in range(10**5)}}}}
    assert label_names({"dataset_info": {"features": [huge] * 1000}}) == ()
    for odd in (7, [], {}, [[]], {"features": {}, "splits": 3}, {"splits": [{"name": "train", "num_examples": True}]}):
        assert (label_names({"dataset_info": odd}), declared_rows({"dataset_info": odd})) == ((), 0)


@pytest.mark.parametrize("item", table("discovery/listed_items.jsonl"))
def test_an_item_of_a_list_may_be_anything(item):
    listed = read_dataset(item)
    assert listed.repo_id.isprintable()
    assert (listed.revision, listed.downloads, listed.size, listed.disabled) == ("", 0, 0, False)


def test_search_words_come_from_the_task_and_the_shots():
    shots = ["How many apples does the baker sell?", "The baker bakes apples.", "A bus drives 3 miles."]
    assert search_words("gsm8k", GSM8K.description, shots) == ("school", "grade", "gsm8k", "math")
    assert search_words("", "", shots) == ("apples", "baker")
    assert search_words("", "", []) == ()
    assert search_words("boolq", "", ["x" * 10**6]) == ("boolq",)


def test_every_list_is_asked_for_once():
    queries = queries_for(("math",), ("en",))
    assert len(queries) == len(set(queries))
    assert (("search", "math"),) in queries
    assert (("filter", "task_categories:question-answering"), ("filter", "language:en")) in queries
    assert not any("language" in value for query in queries_for((), ()) for _, value in query)


def test_the_likeliest_come_first():
    named = [
        ListedDataset("a/cats", text="cats and dogs", downloads=10**6),
        ListedDataset("a/apples", text="apples and numbers", downloads=10),
        ListedDataset("a/more-apples", text="apples and numbers", downloads=100),
        ListedDataset("a/silent", downloads=0),
    ]
    order = lambda *given: [item.repo_id for item in likeliest_first(named, *given)]  # noqa: E731
    encoder = WordEncoder(["apples", "numbers", "cats", "dogs"])
    expected = ["a/more-apples", "a/apples", "a/cats", "a/silent"]
    assert order((), ["count the apples", "numbers of apples"], encoder) == expected
    assert order(("apples",), (), encoder) == expected
    assert order((), (), None) == ["a/cats", "a/more-apples", "a/apples", "a/silent"]
    assert likeliest_first([], (), ["x"], encoder) == []


@pytest.fixture(scope="module")
def hub(own_hub):
    return own_hub


@pytest.fixture
def two(hub):
    """Plant two small data sets under a tag of their own name."""
    for name in ("first", "second"):
        card = "task_categories: [text-generation]\nlanguage: en\n"
        put(hub, "dataset", f"two/{name}", {"train.jsonl": lines(QA)}, card, downloads=10**6)
    return DiscoverOptions(max_datasets=2)


def test_a_search_says_what_it_will_cost_and_reads_nothing(hub, api, two):
    search = search_datasets(api, options=two, task=GSM8K)
    assert [item.repo_id for item in search.candidates[:2]] == ["two/first", "two/second"]
    assert search.words == ("school", "grade", "gsm8k", "math")
    assert search.plan.listed == len(search.candidates) + len(search.rejected)
    assert {record.path.partition("?")[0] for record in hub.log} == {"/api/datasets"}
    plan, before = search.plan, len(hub.log)
    discover_datasets(api, options=two, task=GSM8K)
    assert plan.requests >= len(hub.log) - 2 * before > 0
    assert search_datasets(api, options=two, task=GSM8K).plan.probes == plan.probes - 2


LIST = "GET /api/datasets\\?"


@pytest.mark.parametrize("told", table("discovery/passing_faults.jsonl"), ids=str)
def test_faults_that_pass_are_survived(hub, api, two, told):
    hub.faults.append(fault(**told, times=1))
    found = discover_datasets(api, options=two, task=GSM8K)
    assert [item.repo_id for item in found.selected] == ["two/first", "two/second"]
    assert hub.faults[0].times == 0


@pytest.mark.parametrize(("told", "reason"), table("discovery/lasting_faults.jsonl"), ids=str)
def test_faults_that_stay_reject_one_data_set_and_no_other(hub, api, two, told, reason):
    hub.faults.append(fault(**told, times=-1))
    found = discover_datasets(api, options=two, task=GSM8K)
    assert verdicts_of(found)["two/first"] == reason
    assert "two/second" in [item.repo_id for item in found.selected]
    hub.faults.clear()  # and nothing of it is believed the next time
    again = discover_datasets(api, options=two, task=GSM8K)
    assert [item.repo_id for item in again.selected] == ["two/first", "two/second"]


def test_a_hub_that_is_down_is_no_verdict(hub, api, two):
    hub.faults.append(Fault("/resolve/", "reset", times=-1))
    named = DiscoverOptions(datasets=("two/first", "two/second"))
    with pytest.raises(HubUnreachableError, match=r"train\.jsonl"):
        discover_datasets(api, options=named, task=GSM8K)
    hub.faults[:] = [Fault("/resolve/", "status", times=-1, status=403)]
    refused = discover_datasets(api, options=named, task=GSM8K)
    assert verdicts_of(refused) == {"two/first": "hub_error", "two/second": "hub_error"}
    hub.faults[:] = [Fault(LIST, "status", times=-1, status=200, body=json.dumps({"a": 1}).encode())]
    with pytest.raises(HubError, match="data sets with filter"):
        discover_datasets(api, options=two, task=GSM8K)


def test_a_card_that_the_client_cannot_read_is_read(hub, api):
    card = "self: 1\nignore_metadata_errors: x\ntask_categories: [text-generation]\n"
    put(hub, "dataset", "odd/card", {"train.jsonl": lines(QA)}, card)
    with pytest.raises(TypeError):
        api.dataset_info("odd/card")
    assert [item.repo_id for item in discover_datasets(
        api, options=DiscoverOptions(datasets=("odd/card",)), task=None).selected] == ["odd/card"]  # fmt: skip
