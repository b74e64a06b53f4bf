"""A client of the plain API: HTTP and JSON, nothing of task-server's."""

from __future__ import annotations

import json
import urllib.request
from typing import Any


class PlainClient:
    """Requests to one server."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def get(self, path: str) -> dict[str, Any]:
        """The reply to GET."""
        return self._reply(urllib.request.Request(self._url + path, headers=self._headers))

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The reply to POST."""
        data = json.dumps(body).encode()
        return self._reply(urllib.request.Request(self._url + path, data, self._headers))

    def _reply(self, request: urllib.request.Request) -> dict[str, Any]:
        with urllib.request.urlopen(request, timeout=90) as reply:
            return json.load(reply)
