"""Reading what users submit: bodies to submissions. No I/O but for large arguments."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from datetime import datetime
from hashlib import blake2b
from typing import TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from task_server.environments.lock import empty_lock
from task_server.environments.names import BadName, parse_target
from task_server.environments.requirements import (
    BadRequirement,
    Requested,
    check_python,
    parse_request,
)
from task_server.errors import Invalid, Malformed, NotSupported
from task_server.protocol import ids
from task_server.protocol.payload import check_few_keys, check_keys, check_payload
from task_server.protocol.tasks import FunctionByValue, Item, NewBatch, Retries, Submit, Task
from task_server.server.http import decode
from task_server.store.blobs import name_of
from task_server.store.contract import KindSpec

INLINE_BYTES = 65536
"""Larger arguments and answers go to the blob store."""
ID_SECONDS = 86400.0
"""How far from the server's time an id may be."""
MAXIMUM_ERRORS = 100
MAXIMUM_TAGS = 32
_ITEM_KEYS = (b'"id"', b'"args"', b'"kwargs"', b'"call"')
_FIRST_KEY = re.compile(rb'\s*\{\s*"(tasks|defaults|batch)"')
_BLOB = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)

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


class Body(Struct):
    """A submit's body as read."""

    specs: list[KindSpec]
    tasks: list[Read]
    is_single: bool
    batch: NewBatch | None


class Reader:
    """Reads one body for one owner."""

    def __init__(
        self, owner: int, *, default_python: str, now: float, has_blob: Callable[[str], bool]
    ) -> None:
        self._has_blob = has_blob
        self._owner = owner
        self._default_python = default_python
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
            return self._list(items, b"", None)
        if body.lstrip()[:1] == b"[":
            return self._list(decode(body, _lists), b"", None)
        if _FIRST_KEY.match(body):
            submit = decode(body, _submits)
            check_keys(_without(body, submit.tasks), bytes(submit.defaults))
            return self._list(submit.tasks, bytes(submit.defaults), submit.batch)
        if body.lstrip()[:1] != b"{":
            raise Malformed("the body is not a JSON object or a list of objects")
        task = self._item(body, None, blake2b(digest_size=16))
        return Body(list(self._specs), [task], True, None)

    def _list(self, items: list[Raw], defaults: bytes, batch: NewBatch | None) -> Body:
        if not items:
            raise Invalid("the list of tasks is empty", field="tasks")
        shared = self._defaults(defaults)
        prefix = blake2b(defaults, digest_size=16)
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
        digest = prefix.copy()
        digest.update(raw)
        payload, large, is_plain = read_arguments(call, task)
        self._check_named(payload)
        run_after, start_by = _times(task)
        return Read(
            None if call.id is None else check_id(call.id, self._now),
            digest.digest(),
            payload,
            large,
            self._spec(task, is_plain=is_plain, is_shared=task is shared),
            run_after,
            start_by,
        )

    def _spec(self, task: Task, *, is_plain: bool, is_shared: bool) -> int:
        """The index of the task's spec; tasks of one list mostly share it."""
        found = self._shared.get(is_plain) if is_shared else None
        if found is None:
            spec = make_spec(
                self._with_blob(task),
                owner=self._owner,
                is_plain=is_plain,
                default_python=self._default_python,
            )
            found = self._specs.setdefault(spec, len(self._specs))
            if is_shared:
                self._shared[is_plain] = found
        return found

    def _check_named(self, payload: bytes) -> None:
        """Arguments in a blob must be there before the task is."""
        if payload.startswith(b'"call"') and b'"blob"' in payload:
            name = payload.rpartition(b'"blob":"')[2][:71].decode()
            if not self._has_blob(name):
                raise Invalid("there is no such blob; PUT it first", field="call.blob")

    def _with_blob(self, task: Task) -> Task:
        """The task with its pickled function named by digest; the pickle itself in `blobs`."""
        function = task.function
        if not isinstance(function, FunctionByValue) or _BLOB.fullmatch(function.pickle):
            return task
        data = _base64(function.pickle, "function.pickle")
        name = name_of(data)
        self.blobs[name] = data
        by_value = FunctionByValue(pickle=name, name=function.name, python=function.python)
        return msgspec.structs.replace(task, function=by_value)


