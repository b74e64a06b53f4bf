"""`/v1/packages`: wheels that users uploaded, as a simple index (PEP 503, 691, 658)."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Sequence
from urllib.parse import quote

import msgspec
from msgspec import Struct
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from task_server.errors import Invalid, NotFound
from task_server.server.api.blobs import reply_with
from task_server.server.http import BYTES, Call, Reply, check_json, decode, encode
from task_server.server.multipart import Form, boundary_of
from task_server.server.routing import BOTH, USER, Route
from task_server.server.service import wheels
from task_server.server.service.views import moment
from task_server.server.state import State
from task_server.store.records.packages import Package

SIMPLE_JSON = b"application/vnd.pypi.simple.v1+json"
SIMPLE_HTML = b"text/html; charset=utf-8"
_FORM_BYTES = 4 * 1024 * 1024
_BODY_BYTES = 64 * 1024


class NewPackage(Struct, forbid_unknown_fields=True):
    """Body of a POST as JSON: a blob that holds a wheel, and what it is called."""

    filename: str
    blob: str


_new_packages = msgspec.json.Decoder(NewPackage)


async def post(state: State, call: Call) -> Reply:
    """Upload a wheel: a blob as JSON, or the form that twine and `uv publish` send."""
    call.query()
    if (call.header(b"content-type") or b"").lower().startswith(b"multipart/"):
        package, is_new = await _from_form(state, call)
    else:
        check_json(call)
        asked = decode(await call.body(_BODY_BYTES), _new_packages)
        package, is_new = await wheels.from_blob(state, call.caller, asked.filename, asked.blob)
    return Reply(encode(_view(package)), 201 if is_new else 200)


async def _from_form(state: State, call: Call) -> tuple[Package, bool]:
    boundary = boundary_of(call.header(b"content-type") or b"")
    with wheels.spool(state) as file:
        form = Form(boundary, file, limit=state.settings.wheel_bytes + _FORM_BYTES)
        await form.read(call.pieces())
        if form.fields.get(":action", "file_upload") != "file_upload":
            raise Invalid("the form's :action must be file_upload", field=":action")
        if form.filename is None:
            raise Invalid("the form holds no file", field="content")
        return await wheels.from_file(
            state, call.caller, form.filename, file, sha256=form.fields.get("sha256_digest") or None
        )


async def listed(state: State, call: Call) -> Reply:
    """The caller's wheels."""
    call.query()
    found = await state.store.packages(owner=wheels.sees(call.caller))
    return Reply(encode({"packages": [_view(package) for package in found]}))


async def remove(state: State, call: Call) -> Reply:
    """Forget a package, or a version of it. Tasks whose lock names it can no longer be prepared."""
    call.query()
    name, version = canonicalize_name(call.params["name"]), call.params.get("version")
    try:
        wanted = None if version is None else str(Version(version))
    except InvalidVersion:
        raise NotFound("no such version was uploaded here") from None
    removed = await state.store.remove_package(owner=call.caller.owner, name=name, version=wanted)
    if not removed:
        raise NotFound("no such package was uploaded here")
    await state.uploads.changed()
    return Reply(encode({"removed": removed}))


def _view(package: Package) -> dict[str, object]:
    return {
        "name": package.name,
        "version": package.version,
        "filename": package.filename,
        "sha256": package.digest.removeprefix("sha256:"),
        "size": package.size,
        "requires_python": package.requires_python,
        "uploaded_at": moment(package.uploaded_at),
    }


# ---- the simple index


async def names(state: State, call: Call) -> Reply:
    """The root of the simple index: all names."""
    found = await state.store.packages(owner=wheels.sees(call.caller))
    names = sorted({package.name for package in found})
    if _wants_json(call):
        shown = {"meta": {"api-version": "1.1"}, "projects": [{"name": name} for name in names]}
        return Reply(encode(shown), content_type=SIMPLE_JSON)
    links = [f'<a href="{name}/">{name}</a>' for name in names]
    return _page("packages", links)


