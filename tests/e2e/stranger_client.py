"""A client of the plain API, as somebody writes one who has read its description and no more.

Only the standard library: `TASKS_URL=... TASKS_TOKEN=... python stranger_client.py math.gcd 20 8`
"""

import json
import os
import sys
import urllib.error
import urllib.request


class Failed(Exception):
    """The task ended without an answer."""


class Refused(Exception):
    """The server said no."""

    def __init__(self, status: int, reply: dict) -> None:  # type: ignore[type-arg]
        super().__init__(f"{status}: {reply}")
        self.status = status
        self.reply = reply


class PlainClient:
    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.token = token

    def ask(self, method: str, path: str, body: object = None) -> dict:  # type: ignore[type-arg]
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=90) as reply:
                return json.loads(reply.read())  # type: ignore[no-any-return]
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(error.code, json.loads(error.read())) from None

    def submit(self, function: str, *args: object, **fields: object) -> str:
        """Submit a task, give its id; `fields`: kwargs, package, version, module."""
        reply = self.ask(
            "POST", "/user/submit_task", {"function": function, "args": list(args), **fields}
        )
        assert reply["sucsess"] is True
        return str(reply["id"])

    def answer(self, task: str, wait: float = 30) -> object:
        """Wait for a task's answer."""
        reply = self.ask("GET", f"/user/request_answer/{task}?wait={wait}")
        if reply["sucsess"]:
            return reply["answer"]
        if "error" in reply:
            raise Failed(f"{reply['error']['type']}: {reply['error']['message']}")
        raise TimeoutError(reply["reason"])

    def call(self, function: str, *args: object, **fields: object) -> object:
        return self.answer(self.submit(function, *args, **fields))

    def seconds_left(self) -> float:
        return float(self.ask("GET", "/user/estimate_time_left")["time"])


if __name__ == "__main__":
    client = PlainClient(os.environ["TASKS_URL"], os.environ.get("TASKS_TOKEN"))
    arguments = [json.loads(text) for text in sys.argv[2:]]
    sys.stdout.write(json.dumps(client.call(sys.argv[1], *arguments)) + "\n")
