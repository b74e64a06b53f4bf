"""Something that speaks S3, as a process of its own: `python -m tests.store.s3_server`."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from msgspec import Struct

BUCKET = "payloads"
SECONDS = 30.0


class S3Server(Struct, frozen=True):
    """Where it is."""

    url: str

    def environ(self, **others: str) -> dict[str, str]:
        """The variables that lead there."""
        return {
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
            **others,
        }

    def ask(self, method: str, path: str, body: bytes | None = None) -> str:
        """The body of the reply to a request without credentials, which it takes."""
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:
            return str(reply.read().decode())

    def unfinished_uploads(self) -> int:
        """How many multipart uploads were begun, and neither completed nor aborted."""
        return self.ask("GET", f"/{BUCKET}?uploads").count("<Upload>")


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server with an empty bucket; it ends with the block."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.store.s3_server"],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        server = S3Server(process.stdout.readline().strip())
        assert server.url, "moto did not start"
        server.ask("PUT", f"/{BUCKET}")
        yield server
    finally:
        process.stdin.close()
        process.wait(SECONDS)
        process.stdout.close()


def main() -> None:
    """Serve until standard input ends."""
    from moto.server import ThreadedMotoServer

    out, sys.stdout = sys.stdout, sys.stderr
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    out.write(f"http://{host}:{port}\n")
    out.flush()
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
