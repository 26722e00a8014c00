"""The paper's table: what is measured, how it is kept, and that the page says what was measured."""

import numpy as np
import pytest

from tests.recipes.conftest import FOLDER, table_rows


def test_cells_are_in_balanced_order_and_measured_once(table):
    cells = table.cells.cells_of("core")
    assert len(cells) == 13 * 6 * 5 and len({cell.key for cell in cells}) == len(cells)
    pairs = [(cell.draw, cell.task) for cell in cells]
    assert pairs == sorted(pairs, key=lambda pair: (pair[0], table.cells.TASKS.index(pair[1])))
    assert {cell.draw for cell in cells[: 13 * 6]} == {1}, "all tasks of the first draw come first"
    for name, each in table.cells.TABLES.items():
        labels = [variant.label for variant in each.variants]
        assert len(set(labels)) == len(labels) and each.reference in {*labels, ""}, name
        assert len({cell.key for cell in table.cells.cells_of(name)}) == 5 * len(each.tasks) * len(labels), name
    shared = {cell.key for cell in cells} & {cell.key for cell in table.cells.cells_of("gates")}
    assert shared == {cell.key for cell in cells if cell.method == "routed"}
    assert table.cells.cells_of("gates", ["piqa"], [2])[1].folder == "piqa-2", "gates change nothing that is prepared"
    at_200 = {cell.key for cell in table.cells.cells_of("rows", options="")}
    assert len(at_200) == 4 * 6 * 5 and at_200 < {cell.key for cell in cells}, "n = 200 is not measured twice"
    (only,) = table.cells.cells_of("rows", ["piqa"], [1], ["routed"], "instructions.max_rows=50")
    assert only.options == (("instructions.max_rows", 50),)
    assert "num_experts=2" in table.cells.cells_of("experts", ["piqa"], [2])[2].folder


def test_every_trained_method_has_a_setting(table):
    methods = {variant.method for each in table.cells.TABLES.values() for variant in each.variants}
    untrained = {"base", "best_single", "uniform_merge", "ties", "dare_ties", "lorahub", "arrow"}
    assert {method for method in methods if table.cells.tuned_as(method) is None} == untrained
    assert len(table.cells.points("routed")) == 2 and len(table.cells.points("fresh_lora")) == 2
    assert all(cell.point and cell.draw == 0 for cell in table.cells.points("xlora"))


def test_results_are_small_and_survive_a_cut(table, tmp_path):
    right = np.random.default_rng(0).integers(0, 2, 999)
    text = table.results_store.packed(right.tolist())
    assert len(text) == 250 and (table.results_store.unpacked(text, 999) == right).all()
    cell = table.cells.Cell("gsm8k", 1, "base")
    table.results_store.ResultsStore(tmp_path).add("core", cell, {"accuracy": 0.5, "world": "w"})
    with (tmp_path / "core.jsonl").open("a") as file:
        file.write('{"problem": "gsm8k/2/base", "resu')
    kept = table.results_store.ResultsStore(tmp_path)
    assert kept.get(cell, "w")["accuracy"] == 0.5 and kept.get(cell, "another world") is None
    other = table.cells.Cell("gsm8k", 2, "base")
    assert kept.get(other, "w") is None
    kept.add("core", other, {"accuracy": 0.25, "world": "w"})
    assert set(table.results_store.ResultsStore(tmp_path).results) == {cell.key, other.key}


def test_the_likeliest_point_is_the_setting_and_forms_of_routed_take_it(table, tmp_path):
    kept = table.results_store.ResultsStore(tmp_path)
    cell = table.cells.Cell("boolq", 3, "two_stage")
    with pytest.raises(ValueError, match="no setting of 'routed'"):
        kept.setting(cell, "w")
    for number, point in enumerate(table.cells.points("routed")):
        result = {"error": "it broke"} if number == 0 else {"nll": 1.0}
        kept.add("settings", point, {**result, "world": "w"})
    assert kept.setting(cell, "w") == {"learning_rate": 1e-2, "weight": 0.5}
    assert kept.setting(table.cells.Cell("boolq", 3, "base"), "w") is None


def test_the_bootstrap_knows_the_textbook(table):
    rng = np.random.default_rng(1)
    one = (rng.random((1, 1000)) < 0.3).astype(float)
    assert table.bootstrap.resampled(one).std() == pytest.approx(np.sqrt(0.3 * 0.7 / 1000), rel=0.06)
    draws = rng.normal(size=(5, 1))
    means = table.bootstrap.resampled(draws, seed=3)
    assert means.std() == pytest.approx(draws.std() / np.sqrt(5), rel=0.05) and means.mean() == pytest.approx(
        draws.mean(), abs=0.02
    )
    both = np.repeat(draws, 1000, axis=1) + rng.normal(size=1000)  # every draw has the same problems
    expected = np.sqrt(draws.var() / 5 + (both - draws).var() / 1000)
    assert table.bootstrap.resampled(both).std() == pytest.approx(expected, rel=0.06)
    assert table.bootstrap.p_value(table.bootstrap.resampled(np.zeros((5, 100)))) == 1.0
    assert table.bootstrap.p_value(table.bootstrap.resampled(one)) < 0.001
    under_none = [table.bootstrap.p_value(table.bootstrap.resampled(rng.normal(size=(1, 200)))) for _ in range(60)]
    assert 0.3 < np.mean(under_none) < 0.7, "p values of no difference are spread evenly"


