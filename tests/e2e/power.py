"""What a loss of power leaves of a folder: its files, rebuilt from the calls that strace saw.

On disk is what was synced: of a file its bytes up to its last completed fsync, of a folder the
names in it up to its own. Of all that came later a part may be on disk too, in any order, torn at
the edge of a sector: which part is left to chance.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from tests.e2e.system_calls import SENDING, Call

SECTOR = 512
REBUILT_AT_START = "-shm"
"""SQLite's index of the write-ahead log: made anew by whoever comes first."""
_NAMING = frozenset({"rename", "renameat", "renameat2", "link", "linkat"})
_REMOVING = frozenset({"unlink", "unlinkat", "rmdir"})
_MAKING = frozenset({"mkdir", "mkdirat"})
_SYNCING = frozenset({"fsync", "fdatasync"})
_NOT_REPLAYED = frozenset(
    {"writev", "pwritev", "pwritev2", "fallocate", "sync_file_range", "syncfs", "msync"}
)


class Write(Struct):
    """Bytes at an offset; or None: a new size."""

    offset: int
    data: bytes | None
    ended: int | None


class File:
    """A file's bytes on disk, and what was written since."""

    def __init__(self) -> None:
        self.synced = bytearray()
        self.pending: list[Write] = []
        self.size = 0
        """As programs see it."""

    def write(self, offset: int | None, data: bytes, ended: int | None) -> None:
        """Write at an offset; None: at the end."""
        at = self.size if offset is None else offset
        self.pending.append(Write(at, data, ended))
        self.size = max(self.size, at + len(data))

    def resize(self, size: int, ended: int | None) -> None:
        self.pending.append(Write(size, None, ended))
        self.size = size

    def sync(self, call: Call) -> None:
        """What was written before this call began is on disk."""
        done = [each for each in self.pending if each.ended is not None and each.ended < call.begun]
        for each in done:
            _apply(self.synced, each.offset, each.data)
        self.pending = [each for each in self.pending if each not in done]

    def after_cut(self, chance: random.Random, share: float) -> bytes:
        """The bytes on disk if about this share of what was not synced came there."""
        content = bytearray(self.synced)
        for each in self.pending:
            if each.data is None:
                if chance.random() < share:
                    _apply(content, each.offset, None)
                continue
            for start in range(0, len(each.data), SECTOR):
                if chance.random() < share:
                    _apply(content, each.offset + start, each.data[start : start + SECTOR])
        return bytes(content)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
    missing = offset - len(content)
    if missing > 0:
        content.extend(bytes(missing))
    if data is not None:
        content[offset : offset + len(data)] = data


class Naming(Struct):
    """A name in a folder is of this file from now on; None: of no more."""

    path: str
    file: File | None
    ended: int | None


