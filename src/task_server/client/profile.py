"""Where a client finds its server: arguments, variables, or the profile that `up` leaves."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from task_server.errors import ProfileError, ServerUnreachable


class Profile(Struct, frozen=True):
    """A server and the token for it."""

    url: str
    token: str | None = None


def find_server(
    url: str | None = None, token: str | None = None, *, environ: Mapping[str, str] | None = None
) -> Profile:
    """The server to talk to: arguments, else variables, else the profile.

    The profile's token goes only to the profile's own server. Raises ServerUnreachable when
    none is named anywhere.
    """
    environ = os.environ if environ is None else environ
    url = url or environ.get("TASK_SERVER_URL") or None
    token = token or environ.get("TASK_SERVER_TOKEN") or None
    if url and token:
        return Profile(url.rstrip("/"), token)
    kept = read_profile(profile_path(environ))
    if url is None:
        if kept is None:
            raise ServerUnreachable(
                "no server is known; start one with `task-server up`, or set TASK_SERVER_URL"
                " and TASK_SERVER_TOKEN"
            )
        return Profile(kept.url, token or kept.token)
    url = url.rstrip("/")
    if kept is not None and kept.url == url:
        return kept
    return Profile(url, token)


def profile_path(environ: Mapping[str, str] | None = None) -> Path:
    """Where this user's profile lies."""
    environ = os.environ if environ is None else environ
    if chosen := environ.get("TASK_SERVER_PROFILE"):
        return Path(chosen)
    home = environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "task-server" / "profile.json"


def read_profile(path: Path) -> Profile | None:
    """The profile at `path`; None when there is none. Raises ProfileError if it is unsafe."""
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ProfileError(f"{path} cannot be read: {error.strerror}") from error
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise ProfileError(f"{path} holds a token that others can read; run: chmod 600 {path}")
    try:
        return msgspec.json.decode(content, type=Profile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path} is no profile: {error}; `task-server up` makes one") from error


def write_profile(path: Path, profile: Profile) -> None:
    """Write it whole or not at all, for this user's eyes alone. Raises ProfileError."""
    try:
        _write(path, msgspec.json.encode(profile) + b"\n")
    except OSError as error:
        raise ProfileError(f"{path} cannot be written: {error.strerror}") from error


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    partial.replace(path)
