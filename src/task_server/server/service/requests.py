"""Reading what users submit: bodies to submissions. No I/O but for large arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b

import msgspec
from msgspec import UNSET, Raw, Struct

from task_server.errors import Invalid, Malformed, RequestError
from task_server.protocol import ids
from task_server.protocol.payload import check_few_keys, check_keys
from task_server.protocol.tasks import FunctionByValue, Item, NewBatch, Submit, Task
from task_server.server.http import decode
from task_server.server.service.arguments import (
    BLOB_NAME,
    decoded,
    read_arguments,
    read_columns,
    read_features,
)
from task_server.server.service.installs import given
from task_server.server.service.outlines import Own, outline_of
from task_server.server.service.specs import Specs, awaited, times
from task_server.server.service.uploads import OwnUploads
from task_server.store.blobs import name_of
from task_server.store.kinds import KindSpec

ID_SECONDS = 86400.0
"""How far from the server's time an id may be."""
MAXIMUM_ERRORS = 100
_ITEM_KEYS = (b'"id"', b'"args"', b'"kwargs"', b'"call"', b'"features"')
_FIRST_KEY = re.compile(rb'\s*\{\s*"(tasks|defaults|batch)"')
_CALL_IN_BLOB = re.compile(rb'"call":\{"encoding":"[a-z]+","blob":"(sha256:[0-9a-f]{64})"')

_NOTHING = Task()

_items = msgspec.json.Decoder(Item)
_tasks = msgspec.json.Decoder(Task)
_submits = msgspec.json.Decoder(Submit)
_lists: msgspec.json.Decoder[list[Raw]] = msgspec.json.Decoder(list[Raw])


class Read(Struct):
    """One task as read, not yet placed into a kind."""

    id: bytes | None
    digest: bytes
    payload: bytes
    """As `NewTask.payload`."""
    large: tuple[str, bytes] | None
    """Encoding and bytes of arguments for the blob store; the payload then names the blob."""
    spec: int
    run_after: float | None
    start_by: float | None
    finish_by: float | None
    after: tuple[bytes, ...]
    features: bytes | None = None
    """As `NewTask.features`."""
    size: int = 0
    """Bytes of the arguments."""


class Body(Struct):
    """A submit's body as read."""

    specs: list[KindSpec]
    tasks: list[Read]
    is_single: bool
    batch: NewBatch | None

    def named(self) -> dict[str, int]:
        """Blobs that hold arguments: each with the index of the first task that names it."""
        found: dict[str, int] = {}
        for index, task in enumerate(self.tasks):
            if task.payload[:7] != b'"call":':
                continue
            if (call := _CALL_IN_BLOB.match(task.payload)) is not None:
                found.setdefault(call[1].decode(), index)
        return found


