import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.discovery import discover_adapters
from rocket_hub.discovery.listing import Listed
from rocket_hub.discovery.ranking import prior
from rocket_hub.options import DiscoverOptions

BASE = "base/tiny"


class Letters:
    """An encoder that counts letters, and how often it was asked."""

    asked = 0

    def encode(self, texts):
        self.asked += 1
        counts = np.array([[text.lower().count(chr(97 + n)) for n in range(26)] for text in texts], np.float32)
        return counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1e-9)


def listed(name="a/b", downloads=0, modified="", text=""):
    return Listed(name, downloads=downloads, modified=modified, text=text)


def test_the_formula():
    new, old = "2026-03-01T00:00:00.000Z", "2025-03-01T00:00:00.000Z"
    assert prior([listed(downloads=999, modified=new), listed(modified=old), listed()]) == pytest.approx(
        [0.5 + 1, 0.5, 0], abs=1e-9
    )
    assert prior([]) == []


def test_the_k_shot_outweighs_downloads():
    adapters = [listed(text="zzz", downloads=10**6), listed(text="maths problems")]
    far, near = prior(adapters, ["problems of maths"], Letters())
    assert near > far
    assert prior(adapters, ["problems of maths"], None) == prior(adapters)
    assert prior(adapters, [], Letters()) == prior(adapters)


def test_an_encoder_that_gives_no_numbers_does_no_harm():
    class Broken:
        def encode(self, texts):
            return np.full((len(texts), 3), np.nan, np.float32)

    assert prior([listed(downloads=9)], ["x"], Broken()) == prior([listed(downloads=9)])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.builds(listed, downloads=st.integers(0, 2**50), modified=st.text(max_size=30)), max_size=4))
def test_every_list_has_a_prior(adapters):
    assert all(np.isfinite(prior(adapters)))


def test_the_encoder_is_asked_only_if_the_budget_makes_a_choice(api, planted):
    encoder = Letters()
    shots = ["only tagged"]
    everything = discover_adapters(api, BASE, options=DiscoverOptions(), shots=shots, encoder=encoder)
    assert encoder.asked == 0
    one = discover_adapters(api, BASE, options=DiscoverOptions(max_adapters=1), shots=shots, encoder=encoder)
    assert encoder.asked == 2
    assert [item.repo_id for item in one.selected] == ["zoo/only-tagged"] != [everything.selected[0].repo_id]
