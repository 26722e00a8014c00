import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rocket_hub.errors import InputError, StorageError
from rocket_hub.selection import embeddings
from rocket_hub.selection.embeddings import KEY_BYTES, EmbeddingCache, Part, embed, keys_of, open_cache, text_key
from tests.helping import files_up_to, run

SCRIPT = Path(__file__).with_name("selecting.py")


class Numbers:
    """Encodes a number as an angle, and remembers what it was asked for."""

    def __init__(self, width=6):
        self.width, self.batches = width, []

    @property
    def texts(self):
        return [text for batch in self.batches for text in batch]

    def encode(self, texts):
        self.batches.append(list(texts))
        return self.vectors(texts)

    def vectors(self, texts):
        raw = np.random.default_rng(0).normal(size=(1000, self.width))[[int(text.strip()) for text in texts]]
        return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)


def numbers(*values):
    return [str(value) for value in values]


def everything(vectors):
    return vectors[np.arange(vectors.shape[0])]


@pytest.fixture
def small(monkeypatch):
    """Windows of ten texts, batches of four."""
    monkeypatch.setattr(embeddings, "WINDOW", 10)
    monkeypatch.setattr(embeddings, "BATCH", 4)


def test_vectors_come_in_the_order_of_the_texts_and_each_text_is_encoded_once(tmp_path, small):
    encoder, texts = Numbers(), numbers(*range(37), 5, 3, *range(30))
    with open_cache(tmp_path) as cache:
        vectors = embed(encoder, texts, cache)
    assert vectors.shape == (len(texts), 6)
    assert np.array_equal(everything(vectors), encoder.vectors(texts))
    assert np.array_equal(vectors[np.array([40, 2, 2])], encoder.vectors([texts[40], texts[2], texts[2]]))
    assert sorted(encoder.texts) == sorted(set(texts))


def encoded(folder, texts, encoder=None, **options):
    """The vectors of texts with the cache in a folder, and the encoder that made them."""
    encoder = encoder or Numbers()
    with open_cache(folder) as cache:
        return everything(embed(encoder, texts, cache, **options)), encoder


def test_batches_are_of_like_length_the_longest_first(tmp_path, small):
    _, encoder = encoded(tmp_path, [str(number).zfill(1 + number % 5) for number in range(1, 21)])
    assert [len(batch) for batch in encoder.batches] == [4, 4, 2, 4, 4, 2]
    for window in (encoder.batches[:3], encoder.batches[3:]):
        lengths = [len(text) for batch in window for text in batch]
        assert lengths == sorted(lengths, reverse=True)


def test_long_texts_come_in_smaller_batches(tmp_path, small, monkeypatch):
    monkeypatch.setattr(embeddings, "BATCH_CHARACTERS", 10)
    texts = ["3".zfill(12), "4".zfill(6), "5".zfill(5), "6".zfill(4), "7", "8", "9"]
    vectors, encoder = encoded(tmp_path, texts)
    assert encoder.batches == [texts[:1], texts[1:2], texts[2:5], texts[5:]]
    assert np.array_equal(vectors, encoder.vectors(texts))


def test_what_is_in_the_cache_is_not_encoded_again(tmp_path, small):
    first, _ = encoded(tmp_path, numbers(*range(25)))
    again, encoder = encoded(tmp_path, numbers(*range(25)))
    assert np.array_equal(again, first) and encoder.texts == []
    grown, _ = encoded(tmp_path, numbers(*range(10, 40)), encoder)
    assert sorted(encoder.texts) == numbers(*range(25, 40))
    assert np.array_equal(grown, encoder.vectors(numbers(*range(10, 40))))
    assert len(list(tmp_path.glob("*.keys"))) == 2


