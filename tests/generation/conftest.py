"""A teacher behind real HTTP that fails in every way it is told to."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rocket_hub.generation import teachers
from rocket_hub.generation.meteor import Meteor

from .meteor_world import Replies, run_meteor, say

Run = Callable[..., Meteor]


class Script:
    """What the server does, and what it saw.

    `faults` maps a prompt to the faults of its first attempts; after them it answers.
    """

    def __init__(self) -> None:
        self.faults: dict[str, list[str]] = {}
        self.answers: dict[str, str] = {}
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.tokens = 0
        self.url = ""
        self.lock = threading.Lock()

    def prompts(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.seen]


def completion(text: Any, prompt: str, reason: str = "stop", **more: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": len(prompt), "completion_tokens": len(str(text))}
    return {"choices": [{"message": {"content": text}, "finish_reason": reason}], "usage": usage, **more}


class Handler(BaseHTTPRequestHandler):
    script: Script

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        with self.script.lock:
            self.script.seen.append(body)
            self.script.headers.append(dict(self.headers))
            left = self.script.faults.get(prompt) or [""]
            fault = left.pop(0)
        text = self.script.answers.get(prompt, f"answer to {prompt}")
        if fault.isdigit():
            self.reply(int(fault), b"{}", {"Retry-After": "3"} if fault == "429" else {})
        elif fault == "hang":
            time.sleep(1.0)
        elif fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True
        elif fault == "redirect":
            self.reply(307, b"", {"Location": f"{self.script.url}/elsewhere/chat/completions"})
        else:
            odd = {
                "not json": b"<html>", "no choices": b'{"choices": []}', "list": b"[[[1]]]",
                "number": json.dumps(completion(7, prompt)).encode(), "deep": b"[" * 100_000,
            }  # fmt: skip
            found = completion("" if fault == "empty" else text, prompt, "length" if fault == "length" else "stop")
            if fault == "no usage":
                del found["usage"]
            data = odd.get(fault) or json.dumps(found).encode()
            if (fault not in odd and "usage" in found) or fault == "number":
                with self.script.lock:
                    counted = json.loads(data)["usage"]
                    self.script.tokens += counted["prompt_tokens"] + counted["completion_tokens"]
            self.reply(200, data, {})

    def reply(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def script() -> Iterator[Script]:
    """A server on loopback."""
    script = Script()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Scripted", (Handler,), {"script": script}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield script
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def run(script: Script, tiny_model: Path, tmp_path: Path) -> Run:
    """METEOR in a folder below `tmp_path`, whose teacher says what `say` does until told otherwise."""
    script.answers = Replies(say)

    def run(folder: str = ".", *more: Any, **named: Any) -> Meteor:
        return run_meteor(script.url, tiny_model, tmp_path / folder, *more, **named)

    return run


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, none of which takes time."""
    waited: list[float] = []
    monkeypatch.setattr(teachers, "sleep", lambda seconds: waited.append(seconds) if seconds else None)
    return waited
