"""What settings are called, and whether their values are right."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from task_server.machine import is_loopback
from task_server.policy import PrivateIndex, parse_hosts, parse_patterns
from task_server.settings import ServerSettings, WorkerSettings

S = TypeVar("S", ServerSettings, WorkerSettings)
MOST_WEIGHT = 1000.0
_BUCKET = re.compile(r"s3://[A-Za-z0-9._-]{3,63}(/[^?#]*)?", re.ASCII)


class Setting(Struct, frozen=True):
    """One setting, as options and documentation show it."""

    name: str
    option: str
    variable: str
    default: object
    """None where it must be given or is worked out."""
    unit: str
    help: str
    kind: object
    """Its type, without what is said about it."""
    is_required: bool


def settings_of(kind: type[ServerSettings] | type[WorkerSettings]) -> dict[str, Setting]:
    """All settings of a kind by name, in the order of their declaration."""
    hints = get_type_hints(kind, include_extras=True)
    return {each.name: _setting(each, hints[each.name]) for each in msgspec.structs.fields(kind)}


def checked(kind: type[S], values: Mapping[str, object], *, are_texts: bool = False) -> S:
    """Settings from values of the right types, or from their texts. Raises ValueError.

    None means the default.
    """
    given = {name: value for name, value in values.items() if value is not None}
    settings = msgspec.convert(given, kind, strict=not are_texts, dec_hook=_path)
    if isinstance(settings, WorkerSettings):
        labels_of(settings.labels)
    _ = settings.policy, PrivateIndex.read(settings.private_index, settings.private_packages)
    if isinstance(settings, ServerSettings):
        parse_patterns(settings.young_packages)
        weights_of(settings.share_weights)
        _check_exposure(settings)
        _check_blobs(settings.blobs)
    else:
        parse_hosts(settings.index_hosts)
        _check_sandbox(settings)
    return settings


def labels_of(text: str) -> dict[str, str]:
    """The labels in a setting. Raises ValueError."""
    pairs = [pair.strip().partition("=") for pair in text.split(",") if pair.strip()]
    for name, sign, value in pairs:
        if not (name and sign and value):
            raise ValueError(f"--labels {text}: labels are NAME=VALUE, with commas between")
    return {name: value for name, _, value in pairs}


def weights_of(text: str) -> dict[str, float]:
    """The weights in a setting. Raises ValueError."""
    found = {}
    for pair in filter(str.strip, text.split(",")):
        name, _, value = pair.strip().rpartition("=")
        try:
            weight = float(value)
        except ValueError:
            weight = 0.0
        if not name or not MOST_WEIGHT >= weight >= 1 / MOST_WEIGHT:
            raise ValueError(
                f"--share-weights {text}: weights are NAME=WEIGHT, with commas between, and each"
                f" is at most {MOST_WEIGHT:g} and at least 1/{MOST_WEIGHT:g}"
            )
        found[name.strip()] = weight
    return found


def _check_exposure(settings: ServerSettings) -> None:
    if settings.auth == "none" and not is_loopback(settings.host):
        raise ValueError(
            f"--auth none would let everybody who reaches {settings.host} run code here;"
            " it is for loopback addresses only"
        )


def _check_blobs(blobs: str | None) -> None:
    if blobs is not None and "://" in blobs and _BUCKET.fullmatch(blobs) is None:
        raise ValueError(
            f"--blobs {blobs} is neither a directory nor s3://BUCKET/PREFIX (endpoint, region and"
            " credentials go into the variables AWS_*)"
        )


def _check_sandbox(settings: WorkerSettings) -> None:
    if not 0 <= (settings.min_sandbox or 0) <= settings.max_sandbox:
        raise ValueError(
            f"--min-sandbox {settings.min_sandbox} has to be from 0 to {settings.max_sandbox},"
            " the value of --max-sandbox"
        )
    for name in ("memory_bytes", "cpus"):
        value = getattr(settings, name)
        if value is not None and value <= 0:
            raise ValueError(f"--{name.replace('_', '-')} {value} has to be more than 0")


def _path(kind: type, value: object) -> object:
    return kind(value)


def _setting(declared: msgspec.structs.FieldInfo, hint: Any) -> Setting:
    kind, *said = get_args(hint)
    meta: Meta = said[0]
    has_default = declared.default is not msgspec.NODEFAULT
    return Setting(
        name=declared.name,
        option="--" + declared.name.replace("_", "-"),
        variable="TASK_SERVER_" + declared.name.upper(),
        default=declared.default if has_default else None,
        unit=(meta.extra or {}).get("unit", ""),
        help=meta.description or "",
        kind=kind,
        is_required=not has_default and declared.default_factory is msgspec.NODEFAULT,
    )
