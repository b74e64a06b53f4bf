"""Uploaded wheels as an index in a folder, for resolving: names, hashes and METADATA alone."""

import html
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A wheel that was uploaded; `name` is normalised, `sha256` in hex."""

    name: str
    filename: str
    sha256: str
    requires_python: str | None
    metadata: str


def write_index(folder: Path, uploads: Sequence[Uploaded]) -> str:
    """Make an index (PEP 503) of these wheels in `folder`; gives its URL.

    A resolver reads nothing of a wheel but its METADATA, so there is nothing else in the files
    here; the hashes are those of the true ones.
    """
    names: dict[str, list[Uploaded]] = {}
    for upload in uploads:
        names.setdefault(upload.name, []).append(upload)
    for name, files in names.items():
        page = folder / name
        page.mkdir(parents=True)
        lines = (_line(upload) for upload in files)
        (page / "index.html").write_text(
            f"<!DOCTYPE html><html><body>{''.join(lines)}</body></html>"
        )
        for upload in files:
            _write_metadata(page / upload.filename, upload)
    return folder.absolute().as_uri()


def _line(upload: Uploaded) -> str:
    needed = ""
    if upload.requires_python is not None:
        needed = f' data-requires-python="{html.escape(upload.requires_python)}"'
    name = html.escape(upload.filename)
    return f'<a href="{name}#sha256={upload.sha256}"{needed}>{name}</a><br>'


def _write_metadata(path: Path, upload: Uploaded) -> None:
    name, version, *_ = upload.filename.split("-")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-{version}.dist-info/METADATA", upload.metadata)
