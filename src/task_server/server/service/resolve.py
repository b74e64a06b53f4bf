"""Locking a request by this server's settings, with the wheels of whose it is."""

from __future__ import annotations

from task_server.environments.lock import Lock
from task_server.environments.requirements import EnvironmentRequest
from task_server.environments.uploads import Uploaded
from task_server.policy import PrivateIndex, parse_patterns
from task_server.server.uv_lock import Known, Rules, lock
from task_server.settings import ServerSettings
from task_server.store.contract import Store


class Resolver:
    """Makes locks for one server."""

    def __init__(self, store: Store, settings: ServerSettings) -> None:
        self._store = store
        self._known = Known()
        self._rules = Rules(
            settings.cool_down_seconds,
            parse_patterns(settings.young_packages),
            PrivateIndex.read(settings.private_index, settings.private_packages),
            settings.policy,
        )

    async def resolve(self, request: EnvironmentRequest) -> Lock:
        """The lock of a request. Raises LockFailed."""
        uploads = await self._uploads(request)
        return await lock(request, uploads=uploads, rules=self._rules, known=self._known)

    async def _uploads(self, request: EnvironmentRequest) -> list[Uploaded]:
        owner = request.uploads.partition(" ")[0]
        if not owner:
            return []
        return [
            Uploaded(
                each.name,
                each.filename,
                each.digest.removeprefix("sha256:"),
                each.requires_python,
                each.metadata,
            )
            for each in await self._store.packages(owner=int(owner))
        ]
