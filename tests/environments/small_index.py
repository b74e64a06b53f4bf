"""A package index of a few wheels on a loopback port, which can be told to misbehave."""

import base64
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread


class SmallIndex:
    """Serves the wheels added to it. `status` other than 200 answers every request so."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.times: dict[str, str] = {}
        """File to the time of its upload (RFC 3339): told as PEP 700 has it, if there are any."""
        self.status = 200
        self.may_answer = Event()
        self.may_answer.set()
        self.requests = 0
        self.url = ""

    def add(self, name: str, version: str, sources: Mapping[str, str], tag: str = "any") -> None:
        """Offer a wheel with `sources` (path in the wheel to text)."""
        self.files[f"{name}-{version}-py3-none-{tag}.whl"] = wheel(name, version, sources)

    def add_source_only(self, name: str, version: str) -> None:
        """Offer a source distribution and no wheel."""
        self.files[f"{name}-{version}.tar.gz"] = b"never opened"

    def environ(self, cache: Path) -> dict[str, str]:
        """What uv needs to use this index, with a cache of its own, without waiting to retry."""
        return {
            "PATH": "/usr/bin:/bin",
            "HOME": str(cache.parent),
            "UV_CACHE_DIR": str(cache),
            "UV_DEFAULT_INDEX": f"{self.url}/simple/",
            "UV_HTTP_RETRIES": "0",
        }

    def answer(self, path: str) -> bytes | None:
        """The body at `path`; None: there is nothing."""
        self.requests += 1
        _, kind, name, *_ = f"{path}//".split("/")
        if kind == "files":
            return self.files.get(name)
        listed = [file for file in self.files if file.split("-")[0].replace("_", "-") == name]
        if self.times and listed:
            return self._as_json(listed)
        links = [
            f'<a href="/files/{file}#sha256={self.sha256(file)}">{file}</a>' for file in listed
        ]
        return "<html>{}</html>".format("<br>".join(links)).encode() if links else None

    def _as_json(self, listed: list[str]) -> bytes:
        files = [
            {
                "filename": file,
                "url": f"/files/{file}",
                "hashes": {"sha256": self.sha256(file)},
                "upload-time": self.times[file],
            }
            for file in listed
        ]
        page = {"meta": {"api-version": "1.1"}, "name": listed[0].split("-")[0], "files": files}
        return json.dumps(page).encode()

    def sha256(self, file: str) -> str:
        """The hash of a file as a lock has it."""
        return hashlib.sha256(self.files[file]).hexdigest()


@contextmanager
def small_index() -> Iterator[SmallIndex]:
    """A running, empty index."""
    index = SmallIndex()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            index.may_answer.wait(20)
            body = index.answer(self.path) if index.status == 200 else b""
            self.send_response(404 if body is None else index.status)
            self.send_header("Content-Length", str(len(body or b"")))
            is_json = (body or b"").startswith(b"{")
            content_type = "application/vnd.pypi.simple.v1+json" if is_json else "text/html"
            self.send_header("Content-Type", content_type)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        index.url = f"http://127.0.0.1:{server.server_port}"
        yield index
        index.may_answer.set()
        server.shutdown()


def wheel(
    name: str,
    version: str,
    sources: Mapping[str, str],
    record: str | None = None,
    *,
    metadata: str = "",
) -> bytes:
    """The bytes of a wheel; `record` replaces the RECORD that would be true.

    `metadata` are more lines of its METADATA.
    """
    information = f"{name}-{version}.dist-info"
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files = {
        **sources,
        f"{information}/METADATA": head + metadata,
        f"{information}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [f"{path},{_digest(text)},{len(text)}" for path, text in files.items()]
    files[f"{information}/RECORD"] = record or "\n".join((*lines, f"{information}/RECORD,,", ""))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path, (2024, 1, 1, 0, 0, 0)), text)
    return packed.getvalue()


def _digest(text: str) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
    return f"sha256={digest.rstrip(b'=').decode()}"