def test_no_form_is_measured_on_the_problems_that_chose_it(table):
    even, odd = np.arange(10) % 2 == 0, np.arange(10) % 2 == 1
    forms = {"routed": {1: even.astype(float), 2: np.ones(10)}, "router_only": {1: odd.astype(float), 3: np.ones(10)}}
    scores = {form: {"piqa": draws} for form, draws in forms.items()}
    ((label, found),) = table.choosing.either_form(scores).items()
    assert label == table.choosing.EITHER_FORM and list(found["piqa"]) == [1], "a draw that both forms have"
    assert not found["piqa"][1].any(), "each is right on just the half that the other is chosen for"
    taken = table.choosing.chosen(forms, lambda values: values[table.choosing.best(values)])
    assert taken[1].tolist() == even.tolist(), "the first of equals"


def hand_made(table, folder):
    """Results of one task and three draws: routed 80 %, the stack as good, the rest clearly worse; one cell failed."""
    kept, packed = table.results_store.ResultsStore(folder), table.results_store.packed
    rng, told = np.random.default_rng(2), {"world": "w", "device": "cpu", "seconds": 1.0}
    hardness = rng.random(1000)
    for draw in (1, 2, 3):
        for method, share in {"routed": 0.8, "stack_trained": 0.8, "router_only": 0.3, "fresh_lora": 0.3,
                              "best_single_trained": 0.2, "best_single": 0.1, "base": 0.0}.items():  # fmt: skip
            right = (hardness < share).astype(int)
            if method == "stack_trained":
                for value in (0, 1):  # other mistakes, as many
                    right[rng.choice(np.flatnonzero(right != value), 20, replace=False)] = value
            kept.add("core", table.cells.Cell("piqa", draw, method), {
                **told, "accuracy": float(right.mean()), "problems": 1000, "correct": packed(right)})  # fmt: skip
    kept.add("core", table.cells.Cell("piqa", 1, "xlora"), {**told, "error": "KeyError: 'xlora'"})
    for n in (50, 100):
        cell = table.cells.Cell("piqa", 1, "routed", (("instructions.max_rows", n),))
        right = packed(hardness < n / 400)
        kept.add("rows", cell, {**told, "accuracy": n / 400, "problems": 1000, "correct": right})


def test_the_page_says_what_was_measured(table, page, tmp_path):
    hand_made(table, tmp_path / "results")
    text = page()
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
    lines = table_rows(text)
    named = lambda label: [line for line in lines if line[0] == label]  # noqa: E731
    assert "Pairs of task and draw with a measurement: 3 of 30." in text
    accuracy, against_published, against_routed = named("fresh_lora")[:3]
    assert accuracy[1] == "not run" and accuracy[6].startswith("3") and accuracy[6].endswith("(3)")
    assert accuracy[-1] == "cpu" and "≈" not in accuracy[6] and named("stack_trained")[0][6].endswith("≈")
    assert against_published[6].startswith("+4") and "p < 0.001" in against_published[6]
    assert against_published[-1] == "1 / 0" and against_routed[-1] == "1 / 0"
    assert "n.s. (p = " in named("stack_trained")[2][6] and named("stack_trained")[2][-1] == "0 / 0"
    assert named("what `build` publishes")[0][6].startswith(named("stack_trained")[0][6][:4]), "as good, and cheaper"
    assert named("xlora")[0][6] == "not run" and "- 1 cells: KeyError: 'xlora'" in text
    assert (tmp_path / "rows.svg").read_text().startswith("<?xml") and "(rows.svg)" in text
    assert "experts.svg" not in text


def test_the_page_has_a_place_for_the_tables(table):
    text = (FOLDER / "README.md").read_text()
    assert text.count(table.tables.BEGIN) == text.count(table.tables.END) == 1


@pytest.mark.parametrize(("folder", "longest"), [("", 1500), ("real", 3000)])
def test_committed_results_belong_to_the_tables_and_stay_small(table, folder, longest):
    names = [name for name in table.cells.TABLES if (name == "real") >= (folder == "real")]
    known = {cell.key for name in names for cell in table.cells.cells_of(name)}
    known |= {point.key for each in table.cells.GRIDS for point in table.cells.points(each)}
    store = table.results_store.ResultsStore(table.results_store.RESULTS / folder)
    assert store.results
    for key, result in store.results.items():
        assert key in known and {"device", "seconds", "world"} <= set(result)
        assert len(str(result)) < longest
