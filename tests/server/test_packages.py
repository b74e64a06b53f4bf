"""`/v1/packages`: wheels come in by two ways, and go out as a simple index to whom they belong."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from task_server.server.service import uploads as uploads_module
from task_server.server.service.uploads import Uploads
from tests.environments.small_index import small_index, wheel
from tests.server.asgi import JSON, App, Reply, application

NAME = "greet-1.0-py3-none-any.whl"
BYTES = {"content-type": "application/octet-stream"}
SIMPLE = {"accept": "application/vnd.pypi.simple.v1+json"}


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with application(tmp_path / "data", wheel_bytes=100_000) as app:
        yield app


def greet(version: str = "1.0", said: str = "hello") -> bytes:
    return wheel("greet", version, {"greet.py": f"def name(): return {said!r}\n"})


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def upload(
    app: App, content: bytes | None = None, filename: str = NAME, token: str = "user"
) -> Reply:
    content = greet() if content is None else content
    blob = f"sha256:{sha256(content)}"
    await app.ask("PUT", f"/v1/blobs/{blob}", content, headers=BYTES, token=token)
    return await app.ask("POST", "/v1/packages", {"filename": filename, "blob": blob}, token=token)


def form(content: bytes, filename: str = NAME, **fields: str) -> tuple[bytes, dict[str, str]]:
    """A form as twine sends it."""
    parts = [
        f'--b0und\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in {":action": "file_upload", **fields}.items()
    ]
    parts.append(
        b'--b0und\r\nContent-Disposition: form-data; name="content";'
        b' filename="%s"\r\nContent-Type: application/octet-stream\r\n\r\n' % filename.encode()
    )
    body = b"".join((*parts, content, b"\r\n--b0und--\r\n"))
    return body, {"content-type": "multipart/form-data; boundary=b0und"}


async def test_an_uploaded_wheel_is_listed_and_given_out(app: App) -> None:
    made = await upload(app)
    again = await upload(app)

    listed = (await app.ask("GET", "/v1/packages")).json["packages"]
    path = f"/v1/packages/files/{sha256(greet())}/{NAME}"
    assert (made.status, again.status) == (201, 200)
    assert listed == [made.json] and made.json["name"] == "greet"
    assert (await app.ask("GET", path)).body == greet()
    assert b"Name: greet" in (await app.ask("GET", f"{path}.metadata")).body


async def test_the_simple_index_has_hashes_as_json_and_as_html(app: App) -> None:
    await upload(app)

    page = await app.ask("GET", "/v1/packages/simple/Greet/", headers=SIMPLE)
    shown = await app.ask("GET", "/v1/packages/simple/greet/", headers={"accept": "text/html"})
    root = await app.ask("GET", "/v1/packages/simple/", headers=SIMPLE)

    assert page.headers["content-type"] == SIMPLE["accept"]
    (file,) = page.json["files"]
    assert file["hashes"] == {"sha256": sha256(greet())} and file["filename"] == NAME
    assert f"{file['url']}#sha256={sha256(greet())}" in shown.body.decode()
    assert root.json["projects"] == [{"name": "greet"}]


async def test_a_form_as_twine_sends_it_is_taken_in_pieces_of_any_size(app: App) -> None:
    for number, size in enumerate((1, 7, 1000, 100_000)):
        filename = f"greet-{number}.0-py3-none-any.whl"
        content = greet(f"{number}.0", "\r\n--b0un \r\n--" * 5)
        body, headers = form(content, filename, sha256_digest=sha256(content), name="greet")
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        basic = base64.b64encode(f"__token__:{app.tokens['user']}".encode()).decode()

        made = await app.ask(
            "POST",
            "/v1/packages",
            headers={**headers, "authorization": f"Basic {basic}"},
            pieces=pieces,
        )

        assert made.status == 201 and made.json["sha256"] == sha256(content)


async def test_other_content_under_the_same_name_is_refused(app: App) -> None:
    await upload(app)

    refused = await upload(app, greet(said="other"))
    body, headers = form(greet(said="a third"))
    also = await app.ask("POST", "/v1/packages", body, headers=headers)

    assert (refused.status, also.status) == (409, 409)
    assert "raise the version" in refused.text
    assert (await upload(app, greet(said="other"), token="other")).status == 201


async def test_what_is_no_wheel_is_refused(app: App) -> None:
    assert (await upload(app, b"no wheel")).status == 422
    assert (await upload(app, greet(), "greet-2.0-py3-none-any.whl")).status == 422
    assert (await upload(app, greet(), "greet-1.0.tar.gz")).status == 422
    assert (await upload(app, greet(), "../" + NAME)).status == 422

    assert (await app.ask("GET", "/v1/packages")).json["packages"] == []


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{}", JSON, 422),
        ({"filename": NAME, "blob": "sha256:" + "0" * 64}, JSON, 422),
        ({"filename": NAME, "blob": "nothing"}, JSON, 422),
        ({"filename": NAME, "blob": "x", "owner": 1}, JSON, 422),
        (b"x", {"content-type": "text/plain"}, 415),
        (b"x", {"content-type": "multipart/form-data"}, 415),
        (b"", {"content-type": "multipart/form-data; boundary=b"}, 400),
        (b"--b\r\n", {"content-type": "multipart/form-data; boundary=b"}, 400),
        (b"--b--\r\n", {"content-type": "multipart/form-data; boundary=b"}, 422),
        (b"--b\r\nX: y\r\n\r\n\r\n--b--", {"content-type": "multipart/form-data; boundary=b"}, 400),
        (b"--b\r\n" + b"x" * 9000, {"content-type": "multipart/form-data; boundary=b"}, 400),
        (form(greet(), sha256_digest="0" * 64)[0], form(b"")[1], 422),
        (form(greet(), **{":action": "submit"})[0], form(b"")[1], 422),
        (form(greet())[0][:-30], form(b"")[1], 400),
    ],
)
async def test_a_bad_upload_is_refused(
    app: App, body: object, headers: dict[str, str], status: int
) -> None:
    reply = await app.ask("POST", "/v1/packages", body, headers=headers)

    assert reply.status == status, reply.body
    assert (await app.ask("GET", "/v1/packages")).json["packages"] == []


async def test_a_wheel_that_is_too_large_is_refused_while_it_comes(app: App) -> None:
    body, headers = form(b"x" * 5_000_000)
    pieces = [body[at : at + 65_536] for at in range(0, len(body), 65_536)]

    reply = await app.ask("POST", "/v1/packages", headers=headers, pieces=pieces)

    assert reply.status == 413 and reply.pieces_read < len(pieces)


async def test_wheels_are_their_owners_and_the_workers(app: App) -> None:
    await upload(app)
    path = f"/v1/packages/files/{sha256(greet())}/{NAME}"

    for target in (path, "/v1/packages/simple/greet/"):
        assert (await app.ask("GET", target, token="other")).status == 404
        assert (await app.ask("GET", target, token="worker")).status == 200
        assert (await app.ask("GET", target, token=None)).status == 401
    assert (await app.ask("DELETE", "/v1/packages/greet", token="other")).status == 404
    assert (await app.ask("DELETE", "/v1/packages/greet", token="worker")).status == 403
    assert (await app.ask("POST", "/v1/packages", b"{}", token="worker")).status == 403


async def test_removing_a_version_and_a_name(app: App) -> None:
    for version in ("1.0", "2.0", "3.0"):
        await upload(app, greet(version), f"greet-{version}-py3-none-any.whl")

    assert (await app.ask("DELETE", "/v1/packages/greet/2.0")).json == {"removed": 1}
    assert (await app.ask("DELETE", "/v1/packages/greet/2.0")).status == 404
    assert (await app.ask("DELETE", "/v1/packages/greet/x!y")).status == 404
    assert (await app.ask("DELETE", "/v1/packages/Greet")).json == {"removed": 2}
    assert (await app.ask("GET", "/v1/packages/simple/greet/")).status == 404


@pytest.mark.parametrize("password", ["wrong", "", "tsu_" + "x" * 49])
async def test_a_wrong_password_is_refused_as_a_wrong_token_is(app: App, password: str) -> None:
    basic = base64.b64encode(f"__token__:{password}".encode()).decode()

    for value in (f"Basic {basic}", "Basic %%%", "Basic "):
        reply = await app.ask("GET", "/v1/packages/simple/", headers={"authorization": value})
        assert reply.status == 401

    good = base64.b64encode(f"x:{app.tokens['user']}".encode()).decode()
    elsewhere = await app.ask("GET", "/v1/tasks", headers={"authorization": f"Basic {good}"})
    assert elsewhere.status == 401


async def locked(app: App, token: str = "user", package: str = "greet") -> dict[str, str]:
    """The versions that a task of theirs gets, once they are chosen."""
    import asyncio

    body = {"function": "greet:name", "package": package}
    task = (await app.ask("POST", "/v1/tasks", body, token=token)).json["id"]
    async with asyncio.timeout(20):
        while True:
            view = (await app.ask("GET", f"/v1/tasks/{task}", token=token)).json
            if view.get("environment"):
                break
            assert view["state"] == "queued", view
            await asyncio.sleep(0.02)
    environment = (await app.ask("GET", f"/v1/environments/{view['environment']}")).json
    versions: dict[str, str] = environment["versions"]
    return versions


async def test_an_uploaded_name_is_never_looked_for_in_the_public_index(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_index() as index:
        index.add("greet", "9.0", {"greet.py": "raise SystemExit('not this one')"})
        for name, value in index.environ(tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        assert await locked(app) == {"greet": "9.0"}
        await upload(app)

        assert await locked(app) == {"greet": "1.0"}
        assert await locked(app, token="other") == {"greet": "9.0"}

        await upload(app, greet("1.1"), "greet-1.1-py3-none-any.whl")
        assert await locked(app) == {"greet": "1.1"}
        assert await locked(app, package="greet==1.0") == {"greet": "1.0"}

        body = {"function": "greet:name", "package": "greet==9.0"}
        task = (await app.ask("POST", "/v1/tasks", body)).json["id"]
        view = (await app.ask("GET", f"/v1/tasks/{task}?wait=20")).json
        assert view["state"] == "failed"
        assert view["error"]["message"].startswith("no version of greet matches ==9.0")


async def test_what_is_prepared_for_an_owner_has_their_uploads(
    app: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_index() as index:
        index.add("greet", "9.0", {"greet.py": ""})
        for name, value in index.environ(tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        await upload(app)

        query, body = "/v1/environments?until=locked&wait=20", {"package": "greet"}
        own = (await app.ask("POST", query, body)).json
        others = (await app.ask("POST", query, body, token="other")).json

        assert own["requirements"] == others["requirements"] == ["greet"]
        for prepared, version in ((own, "1.0"), (others, "9.0")):
            found = await app.ask("GET", f"/v1/environments/{prepared['environment']}")
            assert found.json["versions"] == {"greet": version}


async def test_what_another_server_changed_is_known_before_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(uploads_module, "FRESH_SECONDS", 0.1)
    rows: list[tuple[int, str, str, str]] = []

    async def mark() -> tuple[int, int]:
        return len(rows), len(rows)

    async def contents() -> list[tuple[int, str, str, str]]:
        return list(rows)

    here, there = (Uploads(mark, contents, waits_for_others=True) for _ in range(2))
    assert await there.of(1) is None

    rows.append((1, "greet", NAME, "sha256:x"))
    await here.changed()
    found = await there.of(1)

    assert found is not None and found.names == {"greet"}
    assert found.key_of({"greet"}) == f"1 {found.generation}" != found.key_of({"other"})


async def test_a_package_that_is_not_allowed_is_refused_at_submit(tmp_path: Path) -> None:
    allowed = {"allowed_packages": "numpy, acme-*", "denied_packages": "acme-bad"}
    async with application(tmp_path / "data", **allowed) as app:
        for package in ("greet", "acme-bad", ["numpy", "greet"], "Acme.BAD>=1"):
            body = {"function": "greet:name", "package": package}
            reply = await app.refused(403, "POST", "/v1/tasks", body)
            assert reply.code == "package_not_allowed"
            assert reply.text.startswith("package not allowed: ")
            plain = {"function": "name", "package": package if isinstance(package, str) else "x"}
            assert (await app.ask("POST", "/user/submit_task", plain)).status == 403

        good = {"function": "acme:name", "package": "Acme_Good>=1"}
        assert (await app.ask("POST", "/v1/tasks", good)).status == 202
        assert (await app.ask("POST", "/v1/tasks", {"function": "math:sqrt"})).status == 202

        ahead = {"package": ["numpy", "greet"]}
        reply = await app.refused(403, "POST", "/v1/environments", ahead)
        assert reply.code == "package_not_allowed"
