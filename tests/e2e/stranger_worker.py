"""A worker on the plain API, as somebody writes one who has read its description and no more.

Only the standard library: `TASKS_URL=... TASKS_TOKEN=... python stranger_worker.py`
"""

import builtins
import importlib
import json
import os
import sys
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable


class PlainWorker:
    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.token = token

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, dict]:  # type: ignore[type-arg]
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=90) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def request_task(self, wait: float = 5) -> dict | None:  # type: ignore[type-arg]
        """A task with its id, or None if there is none now."""
        status, reply = self.ask("GET", f"/worker/request_task?wait={wait}")
        assert status == 200, reply
        return reply if reply["sucsess"] else None

    def submit_answer(self, task: str, **outcome: object) -> int:
        """Tell `answer=...`, or `sucsess=False, exception=...`; gives the status."""
        status, _ = self.ask("POST", "/worker/submit_answer", {"id": task, **outcome})
        return status

    def work_once(self) -> bool:
        """Run one task; False if there is none."""
        found = self.request_task()
        if found is None:
            return False
        task = found["task"]
        begun = time.monotonic()
        try:
            function = find(task["module"], task["function"])
            answer = function(*task["args"], **task["kwargs"])
            json.dumps(answer)
        except Exception as error:
            told = {
                "type": type(error).__name__,
                "message": str(error),
                "traceback": traceback.format_exc(),
            }
            self.submit_answer(found["id"], sucsess=False, exception=told)
        else:
            self.submit_answer(found["id"], answer=answer, time=time.monotonic() - begun)
        return True

    def work(self) -> None:
        while True:
            try:
                self.work_once()
            except OSError:
                time.sleep(0.2)  # the server is away


def find(module: str | None, function: str) -> Callable[..., object]:
    """The function of that name."""
    if module is None and "." in function and not hasattr(builtins, function.split(".")[0]):
        module, _, function = function.rpartition(".")
    found: object = importlib.import_module(module) if module else builtins
    for name in function.split("."):
        found = getattr(found, name)
    assert callable(found)
    return found


if __name__ == "__main__":
    sys.stderr.write("working\n")
    PlainWorker(os.environ["TASKS_URL"], os.environ.get("TASKS_TOKEN")).work()
