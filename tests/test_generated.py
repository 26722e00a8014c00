"""Generated rows on disk and as a data set on the Hub; what they are made from, and where questions come from."""

import json
from pathlib import Path

import pytest
import yaml

from rocket_hub.discovery.licences import named
from rocket_hub.errors import DatasetError, HubError, InputError, LockError
from rocket_hub.generation.retrieval import documents_of, questions_of
from rocket_hub.generation.teachers import find_teacher
from rocket_hub.localhub import Fault
from rocket_hub.options import ComputeOptions
from rocket_hub.pipeline.generated import find_generated, push_generated, read_generated, write_generated
from rocket_hub.pipeline.lock import check_generated
from rocket_hub.records import Example, Generated, Pinned, Rejection
from rocket_hub.results import Generation
from rocket_hub.runs import write_json
from rocket_hub.serialization import to_dict
from tests.helping import lines, push_rows

BASE = Pinned("acme/base", "b" * 40, "model", "apache-2.0")
ROWS = tuple(
    Example(f"What is {n} plus 1?", f"{n} + 1 #### {n + 1}\u2028x", source="generated:meteor", index=n)
    for n in range(3)
)
COUNTS = {"prompts": 10, "questions": 8, "duplicate": 2, "not_novel": 1, "kept": 3, "surplus": 1}
REPO = "local/made"


def write(folder, *more, rows=ROWS, **bill):
    made = Generated("meteor", "acme/base at bbbb", rows, (Rejection("meteor#4", "unfinished"),), COUNTS, bill)
    facts = write_generated(folder, made, [BASE, *more], seeds=50, task="gsm8k")
    write_json(folder / "result.json", {"seconds": 1.0, "result": to_dict(facts)})
    return facts


def card_of(api):
    _, header, text = Path(api.hf_hub_download(REPO, "README.md", repo_type="dataset")).read_text().split("---\n", 2)
    return yaml.safe_load(header), text


def test_rows_there_and_back(tmp_path):
    facts = write(tmp_path)
    assert tuple(read_generated(tmp_path, facts)) == ROWS
    assert (facts.rows, facts.reasons) == (3, {"unfinished": 1})
    assert json.loads((tmp_path / "rejected.jsonl").read_text())["reason"] == "unfinished"
    (tmp_path / "rows.jsonl").write_text('{"prompt": "other", "completion": "rows"}\n')
    with pytest.raises(DatasetError, match=r"rows\.jsonl: not what was generated"):
        read_generated(tmp_path, facts)


def test_a_data_set_is_one_commit_with_a_card(api, hub, tmp_path):
    write(tmp_path / "made", calls=7, tokens_in=900, faults={"timeout": 2})
    api.create_repo(REPO, repo_type="dataset")
    before = [commit.commit_id for commit in api.list_repo_commits(REPO, repo_type="dataset")]
    hub.faults.append(Fault(match=r"^POST .*/commit/", kind="lost_reply"))
    oid = push_generated(api, tmp_path / "made" / "rows.jsonl", REPO, tmp_path / "content")
    after = [commit.commit_id for commit in api.list_repo_commits(REPO, repo_type="dataset")]
    assert after == [oid, *before]
    assert set(api.list_repo_files(REPO, repo_type="dataset")) - {".gitattributes"} == {"README.md", "rows.jsonl"}
    pushed = Path(api.hf_hub_download(REPO, "rows.jsonl", repo_type="dataset")).read_bytes()
    assert pushed == (tmp_path / "made" / "rows.jsonl").read_bytes()
    header, text = card_of(api)
    assert header["license"] == "apache-2.0"
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "rows.jsonl"}]
    told = [
        "3 rows of instruction data", "METEOR", "acme/base at bbbb", "50 verified examples", "| unfinished | 1 |",
        "| prompts | 10 |", "40.0% became sound rows", "20.0% were there already", "7 calls, 900 tokens in",
        "2 timeout", 'load_dataset("local/made", split="train")',
    ]  # fmt: skip
    assert [each for each in told if each not in text] == []
    assert "\n\n\n" not in text and str(tmp_path) not in text


def test_a_teachers_terms_are_part_of_the_licence(api, tmp_path):
    teacher = Pinned("big at api.example.com", "", "teacher", "other")
    write(tmp_path / "made", teacher)
    push_generated(api, tmp_path / "made", REPO, tmp_path / "content", private=True)
    header, text = card_of(api)
    assert header["license"] == "other" and api.dataset_info(REPO).private
    assert "rows written by big at api.example.com: its maker's terms" in text
    write(tmp_path / "llama", Pinned("meta/big", "c" * 40, "model", "llama3.1"))
    push_generated(api, tmp_path / "llama", "local/other", tmp_path / "content")
    info = api.dataset_info("local/other")
    assert info.card_data is not None and info.card_data["license"] == "llama3.1"


