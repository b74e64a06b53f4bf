"""What is left of disk and memory. While it is little no new tasks are taken, and what runs ends.

The disk has a watermark, below which intake stops, and a ballast: a file that is deleted when the
disk is full all the same, so that answers, deletions and the database's own upkeep find room.
Intake begins again once there is room for the ballast too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from pathlib import Path

from msgspec import Struct

from task_server.errors import StorageFull, Unavailable
from task_server.server.upkeep.ballast import Ballast
from task_server.server.upkeep.memory import available_bytes, give_back, resident_bytes
from task_server.settings import ServerSettings

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
RETRY_SECONDS = 10.0
"""When a refused submit should be tried again."""
BALLAST_SHARE = 1 / 8
"""Of a disk; on a small one the ballast is smaller than its setting."""
MEMORY_SHARE = 0.75
"""Of what the process may have, where no limit is set."""
BACK_SHARE = 1.05
"""So much above the watermark, or below the limit of memory, intake begins again."""
TRIM_SECONDS = 10.0
"""Between two tries to get along with the memory there is."""
REST_SHARE = 0.05
"""Of one processor, used since the last look: less than that is rest."""
GROWN_BYTES = 2 << 20
"""What a process at rest gives back at once rather than keeping it."""
DISK_FULL = (
    "the server's disk is nearly full: it takes no new tasks until there is room;"
    " free some space there, then try again"
)
MEMORY_FULL = "the server is short of memory: it takes no new tasks for now; try again"


class Disk(Struct, frozen=True):
    """The disk with the least room of those that the server writes to."""

    free_bytes: int
    needed_bytes: int
    """Below this no new tasks are taken; with what the ballast is to hold."""
    is_short: bool


class Memory(Struct, frozen=True):
    """The server process's memory."""

    used_bytes: int
    limit_bytes: int
    is_short: bool


class Space:
    """Looks every second; what it found last decides about intake."""

    def __init__(self, settings: ServerSettings, database: Path | None) -> None:
        """`database` is the folder that the database fills, None where that is elsewhere."""
        self._settings = settings
        data = settings.data.expanduser().absolute()
        self._main = database or data
        """Where the ballast lies."""
        self._folders = list(dict.fromkeys((self._main, data, *_blobs(settings))))
        for folder in self._folders:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        size = os.statvfs(self._main)
        self._ballast = Ballast(
            self._main / "ballast",
            min(settings.ballast_bytes, int(size.f_blocks * size.f_frsize * BALLAST_SHARE)),
        )
        self._trimmed_at = 0.0
        self._trimmed_bytes = 0
        self._looked_at = self._worked_seconds = 0.0
        self._lock = threading.RLock()
        """Of the ballast: the store's writer may ask for it while this looks."""
        self.disk = Disk(0, 0, False)
        self.memory = Memory(
            0, settings.memory_bytes or int(available_bytes() * MEMORY_SHARE), False
        )

    def begin(self) -> None:
        """Look for the first time, before anything is written."""
        if self._ballast.missing_bytes and _free(self._main) >= 2 * self._ballast.size_bytes:
            self._make_ballast()
        self.look()

    async def keep(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await asyncio.to_thread(self.look)
            except OSError as error:
                log.warning("cannot see how much room there is: %s", error)

    def check_intake(self) -> None:
        """Raise StorageFull or Unavailable while no new tasks are taken."""
        if self.disk.is_short:
            raise StorageFull(DISK_FULL, retry_after=RETRY_SECONDS)
        if self.memory.is_short:
            raise Unavailable(MEMORY_FULL, retry_after=RETRY_SECONDS)

    def make_room(self) -> bool:
        """A write found the disk full: give the ballast away. True if there was one."""
        with self._lock:
            self._set_disk(Disk(self.disk.free_bytes, self.disk.needed_bytes, True))
            has_dropped = self._ballast.drop()
        if has_dropped:
            log.warning("the disk is full: the ballast is deleted")
        return has_dropped

    def look(self) -> None:
        """See what is left, and decide."""
        with self._lock:
            self._look_at_disks()
        self._look_at_memory()

    # ---- disk

    def _look_at_disks(self) -> None:
        ballast = self._ballast
        if _free(self._main) < ballast.size_bytes // 8:
            self.make_room()
        disks = [self._measure(folder) for folder in self._folders]
        if ballast.missing_bytes and not any(disk.is_short for disk in disks):
            self._make_ballast()
            disks = [self._measure(folder) for folder in self._folders]
        self._set_disk(min(disks, key=lambda disk: disk.free_bytes - disk.needed_bytes))

    def _measure(self, folder: Path) -> Disk:
        found = os.statvfs(folder)
        free = found.f_bavail * found.f_frsize
        needed = int(
            min(
                self._settings.free_disk_share * found.f_blocks * found.f_frsize,
                self._settings.free_disk_bytes,
            )
        )
        if folder == self._main:
            needed += self._ballast.missing_bytes
        wanted = needed * BACK_SHARE if self.disk.is_short else needed
        return Disk(free, needed, free < wanted)

    def _make_ballast(self) -> None:
        try:
            self._ballast.make()
        except OSError as error:
            log.warning("the ballast cannot be made: %s", error)

    def _set_disk(self, disk: Disk) -> None:
        was_short, self.disk = self.disk.is_short, disk
        if disk.is_short and not was_short:
            log.error(
                "the disk is nearly full (%d MiB free, %d wanted): no new tasks are taken",
                disk.free_bytes >> 20,
                disk.needed_bytes >> 20,
            )
        elif was_short and not disk.is_short:
            log.info("the disk has room again: new tasks are taken")

    # ---- memory

    def _look_at_memory(self) -> None:
        limit, was_short = self.memory.limit_bytes, self.memory.is_short
        used = resident_bytes()
        is_short = used > (limit / BACK_SHARE if was_short else limit)
        self.memory = Memory(used, limit, is_short)
        is_at_rest = self._is_at_rest(used)
        if is_at_rest or (is_short and time.monotonic() - self._trimmed_at >= TRIM_SECONDS):
            self._trim()
        if is_short and not was_short:
            log.error("%d MiB of memory used: no new tasks are taken", used >> 20)
        elif was_short and not is_short:
            log.info("%d MiB of memory used: new tasks are taken again", used >> 20)

    def _is_at_rest(self, used_bytes: int) -> bool:
        """Whether there is hardly anything to do now, and much was done since the last trim."""
        now, worked = time.monotonic(), time.process_time()
        share = (worked - self._worked_seconds) / max(now - self._looked_at, 1e-3)
        self._looked_at, self._worked_seconds = now, worked
        return share < REST_SHARE and used_bytes > self._trimmed_bytes + GROWN_BYTES

    def _trim(self) -> None:
        self._trimmed_at = time.monotonic()
        give_back()
        self._trimmed_bytes = resident_bytes()


def _blobs(settings: ServerSettings) -> list[Path]:
    """The folder of the blobs, where it is not in the data directory."""
    if settings.blobs is None or settings.blobs.startswith("s3://"):
        return []
    return [Path(settings.blobs).expanduser().absolute()]


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
