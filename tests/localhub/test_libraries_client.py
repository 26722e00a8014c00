"""What stock datasets, transformers and peft can do with the hub; the client runs once, in its own process."""

import pytest

from rocket_hub.localhub import LocalHub
from tests.helping import lines, put, table

from .conftest import LOCAL, check, name_of, run_client

ROWS = [{"question": f"{n} + 1", "answer": str(n + 1)} for n in range(5)]


@pytest.fixture(scope="module")
def results(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("libraries-client")
    with LocalHub(folder / "store") as hub:
        hub.import_folder("model", "acme/tiny", tiny_model)
        put(hub, "dataset", "acme/questions", {"train.jsonl": lines(ROWS)}, "license: mit\n")
        yield run_client("libraries_client.py", folder / "home", str(folder / "lora"), HF_ENDPOINT=hub.url, **LOCAL)


@pytest.mark.parametrize("row", table("localhub/clients/libraries_client.jsonl"), ids=name_of)
def test_what_the_client_found(results, row):
    check(results, row)
