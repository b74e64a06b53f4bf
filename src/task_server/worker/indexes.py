"""Where packages come from, as hosts and ports: the indexes, and where they say their files are."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import unquote, urlsplit, urlunsplit

from task_server.environments import uv as uv_text
from task_server.policy import Place, place_of

log = logging.getLogger(__name__)

ASK_SECONDS: Final = 15.0
PAGE_BYTES: Final = 256 << 10
"""Of an index's page, as much is looked at: one file tells where files are."""
NAME_EVERYWHERE: Final = "pip"
"""A package that nearly every index has."""
_ACCEPTED: Final = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"
_FILE: Final = re.compile(
    rb"""(?:href|"url")\s*[=:]\s*["'](https?://[^"'<>\s/]+)/[^"'<>\s]*\.(?:whl|zip|tar\.gz)\b"""
)


class Indexes:
    """The places of the indexes that uv uses with `environ`, and of the files that they list.

    `more` are always among them. Nothing is asked before it has to be known.
    """

    def __init__(
        self,
        uv: str,
        environ: Mapping[str, str],
        *,
        private: str | None = None,
        more: Iterable[Place] = (),
    ) -> None:
        self._uv = uv
        self._environ = environ
        self._private = private
        self._places = set(more)
        self._urls: list[str] | None = None
        self._names = [NAME_EVERYWHERE]
        self._asking = asyncio.Lock()

    def note(self, names: Sequence[str]) -> None:
        """Packages that are about to be fetched: their pages tell where files are."""
        self._names = [*names, NAME_EVERYWHERE]

    async def have(self, place: Place) -> bool:
        """Whether it is one of them. It may take the time to ask the indexes."""
        async with self._asking:
            if self._urls is None:
                self._urls = await asyncio.to_thread(self._of_uv)
                self._places.update(filter(None, map(place_of, self._urls)))
            while place not in self._places and self._names:
                name = self._names.pop(0)
                for url in self._urls:
                    self._places |= await asyncio.to_thread(_places_on_page, url, name)
        return place in self._places

    def _of_uv(self) -> list[str]:
        urls = [self._private] if self._private else []
        with tempfile.NamedTemporaryFile(suffix=".in") as nothing:
            command = uv_text.indexes_command(self._uv, nothing.name)
            try:
                ran = subprocess.run(
                    command, env=self._environ, capture_output=True, timeout=ASK_SECONDS, check=True
                )
            except (OSError, subprocess.SubprocessError) as error:
                log.warning("uv does not tell which indexes it uses: %s", error)
                return urls
        return [*urls, *uv_text.indexes_in(ran.stdout.decode(errors="replace"))]


def _places_on_page(index: str, name: str) -> set[Place]:
    """Where the files are that an index has of a package. Waits for the index."""
    try:
        with urllib.request.urlopen(_page(index, name), timeout=ASK_SECONDS) as page:
            content: bytes = page.read(PAGE_BYTES)
            urls = [page.url, *(found.decode(errors="replace") for found in _FILE.findall(content))]
    except (OSError, ValueError) as error:
        log.info("an index does not tell where its files are: %s", error)
        return set()
    return set(filter(None, map(place_of, urls)))


def _page(index: str, name: str) -> urllib.request.Request:
    parts = urlsplit(index)
    user, _, host = parts.netloc.rpartition("@")
    url = urlunsplit((parts.scheme, host, f"{parts.path.rstrip('/')}/{name}/", "", ""))
    headers = {"Accept": _ACCEPTED}
    if user:
        headers["Authorization"] = f"Basic {base64.b64encode(unquote(user).encode()).decode()}"
    return urllib.request.Request(url, headers=headers)
