import pytest

from rocket_hub.errors import StorageError
from rocket_hub.records import Pinned
from rocket_hub.runs import KeptResults, RunFolder, read_json, write_json, write_text
from tests.helping import Heard


@pytest.fixture
def notes():
    return Heard()


@pytest.fixture
def run(tmp_path, notes):
    return RunFolder(tmp_path, notes)


def test_a_finished_stage_is_kept(run, notes):
    calls = []
    for _ in range(2):
        assert run.stage("1-a", {"x": (1, 2)}, lambda folder: calls.append(folder) or {"y": 3}) == {"y": 3}
    assert len(calls) == 1
    assert notes.stages == [("1-a", ""), ("1-a", "done earlier")]
    assert run.seconds().keys() == {"1-a"}


def test_changed_inputs_start_over_and_say_which(run, notes):
    run.stage("1-a", {"x": 1, "z": 0}, lambda folder: write_text(folder / "left", "over"))
    assert run.stage("1-a", {"x": 2, "z": 0}, lambda folder: (folder / "left").exists()) is False
    assert notes.stages[-1] == ("1-a", "again, because of x")


def test_an_interrupted_stage_goes_on_with_what_it_left(run, notes):
    def stopped(folder):
        write_text(folder / "half", "done")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.stage("1-a", {"x": 1}, stopped)
    assert run.stage("1-a", {"x": 1}, lambda folder: (folder / "half").read_text()) == "done"
    assert notes.stages[-1] == ("1-a", "goes on where it was stopped")


@pytest.mark.parametrize("left", ['{"seconds": 1.0, "res', '{"seconds": 1.0}', "[]"])
def test_a_half_written_result_is_not_done(left, run, tmp_path):
    run.stage("1-a", {"x": 1}, lambda folder: 1)
    (tmp_path / "1-a" / "result.json").write_text(left)
    assert run.stage("1-a", {"x": 1}, lambda folder: 2) == 2


def test_a_record_is_read_strictly_back(run, tmp_path):
    made = run.stage("1-a", {"of": Pinned("a/b", "c")}, lambda folder: Pinned("a/b", "c"), Pinned)
    assert made == run.stage("1-a", {"of": Pinned("a/b", "c")}, lambda folder: Pinned("x/y", "z"), Pinned)
    path = tmp_path / "1-a" / "result.json"
    path.write_text(path.read_text().replace("revision", "commit"))
    with pytest.raises(StorageError, match=r"result\.json: unknown key 'commit'.*another version.*--out"):
        run.stage("1-a", {"of": Pinned("a/b", "c")}, lambda folder: made, Pinned)
    assert path.is_file(), "nothing that was done is lost"


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot be written.*--out"):
        write_json(tmp_path / "file" / "below.json", {})
    assert read_json(tmp_path / "file" / "below.json") is None


def test_kept_results_are_computed_once_and_batch_by_batch(tmp_path):
    asked = []

    def compute(missing):
        asked.append(missing)
        yield {word: word.upper() for word in missing if word == "a"}
        assert "A" in (tmp_path / "kept.jsonl").read_text()  # before the next batch is begun
        yield {word: word.upper() for word in missing if word == "b"}

    for _ in range(2):
        kept = KeptResults(tmp_path / "kept.jsonl")
        assert kept.each(["a", "b", "a", "c"], str, compute) == ["A", "B", "A", None]
    assert asked == [["a", "b", "c"], ["c"]]
    assert KeptResults(None).each(["a"], str, lambda missing: ({word: 1} for word in missing)) == [1]
