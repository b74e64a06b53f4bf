"""Every setting of server and worker: its name, variable, default, unit and help.

A setting `lease_seconds` is the option `--lease-seconds` and the variable
`TASK_SERVER_LEASE_SECONDS`.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from task_server.machine import available_cpus, state_directory
from task_server.policy import Policy, PrivateIndex

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
DAY = 86400.0
"""Seconds."""


def _described(text: str) -> Meta:
    return Meta(description=text)


def _measured(text: str, unit: str) -> Meta:
    return Meta(description=text, extra={"unit": unit}, gt=0)


class ServerSettings(Struct, frozen=True, kw_only=True):
    """What `up` and `serve` can be told."""

    host: Annotated[str, _described("Address to listen on")] = "127.0.0.1"
    port: Annotated[
        int, Meta(description="Port to listen on; 0 picks a free one", ge=0, le=65535)
    ] = 8900
    data: Annotated[Path, _described("Directory of the database, blobs and keys")] = field(
        default_factory=state_directory
    )
    database: Annotated[
        str | None,
        _described(
            "sqlite:///PATH or postgresql://...; without it a SQLite file in the data directory"
        ),
    ] = None
    blobs: Annotated[
        str | None,
        _described(
            "Directory of large payloads, or s3://BUCKET/PREFIX; without it `blobs` in the data"
            " directory"
        ),
    ] = None
    auth: Annotated[
        Literal["on", "none"],
        _described("on: every request needs a token; none: everyone is one owner, loopback only"),
    ] = "on"
    lease_seconds: Annotated[
        float, _measured("How long a worker may be silent before its tasks go to others", "s")
    ] = 60.0
    plain_lease_seconds: Annotated[
        float, _measured("How long a worker on the plain API may take for one task", "s")
    ] = 900.0
    plain_body_bytes: Annotated[
        int, _measured("Largest request body on the plain API", "bytes")
    ] = 8 * MIB
    body_bytes: Annotated[int, _measured("Largest request body on /v1", "bytes")] = 64 * MIB
    bodies_bytes: Annotated[
        int, _measured("Large request bodies in memory at once; more wait, then get 503", "bytes")
    ] = 128 * MIB
    blob_bytes: Annotated[int, _measured("Largest blob", "bytes")] = 16 * GIB
    wheel_bytes: Annotated[int, _measured("Largest wheel that is uploaded", "bytes")] = 2 * GIB
    log_bytes: Annotated[
        int, _measured("What is kept of an attempt's log, head and tail", "bytes")
    ] = MIB
    keep_read_seconds: Annotated[
        float, _measured("How long an answer is kept after it was first read", "s")
    ] = 7 * DAY
    keep_unread_seconds: Annotated[
        float, _measured("How long an answer is kept that nobody has read", "s")
    ] = 30 * DAY
    keep_failed_seconds: Annotated[
        float, _measured("How long a task is kept that ended without an answer", "s")
    ] = 30 * DAY
    keep_blob_seconds: Annotated[
        float, _measured("How long a blob is kept that no task needs", "s")
    ] = DAY
    storage_bytes: Annotated[
        int | None,
        Meta(
            description="No new tasks while database and blobs take more; default: no limit but the"
            " disk's",
            extra={"unit": "bytes"},
        ),
    ] = None
    free_disk_bytes: Annotated[
        int, _measured("No new tasks below this much free disk, or below the share", "bytes")
    ] = 2 * GIB
    free_disk_share: Annotated[
        float,
        Meta(description="Share of the disk; the smaller of the two amounts counts", ge=0, lt=1),
    ] = 0.1
    ballast_bytes: Annotated[
        int,
        Meta(
            description="Size of the file that holds room for when the disk is full; 0 for none",
            extra={"unit": "bytes"},
            ge=0,
        ),
    ] = 64 * MIB
    memory_bytes: Annotated[
        int | None,
        Meta(
            description="No new tasks while the server uses more memory; default: 75 % of what it"
            " may have",
            extra={"unit": "bytes"},
        ),
    ] = None

    order: Annotated[
        Literal["predicted", "submit"],
        _described(
            "predicted: short work first, with ageing, and of a batch the longest; submit: as it"
            " became ready"
        ),
    ] = "predicted"
    placement: Annotated[
        Literal["on", "off"],
        _described(
            "on: fast workers first, and those that have the environment; off: whoever asks first"
        ),
    ] = "on"
    lease_sizes: Annotated[
        Literal["predicted", "one"],
        _described(
            "predicted: many short tasks at once, long ones one at a time; one: a task for each"
            " free slot"
        ),
    ] = "predicted"
    fair_share: Annotated[
        Literal["on", "off"],
        _described(
            "on: of several owners who had less of the workers is next; off: all tasks are in one"
            " order"
        ),
    ] = "on"
    share_weights: Annotated[
        str,
        _described(
            "NAME=WEIGHT,... of owners, by the names of their tokens, who get more or less than an"
            " equal share, such as nightly=0.5"
        ),
    ] = ""
    auto_timeout: Annotated[
        Literal["predicted", "default"],
        _described('What `timeout: "auto"` means: by what calls took, or the default, 3600 s'),
    ] = "predicted"
    reserve_memory: Annotated[
        Literal["on", "off"],
        _described(
            "on: the memory that a function's calls took is kept free for the next ones, and more"
            " for one that ran out of it; off: only what tasks require"
        ),
    ] = "on"
    allowed_packages: Annotated[
        str | None,
        _described(
            "Packages that tasks may name, as `numpy, acme-*`; what they need comes along. Without"
            " it all may be named"
        ),
    ] = None
    denied_packages: Annotated[
        str | None, _described("Packages that no task gets, not even because another needs them")
    ] = None
    private_index: Annotated[
        str | None,
        _described("URL of an index, with credentials if need be, for the private packages"),
    ] = None
    private_packages: Annotated[
        str | None,
        _described("Packages that come from the private index and from nowhere else, as `acme-*`"),
    ] = None
    model: Annotated[
        Literal["on", "off"],
        _described(
            "on: a process of its own learns from arguments how long calls take; off: estimates"
            " rest on what earlier calls of the function took"
        ),
    ] = "on"
    cool_down_seconds: Annotated[
        float,
        Meta(
            description="Packages are taken only this long after their upload, where the index"
            " tells when that was; 0: at once",
            extra={"unit": "s"},
            ge=0,
        ),
    ] = 7 * DAY
    young_packages: Annotated[
        str | None, _described("Packages that the cool-down does not hold for, as `acme-*`")
    ] = None

    @property
    def policy(self) -> Policy:
        """What may be installed."""
        return Policy.read(self.allowed_packages, self.denied_packages)

    @property
    def database_url(self) -> str:
        """The database in use: `database`, else the file in the data directory."""
        return self.database or database_url_in(self.data)


class WorkerSettings(Struct, frozen=True, kw_only=True):
    """What `worker` can be told."""

    server: Annotated[str, _described("URL of the server")]
    token: Annotated[str | None, _described("Worker token; none for a server with --auth none")] = (
        None
    )
    slots: Annotated[
        int, Meta(description="How many tasks run at once; default: one for each processor", ge=1)
    ] = field(default_factory=available_cpus)
    data: Annotated[
        Path, _described("Directory of environments, spool and the worker's identity")
    ] = field(default_factory=lambda: state_directory() / "worker")
    name: Annotated[str, _described("Name shown to people; default: the host's")] = field(
        default_factory=socket.gethostname
    )
    log_bytes: Annotated[
        int, _measured("What is kept of an attempt's log, head and tail", "bytes")
    ] = MIB
    answer_bytes: Annotated[
        int, _measured("Largest answer of a task; its pickle may take 4 KiB more", "bytes")
    ] = 64 * MIB
    python_downloads: Annotated[
        Literal["on", "off"],
        _described("on: a Python that this machine has not is fetched by uv when it is needed"),
    ] = "off"
    labels: Annotated[
        str, _described("NAME=VALUE,... by which users choose workers, such as rack=b,disk=ssd")
    ] = ""
    environments_bytes: Annotated[
        int | None,
        Meta(
            description="What environments may take on disk, those used longest ago go first;"
            " default: a quarter of the disk",
            extra={"unit": "bytes"},
        ),
    ] = None
    build_seconds: Annotated[float, _measured("Time limit of an environment's build", "s")] = 900.0
    min_sandbox: Annotated[
        int | None,
        _described(
            "Do not start below this level of the sandbox, 0 to 4; default: 0 where the server is"
            " on this machine, else 1"
        ),
    ] = None
    max_sandbox: Annotated[
        int, Meta(description="Highest level of the sandbox to use, 0 to 4", ge=0, le=4)
    ] = 4
    memory_bytes: Annotated[
        int | None,
        Meta(
            description="Memory that a task may take; default: 80 % of the machine's, by slots",
            extra={"unit": "bytes"},
        ),
    ] = None
    cpus: Annotated[
        float | None,
        _described("Processors that a task may use, where there are control groups; default: all"),
    ] = None
    gpus: Annotated[
        str | None,
        _described(
            "GPUs that tasks may have, as in CUDA_VISIBLE_DEVICES, or none; default: those of that"
            " variable, else all that nvidia-smi lists"
        ),
    ] = None
    processes: Annotated[
        int, Meta(description="Processes and threads that a task may have", ge=8)
    ] = 512
    file_bytes: Annotated[int, _measured("Largest file that a task may write", "bytes")] = 4 * GIB
    network: Annotated[
        Literal["none", "index-only", "internet", "full"],
        _described(
            "What tasks reach of the network: none, from level 1 on; index-only: the package"
            " indexes, from level 3 on; internet: no private addresses and not this machine, which"
            " needs root and control groups"
        ),
    ] = "full"
    readable: Annotated[
        str, _described("Folders that tasks may read too, separated as in PATH")
    ] = ""
    writable: Annotated[
        str,
        _described(
            "Folders that tasks may write too, separated as in PATH; when the worker is root, tasks"
            " are other users, whom the folder must let in"
        ),
    ] = ""
    runner_uids: Annotated[
        str, _described("Users that runners become when the worker is root; nobody else's")
    ] = "64000-64999"
    i_know_root_runners: Annotated[
        bool, _described("Run tasks as root where they cannot become other users")
    ] = False
    installer_fence: Annotated[
        Literal["on", "off"],
        _described(
            "Whether uv, where the kernel can do that, reads nothing secret, writes nothing but"
            " the environment that it builds and its own cache, and reaches package indexes alone"
        ),
    ] = "on"
    index_hosts: Annotated[
        str,
        _described(
            "Hosts, as NAME or NAME:PORT, that are reached where package indexes are; the indexes"
            " themselves, and where they say that files are, need not be named"
        ),
    ] = ""
    environment_bytes: Annotated[
        int, _measured("Largest environment, unpacked, that is built here", "bytes")
    ] = 4 * GIB
    environment_files: Annotated[
        int, Meta(description="How many files an environment may have", ge=1)
    ] = 200_000
    allowed_packages: Annotated[
        str | None,
        _described(
            "Packages that may be installed here, as `numpy, acme-*`, with all that they need."
            " Without it all may be"
        ),
    ] = None
    denied_packages: Annotated[
        str | None, _described("Packages that are never installed here, whatever the server allows")
    ] = None
    private_index: Annotated[
        str | None,
        _described("URL of an index, with credentials if need be, for the private packages"),
    ] = None
    private_packages: Annotated[
        str | None,
        _described("Packages that come from the private index and from nowhere else, as `acme-*`"),
    ] = None

    @property
    def policy(self) -> Policy:
        """What may be installed here."""
        return Policy.read(self.allowed_packages, self.denied_packages)

    @property
    def private(self) -> PrivateIndex | None:
        """The private index and its names; None: there is none."""
        return PrivateIndex.read(self.private_index, self.private_packages)


def database_url_in(data: Path) -> str:
    """URL of the SQLite file in a data directory."""
    return f"sqlite:///{data.expanduser().absolute() / 'task-server.db'}"
