"""One connection: reads requests, applies faults and the quota, writes answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs

from rocket_hub.localhub.bodies import Body
from rocket_hub.localhub.faults import Fault, reset, spoil_headers, spoil_piece
from rocket_hub.localhub.messages import FileSlice, Request, Response, refusal_response
from rocket_hub.localhub.refusal import RefusedError
from rocket_hub.localhub.routes import answer

if TYPE_CHECKING:
    from rocket_hub.localhub.server import LocalHub

PIECE = 2**18
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class Record:
    """One request in the hub's log.

    Attributes:
        method: `GET`, `HEAD`, ...
        path: The path as sent, with the query.
        status: The status of the answer; 0 if the connection was reset instead.
        auth: Whether it carried a token.
        range: Its `Range` header.
        fault: The kind of fault that hit it.
    """

    method: str
    path: str
    status: int
    auth: bool
    range: str | None
    fault: str | None


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
        """Answer one request."""
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
        """Write the first `left` bytes of a body."""
        for piece in _pieces(response):
            self.wfile.write(spoil_piece(fault, piece)[:left])
            left -= len(piece)
            if left <= 0:
                return

    def _reset(self, fault: Fault) -> None:
        """End the connection without an answer."""
        self._log(0, fault)
        self.close_connection = True
        reset(self.connection)

    def _log(self, status: int, fault: Fault | None) -> None:
        """Note the request; before the answer goes out, so that who has the answer finds the note."""
        part, auth = self.headers.get("Range"), bool(self.headers.get("Authorization"))
        self.hub.note(Record(self.command, self.path, status, auth, part, fault.kind if fault else None))


def _pieces(response: Response) -> Iterator[bytes]:
    """Yield a body piece by piece."""
    if not isinstance(response.content, FileSlice):
        yield response.content
        return
    left = response.content.length
    with response.content.path.open("rb") as file:
        file.seek(response.content.start)
        while left > 0 and (piece := file.read(min(PIECE, left))):
            left -= len(piece)
            yield piece
