import pytest

from rocket_hub.discovery.licences import combine, declared, judge, kind_of
from rocket_hub.records import Pinned
from tests.helping import table


def item(name, licence, kind="model"):
    return Pinned(name, "0" * 40, kind, licence)


KINDS = {
    "permissive": ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc0-1.0", "odc-by", "apache-2.0,mit"),
    "share_alike": ("cc-by-sa-4.0", "gpl-3.0", "agpl-3.0"),
    "non_commercial": ("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "mit,cc-by-nc-4.0"),
    "no_derivatives": ("cc-by-nd-4.0", "cc-by-nc-nd-4.0"),
    "model": ("llama3.1", "gemma"),
    "unknown": ("other", ""),
}


@pytest.mark.parametrize(("licence", "kind"), [(name, kind) for kind, names in KINDS.items() for name in names])
def test_the_kind_of_a_licence(licence, kind):
    assert kind_of(licence) == kind


def test_non_commercial_and_no_derivatives_are_rejected_unless_allowed():
    assert judge("cc-by-nc-4.0", ()) == "licence"
    assert judge("cc-by-nd-4.0", ()) == "licence"
    assert judge("mit,cc-by-nc-4.0", ()) == "licence"
    assert judge("cc-by-nc-4.0", ("CC-BY-NC-4.0",)) is None
    assert [judge(name, ()) for name in ("", "other", "mit", "gpl-3.0", "llama3.1")] == [None] * 5


@pytest.mark.parametrize(("base", "others", "allowed", "result"), table("discovery/licences_combined.jsonl"))
def test_the_licence_of_the_result(base, others, allowed, result):
    ledger = combine([item("b/base", base), *(item("d/data", licence, "dataset") for licence in others)], allowed)
    assert ledger.result == result
    forbidden = "cc-by-nc-4.0" in others and not allowed  # the base's is never rejected
    assert [(lost.item, lost.reason) for lost in ledger.rejected] == [("d/data", "licence")] * forbidden
    assert all("allow_licences" in lost.detail for lost in ledger.rejected)
    assert ledger.unknown == ()


def test_what_restricts_the_result_is_named():
    ledger = combine([item("b/base", "llama3.1"), item("a/one", "mit"), item("d/data", "cc-by-sa-4.0", "dataset")], ())
    assert ledger.restrictions[0] == "b/base (llama3.1) hands its own conditions on to the result"
    assert [sentence.split()[0] for sentence in ledger.restrictions] == ["b/base", "d/data"]
    assert combine([item("b/base", "apache-2.0"), item("a/one", "mit")], ()).restrictions == ()
    allowed = combine([item("b/base", "mit"), item("d/data", "cc-by-nc-4.0", "dataset")], ("cc-by-nc-4.0",))
    assert "commercially" in allowed.restrictions[0]


def test_a_missing_licence_is_kept_with_a_warning():
    ledger = combine([item("b/base", "mit"), item("a/one", "")], ())
    assert (ledger.result, ledger.rejected) == ("mit", ())
    assert [(entry.item, entry.reason) for entry in ledger.unknown] == [("a/one", "unknown_licence")]


@pytest.mark.parametrize(("card", "expected"), table("discovery/licences_declared.jsonl"))
def test_what_a_card_declares(card, expected):
    assert declared(card) == expected