class Reader:
    """Reads one body for one owner."""

    def __init__(
        self,
        owner: int,
        *,
        kinds: Specs,
        now: float,
        uploads: OwnUploads | None = None,
        refreshed: Mapping[str, str] | None = None,
    ) -> None:
        self._owner = owner
        self._uploads = uploads
        self._refreshed = refreshed
        self._kinds = kinds
        self._now = now
        self._specs: dict[KindSpec, int] = {}
        self.blobs: dict[str, bytes] = {}
        """Pickled functions to store, by name."""
        self._shared: dict[bool, int] = {}
        """Spec of the list's defaults, for tasks that plain workers can take and others."""

    def read(self, body: bytes, *, is_lines: bool = False) -> Body:
        """Raises Malformed, or Invalid with an entry for each bad item."""
        if is_lines:
            items = [Raw(line) for line in body.split(b"\n") if line.strip()]
            return self._list(items, b"", None, is_lines=True)
        if body.lstrip()[:1] == b"[":
            return self._list(decode(body, _lists), b"", None)
        if _FIRST_KEY.match(body):
            submit = decode(body, _submits)
            check_keys(_without(body, submit.tasks), bytes(submit.defaults))
            return self._list(submit.tasks, bytes(submit.defaults), submit.batch)
        if body.lstrip()[:1] != b"{":
            raise Malformed("the body is not a JSON object or a list of objects")
        return self._single(body)

    def _single(self, body: bytes) -> Body:
        outline = outline_of(body)
        if outline is not None:
            known = self._kinds.of_outline(
                outline.text, self._owner, uploads=self._uploads, refreshed=self._refreshed
            )
            if known is not None:
                return Body([known], [self._outlined(body, outline.own)], True, None)
        task = self._item(body, None, blake2b(digest_size=16))
        (spec,) = self._specs
        if outline is not None and _has_only_arguments(task) and not self.blobs:
            self._kinds.keep_outline(outline.text, self._owner, spec, uploads=self._uploads)
        return Body([spec], [task], True, None)

    def _outlined(self, body: bytes, own: Own) -> Read:
        """A task of which all but its id and arguments is known."""
        payload, _, _ = read_arguments(Item(own.id, own.args, own.kwargs), _NOTHING)
        identifier, digest = None, b""  # the digest tells equal ids apart
        if own.id is not None:
            identifier = check_id(own.id, self._now)
            digest = _digest(blake2b(digest_size=16), body)
        return Read(identifier, digest, payload, None, 0, None, None, None, (), None, len(payload))

    def _list(
        self,
        items: list[Raw],
        defaults: bytes,
        batch: NewBatch | None,
        *,
        is_lines: bool = False,
    ) -> Body:
        if not items:
            raise Invalid("the list of tasks is empty", field="tasks")
        shared = self._defaults(defaults)
        prefix = blake2b(defaults, digest_size=16)
        # Lines may be anything; what was cut out of a list is JSON each.
        alike = None if is_lines else self._alike(list(map(bytes, items)), shared, prefix)
        if alike is not None:
            return Body(list(self._specs), alike, False, batch)
        tasks: list[Read] = []
        errors: list[dict[str, object]] = []
        for index, raw in enumerate(items):
            try:
                tasks.append(self._item(bytes(raw), shared, prefix))
            except Invalid as error:
                errors += [{"index": index, **each} for each in error.errors]
                if len(errors) >= MAXIMUM_ERRORS:
                    break
        if errors:
            raise Invalid(f"task {errors[0]['index']}: {errors[0]['message']}", errors=errors)
        return Body(list(self._specs), tasks, False, batch)

    def _defaults(self, defaults: bytes) -> Task:
        if not defaults or defaults == b"null":
            return Task()
        shared = decode(defaults, _tasks, prefix="defaults.")
        check_keys(defaults, bytes(shared.args), bytes(shared.kwargs))
        if shared.id is not None:
            raise Invalid("an id cannot be shared; give each task its own", field="defaults.id")
        return shared

    # ---- many items

    def _alike(self, raws: list[bytes], shared: Task, prefix: blake2b) -> list[Read] | None:
        """Items that have nothing of their own but ids and arguments, read by columns.

        None for any others, and for what is to be refused: which item it is, and why, is told
        when they are read one by one.
        """
        try:
            return self._columns(raws, shared, prefix)
        except RequestError:
            return None

    def _columns(self, raws: list[bytes], shared: Task, prefix: blake2b) -> list[Read] | None:
        if shared.call is not None or given(shared.features, None):
            return None
        columns = read_columns(raws, shared)
        if columns is None:
            return None
        identifiers: Sequence[bytes | None] = [None] * len(raws)
        if columns.ids is not None:
            identifiers = check_ids(columns.ids, self._now)
        spec = self._spec(shared, is_plain=True, is_shared=True)
        moments, after = times(shared), awaited(shared)
        return [
            Read(
                identifier,
                _digest(prefix, raw),
                payload,
                None,
                spec,
                *moments,
                after,
                None,
                len(payload),
            )
            for identifier, raw, payload in zip(identifiers, raws, columns.payloads, strict=True)
        ]

    # ---- one item

    def _item(self, raw: bytes, shared: Task | None, prefix: blake2b) -> Read:
        light = _light(raw) if shared is not None else None
        if light is not None and shared is not None:
            check_few_keys(raw, _ITEM_KEYS, bytes(light.args), bytes(light.kwargs))
            call, task = light, shared
        else:
            own = decode(raw, _tasks)
            check_keys(raw, bytes(own.args), bytes(own.kwargs))
            call, task = _own_call(own), _merged(own, shared)
        payload, large, is_plain = read_arguments(call, task)
        return Read(
            None if call.id is None else check_id(call.id, self._now),
            _digest(prefix, raw),
            payload,
            large,
            self._spec(task, is_plain=is_plain, is_shared=task is shared),
            *times(task),
            awaited(task),
            read_features(given(call.features, None) or given(task.features, None)),
            len(payload) if large is None else len(large[1]),
        )

    def _spec(self, task: Task, *, is_plain: bool, is_shared: bool) -> int:
        """The index of the task's spec; tasks of one list mostly share it."""
        found = self._shared.get(is_plain) if is_shared else None
        if found is None:
            spec = self._kinds.of(
                self._with_blob(task),
                owner=self._owner,
                is_plain=is_plain,
                uploads=self._uploads,
                refreshed=self._refreshed,
            )
            found = self._specs.setdefault(spec, len(self._specs))
            if is_shared:
                self._shared[is_plain] = found
        return found

    def _with_blob(self, task: Task) -> Task:
        """The task with its pickled function named by digest; the pickle itself in `blobs`."""
        function = task.function
        if not isinstance(function, FunctionByValue) or BLOB_NAME.fullmatch(function.pickle):
            return task
        data = decoded(function.pickle, "function.pickle")
        name = name_of(data)
        self.blobs[name] = data
        by_value = FunctionByValue(pickle=name, name=function.name, python=function.python)
        return msgspec.structs.replace(task, function=by_value)


