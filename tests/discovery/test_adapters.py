import json
import shutil
from collections import Counter

import pytest
from huggingface_hub import HfApi, constants
from safetensors.numpy import load_file, save_file

from rocket_hub.discovery import discover_adapters, plan_adapters
from rocket_hub.discovery.bases import describe, read_shapes
from rocket_hub.errors import HubError, HubUnreachableError, InputError
from rocket_hub.localhub import Fault
from rocket_hub.options import DiscoverOptions

BASE = "base/tiny"


def files_asked(hub):
    """Count requests per (repository, file)."""
    asked = Counter()
    for record in hub.log:
        if "/resolve/" in record.path:
            repo_id, _, rest = record.path.lstrip("/").partition("/resolve/")
            asked[record.method, repo_id, rest.partition("/")[2]] += 1
    return asked


def test_every_adapter_gets_its_verdict(hub, api, planted):
    lines = []
    found = discover_adapters(
        api, BASE, options=DiscoverOptions(), progress=lambda done, total: lines.append((done, total))
    )
    verdicts = {rejection.item: rejection.reason for rejection in found.rejected}
    verdicts |= {candidate.repo_id: "" for candidate in found.selected}
    assert verdicts == planted
    assert all(rejection.detail for rejection in found.rejected)
    assert lines == [(number, len(planted)) for number in range(1, len(planted) + 1)]
    assert [rejection.item for rejection in found.rejected] == sorted(due for due, reason in planted.items() if reason)


def test_the_threads_decide_nothing(api, planted, tmp_path, monkeypatch):
    results = []
    for workers in (1, 3, 16):
        monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / f"home-{workers}"))
        results.append(discover_adapters(api, BASE, options=DiscoverOptions(workers=workers, max_adapters=4)))
    assert results[0] == results[1] == results[2]
    assert len(results[0].selected) == 4


def test_what_is_known_of_a_candidate(hub, api, planted):
    found = discover_adapters(api, BASE, options=DiscoverOptions())
    by_id = {candidate.repo_id: candidate for candidate in found.selected}
    plain = by_id["zoo/plain"]
    assert found.base.repo_id == BASE
    assert found.base.licence == "apache-2.0"
    assert found.base.revision == api.model_info(BASE).sha
    assert plain.revision == api.model_info("zoo/plain").sha
    assert (plain.licence, plain.rank, plain.target_modules) == ("mit", 2, ("q_proj", "v_proj"))
    assert plain.size == hub.store.find("model", "zoo/plain").tree("main")["adapter_model.safetensors"].size
    assert (plain.downloads, plain.datasets, plain.flags) == (1000, ("openai/gsm8k",), ())
    assert plain.description == "plain; openai/gsm8k"
    assert by_id["zoo/patterns"].rank == 5
    assert by_id["zoo/local-base"].flags == ("base_unverified",)
    assert by_id["zoo/pissa"].flags == ("folded_with_base",)
    assert by_id["zoo/own-tokenizer"].flags == ("own_tokenizer",)
    assert [candidate.repo_id for candidate in found.selected][:3] == ["zoo/plain", "zoo/rslora", "zoo/patterns"]
    assert sorted((entry.prior for entry in found.selected), reverse=True) == [entry.prior for entry in found.selected]
    assert found.note == ""


def test_adapters_of_the_tasks_own_data_are_flagged_or_left_out(api, planted):
    closed = ("openai/gsm8k",)
    found = discover_adapters(api, BASE, options=DiscoverOptions(), closed=closed)
    flagged = {candidate.repo_id for candidate in found.selected if "task_data" in candidate.flags}
    assert flagged == {"zoo/plain", "zoo/trained-on-the-task"}
    found = discover_adapters(api, BASE, options=DiscoverOptions(leave_task_out=True), closed=closed)
    assert {rejection.item for rejection in found.rejected if rejection.reason == "task_data"} == flagged


def test_a_licence_can_be_allowed(api, planted):
    found = discover_adapters(api, BASE, options=DiscoverOptions(allow_licences=("cc-by-nc-4.0",)))
    assert "zoo/non-commercial" in {candidate.repo_id for candidate in found.selected}


def test_at_most_one_read_of_each_file_and_no_weights(hub, api, planted):
    discover_adapters(api, BASE, options=DiscoverOptions())
    asked = files_asked(hub)
    # One header is too long to be read, and so large that it cannot be checked: it is asked for once more.
    assert {key[1] for key, times in asked.items() if times > 1} == {"zoo/huge-header"}
    assert {method for method, _, _ in asked} == {"GET"}
    read = {file for _, repo_id, file in asked if repo_id != BASE}
    assert read == {"adapter_config.json", "adapter_model.safetensors"}
    headers = [record for record in hub.log if record.path.endswith("adapter_model.safetensors")]
    assert all(record.range == "bytes=0-99999" for record in headers)
    # Whatever the names of the files or the configuration decide costs no look at the weights.
    assert {"zoo/dora", "zoo/pickle", "zoo/gated", "zoo/wrong-base"}.isdisjoint(
        repo_id for _, repo_id, file in asked if file == "adapter_model.safetensors"
    )
    lists = [record for record in hub.log if record.path.startswith("/api/models?")]
    assert len(lists) == 3
    pinned = all(len(record.path.partition("/resolve/")[2].partition("/")[0]) == 40 for record in headers)
    assert pinned


def test_the_budget_spares_requests(hub, api, planted):
    found = discover_adapters(api, BASE, options=DiscoverOptions(max_adapters=2))
    assert [candidate.repo_id for candidate in found.selected] == ["zoo/plain", "zoo/rslora"]
    left = {rejection.item for rejection in found.rejected if rejection.reason == "over_budget"}
    assert {name for name, reason in planted.items() if not reason} - left == {"zoo/plain", "zoo/rslora"}
    headers = {repo_id for _, repo_id, file in files_asked(hub) if file == "adapter_model.safetensors"}
    assert len(headers) == 8


