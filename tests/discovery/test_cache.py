import json
import os
import stat
import threading

import pytest
from huggingface_hub import HfApi, constants

from rocket_hub.discovery.access import cache
from rocket_hub.discovery.access.files import Part

NAME = ("file", "a/b", "0" * 40, "adapter_config.json")
PART = Part(b'{"r": 2}\n\x00', 100, "f" * 64)


@pytest.fixture
def api(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path))
    return HfApi(endpoint="https://hub.example", token=False)


def files():
    return [path for path in cache.folder().rglob("*") if path.is_file()]


@pytest.mark.parametrize("part", [PART, Part(b"", 0, ""), Part(b"x" * 10**6, 10**12, "0" * 40)])
def test_what_is_kept_comes_back(api, part):
    assert cache.load(api, *NAME) is None
    cache.save(api, part, *NAME)
    assert cache.load(api, *NAME) == part


def test_another_commit_file_or_hub_is_another_thing(api):
    cache.save(api, PART, *NAME)
    assert cache.load(api, *NAME[:2], "1" * 40, NAME[3]) is None
    assert cache.load(api, *NAME[:3], "other.json") is None
    assert cache.load(HfApi(endpoint="https://other.example"), *NAME) is None
    assert cache.load(HfApi(endpoint="https://hub.example:8080"), *NAME) == PART


@pytest.mark.parametrize("change", [
    lambda data: data[:-1], lambda data: data + b"x", lambda data: b"", lambda data: data[:10],
    lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:], lambda data: b"\0" * len(data),
])  # fmt: skip
def test_what_is_not_whole_is_not_trusted(api, change):
    cache.save(api, PART, *NAME)
    (path,) = files()
    path.write_bytes(change(path.read_bytes()))
    assert cache.load(api, *NAME) is None
    cache.save(api, PART, *NAME)
    assert cache.load(api, *NAME) == PART


def test_a_file_in_another_files_place_is_not_trusted(api):
    cache.save(api, PART, *NAME)
    (old,) = files()
    cache.save(api, Part(b"{}", 2, ""), *NAME[:3], "other.json")
    (new,) = set(files()) - {old}
    new.replace(old)
    assert cache.load(api, *NAME) is None


def test_hostile_names_stay_in_the_folder(api, tmp_path):
    for name in ("../../../../etc/passwd", "/etc/passwd", "x" * 4000, "a\0b", "\ud800"):
        cache.save(api, PART, "file", name)
        assert cache.load(api, "file", name) == PART
    assert all(path.is_relative_to(tmp_path / "rocket_hub" / "discovery") for path in tmp_path.rglob("*.*"))
    assert len(files()) == 5


def test_nothing_half_written_is_left_and_threads_do_not_mix(api):
    def write(number):
        for _ in range(30):
            cache.save(api, Part(bytes([number]) * 10_000, number, ""), *NAME)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        found = cache.load(api, *NAME)
        assert found is None or found.data == bytes([found.size]) * 10_000
    for thread in threads:
        thread.join()
    assert len(files()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written_is_no_fault(api, tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    cache.save(api, PART, *NAME)
    tmp_path.chmod(stat.S_IRWXU)
    assert cache.load(api, *NAME) is None


def test_a_file_where_the_folder_should_be_is_no_fault(api, tmp_path):
    (tmp_path / "rocket_hub").write_text("")
    cache.save(api, PART, *NAME)
    assert cache.load(api, *NAME) is None


def test_answers_are_remembered_with_their_date(api):
    assert cache.recall(api, "model", "a/b") is None
    cache.remember(api, {"sha": "x"}, "model", "a/b")
    moment, value = cache.recall(api, "model", "a/b")
    assert value == {"sha": "x"} and json.loads(json.dumps(moment)) > 1e9
