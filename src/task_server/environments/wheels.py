"""Read a wheel that a user uploaded: its name, and what it needs. Nothing in it is run."""

import email.parser
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

MAX_METADATA_BYTES = 1024 * 1024
MAX_FILES = 100_000
MAX_FILENAME_LETTERS = 255

_UNREADABLE = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    OSError,
    EOFError,
    zlib.error,
    struct.error,
    ValueError,  # of places before the beginning
)
_BUILD = "make a wheel of the project first, as by `uv build --wheel`"


class BadWheel(ValueError):
    """A file that is no wheel, or that says other things than its name."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """What a wheel says of itself; name and version are normalised."""

    name: str
    version: str
    filename: str
    requires_python: str | None
    metadata: str


def read_wheel(file: Path | BinaryIO, filename: str) -> Wheel:
    """What the wheel in `file`, which is called `filename`, says of itself. Raises BadWheel."""
    name, version = named(filename)
    try:
        with zipfile.ZipFile(file) as archive:
            _check_members(archive.infolist())
            metadata = _metadata(archive, name, version)
    except BadWheel:
        raise
    except _UNREADABLE as error:
        raise BadWheel(f"{filename} is not a zip archive that can be read: {error}") from None
    headers = email.parser.HeaderParser().parsestr(metadata)
    _check_identity(filename, name, version, str(headers["Name"]), str(headers["Version"]))
    for text in headers.get_all("Requires-Dist", []):
        _check_requirement(filename, str(text))
    return Wheel(name, version, filename, _requires_python(headers["Requires-Python"]), metadata)


def named(filename: str) -> tuple[str, str]:
    """Normalised name and version that a wheel's file name says. Raises BadWheel."""
    if len(filename) > MAX_FILENAME_LETTERS or not filename.isascii():
        raise BadWheel("the file name is too long, or holds letters that are not ASCII")
    if filename.endswith((".tar.gz", ".zip", ".tar.bz2")):
        raise BadWheel(f"{filename} holds sources: {_BUILD}")
    if not filename.isprintable() or any(sign in filename for sign in " /\\\"'<>&#?%"):
        raise BadWheel(f"{filename!r} is not the file name of a wheel")
    try:
        name, version, _, _ = parse_wheel_filename(filename)
    except (InvalidWheelFilename, InvalidVersion):
        raise BadWheel(f"{filename!r} is not the file name of a wheel: {_BUILD}") from None
    return str(name), str(version)


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    if len(members) > MAX_FILES:
        raise BadWheel(f"the wheel has more than {MAX_FILES} files")
    for member in members:
        path = PurePosixPath(member.filename)
        leads_out = path.is_absolute() or ".." in path.parts or "\\" in member.filename
        if leads_out or stat.S_ISLNK(member.external_attr >> 16):
            raise BadWheel(f"the wheel has a file that leads out of it: {member.filename[:100]!a}")


def _metadata(archive: zipfile.ZipFile, name: str, version: str) -> str:
    found = [
        member
        for member in archive.infolist()
        if member.filename.endswith(".dist-info/METADATA") and member.filename.count("/") == 1
    ]
    if len(found) != 1:
        raise BadWheel("the wheel must have one file NAME-VERSION.dist-info/METADATA")
    folder = found[0].filename.removesuffix(".dist-info/METADATA")
    stem, _, told = folder.rpartition("-")
    if canonicalize_name(stem) != name or not _is_version(told, version):
        raise BadWheel(f"the wheel's {folder}.dist-info is not that of {name} {version}")
    with archive.open(found[0]) as stream:  # the size that the archive tells may be a lie
        data = stream.read(MAX_METADATA_BYTES + 1)
    if len(data) > MAX_METADATA_BYTES:
        raise BadWheel(f"the wheel's METADATA has more than {MAX_METADATA_BYTES} bytes")
    try:
        return data.decode().replace("\0", "")
    except UnicodeDecodeError:
        raise BadWheel("the wheel's METADATA is not UTF-8") from None


def _is_version(text: str, version: str) -> bool:
    try:
        return str(Version(text)) == version
    except InvalidVersion:
        return False


def _check_identity(filename: str, name: str, version: str, told: str, number: str) -> None:
    if canonicalize_name(told) != name or not _is_version(number, version):
        raise BadWheel(f"{filename} says inside that it is {told[:100]!a} {number[:100]!a}")


def _check_requirement(filename: str, text: str) -> None:
    try:
        url = Requirement(text).url
    except InvalidRequirement:
        raise BadWheel(f"{filename} needs {text[:200]!a}, which is no requirement") from None
    if url:
        raise BadWheel(f"{filename} needs {text[:200]!a}: upload that as a wheel too, and name it")


def _requires_python(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return str(SpecifierSet(str(text)))
    except InvalidSpecifier:
        raise BadWheel(f"Requires-Python {str(text)[:100]!a} is no set of versions") from None
