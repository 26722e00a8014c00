"""The K-shot's reader and the Hub's reader are given the same rows, and make the same of them."""

import json

import pytest

from rocket_hub.discovery import discover_datasets, load_instructions
from rocket_hub.errors import KShotError
from rocket_hub.options import DiscoverOptions
from rocket_hub.rows.kshot import load_kshot
from tests.helping import put, table

TABLE = table("rows/sixty_rows.jsonl")
PARTS = ("system", "history", "context", "question", "answer", "rationale", "options", "tests")


@pytest.fixture(scope="module")
def of_the_hub(tmp_path_factory):
    """What discovery's reader makes of each row, as a data set of its own: (prompt, completion) or None."""
    from huggingface_hub import HfApi

    from rocket_hub.localhub import LocalHub

    found = []
    with LocalHub(tmp_path_factory.mktemp("hub") / "store") as hub:
        api = HfApi(endpoint=hub.url, token="hf_local")
        for number, case in enumerate(TABLE):
            put(hub, "dataset", f"rows/n{number}", {"train.jsonl": json.dumps(case["row"])})
        names = tuple(f"rows/n{number}" for number in range(len(TABLE)))
        options = DiscoverOptions(datasets=names, max_datasets=len(names))
        selected = {item.repo_id: item for item in discover_datasets(api, options=options, task=None).selected}
        for name in names:
            rows = load_instructions(api, selected[name], max_rows=9) if name in selected else []
            found.append((rows[0].prompt, rows[0].completion) if rows else None)
    return found


def data_form(case):
    """Write the parts of a row as data does: an empty line between them, options by their letters."""
    lettered = [f"{letter}. {text}" for letter, text in zip("ABCDE", case.get("options", ()), strict=False)]
    asked = "\n".join([case["question"], *lettered, *case.get("tests", ())])
    around = [asked, case.get("context")] if case.get("after") else [case.get("context"), asked]
    prompt = "\n\n".join(text for text in (case.get("system"), case.get("history"), *around) if text)
    answer = lettered[case["options"].index(case["answer"])] if lettered else case["answer"]
    return prompt, "\n".join(text for text in (case.get("rationale"), answer) if text)


def kshot_form(case):
    """Write the parts of a row as a K-shot does: no empty line, a question below its context said to be one."""
    mark = "?" if case.get("boolean") else ""
    asked = f"Question: {case['question']}{mark}" if case.get("context") and not case.get("after") else case["question"]
    around = [asked, case.get("context")] if case.get("after") else [case.get("context"), asked]
    options = case.get("options") or (["no", "yes"] if case.get("boolean") else [])
    right = case["options"].index(case["answer"]) if case.get("options") else 0
    return (
        "\n".join(text for text in (case.get("system"), case.get("history"), *around) if text),
        "ABCDE"[right] if case.get("options") else case["answer"],
        case.get("rationale", ""),
        tuple(options),
        tuple(case.get("tests", ())),
    )


@pytest.mark.parametrize("number", range(len(TABLE)))
def test_both_readers_make_the_same_of_a_row(number, of_the_hub, tmp_path):
    case = TABLE[number]
    path = tmp_path / "k.jsonl"
    path.write_text(json.dumps(case["row"]))
    if "question" not in case:
        assert of_the_hub[number] is None
        with pytest.raises(KShotError, match=r"k\.jsonl:1: "):
            load_kshot(path)
        return
    assert of_the_hub[number] == data_form(case)
    (shot,) = load_kshot(path)
    assert (shot.prompt, shot.answer, shot.rationale, shot.choices, shot.tests) == kshot_form(case)


def test_the_table_holds_what_is_told():
    assert len(TABLE) >= 60
    assert all(any(part in case for case in TABLE) for part in PARTS)