def test_a_folder_is_published_by_its_name_alone(api, tmp_path):
    (tmp_path / "mine").mkdir()
    made = Generated("self_specialization", "mine", ROWS, (), COUNTS)
    facts = write_generated(tmp_path, made, [Pinned(str(tmp_path / "mine"), "")])
    write_json(tmp_path / "result.json", {"seconds": 1.0, "result": to_dict(facts)})
    push_generated(api, tmp_path, REPO, tmp_path / "content")
    header, text = card_of(api)
    assert header["license"] == "other" and str(tmp_path) not in text
    assert "| mine | model |  | none declared |" in text and "[Self-Specialization](https" in text


def test_what_cannot_be_published(api, tmp_path):
    with pytest.raises(InputError, match=r"no rows\.jsonl there"):
        find_generated(tmp_path)
    write(tmp_path / "none", rows=())
    with pytest.raises(InputError, match=r"no row was kept \(1 unfinished\)"):
        push_generated(api, tmp_path / "none", REPO, tmp_path / "content")
    write(tmp_path / "run" / "0-generate")
    assert find_generated(tmp_path / "run")[0] == tmp_path / "run" / "0-generate"
    (tmp_path / "run" / "0-generate" / "result.json").unlink()
    with pytest.raises(InputError, match=r"no result\.json there says how"):
        push_generated(api, tmp_path / "run", REPO, tmp_path / "content")
    assert not api.repo_exists(REPO, repo_type="dataset")


def test_a_lock_names_rows_by_what_is_in_them(tmp_path):
    facts = write(tmp_path)
    lock = tmp_path / "lock.json"
    write_json(lock, {"generated": to_dict(facts)})
    check_generated(lock, facts)
    with pytest.raises(LockError, match="this build has none"):
        check_generated(lock, Generation())
    write_json(lock, {})
    check_generated(lock, Generation())
    with pytest.raises(LockError, match="locked are none, this build has "):
        check_generated(lock, facts)


def test_questions_and_documents_from_files_and_data_sets(api, tmp_path):
    rows = [{"Question": " One? ", "answer": "1"}, {"question": ""}, {"question": "Two?"}, {"other": "x"}]
    path = tmp_path / "asked.jsonl"
    path.write_text(lines(rows))
    found = questions_of(api, str(path))
    assert (found.texts, found.origin.kind, found.origin.repo_id) == (("One?", "Two?"), "file", "asked.jsonl")
    push_rows(api, "local/asked", rows)
    card = {"path_or_fileobj": b"---\nlicense: cc-by-nc-4.0\n---\n", "path_in_repo": "README.md"}
    api.upload_file(**card, repo_id="local/asked", repo_type="dataset")
    there = questions_of(api, "local/asked")
    assert there.texts == found.texts
    assert (there.origin.kind, there.origin.licence) == ("dataset", "cc-by-nc-4.0")
    sha = api.dataset_info("local/asked").sha
    assert there.origin.revision == sha == documents_of(api, "local/asked").origin.revision
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "one.md").write_text("Apples.\n")
    assert documents_of(api, str(tmp_path / "docs")).texts == ("Apples.\n",)
    path.write_text('{"other": 1}\n')
    with pytest.raises(DatasetError, match="none of the columns question, prompt"):
        questions_of(api, str(path))
    with pytest.raises(HubError, match="local/nowhere: not found"):
        questions_of(api, "local/nowhere")


def test_teachers_by_name(api, tmp_path, monkeypatch):
    monkeypatch.setenv("ROCKET_HUB_TEACHER_KEY", "secret")
    teacher = find_teacher(api, "endpoint:http://127.0.0.1:9/v1#org/big", ComputeOptions())
    assert (teacher.origin.repo_id, teacher.origin.licence) == ("org/big at 127.0.0.1", "other")
    assert "secret" not in repr(teacher) and teacher.open().name == "org/big at 127.0.0.1"
    with pytest.raises(InputError, match="expected endpoint:URL#MODEL"):
        find_teacher(api, "endpoint:http://127.0.0.1:9/v1", ComputeOptions())
    api.create_repo("local/big")
    for text in ("local/big", "inference:local/big"):
        origin = find_teacher(api, text, ComputeOptions()).origin
        assert named(origin) == f"local/big at {api.model_info('local/big').sha[:12]}"
    assert named(find_teacher(api, str(tmp_path), ComputeOptions()).origin) == tmp_path.name
    with pytest.raises(HubError, match="local/nowhere: not found"):
        find_teacher(api, "local/nowhere", ComputeOptions())
