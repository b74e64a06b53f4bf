"""Taking in wheels, and finding them again."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import BinaryIO

from task_server.environments.wheels import BadWheel, Wheel, read_wheel
from task_server.errors import Invalid, NotFound, TooLarge
from task_server.server.access import Caller
from task_server.server.service.arguments import BLOB_NAME
from task_server.server.state import State
from task_server.store.records.packages import Package

_PIECE = 1024 * 1024


@contextmanager
def spool(state: State) -> Iterator[BinaryIO]:
    """A file for what comes in, gone with the block."""
    folder = state.settings.data / "incoming"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryFile(dir=folder) as file:
        yield file


async def from_blob(state: State, caller: Caller, filename: str, blob: str) -> tuple[Package, bool]:
    """Make a wheel of a blob that the caller has stored. Raises Invalid, Conflict.

    The second value says whether it is new.
    """
    state.space.check_intake()
    began = state.clock()
    size = await state.blobs.size(blob) if BLOB_NAME.fullmatch(blob) else None
    if size is None or not await state.store.has_blob(blob, caller.owner):
        raise Invalid("there is no such blob; PUT it first", field="blob")
    _check_size(state, size)
    with spool(state) as file:
        opened = await state.blobs.open(blob)
        async with aclosing(opened.pieces) as pieces:
            async for piece in pieces:
                await asyncio.to_thread(file.write, piece)
        wheel = await asyncio.to_thread(_read, file, filename)
    return await _note(state, caller, wheel, blob, size, began=began)


async def from_file(
    state: State, caller: Caller, filename: str, file: BinaryIO, *, sha256: str | None
) -> tuple[Package, bool]:
    """Store a wheel that came whole. Raises Invalid, Conflict."""
    state.space.check_intake()
    state.budget.check_intake()
    began = state.clock()
    found, size = await asyncio.to_thread(_measured, file)
    if sha256 is not None and sha256 != found:
        raise Invalid("the content has another SHA-256 than sha256_digest says", field="content")
    wheel = await asyncio.to_thread(_read, file, filename)
    blob = f"sha256:{found}"
    state.budget.add(await state.blobs.put(blob, _pieces(file)))
    return await _note(state, caller, wheel, blob, size, began=began)


async def _note(
    state: State, caller: Caller, wheel: Wheel, blob: str, size: int, *, began: float
) -> tuple[Package, bool]:
    package = Package(
        owner=caller.owner,
        name=wheel.name,
        version=wheel.version,
        filename=wheel.filename,
        digest=blob,
        size=size,
        requires_python=wheel.requires_python,
        metadata=wheel.metadata,
        uploaded_at=state.clock(),
    )
    is_new = await state.store.add_package(package, began=began)
    if is_new:
        await state.uploads.changed()
    return package, is_new


def sees(caller: Caller) -> int | None:
    """Whose wheels a caller finds: a user its own; workers and admins (None) all of them."""
    return caller.owner if caller.kind == "user" else None


async def of_name(state: State, caller: Caller, name: str) -> list[Package]:
    """The wheels of a name that the caller may have. Raises NotFound without any."""
    found = await state.store.packages(owner=sees(caller), name=name)
    if not found:
        raise NotFound("no package of that name was uploaded here")
    return found


async def of_file(state: State, caller: Caller, digest: str, filename: str) -> Package:
    """One wheel by its content and file name. Raises NotFound."""
    for package in await state.store.packages_with([f"sha256:{digest}"]):
        if package.filename == filename and sees(caller) in (None, package.owner):
            return package
    raise NotFound("no such file was uploaded here")


def _check_size(state: State, size: int) -> None:
    if size > state.settings.wheel_bytes:
        raise TooLarge(f"a wheel may have {state.settings.wheel_bytes} bytes")


def _read(file: BinaryIO, filename: str) -> Wheel:
    file.seek(0)
    try:
        return read_wheel(file, filename)
    except BadWheel as error:
        raise Invalid(str(error), field="content") from None


def _measured(file: BinaryIO) -> tuple[str, int]:
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # reads as one
    return digest, file.tell()


async def _pieces(file: BinaryIO) -> AsyncIterator[bytes]:
    file.seek(0)
    while piece := await asyncio.to_thread(file.read, _PIECE):
        yield piece