async def files(state: State, call: Call) -> Reply:
    """The files of one name, with their hashes."""
    name = canonicalize_name(call.params["name"])
    found = await wheels.of_name(state, call.caller, name)
    if _wants_json(call):
        return Reply(encode(_project(name, found)), content_type=SIMPLE_JSON)
    return _page(name, [_link(package) for package in found])


def _project(name: str, found: Sequence[Package]) -> dict[str, object]:
    return {
        "meta": {"api-version": "1.1"},
        "name": name,
        "versions": list(dict.fromkeys(package.version for package in found)),
        "files": [_file(package) for package in found],
    }


def _file(package: Package) -> dict[str, object]:
    file = {
        "filename": package.filename,
        "url": _path(package),
        "hashes": {"sha256": package.digest.removeprefix("sha256:")},
        "size": package.size,
        "upload-time": moment(package.uploaded_at),
        "core-metadata": {"sha256": _metadata_digest(package)},
    }
    if package.requires_python is not None:
        file["requires-python"] = package.requires_python
    return file


def _link(package: Package) -> str:
    needed = ""
    if package.requires_python is not None:
        needed = f' data-requires-python="{html.escape(package.requires_python)}"'
    return (
        f'<a href="{_path(package)}#{package.digest.replace(":", "=")}"'
        f' data-core-metadata="sha256={_metadata_digest(package)}"{needed}>{package.filename}</a>'
    )


def _path(package: Package) -> str:
    # Relative to the page: a proxy may have put the server below another path.
    digest = package.digest.removeprefix("sha256:")
    return f"../../files/{digest}/{quote(package.filename, safe='')}"


def _metadata_digest(package: Package) -> str:
    return hashlib.sha256(package.metadata.encode()).hexdigest()


def _wants_json(call: Call) -> bool:
    """Whether JSON is asked for, and not less than HTML."""
    accepted = (call.header(b"accept") or b"").lower()
    return _weight(accepted, SIMPLE_JSON) > 0 and _weight(accepted, SIMPLE_JSON) >= _weight(
        accepted, b"text/html"
    )


def _weight(accepted: bytes, kind: bytes) -> float:
    for each in accepted.split(b","):
        name, _, parameters = each.strip().partition(b";")
        if name.strip() == kind:
            found = re.search(rb"q\s*=\s*([01](?:\.\d+)?)", parameters)
            return float(found[1]) if found else 1.0
    return 0.0


def _page(title: str, links: Sequence[str]) -> Reply:
    lines = "<br>\n".join(links)
    text = (
        '<!DOCTYPE html>\n<html><head><meta name="pypi:repository-version" content="1.1">'
        f"<title>{html.escape(title)}</title></head>\n<body>\n{lines}\n</body></html>\n"
    )
    return Reply(text.encode(), content_type=SIMPLE_HTML)


async def file(state: State, call: Call) -> Reply:
    """A wheel, or its METADATA alone."""
    filename = call.params["filename"]
    wanted = filename.removesuffix(".metadata")
    package = await wheels.of_file(state, call.caller, call.params["digest"], wanted)
    if wanted != filename:
        return Reply(package.metadata.encode(), content_type=BYTES)
    return reply_with(call, await state.blobs.open(package.digest), content_type=BYTES)


ROUTES = [
    Route("POST", "/v1/packages", post, USER, takes_basic=True),
    Route("GET", "/v1/packages", listed, USER),
    Route("GET", "/v1/packages/simple/", names, BOTH, takes_basic=True),
    Route("GET", "/v1/packages/simple/{name}/", files, BOTH, takes_basic=True),
    Route("GET", "/v1/packages/files/{digest}/{filename}", file, BOTH, takes_basic=True),
    Route("HEAD", "/v1/packages/files/{digest}/{filename}", file, BOTH, takes_basic=True),
    Route("DELETE", "/v1/packages/{name}", remove, USER),
    Route("DELETE", "/v1/packages/{name}/{version}", remove, USER),
]