def _has_only_arguments(task: Read) -> bool:
    more = (task.run_after, task.start_by, task.finish_by, task.features, task.large)
    return not any(each is not None for each in more) and not (
        task.after or task.payload.startswith(b'"call":')
    )


def _without(body: bytes, items: list[Raw]) -> bytes:
    """The body with `0` for each item, in one pass: they lie one behind the other."""
    pieces, at = [], 0
    for item in items:
        raw = bytes(item)
        found = body.find(raw, at)
        pieces.append(body[at:found])
        at = found + len(raw)
    return b"0".join([*pieces, body[at:]])


def _digest(prefix: blake2b, raw: bytes) -> bytes:
    """Of an item as sent, and of the defaults before it."""
    digest = prefix.copy()
    digest.update(raw)
    return digest.digest()


def check_ids(texts: Sequence[str], now: float) -> list[bytes]:
    """`check_id` for one or more."""
    found = ids.from_texts(texts)
    if found is None or any(
        abs(ids.made_at(each) - now) > ID_SECONDS for each in (min(found), max(found))
    ):
        return [check_id(text, now) for text in texts]
    return found


def check_id(text: str, now: float, field: str = "id") -> bytes:
    """A client's id. Raises Invalid unless it is a UUIDv7 made near `now`."""
    identifier = ids.from_text(text)
    if identifier is None:
        raise Invalid(f"{text[:60]!r} is not a UUIDv7 in lower case", field=field)
    if abs(ids.made_at(identifier) - now) > ID_SECONDS:
        raise Invalid("the time in the id is more than a day from the server's", field=field)
    return identifier


def _light(raw: bytes) -> Item | None:
    try:
        return _items.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return None  # it has more than arguments of its own, or is wrong: read it in full


def _own_call(task: Task) -> Item:
    return Item(task.id, task.args, task.kwargs, task.call, task.features)


def _merged(own: Task, shared: Task | None) -> Task:
    if shared is None:
        return own
    fields = {
        name: value
        for name in own.__struct_fields__
        if (value := getattr(own, name)) is not UNSET and value is not None
    }
    return msgspec.structs.replace(shared, **fields)
