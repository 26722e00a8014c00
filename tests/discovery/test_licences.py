import pytest

from rocket_hub.discovery.licences import combine, declared, judge, kind_of
from rocket_hub.records import Pinned


def item(name, licence, kind="model"):
    return Pinned(name, "0" * 40, kind, licence)


@pytest.mark.parametrize(
    ("licence", "kind"),
    [
        ("apache-2.0", "permissive"),
        ("mit", "permissive"),
        ("bsd-3-clause", "permissive"),
        ("cc-by-4.0", "permissive"),
        ("cc0-1.0", "permissive"),
        ("odc-by", "permissive"),
        ("cc-by-sa-4.0", "share_alike"),
        ("gpl-3.0", "share_alike"),
        ("agpl-3.0", "share_alike"),
        ("cc-by-nc-4.0", "non_commercial"),
        ("cc-by-nc-sa-4.0", "non_commercial"),
        ("cc-by-nd-4.0", "no_derivatives"),
        ("cc-by-nc-nd-4.0", "no_derivatives"),
        ("llama3.1", "model"),
        ("gemma", "model"),
        ("other", "unknown"),
        ("", "unknown"),
        ("mit,cc-by-nc-4.0", "non_commercial"),
        ("apache-2.0,mit", "permissive"),
    ],
)
def test_the_kind_of_a_licence(licence, kind):
    assert kind_of(licence) == kind


def test_non_commercial_and_no_derivatives_are_rejected_unless_allowed():
    assert judge("cc-by-nc-4.0", ()) == "licence"
    assert judge("cc-by-nd-4.0", ()) == "licence"
    assert judge("mit,cc-by-nc-4.0", ()) == "licence"
    assert judge("cc-by-nc-4.0", ("CC-BY-NC-4.0",)) is None
    assert [judge(name, ()) for name in ("", "other", "mit", "gpl-3.0", "llama3.1")] == [None] * 5


def test_permissive_ingredients_leave_the_bases_licence():
    ledger = combine([item("b/base", "apache-2.0"), item("a/one", "mit"), item("d/data", "cc-by-4.0", "dataset")], ())
    assert (ledger.result, ledger.restrictions, ledger.rejected, ledger.unknown) == ("apache-2.0", (), (), ())


def test_a_model_licence_is_inherited():
    ledger = combine([item("b/base", "llama3.1"), item("a/one", "mit")], ())
    assert ledger.result == "llama3.1"
    assert ledger.restrictions == ("b/base (llama3.1) hands its own conditions on to the result",)


def test_share_alike_data_binds_a_permissive_base():
    assert combine([item("b/base", "mit"), item("d/data", "cc-by-sa-4.0", "dataset")], ()).result == "cc-by-sa-4.0"


def test_several_binding_licences_are_other_and_all_named():
    ledger = combine([item("b/base", "llama3.1"), item("d/data", "cc-by-sa-4.0", "dataset")], ())
    assert ledger.result == "other"
    assert [sentence.split()[0] for sentence in ledger.restrictions] == ["b/base", "d/data"]


def test_a_forbidden_ingredient_is_rejected_and_binds_nothing():
    ledger = combine([item("b/base", "mit"), item("d/data", "cc-by-nc-4.0", "dataset")], ())
    assert ledger.result == "mit"
    assert [(rejection.item, rejection.reason) for rejection in ledger.rejected] == [("d/data", "licence")]
    assert "allow_licences" in ledger.rejected[0].detail


def test_an_allowed_non_commercial_ingredient_makes_the_result_non_commercial():
    ledger = combine([item("b/base", "mit"), item("d/data", "cc-by-nc-4.0", "dataset")], ("cc-by-nc-4.0",))
    assert (ledger.result, ledger.rejected) == ("cc-by-nc-4.0", ())
    assert "commercially" in ledger.restrictions[0]


def test_a_missing_licence_is_kept_with_a_warning():
    ledger = combine([item("b/base", "mit"), item("a/one", "")], ())
    assert (ledger.result, ledger.rejected) == ("mit", ())
    assert [(entry.item, entry.reason) for entry in ledger.unknown] == [("a/one", "unknown_licence")]


def test_the_bases_licence_is_never_rejected():
    ledger = combine([item("b/base", "cc-by-nc-4.0")], ())
    assert (ledger.result, ledger.rejected) == ("cc-by-nc-4.0", ())


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (None, ""),
        ({}, ""),
        ({"license": "MIT"}, "mit"),
        ({"license": ["mit", "apache-2.0"]}, "mit,apache-2.0"),
        ({"license": "other", "license_name": "My-Licence"}, "my-licence"),
        ({"license": "unknown"}, ""),
        ({"license": 7}, ""),
    ],
)
def test_what_a_card_declares(card, expected):
    assert declared(card) == expected
