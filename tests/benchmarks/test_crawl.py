"""The benchmark of the crawl in small: everything but the time."""

from collections import Counter

import pytest
from huggingface_hub import constants

from tests.benchmarks.crawl import measure
from tests.benchmarks.crawl_world import REASONS


def test_a_small_crawl_is_right_and_polite(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HOME", constants.HF_HOME)  # put back afterwards
    measured = measure(tmp_path, adapters=60, sample=0, latency=0.002, windows=2)
    due = Counter(measured.due.values())
    assert (due["usable"], len(due)) == (36, 1 + len(REASONS))
    assert [text for passed, text in measured.bars() if not passed] == []
    assert measured.quota < measured.first.asked["kinds"]["adapter_config.json"]
