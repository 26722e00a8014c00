"""Publishing: a card that lacks nothing, and one commit, whatever happens on the wire."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import HfApi

from rocket_hub.errors import HubError, InputError
from rocket_hub.inference.models import load_base
from rocket_hub.inference.placement import place
from rocket_hub.localhub import Fault
from rocket_hub.options import ComputeOptions
from rocket_hub.publishing import compute, create_model_card, push_to_hub, verify_reload
from rocket_hub.records import Pinned
from tests.helping import table

FACTS, MADE = json.loads((Path(__file__).parent / "card_facts.json").read_text(encoding="utf-8")).values()
METADATA = {"base_model": "acme/base", "license": "", "datasets": [], "tags": ["lora"], "library_name": "peft"}


def card(**changes):
    """The text of a card without its header; what holds for every card is checked here."""
    text = create_model_card({**FACTS, **changes}, METADATA).split("---\n", 2)[2]
    assert "\n\n\n" not in text
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    compile(code, "card", "exec")
    experts = [line for line in text.splitlines() if line.startswith(("| expert", "| [acme/e", "| acme/e"))]
    assert len(experts) == 1 + len({**FACTS, **changes}["experts"]) and len({line.count("|") for line in experts}) == 1
    return text


def test_the_header_leaves_out_what_is_not_known():
    header = create_model_card(FACTS, METADATA).split("---\n", 2)[1]
    assert yaml.safe_load(header) == {"base_model": "acme/base", "tags": ["lora"], "library_name": "peft"}


def test_the_card_says_what_is_in_the_result_and_how_to_load_it():
    text = card()
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert sum("38.7% to 78.1%" in line for line in tables) == 2
    assert sum("acme/e" in line and "none declared" in line for line in tables) == 2
    for told in ("+0.0125 nats per token", "among 12 usable adapters", 'subfolder="static-lora"', "import rocket_hub",
                 f'revision="{FACTS["base"]["revision"]}"', "126 rows of open data"):  # fmt: skip
        assert told in text
    assert "dtype=torch.bfloat16" in text
    assert "cut to rank" not in text and "made for this build" not in text


def test_a_form_that_was_cut_says_what_it_keeps():
    text = card(collapse={**FACTS["collapse"], "energy": 0.97654})
    assert "It is cut to rank 64 and keeps 97.65% of the energy" in text


def test_what_was_not_trained_has_no_data():
    text = card(routed=False, trained=False, collapse=None, experts=FACTS["experts"][:1])
    assert "1 expert, chosen by 40 verified examples" in text
    assert "It was not trained: no data is in it." in text
    assert not any(told in text for told in ("acme/rows", "Group diversity", "mean weight"))
    (head,) = (line for line in text.splitlines() if line.startswith("| expert"))
    assert head.count("|") == 6


def test_generated_rows_are_named_with_their_share_and_their_maker():
    text = card(generated=MADE)
    for told in ("50% of them (63 rows) were found nowhere but made for this build, by METEOR: 90 rows",
                 "acme/teacher at abc", "from 40 of the verified", "2 of them held evaluation questions",
                 f"acme/teacher at `{'f' * 12}` (model, llama3.1)", "180 calls"):  # fmt: skip
        assert told in text
    assert "rows of open data" not in text and "| data set |" in text
    assert "| data set |" not in card(generated=MADE, datasets=[])


def test_a_plain_lora_needs_no_rocket_hub():
    text = card(routed=False, collapse=None)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert "rocket_hub" not in code and "static-lora" not in text


@pytest.mark.parametrize("fact", ["summary", "experts", "collapse", "recommendation"])
def test_a_missing_fact_is_named(fact):
    facts = {key: value for key, value in FACTS.items() if key != fact}
    with pytest.raises(InputError, match=rf"model card: .*'{fact}'"):
        create_model_card(facts, METADATA)


@pytest.fixture
def content(tmp_path):
    """A folder like that of a result: weights, text, a folder below."""
    folder = tmp_path / "content"
    (folder / "static-lora").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# sums\n")
    (folder / "lock.json").write_text("{}")
    for where in (folder, folder / "static-lora"):
        (where / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        (where / "adapter_model.safetensors").write_bytes(where.name.encode() * 3000)
    return folder


REPO = "local/sums"


def commits(api):
    return [commit.commit_id for commit in api.list_repo_commits(REPO)]


def files(api, revision):
    return set(api.list_repo_files(REPO, revision=revision)) - {".gitattributes"}


def paths(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_everything_is_in_one_commit(api, content):
    oid = push_to_hub(api, content, REPO, message="Publish sums")
    newest, *older = api.list_repo_commits(REPO)
    assert (newest.commit_id, newest.title) == (oid, "Publish sums")
    assert files(api, oid) == paths(content)
    assert all(files(api, commit.commit_id) == set() for commit in older)
    for path in sorted(paths(content)):
        assert Path(api.hf_hub_download(REPO, path, revision=oid)).read_bytes() == (content / path).read_bytes()
    assert api.model_info(REPO).private is False


def test_a_private_repository(api, content, hub):
    push_to_hub(api, content, REPO, private=True)
    assert api.model_info(REPO).private is True
    assert not HfApi(endpoint=hub.url, token=False).repo_exists(REPO)


@pytest.mark.parametrize(("match", "kind"), table("publishing_faults.jsonl"))
@pytest.mark.parametrize("first", [True, False], ids=["first push", "second push"])
def test_a_passing_failure_is_survived_with_one_commit(first, match, kind, api, content, hub):
    if first:
        api.create_repo(REPO)
    else:
        push_to_hub(api, content, REPO)
        (content / "README.md").write_text("---\nlicense: mit\n---\n# more sums\n")
        (content / "adapter_model.safetensors").write_bytes(b"changed" * 3000)
    before = commits(api)
    hub.faults.append(Fault(match=match, kind=kind))
    oid = push_to_hub(api, content, REPO)
    assert [record.fault for record in hub.log if record.fault] == [kind]
    assert commits(api) == [oid, *before]
    assert files(api, oid) == paths(content)


def test_the_same_content_again_is_no_new_commit(api, content):
    oid = push_to_hub(api, content, REPO)
    before = commits(api)
    assert push_to_hub(api, content, REPO) == oid
    assert commits(api) == before


def test_the_stock_form_of_an_earlier_adapter_goes_in_the_same_commit(api, content):
    push_to_hub(api, content, REPO)
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id=REPO)
    before = commits(api)
    shutil.rmtree(content / "static-lora")
    oid = push_to_hub(api, content, REPO)
    assert commits(api) == [oid, *before]
    assert files(api, oid) == paths(content) | {"notes.txt"}


@pytest.mark.parametrize("match", [r"^POST .*/commit/", r"^POST .*/preupload/", r"^PUT "])
def test_a_refused_push_publishes_nothing(match, api, content, hub):
    oid = push_to_hub(api, content, REPO)
    (content / "adapter_model.safetensors").write_bytes(b"changed" * 3000)
    hub.faults.append(Fault(match=match, kind="status", status=403, times=-1))
    with pytest.raises(HubError, match=rf"{REPO}: "):
        push_to_hub(api, content, REPO)
    assert commits(api)[0] == oid


def test_a_namespace_of_somebody_else(api, content):
    with pytest.raises(HubError, match=r"somebody/sums: .*403"):
        push_to_hub(api, content, "somebody/sums")


def test_a_fresh_process_that_computes_something_else_is_found(api, hub, tiny_model, lora_bank, tmp_path, monkeypatch):
    """Both are right within the noise of the model; another adapter, or one that is no number, is not."""
    base, tokenizer = load_base(str(tiny_model), None)
    prompts, placement = ["what is 1 plus 2 ?", "what is 4 ?"], place(ComputeOptions())
    commit = push_to_hub(api, lora_bank[0], REPO)
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    pinned = Pinned(str(tiny_model), "main")

    def checked(computed):
        return verify_reload(computed, placement, pinned, REPO, commit, tmp_path / "reload")

    computed = compute(base, tokenizer, prompts, lora_bank[0])
    found = checked(computed)
    assert found.max_difference <= found.bound and found.agreement == 1 and found.precision == "float32"
    for wrong in (compute(base, tokenizer, prompts, lora_bank[1]),
                  replace(computed, logits=[each * torch.nan for each in computed.logits])):  # fmt: skip
        with pytest.raises(HubError, match=r"computes other logits in float32: they differ by .*is noise"):
            checked(wrong)