def test_a_second_crawl_costs_only_the_list(hub, api, planted):
    first = discover_adapters(api, BASE, options=DiscoverOptions())
    hub.log.clear()
    assert discover_adapters(api, BASE, options=DiscoverOptions()).selected == first.selected
    assert sorted(record.path.partition("?")[0] for record in hub.log) == ["/api/models"] * 3 + [
        "/api/models/base/tiny"
    ]


def test_a_plan_reads_nothing_but_the_list(hub, api, planted):
    options = DiscoverOptions(max_adapters=4)
    plan = plan_adapters(api, BASE, options=options)
    assert {record.path.partition("?")[0] for record in hub.log} == {"/api/models", "/api/models/base/tiny"}
    assert (plan.listed, plan.headers, plan.requests) == (len(planted), 6, plan.configs + 6)
    assert 0 < plan.minutes < 1 and plan.bytes > 6 * 100_000
    told = []
    discover_adapters(api, BASE, options=options, planned=told.append)
    assert told == [plan]
    again = plan_adapters(api, BASE, options=options)
    assert again.configs == 0


def test_verdicts_are_told_as_they_come(api, planted):
    told = {}
    discover_adapters(api, BASE, options=DiscoverOptions(), verdict=told.__setitem__)
    assert told == {name: reason or "usable" for name, reason in planted.items()}


def test_large_adapters_are_rejected(api, planted):
    found = discover_adapters(api, BASE, options=DiscoverOptions(), max_bytes=100)
    assert found.selected == ()
    assert "too_large" in {rejection.reason for rejection in found.rejected if rejection.item == "zoo/plain"}


def test_access_to_a_gated_adapter_counts(hub, planted):
    with hub.store.change("model", "zoo/gated") as repository:
        repository.settings["allowed"] = ["reader"]
    reader = HfApi(endpoint=hub.url, token="hf_reader")
    found = discover_adapters(reader, BASE, options=DiscoverOptions())
    assert "zoo/gated" in {candidate.repo_id for candidate in found.selected}


def test_an_adapter_that_the_hub_cannot_give_is_rejected_alone(hub, api, planted):
    hub.faults += [
        Fault(r"zoo/plain/resolve", "status", times=-1, status=500, headers={"Retry-After": "0"}),
        Fault(r"zoo/rslora/resolve", "status", times=-1, status=404, headers={"X-Error-Code": "EntryNotFound"}),
    ]
    found = discover_adapters(api, BASE, options=DiscoverOptions(max_adapters=1))
    reasons = {rejection.item: rejection.reason for rejection in found.rejected}
    assert (reasons["zoo/plain"], reasons["zoo/rslora"]) == ("hub_error", "not_found")
    assert [candidate.repo_id for candidate in found.selected] == ["zoo/patterns"]


def test_a_base_that_is_not_there_is_named(api, planted):
    with pytest.raises(HubError, match="base/nowhere: not found on the Hub"):
        discover_adapters(api, "base/nowhere", options=DiscoverOptions())
    with pytest.raises(HubError, match="form namespace/name"):
        discover_adapters(api, "a/b/c", options=DiscoverOptions())


def test_a_gated_base_says_where_to_ask(hub, api, planted, tiny_model):
    hub.import_folder("model", "base/locked", tiny_model, gated="manual")
    with pytest.raises(HubError, match=f"gated; ask for access at {hub.url}/base/locked,"):
        discover_adapters(api, "base/locked", options=DiscoverOptions())


def test_no_hub_at_all_is_unreachable(api):
    with pytest.raises(HubUnreachableError, match="check the network and HF_ENDPOINT"):
        discover_adapters(HfApi(endpoint="http://127.0.0.1:9", token=False), BASE, options=DiscoverOptions())


def test_a_sharded_base_has_the_same_shapes(hub, api, planted, tiny_model, tmp_path):
    weights = load_file(tiny_model / "model.safetensors")
    names = sorted(weights)
    table = {}
    for number, part in enumerate((names[:5], names[5:]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, tmp_path / file)
        table |= dict.fromkeys(part, file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    shutil.copy(tiny_model / "config.json", tmp_path)
    hub.import_folder("model", "base/sharded", tmp_path)
    whole = read_shapes(api, describe(api, BASE))
    sharded = read_shapes(api, describe(api, "base/sharded"))
    assert sharded.shapes == whole.shapes
    assert (whole.num_layers, whole.shape("model.layers.0.mlp.up_proj.weight")) == (2, (32, 16))


UNUSABLE = {  # the change of the configuration, the weights in place of its own, and what is said
    "shallow": ({"num_hidden_layers": 3}, None, "says 3 layers, its weights have 2"),
    "quantised": ({"quantization_config": {"bits": 4}}, None, "quantised"),
    "pickled": ({}, b"", r"has no model\.safetensors"),
    "broken": ({}, b"x" * 50, r"base/broken: model\.safetensors: not a safetensors file"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_base_that_cannot_be_used_says_why(hub, api, tiny_model, tmp_path, name):
    change, weights, message = UNUSABLE[name]
    shutil.copytree(tiny_model, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    if weights is not None:
        (tmp_path / "model.safetensors").write_bytes(weights)
    if weights == b"":
        (tmp_path / "model.safetensors").unlink()
    hub.import_folder("model", f"base/{name}", tmp_path)
    with pytest.raises(InputError, match=message):
        read_shapes(api, describe(api, f"base/{name}"))
