"""A file on the Hub that is read in parts, at one commit, as if it lay here."""

from __future__ import annotations

from collections import OrderedDict
from io import SEEK_CUR, SEEK_END, SEEK_SET
from typing import TYPE_CHECKING

from rocket_hub.discovery.access.files import is_plain_path, read_part
from rocket_hub.errors import HubError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FIRST = 128 * 2**10
"""Bytes that are asked for at least; a shorter request costs the Hub as much."""
AHEAD = 4 * 2**20
"""Bytes that are asked for at least where a file is read from one end to the other."""

LARGEST = 256 * 2**20
"""Bytes that are asked for at most."""

_KEPT = 4


class RangeFile:
    """A binary file object over Range requests, without a copy on disk.

    A part of a file cannot be checked against the file's hash; what is read here is trusted no further than its parser
    trusts anything. The last few parts are kept, because Parquet readers look twice.

    Attributes:
        size: Bytes of the whole file.
        fetched: Bytes that were asked for so far.
        closed: False; there is nothing to close.
    """

    closed = False

    def __init__(self, api: HfApi, repo_id: str, revision: str, path: str) -> None:
        """Read the start of a file; a small file is read whole, and checked.

        Raises:
            HubError: The path is no plain relative one, or the Hub did not give the bytes or their number.
        """
        if not is_plain_path(path):
            raise HubError(f"{repo_id}: {path[:200]}: not a plain relative path; leave the repository out")
        self._source = (api, repo_id, revision, path)
        self._position, self._ahead = 0, FIRST
        self._parts: OrderedDict[int, bytes] = OrderedDict()
        self._first, self.size = read_part(api, repo_id, revision, path, length=FIRST, kind="dataset")
        self.fetched = len(self._first)
        if self.size < len(self._first):
            raise HubError(f"{self._where}: the Hub does not say how large it is; try again later")

    def read(self, count: int = -1) -> bytes:
        """Read from the present position.

        Args:
            count: At most this many bytes; -1 = to the end.

        Returns:
            The bytes; fewer only at the end of the file.

        Raises:
            HubError: More than `LARGEST` bytes are wanted at once, or the Hub did not give them.
        """
        left = max(0, self.size - self._position)
        count = left if count < 0 else min(count, left)
        if count > LARGEST:
            raise HubError(
                f"{self._where}: {count:,} bytes wanted at once, more than the {LARGEST:,} that are read here"
            )
        data = self._kept(count) if count else b""
        if data is None:
            data = self._fetch(count)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move the position, and return it."""
        start = {SEEK_SET: 0, SEEK_CUR: self._position, SEEK_END: self.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def close(self) -> None:
        """Forget what is kept."""
        self._parts.clear()

    @property
    def _where(self) -> str:
        return f"{self._source[1]}: {self._source[3]}"

    def _kept(self, count: int) -> bytes | None:
        """Return bytes at the position out of a part that is kept; None if none has them all."""
        for start, part in ((0, self._first), *self._parts.items()):
            begin = self._position - start
            if begin >= 0 and begin + count <= len(part):
                return part[begin : begin + count]
        return None

    def _fetch(self, count: int) -> bytes:
        """Ask the Hub for bytes at the position, and keep them."""
        api, repo_id, revision, path = self._source
        on = self._position in (len(self._first), *(start + len(part) for start, part in self._parts.items()))
        self._ahead = min(2 * self._ahead, AHEAD) if on else FIRST
        wanted = min(max(count, self._ahead), self.size - self._position)
        data, _ = read_part(api, repo_id, revision, path, start=self._position, length=wanted, kind="dataset")
        if len(data) != wanted:
            raise HubError(f"{self._where}: ends after {self._position + len(data):,} of {self.size:,} bytes; damaged")
        self.fetched += len(data)
        if wanted <= 2 * AHEAD:
            self._parts[self._position] = data
        if len(self._parts) > _KEPT:
            self._parts.popitem(last=False)
        return data[:count]
