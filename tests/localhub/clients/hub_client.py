"""A stock huggingface_hub against a hub: every check is a function, its result goes into one JSON object."""

import json
import sys
from pathlib import Path

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    constants,
    hf_hub_download,
    snapshot_download,
    whoami,
)
from huggingface_hub.utils import get_session, parse_ratelimit_headers

API = HfApi()
NOBODY = HfApi(token=False)
BASE = "base_model:adapter:acme/base"
ADAPTER = "acme/lora-03"
WORK = Path(sys.argv[1])


def mark(name):
    """Leave a line in the hub's log."""
    get_session().get(f"{constants.ENDPOINT}/api/telemetry/{name}")


def failure(function, *arguments, **options):
    """Return the class and the text of the error that a call raises, `None` if it raises none."""
    try:
        function(*arguments, **options)
    except Exception as error:
        return [type(error).__name__, str(error)]
    return None


def lists():
    mark("list")
    fields = ["sha", "siblings", "cardData", "tags", "downloads"]
    found = list(API.list_models(filter=BASE, expand=fields, sort="downloads"))
    mark("list-end")
    first = found[0]
    return {
        "ids": [model.id for model in found],
        "first": [first.downloads, first.card_data.base_model, [s.rfilename for s in first.siblings], first.tags],
        "two": [model.id for model in API.list_models(filter=[BASE, "lora"], limit=2)],
        "search": [model.id for model in API.list_models(search="lora-1", limit=50)],
        "author": [model.id for model in API.list_models(author="nobody")],
        "private": [model.id for model in API.list_models(author="secret")],
        "gated": [model.id for model in API.list_models(gated=True)],
        "forbidden": failure(lambda: list(API.list_models(expand=["baseModels"]))),
        "datasets": [
            (data.id, data.card_data.license, data.tags)
            for data in API.list_datasets(task_categories="question-answering", language="en", full=True)
        ],
        "no datasets": [data.id for data in API.list_datasets(language="fr")],
    }


def info():
    model = API.model_info(ADAPTER, files_metadata=True, securityStatus=True)
    expanded = API.model_info(ADAPTER, expand=["baseModels", "safetensors", "childrenModelCount"])
    weights = next(sibling for sibling in model.siblings if sibling.rfilename == "adapter_model.safetensors")
    return {
        "sha": model.sha,
        "pinned": API.model_info(ADAPTER, revision=model.sha).sha,
        "weights": [weights.size, weights.lfs.size, len(weights.lfs.sha256)],
        "card": [model.library_name, model.card_data.license, model.gated, model.private],
        "security": model.security_repo_status,
        "expanded": [expanded.base_models, expanded.safetensors.total, expanded.sha],
    }


def downloads():
    sha = API.model_info(ADAPTER).sha
    path = hf_hub_download(ADAPTER, "adapter_config.json", revision=sha)
    mark("pinned")
    hf_hub_download(ADAPTER, "adapter_config.json", revision=sha)
    mark("pinned-end")
    snapshot = snapshot_download(ADAPTER, revision=sha)
    mark("snapshot")
    snapshot_download(ADAPTER, revision=sha)
    mark("snapshot-end")
    mark("header")
    header = API.parse_safetensors_file_metadata(ADAPTER, "adapter_model.safetensors")
    mark("header-end")
    return {
        "config": json.loads(Path(path).read_text()),
        "snapshot": sorted(file.name for file in Path(snapshot).iterdir()),
        "tensors": {name: tensor.shape for name, tensor in header.tensors.items()},
        "missing": failure(hf_hub_download, ADAPTER, "nothing.txt")[0],
        "remembered": len(list(Path(constants.HF_HUB_CACHE).rglob(".no_exist/*/nothing.txt"))),
    }


def trees():
    nested = "acme/nested"
    refs = API.list_repo_refs(nested, include_pull_requests=True)
    return {
        "all": sorted(item.path for item in API.list_repo_tree(nested, recursive=True)),
        "top": [(type(item).__name__, item.path) for item in API.list_repo_tree(nested)],
        "below": [item.path for item in API.list_repo_tree(nested, "data")],
        "expanded": [item.last_commit.title for item in API.list_repo_tree(nested, "data", expand=True)],
        "many": len(list(API.list_repo_tree("acme/many", recursive=True))),
        "paths": [item.path for item in API.get_paths_info(nested, ["data", "data/a/b.txt", "none"])],
        "refs": [[ref.name for ref in refs.branches], refs.tags, refs.pull_requests],
        "commits": [commit.title for commit in API.list_repo_commits(nested)],
    }


def errors():
    return {
        "repository": failure(API.model_info, "acme/none")[0],
        "no namespace": failure(API.model_info, "gpt2")[0],
        "revision": failure(API.model_info, ADAPTER, revision="none")[0],
        "file": failure(hf_hub_download, ADAPTER, "none.json")[0],
        "folder": failure(lambda: list(API.list_repo_tree(ADAPTER, "none")))[0],
        "gated, nobody": failure(hf_hub_download, "acme/gated", "README.md", token=False),
        "gated, somebody": failure(hf_hub_download, "acme/gated", "README.md"),
        "gated, its record": API.model_info("acme/gated").gated,
        "gated, a friend": Path(hf_hub_download("acme/friends", "README.md")).name,
        "private, nobody": failure(NOBODY.model_info, "secret/model")[0],
        "private, somebody": failure(API.model_info, "secret/model"),
        "private, its owner": HfApi(token="hf_owner").model_info("secret/model").private,
        "wrong token": failure(HfApi(token="hf_wrong").whoami)[0],
        "auth_check": failure(API.auth_check, "acme/gated")[0],
        "write": failure(API.auth_check, ADAPTER, write=True),
    }


