from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Protocol

from huggingface_hub import HfApi, InferenceClient
from huggingface_hub.errors import HfHubHTTPError, InferenceTimeoutError
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from rocket_hub.discovery.licences import named, pin_model, without_place
from rocket_hub.errors import InputError
from rocket_hub.inference import Search, generate
from rocket_hub.options import ComputeOptions
from rocket_hub.records import Pinned
from rocket_hub.runs import Batches, KeptResults, digest
from rocket_hub.tasks.task import chat_frame

TIMEOUT = 120.0
"""Seconds without a byte."""
LONGEST = 900.0
"""Seconds for one answer, however steadily it drips."""
MAX_REPLY_BYTES = 4 * 2**20
AGAIN = ("rate_limited", "server_error", "timeout", "no_answer", "unreadable")
"""Faults that another try may mend."""


@dataclass(frozen=True)
class Reply:
    """What came of one attempt.

    Attributes:
        text: The answer; empty where there is a fault.
        fault: One word: `rate_limited`, `server_error`, `timeout`, `no_answer`, `unreadable` (not what the protocol
            says), `cut_off` (longer than was allowed), `empty`, `refused` (the request is wrong); empty = none.
        wait: Seconds that the teacher asks to wait before the next attempt.
        tokens_in: Prompt tokens, as the teacher counts them.
        tokens_out: Answer tokens, as the teacher counts them.
        metered: Whether it told the tokens.
        detail: What was found, for messages; never a key.
    """

    text: str = ""
    fault: str = ""
    wait: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    metered: bool = True
    detail: str = ""


@dataclass(frozen=True)
class Decoding:
    """How answers are written."""

    max_tokens: int  # longest answer
    temperature: float = 0.0  # 0 = greedy
    seed: int = 0  # seeds sampling where the teacher can


class Teacher(Protocol):
    """Anything that answers prompts; retries, costs and the cache are `TeacherClient`'s.

    Attributes:
        name: Who it is, for the bill, the cache and the card; never a key.
        at_once: How many prompts it likes to be given together.
        apart: Optional. True: it answers each prompt by itself, and is asked from as many threads.
    """

    name: str
    at_once: int

    def answer(self, prompts: Sequence[str], how: Decoding) -> list[Reply]:
        """Make one attempt at each prompt, and never raise over what a teacher answers; one reply a prompt."""
        ...


class LocalTeacher:
    """A causal language model on this machine, asked in its chat template if it has one."""

    at_once = 32

    def __init__(self, model: Any, tokenizer: Any, name: str) -> None:
        self.name = name
        self._model, self._tokenizer, self._chat = model, tokenizer, chat_frame(tokenizer)

    def answer(self, prompts: Sequence[str], how: Decoding) -> list[Reply]:
        """Answer in one batch; see `Teacher.answer`."""
        prompts = [self._chat(prompt) for prompt in prompts] if self._chat else prompts
        search = Search(temperature=how.temperature, seed=how.seed)
        texts = generate(
            self._model, self._tokenizer, prompts, max_new_tokens=how.max_tokens, batch_size=self.at_once, search=search
        )
        return [self._reply(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]

    def _reply(self, prompt: str, text: str) -> Reply:
        used = [len(self._tokenizer(text=part, verbose=False)["input_ids"]) if part else 0 for part in (prompt, text)]
        fault = "" if text.strip() else "empty"
        return Reply(text.strip(), fault, tokens_in=used[0], tokens_out=used[1])


class EndpointTeacher:
    """Any server that speaks OpenAI's chat completions."""

    at_once, apart = 8, True

    def __init__(self, url: str, model: str, key: str = "", timeout: float = TIMEOUT) -> None:
        if not url.startswith(("https://", "http://")):
            raise InputError(f"teacher {url!r}: expected the http(s) address of an OpenAI-compatible API, up to /v1")
        self.name = f"{model} at {httpx.URL(url).host}"
        self._url, self._model = f"{url.rstrip('/')}/chat/completions", model
        # A client of its own: the Hub's would send the Hub's token along. Redirects are not followed: the key stays.
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=timeout, follow_redirects=False)

    def answer(self, prompts: Sequence[str], how: Decoding) -> list[Reply]:
        """Ask one prompt after the other; see `Teacher.answer`."""
        fixed: dict[str, Any] = {"model": self._model, **asdict(how)}
        return [self._ask(fixed | {"messages": _message(prompt)}) for prompt in prompts]

    def _ask(self, body: dict[str, Any]) -> Reply:
        data, last = bytearray(), monotonic() + LONGEST
        try:
            with self._client.stream("POST", self._url, json=body) as response:
                for piece in response.iter_bytes():
                    data += piece
                    if monotonic() > last:
                        return Reply(fault="timeout", metered=False)
                    if len(data) > MAX_REPLY_BYTES:
                        return Reply(fault="unreadable", metered=False, detail=f"more than {MAX_REPLY_BYTES:,} bytes")
        except httpx.TimeoutException:
            return Reply(fault="timeout", metered=False)
        except httpx.HTTPError as error:
            return Reply(fault="no_answer", metered=False, detail=type(error).__name__)
        if response.status_code != 200:
            return of_status(response.status_code, response.headers)
        try:
            return of_completion(json.loads(data))
        except (ValueError, RecursionError):
            return Reply(fault="unreadable", metered=False, detail="not JSON")


