"""Hubs to talk to, and clients that talk in their own process: the Hub libraries read their endpoint at import."""

import http.client
import json
import os
import struct
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from tests.helping import environment, run

CLIENTS = Path(__file__).parent / "clients"


class Answer(NamedTuple):
    """What the hub said to one plain request."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def ask(
    url: str, path: str, method: str = "GET", body: Any = None, token: str | None = "hf_local", **headers: str
) -> Answer:
    """Send one request by hand; a `body` that is no bytes goes as JSON."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    if token:
        headers.setdefault("Authorization", f"Bearer {token}")
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        connection.request(method, path, data, {key.replace("_", "-"): value for key, value in headers.items()})
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def write_safetensors(file: Path, **shapes: tuple[int, ...]) -> None:
    """Write a safetensors file of zeros."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))


def write_adapter(folder: Path, *, base: str = "acme/base", extra: str = "") -> Path:
    """Write a folder that looks like a LoRA adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    card = f"base_model: {base}\nlibrary_name: peft\nlicense: mit\ntags: [lora]\n{extra}"
    (folder / "README.md").write_text(f"---\n{card}---\nSee arxiv.org/abs/2408.15915\n")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    write_safetensors(folder / "adapter_model.safetensors", a=(2, 16), b=(16, 2))
    return folder


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A folder that looks like a LoRA adapter."""
    return write_adapter(tmp_path / "adapter")


LOCAL = {"HF_TOKEN": "hf_local", "HF_HUB_DISABLE_XET": "1"}
"""What a client of a local hub needs besides HF_ENDPOINT."""


def client_environment(home: Path, **variables: str) -> dict[str, str]:
    """The environment of a client process: nothing of this machine's Hub settings, a home of its own."""
    package = str(Path(__file__).parents[2])
    own = {
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
    }
    return environment(**own) | variables


def run_client(script: str, home: Path, *arguments: str, **variables: str) -> dict[str, Any]:
    """Run a script of `clients/` in a fresh process and return the JSON object it prints last."""
    printed = run(CLIENTS / script, *arguments, env=client_environment(home, **variables))
    return json.loads(printed.splitlines()[-1])


def name_of(row: dict[str, Any]) -> str:
    return f"{row['section']}-{row['key']}"


def check(results: dict[str, Any], row: dict[str, Any]) -> None:
    """Hold a row of a table against what a client found; of an error it notes class and text."""
    found = results[row["section"]][row["key"]]
    if "equals" in row:
        assert found == row["equals"]
    elif "holds" in row:
        assert set(row["holds"]) <= set(found)
    elif "contains" in row:
        name, message = found
        assert name == row.get("class", name)
        assert all(text in message for text in row["contains"]), message
    else:
        assert found