def writes():
    folder = WORK / "push"
    url = API.create_repo("local/push")
    first = API.upload_folder(repo_id="local/push", folder_path=folder)
    again = API.upload_folder(repo_id="local/push", folder_path=folder)
    back = Path(snapshot_download("local/push"))
    head = API.model_info("local/push").sha
    stale = [CommitOperationAdd("x.txt", b"x")]
    broken = [CommitOperationAdd("y.txt", b"y"), CommitOperationDelete("none.txt")]
    return {
        "url": str(url),
        "exists": str(API.create_repo("local/push", exist_ok=True)),
        "taken": failure(API.create_repo, "local/push"),
        "foreign": failure(API.create_repo, "acme/push"),
        "nobody": failure(NOBODY.create_repo, "local/other")[0],
        "same": first.oid == again.oid,
        "equal": all((back / name.name).read_bytes() == name.read_bytes() for name in folder.iterdir()),
        "files": API.list_repo_files("local/push"),
        "stale": failure(API.create_commit, "local/push", stale, commit_message="m", parent_commit="0" * 40),
        "atomic": failure(API.create_commit, "local/push", broken, commit_message="m"),
        "head stays": API.model_info("local/push").sha == head,
        "bytes": API.upload_file(path_or_fileobj=b"later", path_in_repo="later.txt", repo_id="local/push").oid != head,
        "deleted": failure(API.delete_file, "later.txt", "local/push"),
        "no folder": failure(API.delete_folder, "sub", "local/push")[0],
        "bad card": failure(ModelCard("---\nbase_model: {a: b}\n---\nx").validate)[0],
        "good card": ModelCard("---\nlicense: mit\n---\nx").push_to_hub("local/push").oid != head,
    }


def requests():
    API.create_repo("local/reviewed", exist_ok=True)
    one = API.create_commit(
        "local/reviewed", [CommitOperationAdd("one.txt", b"1")], commit_message="one", create_pr=True
    )
    two = API.create_pull_request("local/reviewed", "number two")
    API.create_commit(
        "local/reviewed", [CommitOperationAdd("two.txt", b"2")], commit_message="two", revision=two.git_reference
    )
    clash = API.create_commit(
        "local/reviewed", [CommitOperationAdd("one.txt", b"other")], commit_message="three", create_pr=True
    )
    before = API.list_repo_files("local/reviewed")
    API.merge_pull_request("local/reviewed", one.pr_num)
    API.merge_pull_request("local/reviewed", two.num)
    talk = API.create_discussion("local/reviewed", "a question", description="why?")
    API.comment_discussion("local/reviewed", talk.num, "because")
    API.change_discussion_status("local/reviewed", talk.num, "closed")
    details = API.get_discussion_details("local/reviewed", talk.num)
    return {
        "numbers": [one.pr_num, two.num, clash.pr_num, talk.num],
        "before": before,
        "after": API.list_repo_files("local/reviewed"),
        "conflict": failure(API.merge_pull_request, "local/reviewed", clash.pr_num),
        "details": API.get_discussion_details("local/reviewed", one.pr_num).status,
        "open": [item.title for item in API.get_repo_discussions("local/reviewed", discussion_status="open")],
        "requests": len(list(API.get_repo_discussions("local/reviewed", discussion_type="pull_request"))),
        "talk": [details.status, [event.type for event in details.events], details.events[1].content],
        "foreign": API.create_commit(
            "acme/nested", [CommitOperationAdd("new.txt", b"1")], commit_message="please", create_pr=True
        ).pr_num,
    }


def references():
    repo = "local/branched"
    API.create_repo(repo)
    API.create_branch(repo, branch="work")
    API.upload_file(path_or_fileobj=b"1", path_in_repo="on-work.txt", repo_id=repo, revision="work")
    API.create_tag(repo, tag="v1", revision="work")
    refs = API.list_repo_refs(repo)
    result = {
        "branches": sorted(ref.name for ref in refs.branches),
        "tags": [ref.name for ref in refs.tags],
        "at tag": API.list_repo_files(repo, revision="v1"),
        "at main": API.list_repo_files(repo),
        "twice": failure(API.create_branch, repo, branch="work")[0],
        "exist_ok": failure(API.create_branch, repo, branch="work", exist_ok=True),
    }
    API.delete_tag(repo, tag="v1")
    API.delete_branch(repo, branch="work")
    API.update_repo_settings(repo, gated="auto", visibility="private")
    info = API.model_info(repo)
    result |= {"gone": failure(API.list_repo_files, repo, revision="work")[0], "settings": [info.gated, info.private]}
    API.delete_repo(repo)
    return result | {"deleted": API.repo_exists(repo), "missing_ok": failure(API.delete_repo, repo, missing_ok=True)}


def others():
    response = get_session().get(f"{constants.ENDPOINT}/api/models")
    limits = parse_ratelimit_headers(response.headers)
    return {"whoami": whoami()["name"], "limits": [limits.resource_type, limits.limit], "xet": _with_xet()}


def _with_xet():
    """Upload a large file the default way, which this hub has to turn down in so many words."""
    constants.HF_HUB_DISABLE_XET = False
    API.create_repo("local/xet")
    return failure(API.upload_folder, repo_id="local/xet", folder_path=WORK / "push")


CHECKS = (lists, info, downloads, trees, errors, writes, requests, references, others)
print(json.dumps({check.__name__: check() for check in CHECKS}, default=str))
