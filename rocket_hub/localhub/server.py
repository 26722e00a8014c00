"""The hub itself: a store, an address on loopback, a life."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from rocket_hub.errors import StorageError
from rocket_hub.localhub.announcing import announce, withdraw
from rocket_hub.localhub.faults import Fault, take_fault
from rocket_hub.localhub.handler import Handler, Record
from rocket_hub.localhub.importing import import_folder, import_tree
from rocket_hub.localhub.manifest import read_manifest
from rocket_hub.localhub.messages import Site, User
from rocket_hub.localhub.quota import Quota
from rocket_hub.localhub.repository import EPOCH
from rocket_hub.localhub.store import Store

HOST = "127.0.0.1"
DEFAULT_TOKEN = "hf_local"
DEFAULT_USER = User("local")
LONGEST_LOG = 20_000


class _Server(ThreadingHTTPServer):
    """The socket and its connections; one that breaks is no news, a bug in a route is."""

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
        """Make the files of a folder the content of a repository; see `importing.import_folder`.

        Args:
            kind: `model`, `dataset` or `space`.
            repo_id: `namespace/name`.
            folder: The files.
            date: The date of the commit.
            settings: `private`, `gated`, `downloads`, `likes`, `createdAt`, `trendingScore`, `allowed`, `unsafe_files`.

        Returns:
            The commit's hash: the same for the same files and date.
        """
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
        """Return the fault that hits the request `METHOD /path?query`, if any."""
        with self._lock:
            return take_fault(self.faults, line)

    def note(self, record: Record) -> None:
        """Add a request to the log; the older half is dropped when it grows too long."""
        with self._lock:
            self.log.append(record)
            if len(self.log) > LONGEST_LOG:
                del self.log[: LONGEST_LOG // 2]