def test_without_a_folder_nothing_is_left(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_cache(None) as cache:
        vectors = embed(Numbers(), numbers(1, 2), cache)
        assert any(tmp_path.rglob("*.vectors"))
        assert everything(vectors).shape == (2, 6)
    assert list(tmp_path.iterdir()) == []


def test_progress_and_no_texts(tmp_path, small):
    seen = []
    with open_cache(tmp_path) as cache:
        embed(Numbers(), numbers(*range(25), 3), cache, progress=lambda *said: seen.append(said))
        assert seen == [(done, 25) for done in (4, 8, 10, 14, 18, 20, 24, 25)]
        assert embed(Numbers(), [], cache).shape[0] == 0


def test_hashes_that_end_in_zeros_are_told_apart(tmp_path):
    keys = [b"\1" * 15 + b"\0", b"\1" * 14 + b"\0\0", b"\0" * 16, b"\0" * 15 + b"\1", b"\1" * 16]
    vectors = np.eye(5, dtype=np.float32)
    cache = EmbeddingCache(tmp_path)
    cache.append(keys_of(keys), vectors)
    cache.close()
    cache.refresh()
    found = cache.embeddings(cache.find(keys_of(keys[::-1])))
    assert np.array_equal(everything(found), vectors[::-1])
    assert cache.find(keys_of([b"\2" * 16])).tolist() == [-1]


@pytest.mark.parametrize(("suffix", "lost"), [("keys", 3), ("keys", KEY_BYTES), ("vectors", 1), ("vectors", 25)])
def test_only_whole_records_count(tmp_path, small, suffix, lost):
    """The end of a file is lost, as when the machine stops; the last record or two are made again."""
    whole, _ = encoded(tmp_path, numbers(*range(20)))
    (path,) = tmp_path.glob(f"*.{suffix}")
    os.truncate(path, path.stat().st_size - lost)
    again, encoder = encoded(tmp_path, numbers(*range(20)))
    assert np.array_equal(again, whole)
    assert len(encoder.texts) == (2 if lost == 25 else 1)


def test_a_full_disk_is_said_and_what_was_kept_stays(tmp_path, small):
    with files_up_to(6 * 24 + 7), pytest.raises(StorageError, match="free some space"):
        encoded(tmp_path, numbers(*range(20)))
    assert len(encoded(tmp_path, numbers(*range(20)))[1].texts) == 16


def test_encoders_that_cannot_be_used_are_refused(tmp_path):
    class Long(Numbers):
        def vectors(self, texts):
            return 3 * super().vectors(texts)

    with pytest.raises(InputError, match="normalise"):
        encoded(tmp_path / "long", numbers(1), Long())
    for width in (4, 6):
        other = EmbeddingCache(tmp_path / f"{width}")
        other.append(keys_of([text_key(str(width))]), Numbers(width).vectors(["1"]))
        other.close()
    for path in (tmp_path / "4").iterdir():
        path.rename(tmp_path / "6" / path.name)
    with pytest.raises(InputError, match="4 and 6 numbers"):
        EmbeddingCache(tmp_path / "6")


def test_a_share_is_each_text_exactly_once():
    keys = keys_of([text_key(str(number)) for number in range(300)])
    for world in (1, 2, 3):
        owners = np.stack([Part(rank, world).owns(keys) for rank in range(world)])
        assert (owners.sum(axis=0) == 1).all() and (owners.sum(axis=1) > 60).all()


@pytest.mark.parametrize(
    ("rank", "world", "expected"),
    [("1", "3", Part(1, 3)), ("", "", Part()), ("3", "3", Part()), ("x", "2", Part()), ("0", "1", Part())],
)
def test_the_share_is_what_the_launcher_says(monkeypatch, rank, world, expected):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    assert Part.of_process() == expected


def test_the_share_of_a_process_that_does_not_run_is_done_in_the_end(tmp_path, small, monkeypatch):
    monkeypatch.setattr(embeddings, "PATIENCE", 0.3)
    texts = numbers(*range(40))
    vectors, encoder = encoded(tmp_path, texts, part=Part(0, 2))
    assert np.array_equal(vectors, encoder.vectors(texts))
    assert sorted(encoder.texts) == sorted(texts)


def test_another_process_is_waited_for(tmp_path, small, monkeypatch):
    """The other half comes late, in pieces, from a file that was begun before this process looked."""
    monkeypatch.setattr(embeddings, "PATIENCE", 5.0)
    texts, waits = numbers(*range(40)), []
    mine = [text for text in texts if Part(0, 2).owns(keys_of([text_key(text)]))[0]]
    others = [text for text in texts if text not in mine]
    late, encoder = EmbeddingCache(tmp_path), Numbers()

    def sleep(seconds):
        waits.append(seconds)
        if others:
            text = others.pop()
            late.append(keys_of([text_key(text)]), encoder.vectors([text]))

    monkeypatch.setattr(time, "sleep", sleep)
    vectors, _ = encoded(tmp_path, texts, encoder, part=Part(0, 2))
    late.close()
    assert np.array_equal(vectors, encoder.vectors(texts))
    assert len(waits) > 10 and others == []
    assert set(encoder.texts) == set(mine)


def command(folder, batches=0):
    """Run `selecting.py` on 300 rows; it kills itself after some batches."""
    return [str(SCRIPT), str(folder / "cache"), str(folder / "log"), "300", str(batches)]


def select(folder, batches=0):
    """The exit code, and what it said."""
    done = subprocess.run([sys.executable, *command(folder, batches)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout or done.stderr


def logged(folder):
    return [line for path in folder.glob("log-?") for line in path.read_text().splitlines()]


def recorded(folder):
    return sum(path.stat().st_size // KEY_BYTES for path in (folder / "cache").glob("*.keys"))


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The selection of a single process without an interruption."""
    code, said = select(tmp_path_factory.mktemp("alone"))
    assert code == 0, said
    return said


def test_killed_at_any_point_the_next_run_selects_the_same_and_encodes_nothing_twice(tmp_path, expected):
    for batches in (1, 2, 5, 17, 3):
        for log in tmp_path.glob("log-?"):
            log.unlink()
        before = recorded(tmp_path)
        assert select(tmp_path, batches)[0] == -signal.SIGKILL
        assert 0 < len(logged(tmp_path)) - (recorded(tmp_path) - before) <= 8, "all but the last batch is kept"
    killed = recorded(tmp_path)
    for log in tmp_path.glob("log-?"):
        log.unlink()
    assert select(tmp_path) == (0, expected)
    again = logged(tmp_path)
    assert len(again) == len(set(again)) == recorded(tmp_path) - killed
    assert select(tmp_path) == (0, expected)
    assert logged(tmp_path) == again, "a third run has nothing to encode"


def test_two_processes_of_torchrun_select_the_same_as_one_and_share_the_work(tmp_path, expected):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run(*launch, *command(tmp_path))
    for rank in (0, 1):
        assert json.loads((tmp_path / f"log-{rank}.json").read_text()) == json.loads(expected)
    shares = [(tmp_path / f"log-{rank}").read_text().splitlines() for rank in (0, 1)]
    twice = set(shares[0]) & set(shares[1])  # none but the shots, which nobody has to wait for
    assert min(map(len, shares)) > 100 and all("count the" in text for text in twice)
    assert len(logged(tmp_path)) == recorded(tmp_path)


def test_two_processes_that_know_nothing_of_each_other_leave_a_sound_cache(tmp_path):
    both = [subprocess.Popen([sys.executable, *command(tmp_path)], stdout=subprocess.PIPE, text=True) for _ in "ab"]
    said = [process.communicate()[0] for process in both]
    assert said[0] == said[1] and json.loads(said[0])["selected"]
    before = len(logged(tmp_path))
    assert select(tmp_path) == (0, said[0])
    assert len(logged(tmp_path)) == before
