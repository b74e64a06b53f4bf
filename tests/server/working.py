"""A worker that speaks `/v1` to the application: joins, exchanges, answers as it is told."""

from __future__ import annotations

from typing import Any

from tests.server.asgi import App

FACTS = {"name": "w", "protocol": [1, 1], "slots": 2, "pythons": ["3.11"]}


class Worker:
    """One session."""

    def __init__(self, app: App, joined: dict[str, Any]) -> None:
        self._app = app
        self.id: str = joined["worker"]
        self.session: str = joined["session"]
        self.number = 0

    async def exchange(self, **fields: Any) -> dict[str, Any]:
        """One exchange; `number` and `seen` count on by themselves."""
        self.number += 1
        body = {"session": self.session, "number": self.number, "seen": self.number - 1, **fields}
        reply = await self._app.ask("POST", f"/v1/workers/{self.id}/exchange", body, token="worker")
        assert reply.status == 200, reply.body
        told: dict[str, Any] = reply.json
        return told

    async def take(self, want: int) -> list[dict[str, Any]]:
        """Lease tasks, however many exchanges that needs."""
        tasks: list[dict[str, Any]] = []
        while len(tasks) < want:
            more = (await self.exchange(want=want - len(tasks)))["tasks"]
            if not more:
                break
            tasks += more
        return tasks

    async def succeed(self, *tasks: dict[str, Any], seconds: float = 0.001) -> None:
        """Answer each task with its first argument."""
        reports = [
            {
                "lease": task["lease"],
                "outcome": "succeeded",
                "encoding": "json",
                "answer": task["args"][0],
                "usage": {"run_seconds": seconds},
            }
            for task in tasks
        ]
        told = await self.exchange(reports=reports)
        assert [each["status"] for each in told["decisions"]] == [200] * len(tasks)


async def joined(app: App, **facts: Any) -> Worker:
    """A worker that has just joined."""
    reply = await app.ask("POST", "/v1/workers", {**FACTS, **facts}, token="worker")
    assert reply.status == 200, reply.body
    return Worker(app, reply.json)