def _without(body: bytes, items: list[Raw]) -> bytes:
    """The body with `0` for each item, in one pass: they lie one behind the other."""
    pieces, at = [], 0
    for item in items:
        raw = bytes(item)
        found = body.find(raw, at)
        pieces.append(body[at:found])
        at = found + len(raw)
    return b"0".join([*pieces, body[at:]])


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
    return Item(task.id, task.args, task.kwargs, task.call)


def _merged(own: Task, shared: Task | None) -> Task:
    if shared is None:
        return own
    fields = {
        name: value
        for name in own.__struct_fields__
        if (value := getattr(own, name)) is not UNSET and value is not None
    }
    return msgspec.structs.replace(shared, **fields)


# ---- arguments


def read_arguments(own: Item, shared: Task) -> tuple[bytes, tuple[str, bytes] | None, bool]:
    """The payload, what of it goes to the blob store, and whether a plain worker can take it."""
    if own.call is not None or (shared.call is not None and not _has_arguments(own)):
        return _encoded(own if own.call is not None else shared, own)
    args = _array(bytes(own.args) or bytes(shared.args))
    kwargs = _object(bytes(own.kwargs) or bytes(shared.kwargs))
    check_payload(args, "args")
    check_payload(kwargs, "kwargs")
    if len(args) + len(kwargs) > INLINE_BYTES:
        return b"", ("json", b"[" + args + b"," + kwargs + b"]"), False
    return b'"args":' + args + b',"kwargs":' + kwargs, None, True


def _has_arguments(item: Item | Task) -> bool:
    return any(bytes(each) not in (b"", b"null") for each in (item.args, item.kwargs))


def _array(raw: bytes) -> bytes:
    if raw[:1] == b"[":
        return raw
    if raw in (b"", b"null"):
        return b"[]"
    raise Invalid("args is a list", field="args")


def _object(raw: bytes) -> bytes:
    if raw[:1] == b"{":
        return raw
    if raw in (b"", b"null"):
        return b"{}"
    raise Invalid("kwargs is an object", field="kwargs")


def _encoded(source: Item | Task, own: Item) -> tuple[bytes, tuple[str, bytes] | None, bool]:
    call = source.call
    assert call is not None
    if _has_arguments(own):
        raise Invalid("give either call or args and kwargs", field="call")
    if (call.data is None) == (call.blob is None):
        raise Invalid("call has either data or blob", field="call")
    if call.blob is not None:
        _check_blob(call.blob, "call.blob")
        return call_of(call.encoding, blob=call.blob), None, False
    data = _base64(call.data or "", "call.data")
    if len(data) > INLINE_BYTES:
        return b"", (call.encoding, data), False
    return call_of(call.encoding, data=call.data), None, False


