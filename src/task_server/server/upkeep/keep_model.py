"""Keeps what the estimator has learned, and gives it back to it."""

from __future__ import annotations

import logging
import time

from task_server.server.estimator.messages import Learned, Load, Save, Saved
from task_server.server.service import model
from task_server.server.state import State
from task_server.store.records.models import ModelChange, ModelHead

log = logging.getLogger(__name__)

SAVE_SECONDS = 30.0
"""Between two saves, at least."""
SAVED_BYTES = 100_000
"""A second, at most: a large model is kept more rarely, for it holds up the writer."""
PIECE = 32
"""Functions in one message."""
ANSWER_SECONDS = 60.0


class ModelKeeper:
    """The model in the store, and how much of it the estimator has."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._version = 0
        """Of the model that the estimator's grew from."""
        self._save_at = 0.0
        self.trained_to: dict[int, int] = {}
        """Server -> place of the last ended task that was learned from."""
        self.calls: dict[int, int] = {}
        """Function -> calls of it that were learned from, as far as was heard here."""
        self.varied: set[int] = set()
        """Functions whose arguments were seen to matter."""
        self.has_news = False
        """Something was learned since it was kept."""

    # ---- to the estimator

    async def begin(self) -> bool:
        """Give a new estimator all that is kept; False when it went away."""
        self._version = 0
        self._save_at = time.monotonic() + SAVE_SECONDS
        self.calls.clear()
        self.varied.clear()
        return await self._load(is_first=True)

    async def follow(self) -> bool:
        """Give it what another server has kept meanwhile; False when it went away."""
        if await self._state.store.model_version() == self._version:
            return True
        return await self._load(is_first=False)

    async def _load(self, *, is_first: bool) -> bool:
        self.has_news = False
        head = await self._state.store.model_head()
        if head is None:
            self.trained_to = {}
            return not is_first or await self._give(Load(None, [], is_first=True))
        if not await self._give(Load(head.shared, [], is_first=is_first)):
            return False
        after, is_last = 0, False
        while not is_last:
            found = await self._state.store.function_models(
                since=self._version, after=after, limit=PIECE
            )
            told = [(each.function, model.name_of(each.key), each.state) for each in found]
            if not await self._give(Load(None, told, is_first=False)):
                return False
            is_last = len(found) < PIECE
            after = 0 if is_last else found[-1].function
        self._version, self.trained_to = head.version, head.trained_to
        return True

    async def _give(self, load: Load) -> bool:
        reply = await self._state.estimator.ask(load, seconds=ANSWER_SECONDS)
        if not isinstance(reply, Learned):
            return False
        self.calls.update(reply.calls)
        self.note_varied(reply)
        return True

    def note_varied(self, reply: Learned) -> None:
        """Of which functions the arguments matter."""
        self.varied.difference_update(reply.calls)
        self.varied.update(reply.varied)

    # ---- from the estimator

    async def save(self, *, is_last: bool = False) -> bool:
        """Keep what was learned, if it is time; False: another server learned meanwhile."""
        if not self.has_news or not (is_last or time.monotonic() >= self._save_at):
            return True
        saved = await self._state.estimator.ask(Save(), seconds=ANSWER_SECONDS)
        if not isinstance(saved, Saved):
            return False
        size = len(saved.shared) + sum(len(state) for _, state in saved.functions)
        self._save_at = time.monotonic() + max(SAVE_SECONDS, size / SAVED_BYTES)
        head = ModelHead(self._version + 1, dict(self.trained_to), saved.shared)
        is_kept = await self._state.store.keep_model(ModelChange(head, saved.functions, saved.gone))
        if is_kept:
            self._version += 1
            self.has_news = False
        else:
            log.info("another server has kept a model; this one learns on from there")
        return is_kept