class InferenceTeacher:
    """A model behind Hugging Face Inference; the Hub's own sign-in pays."""

    at_once, apart = 8, True

    def __init__(self, model: str, provider: str | None = None, timeout: float = TIMEOUT) -> None:
        self.name = f"{model} at {provider or 'Hugging Face Inference'}"
        self._client = InferenceClient(model, provider=provider, timeout=timeout)  # type: ignore[arg-type]

    def answer(self, prompts: Sequence[str], how: Decoding) -> list[Reply]:
        """Ask one prompt after the other; see `Teacher.answer`."""
        return [self._ask(prompt, asdict(how)) for prompt in prompts]

    def _ask(self, prompt: str, fixed: Mapping[str, Any]) -> Reply:
        try:
            found = self._client.chat_completion(_message(prompt), **fixed)
        except InferenceTimeoutError:
            return Reply(fault="timeout", metered=False)
        except HfHubHTTPError as error:
            return of_status(error.response.status_code, error.response.headers)
        except httpx.HTTPError as error:
            return Reply(fault="no_answer", metered=False, detail=type(error).__name__)
        except (ValueError, TypeError, KeyError, AttributeError):
            return Reply(fault="unreadable", metered=False, detail="not a chat completion")
        return of_completion(found)


def _message(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def of_status(status: int, headers: Mapping[str, str]) -> Reply:
    """Say what an HTTP status other than 200 means."""
    told = headers.get("Retry-After", "").strip()
    wait = float(told) if told.isdecimal() and len(told) < 6 else 0.0
    fault = "rate_limited" if status == 429 else "server_error" if status >= 500 or status == 408 else "refused"
    return Reply(fault=fault, wait=wait, metered=False, detail=f"status {status}")


def of_completion(data: Any) -> Reply:
    """Read the first choice of a chat completion, which may hold anything."""
    counts = [_at(_at(data, "usage"), key) for key in ("prompt_tokens", "completion_tokens")]
    metered = all(type(count) is int and 0 <= count < 10**9 for count in counts)
    paid = Reply(tokens_in=counts[0], tokens_out=counts[1]) if metered else Reply(metered=False)
    choices = _at(data, "choices")
    if not isinstance(choices, list) or not choices:
        return replace(paid, fault="unreadable", detail="no choices")
    text = _at(_at(choices[0], "message"), "content")
    if _at(choices[0], "finish_reason") == "length":
        return replace(paid, fault="cut_off")
    if text is not None and not isinstance(text, str):
        return replace(paid, fault="unreadable", detail="content is no text")
    text = (text or "").strip()
    return replace(paid, text=text, fault="" if text else "empty")


def _at(data: Any, key: str) -> Any:
    return data.get(key) if isinstance(data, Mapping) else None


KEY = "ROCKET_HUB_TEACHER_KEY"
"""Environment variable with the key of a teacher at an address; it is in no recipe, and written nowhere."""


@dataclass(frozen=True)
class NamedTeacher:
    """A teacher that can be asked."""

    origin: Pinned  # the model at its commit with its licence; of one at an address nothing is known but its name
    open: Callable[[], Teacher]  # gives the teacher; a local model is loaded only then


def find_teacher(api: HfApi, text: str, compute: ComputeOptions, key_env: str | None = None) -> NamedTeacher:
    """Find the teacher that a recipe or the command line names.

    Args:
        api: The Hub.
        text: `ID` or a folder (a model on this machine), `inference:ID` (Hugging Face Inference) or
            `endpoint:URL#MODEL` (an OpenAI-compatible address, up to /v1).
        compute: Device and precision of a model on this machine.
        key_env: Environment variable that holds an address's key; none = `ROCKET_HUB_TEACHER_KEY`, where that is set.

    Raises:
        InputError: An address without a model, no address, or a variable for its key that is empty or not needed.
        HubError: There is no such model on the Hub.
    """
    if text.startswith("endpoint:"):
        url, _, model = text.removeprefix("endpoint:").rpartition("#")
        if not (url and model):
            raise InputError(
                f"teacher {text}: expected endpoint:URL#MODEL, as in endpoint:http://localhost:8000/v1#name"
            )
        if key_env and not os.environ.get(key_env):
            raise InputError(f"the key of {text}: the environment variable {key_env} is empty; put the key into it")
        teacher = EndpointTeacher(url, model, os.environ.get(key_env or KEY, ""))
        return NamedTeacher(Pinned(teacher.name, "", "teacher", "other"), lambda: teacher)
    if key_env:
        raise InputError(f"teacher {text}: only endpoint:URL#MODEL has a key ({key_env}); sign in to the Hub instead")
    name = text.removeprefix("inference:")
    origin = without_place(pin_model(api, name))
    if name != text:
        return NamedTeacher(origin, lambda: InferenceTeacher(name))
    return NamedTeacher(origin, lambda: _local(name, origin, compute))


def _local(model_id: str, origin: Pinned, compute: ComputeOptions) -> Teacher:
    """Load a model on this machine."""
    from rocket_hub.inference.models import load_base

    return LocalTeacher(*load_base(model_id, origin.revision or None, compute), name=named(origin))


TRIES = 4
LONGEST_WAIT = 60.0
"""Seconds."""


@dataclass(frozen=True)
class Budget:
    """What a teacher may cost.

    Attributes:
        calls: At most this many attempts, those that fail included; none = no limit.
        tokens: At most this many tokens, in and out; what a call will use is known only after it, so the last calls
            may go over it; none = no limit.
    """

    calls: int | None = None
    tokens: int | None = None


@dataclass
class Bill:
    """What a teacher has cost."""

    calls: int = 0  # attempts that were made
    tokens_in: int = 0  # prompt tokens, as the teacher told them
    tokens_out: int = 0  # answer tokens, as the teacher told them
    unmetered: int = 0  # attempts that told no tokens: they failed, or the teacher does not count
    cached: int = 0  # prompts that were answered from the cache, for nothing
    faults: dict[str, int] = field(default_factory=dict)  # attempts that failed, by fault

    def add(self, reply: Reply) -> None:
        """Count one attempt."""
        self.calls += 1
        self.tokens_in += reply.tokens_in
        self.tokens_out += reply.tokens_out
        self.unmetered += not reply.metered
        if reply.fault:
            self.faults[reply.fault] = self.faults.get(reply.fault, 0) + 1

    def to_plain(self) -> dict[str, Any]:
        """Return what is not zero."""
        return {name: value for name, value in asdict(self).items() if value}

    def calls_left(self, budget: Budget) -> float:
        """Return how many more calls the budget allows."""
        if budget.tokens is not None and self.tokens_in + self.tokens_out >= budget.tokens:
            return 0
        return float("inf") if budget.calls is None else max(budget.calls - self.calls, 0)


class TeacherClient:
    """Asks a teacher, retries what may pass, and keeps answers and costs.

    Args:
        teacher: Who is asked.
        folder: Where answers and costs are; those of earlier runs count.
        budget: What the teacher may cost, all runs in the folder together.

    Attributes:
        teacher: Who is asked.
        bill: What it has cost, all runs in the folder together; `cached` is this run's.

    Raises:
        StorageError: What is in the folder cannot be read.
    """

    def __init__(self, teacher: Teacher, folder: Path, budget: Budget) -> None:
        self.teacher, self.bill, self._budget = teacher, Bill(), budget
        self._answers, self._costs = KeptResults(folder / "answers.jsonl"), KeptResults(folder / "bill.jsonl")
        for attempt in self._costs.known.values():
            self.bill.add(Reply(**attempt))

    def ask(
        self, prompts: Sequence[str], how: Decoding, progress: Callable[[int, int], None] | None = None
    ) -> list[Reply]:
        """Ask, but no equal prompt twice, and none that an earlier run has an answer to.

        `progress` is called with (prompts settled, prompts in all).

        Returns:
            One reply a prompt, in their order. Where there is a fault after `TRIES` attempts, it says which;
            `over_budget` where the budget did not allow an attempt.
        """
        asked = {"teacher": self.teacher.name, **asdict(how)}
        lost: dict[str, Reply] = {}

        def compute(missing: list[str]) -> Batches[str]:
            waiting = set(missing)
            self.bill.cached += sum(prompt not in waiting for prompt in prompts)
            for prompt, reply in self._settled(missing, how, len(prompts), progress):
                if reply.fault in (*AGAIN, "over_budget"):
                    lost[prompt] = reply
                else:  # an answer, or a lasting lack of one
                    yield {prompt: asdict(reply)}

        found = self._answers.each(prompts, lambda prompt: digest({**asked, "prompt": prompt}), compute)
        return [Reply(**each) if each else lost[prompt] for prompt, each in zip(prompts, found, strict=True)]

    def _settled(
        self, prompts: list[str], how: Decoding, total: int, progress: Callable[[int, int], None] | None
    ) -> Iterator[tuple[str, Reply]]:
        """Yield each prompt with its last reply."""
        waiting, tries = prompts, Counter[str]()
        while waiting:
            batch = waiting[: int(min(self.teacher.at_once, self.bill.calls_left(self._budget)))]
            if not batch:
                yield from ((prompt, Reply(fault="over_budget")) for prompt in waiting)
                return
            waiting, pause = waiting[len(batch) :], 0.0
            for prompt, reply in _replies(self.teacher, batch, how):
                self._pay(reply)
                tries[prompt] += 1
                if reply.fault in AGAIN and tries[prompt] < TRIES:
                    waiting.append(prompt)
                    pause = max(pause, reply.wait or float(2 ** (tries[prompt] - 1)))
                else:
                    yield prompt, reply
            sleep(min(pause, LONGEST_WAIT))
            if progress:
                progress(total - len(waiting), total)

    def _pay(self, reply: Reply) -> None:
        """Keep what an attempt cost; raise where every other would be refused like it."""
        self.bill.add(reply)
        self._costs.add({str(self.bill.calls): asdict(replace(reply, text="", detail=""))})
        if reply.fault == "refused":
            name = self.teacher.name
            raise InputError(f"teacher {name}: it refuses to answer ({reply.detail}); check its key and model")


def _replies(teacher: Teacher, prompts: Sequence[str], how: Decoding) -> Iterator[tuple[str, Reply]]:
    """Yield each reply as soon as it is there, so that a kill loses none that has arrived."""
    if not getattr(teacher, "apart", False):
        yield from zip(prompts, teacher.answer(prompts, how), strict=True)
        return
    with ThreadPoolExecutor(len(prompts)) as pool:
        asked = {pool.submit(teacher.answer, [prompt], how): prompt for prompt in prompts}
        for done in as_completed(asked):
            yield asked[done], done.result()[0]