def _base64(text: str, field: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise Invalid(f"{field} is not base64", field=field) from None


def _check_blob(name: str, field: str) -> None:
    if _BLOB.fullmatch(name) is None:
        raise Invalid(f"{field} is sha256: and 64 hexadecimal digits", field=field)


def call_of(encoding: str, *, data: str | None = None, blob: str | None = None) -> bytes:
    """The payload of an encoded call."""
    where = {"data": data} if blob is None else {"blob": blob}
    return b'"call":' + msgspec.json.encode({"encoding": encoding, **where})


# ---- what the members of a list share


def make_spec(task: Task, *, owner: int, is_plain: bool, default_python: str) -> KindSpec:
    """The kind of a task. Raises Invalid, NotSupported."""
    _check_supported(task)
    function = _given(task.function, None)
    if not function:
        raise Invalid("function is missing", field="function")
    by_value = function if isinstance(function, FunctionByValue) else None
    name = by_value.name if by_value else str(function)
    packages = _packages(task)
    python = _python(task, by_value, default_python)
    requested = _requested(task, python)
    module, qualname = (None, name) if by_value else _target(task, name)
    retries = _retries(task)
    encoding: str = _given(task.result_encoding, "json")
    environment = _given(task.environment, None)
    if environment is None and not requested.environment.requirements:
        environment = empty_lock(python).digest
    is_plain = is_plain and by_value is None and encoding == "json" and len(packages) <= 1
    return KindSpec(
        owner=owner,
        function=qualname,
        module=module,
        package=packages,
        version=_given(task.version, None) or None,
        distribution=requested.package or "",
        python=python,
        request=_request_text(task, requested),
        environment=environment,
        pickle=by_value.pickle if by_value else None,
        timeout=_timeout(task),
        max_attempts=retries.max + 1,
        backoff=retries.backoff,
        retry_on=tuple(sorted(retries.on)),
        priority=_priority(task),
        at_most_once=_given(task.at_most_once, False),
        result_encoding=encoding,
        isolation=_given(task.isolation, "reuse"),
        tags=_tags(task),
        plain=is_plain,
    )


T = TypeVar("T")


def _given(value: T | UnsetType | None, default: T) -> T:
    return default if value is UNSET or value is None else value


def _check_supported(task: Task) -> None:
    later = ("finish_by", "keep", "requires", "limit_keys", "after", "features")
    for name in later:
        if _given(getattr(task, name), None):
            raise NotSupported(f"{name} is not supported yet", field=name)
    if task.timeout == "auto":
        raise NotSupported('timeout "auto" is not supported yet; give seconds', field="timeout")
    if _given(task.isolation, "reuse") == "fresh":
        raise NotSupported('isolation "fresh" is not supported yet', field="isolation")
    if _given(task.require_sandbox, 0) > 0:
        raise NotSupported("require_sandbox is not supported yet", field="require_sandbox")


def _packages(task: Task) -> tuple[str, ...]:
    package = _given(task.package, "")
    if isinstance(package, str):
        return (package,) if package else ()
    return tuple(package)


def _python(task: Task, by_value: FunctionByValue | None, default: str) -> str:
    asked = _given(task.python, None)
    if by_value is not None and asked is not None and asked != by_value.python:
        message = f"the function was pickled by Python {by_value.python}; python says {asked}"
        raise Invalid(message, field="python")
    try:
        return check_python(by_value.python if by_value is not None else asked or default)
    except BadRequirement as error:
        raise Invalid(error.message, field="python") from None


def _requested(task: Task, python: str) -> Requested:
    package = _given(task.package, None)
    try:
        return parse_request(package, _given(task.version, None), python=python)
    except BadRequirement as error:
        raise Invalid(error.message, field=error.field) from None


def _request_text(task: Task, requested: Requested) -> str:
    environment = _given(task.environment, None)
    if environment is None:
        return requested.environment.text
    if re.fullmatch(r"[0-9a-f]{64}", environment) is None:
        raise Invalid("environment is the digest of a lock", field="environment")
    return f"lock {environment}"


def _target(task: Task, function: str) -> tuple[str | None, str]:
    try:
        target = parse_target(function, _given(task.module, None))
    except BadName as error:
        raise Invalid(error.message, field=error.field) from None
    return target.module, target.qualname


def _timeout(task: Task) -> float | None:
    timeout = _given(task.timeout, None)
    if timeout is None:
        return None
    if not isinstance(timeout, float | int) or not 0 <= timeout < 1e9:
        raise Invalid("timeout is a number of seconds, 0 for none", field="timeout")
    return float(timeout)


def _retries(task: Task) -> Retries:
    retries = _given(task.retries, Retries())
    if not 0 <= retries.max <= 100:
        raise Invalid("retries.max is a whole number from 0 to 100", field="retries.max")
    if not 0 <= retries.backoff <= 3600:
        raise Invalid("retries.backoff is seconds, up to 3600", field="retries.backoff")
    return retries


def _priority(task: Task) -> int:
    priority = _given(task.priority, 0)
    if not -10 <= priority <= 10:
        raise Invalid("priority is a whole number from -10 to 10", field="priority")
    return priority


def _tags(task: Task) -> tuple[str, ...]:
    tags = _given(task.tags, [])
    if len(tags) > MAXIMUM_TAGS or any(not 0 < len(tag) <= 200 for tag in tags):
        message = f"tags are at most {MAXIMUM_TAGS} texts of 1 to 200 letters"
        raise Invalid(message, field="tags")
    return tuple(tags)


def _times(task: Task) -> tuple[float | None, float | None]:
    return _moment(task.run_after, "run_after"), _moment(task.start_by, "start_by")


def _moment(value: datetime | UnsetType | None, field: str) -> float | None:
    moment = _given(value, None)
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise Invalid(f"{field} needs an offset, like 2030-01-01T00:00:00Z", field=field)
    return moment.timestamp()
