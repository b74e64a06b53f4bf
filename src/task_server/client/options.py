"""What can be asked of a call beside function and arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypedDict, cast

from task_server.protocol.tasks import ResultEncoding, Retries


class Options(TypedDict, total=False):
    """Fields of a task, as `client.options(...)` takes them."""

    package: str | Sequence[str] | None
    """What to install: a requirement or several, without versions in `version` then."""
    version: str | None
    """`1.2` exactly, or a set such as `>=1.2,<2`."""
    requirements: str | None
    """Text of a requirements file, besides `package`."""
    script: str | None
    """Text of a script whose header says what it needs (PEP 723)."""
    python: str | None
    """Minor version, such as `3.11`."""
    environment: str | None
    """Digest of a lock, to replay exactly."""
    timeout: float | Literal["auto"] | None
    """Seconds that a run may take; 0 for no limit."""
    retries: int | Mapping[str, Any] | Retries | None
    """How often a failed run is tried again; a mapping adds `backoff` and `on`."""
    priority: int | None
    """-10 to 10, higher first."""
    run_after: datetime | None
    start_by: datetime | None
    finish_by: datetime | None
    at_most_once: bool | None
    """Rather fail a task whose worker was lost than start it again."""
    keep: float | Literal["until_read"] | None
    """How long to keep the answer, seconds."""
    requires: Mapping[str, Any] | None
    """`{"cpu": cores, "memory": bytes or "2GiB", "gpu": count, "labels": {...}}`."""
    require_sandbox: int | None
    """The least level of a worker's sandbox, 0 to 4."""
    isolation: Literal["reuse", "fresh"] | None
    """`fresh`: in a process of its own, which nothing ran in before and nothing runs in after."""
    tags: Sequence[str] | None
    limit_keys: Sequence[str] | None
    after: Sequence[str] | None
    """Ids of tasks that must be done first."""
    result_encoding: ResultEncoding | None


def merged(old: Options, new: Options) -> Options:
    """`old` with what `new` says; None takes a field back. Raises TypeError for unknown names."""
    if unknown := new.keys() - Options.__annotations__.keys():
        raise TypeError(f"unknown options: {', '.join(sorted(unknown))}")
    both: dict[str, Any] = {**old, **new}
    kept = {name: value for name, value in both.items() if value is not None}
    return cast(Options, kept)  # its names are checked above; the server checks the values


def task_fields(options: Options) -> dict[str, Any]:
    """Options as fields of a TASK; answers come as JSON or pickled, whichever is exact."""
    fields: dict[str, Any] = {"result_encoding": "auto", **options}
    if isinstance(retries := fields.get("retries"), int):
        fields["retries"] = {"max": retries}
    for name in ("run_after", "start_by", "finish_by"):
        if isinstance(moment := fields.get(name), datetime):
            fields[name] = moment.astimezone()  # a time without a zone is this machine's
    if not isinstance(package := fields.get("package", ""), str):
        fields["package"] = list(package)
    return fields
