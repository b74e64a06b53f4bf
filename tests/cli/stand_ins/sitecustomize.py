"""Puts a small server and worker in the place of the real ones, for tests of `up` alone."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import ModuleType
from typing import Any


def serve(settings: Any) -> int:
    joined = settings.data / "joined"
    joined.unlink(missing_ok=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            rows = [{"name": joined.read_text(), "state": "live"}] if joined.exists() else []
            body = json.dumps({"workers": rows}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer((settings.host, settings.port), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    (settings.data / "server.pid").write_text(str(os.getpid()))
    url = f"http://{settings.host}:{server.server_address[1]}"
    print(f"task-server ready on {url}", flush=True)  # noqa: T201  (the promise of `serve`)
    server.serve_forever(0.02)
    tell(settings.data, "server stopped")
    return 0


def run(settings: Any) -> int:
    data = settings.data.parent
    is_told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_told.set())
    tell(data, f"worker started with {settings.slots} slots and {settings.token}")
    (data / "joined").write_text(settings.name)
    is_told.wait()
    time.sleep(0.05)
    tell(data, "worker drained")
    return 0


def create_token(url: str, *, kind: str, name: str) -> str:
    return f"{kind}-token-{os.getpid()}"


def tell(data: Any, event: str) -> None:
    with (data / "events").open("a") as events:
        events.write(event + "\n")


for name, home in {
    "serve": "task_server.server.run",
    "run": "task_server.worker.run",
    "create_token": "task_server.server.administration",
}.items():
    sys.modules[home] = ModuleType(home)
    setattr(sys.modules[home], name, globals()[name])
