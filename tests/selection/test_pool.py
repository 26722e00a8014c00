import resource

import pytest

from rocket_hub.errors import DatasetError, StorageError
from rocket_hub.records import Example
from rocket_hub.selection.screening import Pool

ROWS = [Example(f"question\n{i} é 漢 \ud800", f"answer {i}\u2028", source="u/data", index=i) for i in range(50)]


def test_rows_come_back_as_they_were_in_any_order_and_as_often_as_wanted(tmp_path):
    with Pool(iter(ROWS), tmp_path / "made") as pool:
        assert len(pool) == 50
        assert list(pool) == ROWS and list(pool) == ROWS
        assert (pool[7], pool[0], pool[-1]) == (ROWS[7], ROWS[0], ROWS[49])
        assert ROWS[20] in pool and pool.index(ROWS[20]) == 20
        for position in (50, -51):
            with pytest.raises(IndexError):
                pool[position]
    with Pool([]) as pool:
        assert list(pool) == []


def test_nothing_is_left_in_the_folder_not_even_while_it_is_in_use(tmp_path):
    with Pool(ROWS, tmp_path) as pool:
        assert list(tmp_path.iterdir()) == []
        assert pool[1] == ROWS[1]


def test_an_error_of_whoever_gives_the_rows_goes_through(tmp_path):
    def rows():
        yield ROWS[0]
        raise DatasetError("unreadable", "cut off")

    with pytest.raises(DatasetError, match="cut off"):
        Pool(rows(), tmp_path)


def test_a_full_disk_is_said(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StorageError, match="free some space"):
            Pool(ROWS * 200, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
