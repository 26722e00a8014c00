from __future__ import annotations

import logging
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, cast
from urllib.parse import parse_qs

from rocket_hub.errors import StorageError
from rocket_hub.localhub.importing import announce, import_folder, import_tree, read_manifest, withdraw
from rocket_hub.localhub.messages import Body, FileSlice, Request, Response, Site, User, refusal_response
from rocket_hub.localhub.routes import answer
from rocket_hub.localhub.store import EPOCH, RefusedError, Store

UNLIMITED = 10**6
"""The quota that is told when there is none; the headers are always sent, as on the Hub."""
KINDS = ("status", "reset", "lost_reply", "truncate", "delay", "corrupt", "etag", "size", "ignore_range", "no_commit")
CORRUPTED = 64
"""Bytes at the start of every piece of a body that `corrupt` flips."""


class Quota:
    """Counts requests: `limit` a window of `window` seconds; None = no limit."""

    def __init__(self, limit: int | None, window: int) -> None:
        self.limit, self.window = limit, window
        self._lock = threading.Lock()
        self._used: dict[tuple[str, str], tuple[float, int]] = {}

    def spend(self, who: str, path: str) -> tuple[dict[str, str], RefusedError | None]:
        """Count one request to a path, of a token or of nobody; files are counted apart from the API.

        Returns:
            The headers of the answer, and the refusal (429) if the quota is spent.
        """
        kind = "resolvers" if "/resolve/" in path else "api"
        moment = time.monotonic()
        with self._lock:
            start, used = self._used.get((who, kind), (moment, 0))
            if moment - start >= self.window:
                start, used = moment, 0
            self._used[who, kind] = (start, used + 1)
        limit = self.limit if self.limit is not None else UNLIMITED
        left, wait = max(0, limit - used - 1), max(0, int(start + self.window - moment))
        headers = {
            "RateLimit": f'"{kind}";r={left};t={wait}',
            "RateLimit-Policy": f'"fixed window";"{kind}";q={limit};w={self.window}',
        }
        spent = self.limit is not None and used >= self.limit
        return headers, RefusedError(429, "Too many requests") if spent else None


@dataclass
class Fault:
    """One scripted failure."""

    match: str  # A regular expression, searched in `METHOD /path?query`
    kind: str  # one of `KINDS`
    times: int = 1  # how often it still happens; -1 means for ever
    status: int = 503  # the status of a `status` fault
    headers: Mapping[str, str] = field(default_factory=dict)  # its headers
    body: bytes = b'{"error": "injected"}'  # its body
    after: int = 0  # bytes of the body before a `reset` or `truncate`
    seconds: float = 0.0  # how long a `delay` lasts

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of fault {self.kind!r}; known: {', '.join(KINDS)}")


def spoil_headers(fault: Fault | None, headers: MutableMapping[str, str]) -> None:
    """Change the headers of an answer as the fault says."""
    kind = fault.kind if fault else None
    if kind == "etag":
        headers["ETag"] = f'"{"0" * 40}"'
    elif kind == "size":
        headers["X-Linked-Size"] = str(int(headers["Content-Length"]) + 7)
    elif kind == "no_commit":
        headers.pop("X-Repo-Commit", None)


def spoil_piece(fault: Fault | None, piece: bytes) -> bytes:
    """Change a piece of a body as the fault says."""
    if fault is None or fault.kind != "corrupt":
        return piece
    return bytes(byte ^ 0xFF for byte in piece[:CORRUPTED]) + piece[CORRUPTED:]


def reset(connection: socket.socket) -> None:
    """Close a connection with a TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


HOST = "127.0.0.1"
DEFAULT_TOKEN = "hf_local"
DEFAULT_USER = User("local")
LONGEST_LOG = 20_000
"""Requests; then the older half is dropped."""
PIECE = 2**18
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class Record:
    """One request in the hub's log."""

    method: str  # `GET`, `HEAD`, ...
    path: str  # the path as sent, with the query
    status: int  # the status of the answer; 0 if the connection was reset instead
    auth: bool  # whether it carried a token
    range: str | None  # its `Range` header
    fault: str | None  # the kind of fault that hit it


