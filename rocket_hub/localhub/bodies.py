"""The body of a request, read as late as possible and never without a bound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import BinaryIO

from rocket_hub.localhub.refusal import RefusedError

PIECE = 2**20
LARGEST_DRAIN = 64 * 2**20
"""Unread bytes that are worth reading away to keep a connection; beyond, it is closed."""


class Body:
    """A body on the wire: sized or chunked.

    A route that refuses early leaves its body unread, and on a kept-alive connection the rest would be taken for the
    next request; so whoever answers calls `drain()` first.

    Attributes:
        length: The declared bytes, None for a chunked body.
    """

    def __init__(self, stream: BinaryIO, headers: Mapping[str, str]) -> None:
        self.length: int | None = None
        self._read = False
        if "chunked" in (headers.get("Transfer-Encoding") or "").lower():
            self._pieces = _chunked(stream)
            return
        declared = (headers.get("Content-Length") or "0").strip()
        # No number: nothing tells where the next request would start, so nothing is read and the connection closes.
        self.length = int(declared) if declared.isascii() and declared.isdigit() and len(declared) < 16 else -1
        self._pieces = _sized(stream, max(self.length, 0))

    def pieces(self, limit: int) -> Iterator[bytes]:
        """Yield the body piece by piece.

        Args:
            limit: The most bytes to accept.

        Raises:
            RefusedError: If the body is larger, or its framing is broken.
            ConnectionError: If the client goes away in the middle.
        """
        if self.length == -1:
            raise RefusedError(400, "Content-Length is not a number")
        if (self.length or 0) > limit:
            raise RefusedError(413, f"a body of {self.length} bytes is over this hub's limit of {limit}")
        seen = 0
        for piece in self._pieces:
            seen += len(piece)
            if seen > limit:
                raise RefusedError(413, f"the body is over this hub's limit of {limit} bytes")
            yield piece
        self._read = True

    def read(self, limit: int) -> bytes:
        """Return the whole body; raises as `pieces` does."""
        return b"".join(self.pieces(limit))

    def drain(self) -> bool:
        """Read what is left of the body.

        Returns:
            Whether the connection can be kept.
        """
        if self._read:
            return True
        if not 0 <= (self.length or 0) <= LARGEST_DRAIN:
            return False
        seen = 0
        try:
            for piece in self._pieces:
                seen += len(piece)
                if seen > LARGEST_DRAIN:
                    return False
        except (RefusedError, ConnectionError):
            return False
        return True


def _sized(stream: BinaryIO, left: int) -> Iterator[bytes]:
    """Yield a body of known length."""
    while left:
        piece = stream.read(min(PIECE, left))
        if not piece:
            raise ConnectionResetError("the client went away in the middle of its body")
        left -= len(piece)
        yield piece


def _chunked(stream: BinaryIO) -> Iterator[bytes]:
    """Yield a chunked body (RFC 9112, section 7.1)."""
    while True:
        line = stream.readline(1024)
        try:
            size = int(line.split(b";")[0], 16)
        except ValueError:
            raise RefusedError(400, "the chunked body is broken") from None
        if size < 0:
            raise RefusedError(400, "the chunked body is broken")
        if size == 0:
            break
        yield from _sized(stream, size)
        stream.readline(8)
    while stream.readline(1024).strip():  # trailers
        pass