class Disk:
    """A folder and all below it: as programs see it, and as it is on disk."""

    def __init__(self, folder: Path) -> None:
        """The folder is there, and nothing in it."""
        self._root = str(folder)
        self._names: dict[str, File] = {}
        self._folders = {self._root}
        self._durable_names: dict[str, File] = {}
        self._durable_folders = {self._root}
        self._pending: list[Naming] = []
        self.touched: list[int] = []
        """When names changed, or a file other than a log did: the rare moments."""

    def begin(self, call: Call) -> None:
        """A call that changes something may have its effect from its begin on."""
        if call.result is not None and call.result < 0:
            return
        if call.name == "openat":
            self._open(call)
        elif call.name in _NAMING | _REMOVING | _MAKING:
            self._rename(call)
        elif call.name in ("write", "pwrite64", "ftruncate") and call.file in self._names:
            self._write(call)
        elif call.name in _NOT_REPLAYED and call.file.startswith(self._root):
            raise AssertionError(f"{call} is not understood here")

    def end(self, call: Call) -> None:
        """A sync has its effect when it is complete."""
        if call.name not in _SYNCING or not call.has_synced:
            return
        if call.file in self._names:
            self._names[call.file].sync(call)
        elif call.file in self._folders:
            self._sync_folder(call)

    def _open(self, call: Call) -> None:
        path = call.opened
        if not path.startswith(self._root) or "O_CREAT" not in call.arguments:
            return
        assert "O_TRUNC" not in call.arguments or path not in self._names
        if path not in self._names:
            self._name(path, File(), call)

    def _rename(self, call: Call) -> None:
        paths = [text.decode() for text in call.strings]
        if not paths[0].startswith(self._root):
            return
        if call.name in _MAKING:
            self._folders.add(paths[0])
            self._pending.append(Naming(paths[0], None, call.ended))
        elif call.name in _REMOVING:
            self._name(paths[0], None, call)
        else:
            self._name(paths[1], self._names[paths[0]], call)
            if call.name.startswith("rename"):
                self._name(paths[0], None, call)

    def _name(self, path: str, file: File | None, call: Call) -> None:
        self.touched.append(call.begun)
        self._pending.append(Naming(path, file, call.ended))
        if file is None:
            self._names.pop(path, None)
        else:
            self._names[path] = file

    def _write(self, call: Call) -> None:
        file = self._names[call.file]
        if call.file.endswith(REBUILT_AT_START):
            return
        if not call.file.endswith("-wal"):
            self.touched.append(call.begun)
        assert not call.is_cut, "strace has to keep more of each buffer"
        if call.name == "ftruncate":
            file.resize(call.numbers[-1], call.ended)
        else:
            offset = call.numbers[-1] if call.name == "pwrite64" else None
            file.write(offset, call.data[: call.result], call.ended)

    def _sync_folder(self, call: Call) -> None:
        for naming in list(self._pending):
            is_there = str(Path(naming.path).parent) == call.file
            if is_there and naming.ended is not None and naming.ended < call.begun:
                self._pending.remove(naming)
                self._keep(naming, self._durable_names, self._durable_folders)

    def _keep(self, naming: Naming, names: dict[str, File], folders: set[str]) -> None:
        if naming.path in self._folders:
            folders.add(naming.path)
        elif naming.file is None:
            names.pop(naming.path, None)
        else:
            names[naming.path] = naming.file

    def after_cut(self, target: Path, chance: random.Random) -> None:
        """Write what is there after a loss of power now into another folder."""
        share = chance.choice([0.0, 1.0, 0.5, 0.1, 0.9])
        names, folders = dict(self._durable_names), set(self._durable_folders)
        for naming in self._pending:
            if chance.random() < share:
                self._keep(naming, names, folders)
        for folder in sorted(folders):
            (target / Path(folder).relative_to(self._root)).mkdir(parents=True, exist_ok=True)
        for path, file in names.items():
            if str(Path(path).parent) in folders and not path.endswith(REBUILT_AT_START):
                where = target / Path(path).relative_to(self._root)
                where.write_bytes(file.after_cut(chance, share))


def moments(calls: Sequence[Call]) -> Iterator[tuple[int, Call, bool]]:
    """Begins and ends of calls in the order in which they happened; True for an end."""
    found = [(call.begun, 0, call) for call in calls]
    found += [(call.ended, 1, call) for call in calls if call.ended is not None]
    for place, is_end, call in sorted(found, key=lambda each: each[:2]):
        yield place, call, bool(is_end)


def replies(calls: Sequence[Call]) -> dict[tuple[int, int], int]:
    """When each reply left: by the client's port, and the reply's number on its connection."""
    counts: dict[int, int] = {}
    left: dict[tuple[int, int], int] = {}
    for call in calls:
        is_sending = call.name in SENDING and call.file.startswith("TCP")
        if is_sending and call.data[:9] == b"HTTP/1.1 ":
            port = int(call.file.rstrip("]").rpartition(":")[2])
            counts[port] = counts.get(port, 0) + 1
            left[port, counts[port]] = call.begun
    return left