class Handler(BaseHTTPRequestHandler):
    """Speaks HTTP/1.1 with one client; `LocalHub` makes one per connection."""

    hub: LocalHub
    protocol_version = "HTTP/1.1"
    server_version = "rocket-hub"
    disable_nagle_algorithm = True
    wbufsize = 2**16
    timeout = 600

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing to the terminal; the hub keeps its own log."""

    def _handle(self) -> None:
        path, _, query = self.path.partition("?")
        headers = cast("Any", self.headers)
        body = Body(cast("Any", self.rfile), headers)
        fault = self.hub.take_fault(f"{self.command} {self.path}")
        limits, spent = self.hub.quota.spend(self.headers.get("Authorization", ""), path)
        if fault and fault.kind == "ignore_range":
            del self.headers["Range"]
        request = Request(self.hub.site, self.command, path, parse_qs(query, keep_blank_values=True), headers, body)
        try:
            if fault and fault.kind == "delay":
                time.sleep(fault.seconds)
            if fault and fault.kind == "reset" and not fault.after:
                self._reset(fault)
                return
            response = self._response(request, fault, spent)
            if not body.drain():
                self.close_connection = True
            if fault and fault.kind == "lost_reply":
                self._reset(fault)
            else:
                self._send(response, limits, fault)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815

    def _response(self, request: Request, fault: Fault | None, spent: RefusedError | None) -> Response:
        """Return the answer, or the failure that stands for it."""
        try:
            if spent:
                raise spent
            if fault and fault.kind == "status":
                return Response(fault.status, fault.body, fault.headers)
            host = self.headers.get("Host", "")
            if host.rpartition(":")[0] not in LOOPBACK and host not in LOOPBACK:
                # A web page whose name was pointed at this machine must not talk to the hub in the user's browser.
                raise RefusedError(421, "this hub answers on loopback only")
            return answer(request)
        except RefusedError as refusal:
            return refusal_response(refusal)

    def _send(self, response: Response, limits: dict[str, str], fault: Fault | None) -> None:
        """Write an answer, whole or as far as the fault lets it."""
        headers = {
            "Content-Type": response.content_type,
            "Content-Length": str(response.length),
            **limits,
            **response.headers,
            **({"Connection": "close"} if self.close_connection else {}),
        }
        spoil_headers(fault, headers)
        self._log(response.status, fault)
        self.send_response(response.status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        cut = fault if fault and fault.kind in ("reset", "truncate") else None
        if self.command != "HEAD" and response.status not in (204, 304):
            self._write(response, fault, cut.after if cut else response.length)
        self.wfile.flush()
        if cut:
            self.close_connection = True
            if cut.kind == "reset":
                reset(self.connection)

    def _write(self, response: Response, fault: Fault | None, left: int) -> None:
        for piece in _pieces(response):
            self.wfile.write(spoil_piece(fault, piece)[:left])
            left -= len(piece)
            if left <= 0:
                return

    def _reset(self, fault: Fault) -> None:
        self._log(0, fault)
        self.close_connection = True
        reset(self.connection)

    def _log(self, status: int, fault: Fault | None) -> None:
        """Note the request; before the answer goes out, so that who has the answer finds the note."""
        part, auth = self.headers.get("Range"), bool(self.headers.get("Authorization"))
        self.hub.note(Record(self.command, self.path, status, auth, part, fault.kind if fault else None))


def _pieces(response: Response) -> Iterator[bytes]:
    if not isinstance(response.content, FileSlice):
        yield response.content
        return
    left = response.content.length
    with response.content.path.open("rb") as file:
        file.seek(response.content.start)
        while left > 0 and (piece := file.read(min(PIECE, left))):
            left -= len(piece)
            yield piece


class _Server(ThreadingHTTPServer):
    """The socket and its connections."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[Handler]) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember a connection, and answer it in a thread."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection."""
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Take no new connections and end the open ones: a stopped hub must not go on answering a kept-alive client."""
        super().server_close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong while answering."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            logging.getLogger(__name__).exception("a request from %s failed", client_address)


