import json
import os
import stat
import threading

import pytest
from huggingface_hub import HfApi, constants

from rocket_hub.discovery.hub import answers
from rocket_hub.discovery.hub.download import Part

NAME = ("file", "a/b", "0" * 40, "adapter_config.json")
PART = Part(b'{"r": 2}\n\x00', 100, "f" * 64)


@pytest.fixture
def api(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    return HfApi(endpoint="https://hub.example", token=False)


def files():
    return [path for path in answers.folder().rglob("*") if path.is_file()]


@pytest.mark.parametrize("part", [PART, Part(b"", 0, ""), Part(b"x" * 10**6, 10**12, "0" * 40)])
def test_what_is_kept_comes_back(api, part):
    assert answers.load(api, *NAME) is None
    answers.save(api, part, *NAME)
    assert answers.load(api, *NAME) == part


def test_another_commit_file_or_hub_is_another_thing(api):
    answers.save(api, PART, *NAME)
    assert answers.load(api, *NAME[:2], "1" * 40, NAME[3]) is None
    assert answers.load(api, *NAME[:3], "other.json") is None
    assert answers.load(HfApi(endpoint="https://other.example"), *NAME) is None
    assert answers.load(HfApi(endpoint="https://hub.example:8080"), *NAME) == PART


@pytest.mark.parametrize("change", [
    lambda data: data[:-1], lambda data: data + b"x", lambda data: b"", lambda data: data[:10],
    lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:], lambda data: b"\0" * len(data),
])  # fmt: skip
def test_what_is_not_whole_is_not_trusted(api, change):
    answers.save(api, PART, *NAME)
    (path,) = files()
    path.write_bytes(change(path.read_bytes()))
    assert answers.load(api, *NAME) is None
    answers.save(api, PART, *NAME)
    assert answers.load(api, *NAME) == PART


def test_a_file_in_another_files_place_is_not_trusted(api):
    answers.save(api, PART, *NAME)
    (old,) = files()
    answers.save(api, Part(b"{}", 2, ""), *NAME[:3], "other.json")
    (new,) = set(files()) - {old}
    new.replace(old)
    assert answers.load(api, *NAME) is None


def test_hostile_names_stay_in_the_folder(api, tmp_path):
    for name in ("../../../../etc/passwd", "/etc/passwd", "x" * 4000, "a\0b", "\ud800"):
        answers.save(api, PART, "file", name)
        assert answers.load(api, "file", name) == PART
    assert all(path.is_relative_to(tmp_path / "rocket_hub" / "discovery") for path in tmp_path.rglob("*.*"))
    assert len(files()) == 5


def test_nothing_half_written_is_left_and_threads_do_not_mix(api):
    def write(number):
        for _ in range(30):
            answers.save(api, Part(bytes([number]) * 10_000, number, ""), *NAME)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        found = answers.load(api, *NAME)
        assert found is None or found.data == bytes([found.size]) * 10_000
    for thread in threads:
        thread.join()
    assert len(files()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written_is_no_fault(api, tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    answers.save(api, PART, *NAME)
    tmp_path.chmod(stat.S_IRWXU)
    assert answers.load(api, *NAME) is None


def test_a_file_where_the_folder_should_be_is_no_fault(api, tmp_path):
    (tmp_path / "rocket_hub").write_text("")
    answers.save(api, PART, *NAME)
    assert answers.load(api, *NAME) is None


def test_answers_are_remembered_with_their_date(api):
    assert answers.recall(api, "model", "a/b") is None
    answers.remember(api, {"sha": "x"}, "model", "a/b")
    moment, value = answers.recall(api, "model", "a/b")
    assert value == {"sha": "x"} and json.loads(json.dumps(moment)) > 1e9
