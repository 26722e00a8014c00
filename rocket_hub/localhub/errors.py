from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rocket_hub.errors import HubError


class RefusedError(HubError):
    """A request that this hub turns down.

    Attributes:
        status: The HTTP status.
        code: The Hub's own word for it (`RepoNotFound`, `GatedRepo`, ...), sent as `X-Error-Code`.
        body: The JSON body; `{"error": message}` unless something else is given.
        headers: Further headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code = status, code
        self.body = body if body is not None else {"error": message}
        self.headers = dict(headers or {})