class LocalHub:
    """A Hugging Face Hub in a folder, on 127.0.0.1 only.

    Use it as a context manager, or call `start` and `stop`; `serve_forever` stays in the foreground. Clients need
    `HF_ENDPOINT=<url>`, `HF_TOKEN=hf_local` and `HF_HUB_DISABLE_XET=1`, set before they import a Hub library.

    Attributes:
        store: The folder's blobs and repositories.
        url: The address.
        faults: Failures to inject; append to it.
        log: The requests so far, oldest first.
        quota: The rate limit.
    """

    def __init__(
        self,
        store: Path,
        port: int = 0,
        *,
        tokens: Mapping[str, User] | None = None,
        page: int = 100,
        quota: tuple[int, int] | None = None,
    ) -> None:
        """Open a store, or make one, and take an address; nothing is answered before `start`.

        Args:
            store: The folder.
            port: The port; 0 takes a free one.
            tokens: Who each token belongs to. Default: `hf_local` is the user `local`, who may write to `local/*`.
            page: The length of a page of a list.
            quota: Requests per window and the window's seconds, for files and for the API each; None for no limit.

        Raises:
            StorageError: If the folder cannot be written.
            OSError: If the port is taken.
        """
        try:
            self.store = Store(Path(store))
        except OSError as error:
            raise StorageError(f"the local hub cannot use the folder {store}: {error}") from error
        self._users = dict(tokens) if tokens is not None else {DEFAULT_TOKEN: DEFAULT_USER}
        self._admit()
        self.faults: list[Fault] = []
        self.log: list[Record] = []
        self.quota = Quota(*(quota or (None, 300)))
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._server = _Server((HOST, port), type("BoundHandler", (Handler,), {"hub": self}))
        self.url = f"http://{HOST}:{self._server.server_address[1]}"
        self.site = Site(self.store, self._users, self.url, page)

    def start(self) -> LocalHub:
        """Answer requests in a daemon thread."""
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        announce(self.store, self.url, lasting=False)
        return self

    def stop(self) -> None:
        """Stop answering and free the port; the store stays."""
        withdraw(self.store, self.url)
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()

    def serve_forever(self) -> None:
        """Answer requests in this thread until it is interrupted; other processes may use this server meanwhile."""
        try:
            announce(self.store, self.url, lasting=True)
            self._server.serve_forever()
        finally:
            withdraw(self.store, self.url)
            self._server.server_close()

    def __enter__(self) -> LocalHub:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def import_folder(self, kind: str, repo_id: str, folder: Path, *, date: str = EPOCH, **settings: Any) -> str:
        """Make the files of a folder the content of a repository; see `importing.import_folder`."""
        return import_folder(self.store, kind, repo_id, Path(folder), date=date, settings=settings)

    def import_tree(self, folder: Path) -> dict[str, str]:
        """Import a folder of repositories; see `importing.import_tree`."""
        commits = import_tree(self.store, Path(folder))
        self._admit()
        return commits

    def _admit(self) -> None:
        """Let the token of the store's manifest in."""
        if token := (read_manifest(self.store) or {}).get("token"):
            self._users.setdefault(token, DEFAULT_USER)

    def take_fault(self, line: str) -> Fault | None:
        """Return the first fault that hits the request `METHOD /path?query`, and count it down."""
        with self._lock:
            for fault in self.faults:
                if fault.times != 0 and re.search(fault.match, line):
                    fault.times -= 1
                    return fault
        return None

    def note(self, record: Record) -> None:
        """Add a request to the log."""
        with self._lock:
            self.log.append(record)
            if len(self.log) > LONGEST_LOG:
                del self.log[: LONGEST_LOG // 2]
