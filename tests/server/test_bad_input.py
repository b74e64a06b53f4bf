"""What no server should take: each case has its status, its shape, and leaves nothing behind."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from task_server.protocol import ids
from tests.server.asgi import JSON, App, application

pytestmark = pytest.mark.asyncio(loop_scope="module")

SUBMIT = "/user/submit_task"
ANSWER = "/worker/submit_answer"
TASKS = "/v1/tasks"
NDJSON = {"content-type": "application/x-ndjson"}
BODIES = [
    (SUBMIT, "user"),
    (ANSWER, "worker"),
    (TASKS, "user"),
    ("/v1/estimates", "user"),
    ("/v1/batches", "user"),
    ("/v1/workers", "worker"),
    ("/v1/workers/x/exchange", "worker"),
]
"""Every endpoint that takes a body."""
SUBMITS = [SUBMIT, TASKS]
MIB = 1 << 20


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def app(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    async with application(tmp_path_factory.mktemp("data")) as app:
        yield app
        done = await app.ask("POST", SUBMIT, {"function": "pow", "args": [2, 3]})
        assert done.status == 200


def new_id(at: float | None = None) -> str:
    return ids.to_text(ids.new_id(at=at))


def shown(value: object) -> str:
    """A parameter in a test's name, the same in every process that collects the tests."""
    return re.sub("[0-9A-Fa-f-]{32,36}", "ID", ascii(value))[:40]


async def given(app: App) -> dict[str, Any]:
    """Any task as a plain worker gets it."""
    reply = await app.ask("GET", "/worker/request_task", token="worker")
    assert reply.status == 200 and reply.json["sucsess"], reply.body
    found: dict[str, Any] = reply.json
    return found


async def taken(app: App) -> dict[str, Any]:
    """The newest task as a plain worker gets it; those before it are answered."""
    found = await given(app)
    while (following := await app.ask("GET", "/worker/request_task", token="worker")).json[
        "sucsess"
    ]:
        await app.ask("POST", ANSWER, {"id": found["id"], "answer": 0}, token="worker")
        found = following.json
    return found


# ---- bodies


@pytest.mark.parametrize(("path", "token"), BODIES)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \r\n\t ",
        b"null",
        b"true",
        b"1",
        b'"text"',
        b'{"function": "pow", "id": "x"',
        b'{"function": "pow",}',
        b'{"function": "pow" // comment\n}',
        b'{"function": "pow" /* comment */}',
        b"{'function': 'pow'}",
        b'{"function": "pow"} {"function": "pow"}',
        b'{"function": "pow"}]',
        b'{"function": NaN}',
        b'{"args": [NaN]}',
        b'{"args": [Infinity]}',
        b'{"args": [-Infinity]}',
        b'{"args": [012]}',
        b'{"args": [0x10]}',
        b'{"args": [1.]}',
        b'{"args": [.5]}',
        b'{"args": [+1]}',
        b'{"args": ["\n"]}',
        b'{"args": ["\x00"]}',
        b'{"args": ["\\x41"]}',
        b'{"args": ["\\u12"]}',
        b'{"function": pow}',
        b'{function: "pow"}',
        b'{"function": "p\xff\xfew"}',
        b'{"function": "\xc0\xaf"}',
        b'{"function": "\xed\xa0\x80"}',
        '{"function": "pow"}'.encode("utf-16"),
        '{"function": "pow"}'.encode("utf-16-le"),
        '\ufeff{"function": "pow"}'.encode(),
        b"\x80\x04\x95\x00\x00\x00",
    ],
    ids=lambda body: repr(body)[:40] if isinstance(body, bytes) else None,
)
async def test_what_is_no_json_is_400(app: App, path: str, token: str, body: bytes) -> None:
    reply = await app.refused(400, "POST", path, body, token=token)

    assert reply.code == "malformed"


async def test_lists_are_for_v1(app: App) -> None:
    await app.refused(400, "POST", SUBMIT, b'[{"function": "pow"}]')
    await app.refused(400, "POST", ANSWER, b"[]", token="worker")
    await app.refused(422, "POST", TASKS, b"[]")
    await app.refused(422, "POST", TASKS, b"[1]")
    await app.refused(422, "POST", TASKS, b'{"tasks": []}')
    await app.refused(422, "POST", TASKS, b"", headers=NDJSON)


@pytest.mark.parametrize(("path", "token"), BODIES)
@pytest.mark.parametrize("begin", ["[", '{"a":'])
@pytest.mark.parametrize("is_closed", [True, False])
async def test_bottomless_bodies_are_refused_fast(
    app: App, path: str, token: str, begin: str, is_closed: bool
) -> None:
    depth = 100_000
    deep = begin * depth + ("1" + ("]" if begin == "[" else "}") * depth if is_closed else "")
    bodies = [deep, '{"id": "x", "answer": ' + deep + "}"]
    bodies += ['{"' + key + '": ' + deep + "}" for key in ("args", "nobody_knows", "function")]
    for body in bodies:
        before = app.stored()

        reply = await app.ask("POST", path, body, token=token)

        assert reply.status in ((400,) if path == TASKS and not is_closed else (400, 404, 422))
        assert app.stored() == before
        assert reply.seconds < 1.0  # some milliseconds, on a machine that does nothing else


@pytest.mark.parametrize("path", SUBMITS)
@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("[" * 100_000 + "]" * 100_000, 400),
        ("[" * 100_000, 400),
        ("[" * 129 + "]" * 129, 400),
        ("9" * 5_000, 422),
        ("-" + "9" * 5_000, 422),
        ("9" * MIB, 422),
        ("[" + "9" * 4_301 + "]", 422),
        ('{"a": [0.' + "1" * 5_000 + "]}", 422),
        ("1e999999", 422),
        ("-1e999999", 422),
        ("1E+400", 422),
        ("123.5e307", 422),
        ("[1, 2, {}, 1e400]", 422),
        (r'"\ud800"', 422),
        (r'"\udc00"', 422),
        (r'"\uDBFFx"', 422),
        (r'"\ud800\ud800"', 422),
        (r'"\udc00\ud800"', 422),
        (r'"\\\ud800"', 422),
        (r'{"\ud800": 1}', 422),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_values_that_could_not_be_carried(
    app: App, path: str, value: str, status: int
) -> None:
    for body in ('{"function": "f", "args": [%s]}', '{"function": "f", "kwargs": {"a": %s}}'):
        reply = await app.refused(status, "POST", path, body % value)

        assert reply.seconds < 0.1
        if path == TASKS and status == 422:
            assert reply.fields in (["args"], ["kwargs"], ["body"])


@pytest.mark.parametrize(
    "value",
    [
        r'"\u0000"',
        r'"\ud83d\ude00 \\ud800 \u00e9"',
        str(2**64),
        str(10**40),
        "9" * 4_300,
        "1e308",
        "0e999999",
        "1.0E5",
        "-0",
        "0.1000",
        '"' + "9" * 10_000 + '"',
        '"1e999999 \\"1e999999"',
        "[" * 100 + "]" * 100,
        '{"b": 1, "a": {"": [null, true]}, "function": 2, "args": 3}',
    ],
    ids=lambda value: str(value)[:20],
)
async def test_odd_values_go_through_as_they_were_written(app: App, value: str) -> None:
    body = f'{{"function": "f", "args": [{value}], "kwargs": {{"a": {value}}}}}'
    task = (await app.ask("POST", SUBMIT, body)).json["id"]

    found = await app.ask("GET", "/worker/request_task", token="worker")
    answer = f'{{"id": "{task}", "answer": [{value}]}}'
    told = await app.ask("POST", ANSWER, answer, token="worker")
    read = await app.ask("GET", f"/user/request_answer/{task}")
    alone = await app.ask("GET", f"/v1/tasks/{task}/answer")

    assert found.json["id"] == task and told.status == 200
    assert f'"args":[{value}]'.encode() in found.body
    assert f'"kwargs":{{"a": {value}}}'.encode() in found.body
    assert f'"answer":[{value}]'.encode() in read.body and read.status == 200
    assert alone.body == f"[{value}]".encode()


@pytest.mark.parametrize("value", ["9" * 5_000, "1e400", r'"\ud800"', "[" * 200 + "]" * 200])
async def test_answers_that_could_not_be_carried(app: App, value: str) -> None:
    task = (await app.ask("POST", SUBMIT, {"function": "f"})).json["id"]
    await taken(app)
    body = f'{{"id": "{task}", "answer": {value}}}'

    reply = await app.ask("POST", ANSWER, body, token="worker")

    assert reply.status in (400, 422)
    assert (await app.ask("GET", f"/v1/tasks/{task}")).json["state"] == "running"
    good = {"id": task, "answer": 1}
    assert (await app.ask("POST", ANSWER, good, token="worker")).status == 200


@pytest.mark.parametrize(
    ("path", "token", "body"),
    [
        (SUBMIT, "user", '{"function": "f", "function": "g"}'),
        (SUBMIT, "user", '{"function": "f", "args": [1], "args": [2]}'),
        (SUBMIT, "user", r'{"function": "f", "funct\u0069on": "g"}'),
        (ANSWER, "worker", '{"id": "a", "answer": 1, "answer": 2}'),
        (TASKS, "user", '{"function": "f", "kwargs": {"a": 1}, "kwargs": {"b": 1}}'),
        (TASKS, "user", '{"function": "f", "retries": {"max": 1, "max": 2}}'),
        (TASKS, "user", '[{"function": "f", "args": [1], "args": [2]}]'),
        (TASKS, "user", '{"defaults": {"function": "f"}, "tasks": [{"args": [], "args": []}]}'),
        (TASKS, "user", '{"defaults": {"function": "f", "function": "g"}, "tasks": [{}]}'),
        (TASKS, "user", '{"tasks": [{"function": "f"}], "tasks": [{"function": "f"}]}'),
        (TASKS, "user", '{"batch": {"name": "a", "name": "b"}, "tasks": [{"function": "f"}]}'),
        ("/v1/batches", "user", '{"name": "a", "name": "b"}'),
        (
            "/v1/workers",
            "worker",
            '{"name": "a", "name": "b", "slots": 1, "protocol": [1, 1]}',
        ),
    ],
)
async def test_a_key_that_stands_twice_is_400(app: App, path: str, token: str, body: str) -> None:
    await app.refused(400, "POST", path, body, token=token)


async def test_keys_of_arguments_are_nobodys_business(app: App) -> None:
    body = '{"function": "f", "kwargs": {"a": 1, "function": 2, "kwargs": {"a": 3}, "a": 4}}'

    assert (await app.ask("POST", SUBMIT, body)).status == 200
    assert (await taken(app))["task"]["kwargs"]["a"] == 4
    assert (await app.ask("POST", TASKS, body)).status == 202


@pytest.mark.parametrize("path", SUBMITS)
async def test_many_and_long_arguments_are_taken(app: App, path: str) -> None:
    bodies: list[object] = [
        {"function": "f", "kwargs": {"k" * MIB: 1}},
        {"function": "f", "kwargs": {f"k{n}": n for n in range(100_000)}},
        {"function": "f", "args": [0] * 200_000},
    ]
    for body in bodies:
        reply = await app.ask("POST", path, body)

        assert reply.status in (200, 202) and reply.seconds < 2
        await app.ask("POST", f"/v1/tasks/{reply.json['id']}/cancel")


@pytest.mark.parametrize("path", SUBMITS)
@pytest.mark.parametrize(
    "args",
    [
        ",".join(["1e100"] * 20_000),
        ",".join([r'"\u0041"'] * 100_000),
        '"' + r"\u0041" * 100_000 + '"',
        '"' + r"\"" * 500_000 + '", 1e5',
        '"' + "[" * 500_000 + '"',
        ",".join(['"' + "9" * 5_000 + '"'] * 100) + ", 1",
    ],
    ids=lambda text: text[:20],
)
async def test_a_look_at_arguments_takes_time_by_their_length_alone(
    app: App, path: str, args: str
) -> None:
    body = f'{{"function": "f", "args": [{args}]}}'

    reply = await app.ask("POST", path, body)

    assert reply.status in (200, 202) and reply.seconds < 1e-6 * len(body)
    await app.ask("POST", f"/v1/tasks/{reply.json['id']}/cancel")


async def test_a_long_list_takes_time_by_its_length_alone(app: App) -> None:
    tasks = [{"args": [n]} for n in range(20_000)] + [{"args": [1], "call": 1}]

    reply = await app.refused(422, "POST", TASKS, {"defaults": {"function": "f"}, "tasks": tasks})

    assert reply.json["errors"][0]["index"] == 20_000 and reply.seconds < 1


# ---- headers


@pytest.mark.parametrize(("path", "token"), BODIES)
@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain",
        "text/plain; charset=utf-8",
        "application/xml",
        "application/octet-stream",
        "application/python-pickle",
        "application/jsonx",
        "application/json, text/plain",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
    ],
)
async def test_other_content_types_are_415(
    app: App, path: str, token: str, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}

    reply = await app.refused(415, "POST", path, b'{"function": "f"}', token=token, headers=headers)

    assert "application/json" in reply.text


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json;charset=utf-8",
        'Application/JSON; Charset="UTF-8"',
        "application/json ; charset=utf-8",
    ],
)
async def test_json_in_utf_8_is_taken_however_it_is_spelt(app: App, content_type: str) -> None:
    headers = {"content-type": content_type}

    assert (await app.ask("POST", SUBMIT, {"function": "f"}, headers=headers)).status == 200
    assert (await app.ask("POST", TASKS, {"function": "f"}, headers=headers)).status == 202


@pytest.mark.parametrize(("path", "token"), BODIES)
@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "gzip, gzip", "nonsense"])
async def test_compressed_bodies_are_415(app: App, path: str, token: str, encoding: str) -> None:
    headers = {**JSON, "content-encoding": encoding}

    await app.refused(415, "POST", path, b"\x1f\x8b\x08\x00", token=token, headers=headers)


@pytest.mark.parametrize(("path", "token"), BODIES)
@pytest.mark.parametrize("length", ["68719476736", "1" + "0" * 30])
async def test_a_body_over_the_limit_is_refused_before_it_is_read(
    app: App, path: str, token: str, length: str
) -> None:
    headers = {**JSON, "content-length": length}

    reply = await app.refused(413, "POST", path, b"{", token=token, headers=headers)

    assert reply.pieces_read == 0


async def test_a_body_that_does_not_say_its_length_is_cut_off_at_the_limit(app: App) -> None:
    pieces = [b" " * MIB] * 100

    reply = await app.refused(413, "POST", SUBMIT, pieces=pieces)
    other = await app.refused(413, "POST", TASKS, pieces=pieces)

    assert reply.pieces_read == 9 and other.pieces_read == 65


TOKENS = [
    None,
    "",
    "Bearer",
    "Bearer ",
    "Bearer  {token}",
    "Bearer {token} ",
    "Bearer {token}x",
    "Bearer {short}",
    "Bearer {upper}",
    "Bearer {token},{token}",
    "Bearer {token}\x00",
    "Bearer \x00",
    "Bearer \xe9\xff",
    "Bearer " + "x" * 100_000,
    "Bearer ' OR 1=1 --",
    "Basic {basic}",
    "Token {token}",
    "{token}",
    "tsu_wrong",
]


@pytest.mark.parametrize("value", TOKENS, ids=lambda value: ascii(value)[:30])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", SUBMIT),
        ("GET", f"/user/request_answer/{new_id()}"),
        ("GET", "/worker/request_task"),
        ("GET", TASKS),
        ("POST", "/v1/workers"),
        ("PUT", f"/v1/blobs/sha256:{'0' * 64}"),
    ],
    ids=shown,
)
async def test_without_a_known_token_nobody_gets_in(
    app: App, value: str | None, method: str, path: str
) -> None:
    import base64

    token = app.tokens["admin"]
    basic = base64.b64encode(f"admin:{token}".encode()).decode()
    texts = {"token": token, "short": token[:-1], "upper": token.swapcase(), "basic": basic}
    headers = dict(JSON) if value is None else {**JSON, "authorization": value.format(**texts)}

    reply = await app.refused(401, method, path, b'{"function": "f"}', token=None, headers=headers)

    assert reply.headers["www-authenticate"].startswith("Bearer")
    assert token not in reply.body.decode()


async def test_a_missing_token_is_told_from_an_unknown_one(app: App) -> None:
    missing = await app.refused(401, "GET", TASKS, token=None)
    unknown = await app.refused(401, "GET", TASKS, token="tsu_wrong")

    assert "no token came" in missing.text
    assert "not known here" in unknown.text


async def test_the_scheme_of_a_token_may_be_written_in_any_case(app: App) -> None:
    headers = {"authorization": f"bearer {app.tokens['user']}"}

    assert (await app.ask("GET", TASKS, token=None, headers=headers)).status == 200


async def test_what_is_no_value_of_a_field_is_told_with_its_name(app: App) -> None:
    reply = await app.refused(422, "POST", TASKS, {"function": "f", "timeout": "soon"})

    assert reply.text == "timeout: invalid enum value 'soon'"


async def test_tokens_count_in_one_header_only(app: App) -> None:
    token = app.tokens["admin"]
    twice = [("authorization", f"Bearer {token}")] * 2

    await app.refused(401, "GET", TASKS, token=None, headers=twice)
    await app.refused(401, "GET", f"{TASKS}?token={token}", token=None)
    await app.refused(401, "GET", f"{TASKS}?access_token={token}", token=None)
    await app.refused(401, "GET", TASKS, token=None, headers={"cookie": f"token={token}"})
    await app.refused(401, "GET", TASKS, token=None, headers={"x-api-key": token})


@pytest.mark.parametrize(
    ("method", "path", "wrong"),
    [
        ("POST", SUBMIT, "worker"),
        ("GET", f"/user/request_answer/{new_id()}", "worker"),
        ("GET", "/user/estimate_time_left", "worker"),
        ("GET", "/worker/request_task", "user"),
        ("POST", ANSWER, "user"),
        ("POST", TASKS, "worker"),
        ("GET", TASKS, "worker"),
        ("POST", f"/v1/tasks/{new_id()}/cancel", "worker"),
        ("POST", "/v1/batches", "worker"),
        ("POST", "/v1/estimates", "worker"),
        ("POST", "/v1/workers", "user"),
        ("POST", "/v1/workers/x/exchange", "user"),
    ],
    ids=shown,
)
async def test_a_token_of_another_kind_is_403(app: App, method: str, path: str, wrong: str) -> None:
    await app.refused(403, method, path, b'{"function": "f"}', token=wrong)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (SUBMIT, "POST"),
        ("/user/request_answer/x", "GET"),
        ("/user/estimate_time_left", "GET"),
        ("/worker/request_task", "GET"),
        (ANSWER, "POST"),
        (TASKS, "GET, POST"),
        ("/v1/tasks/x", "DELETE, GET"),
        ("/v1/tasks/x/cancel", "POST"),
        ("/v1/batches", "POST"),
        ("/v1/workers/x/exchange", "POST"),
        ("/livez", "GET, HEAD"),
    ],
)
async def test_a_wrong_verb_is_405_and_tells_the_right_ones(
    app: App, path: str, allowed: str
) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "BREW", "get"):
        if method in allowed.split(", "):
            continue
        reply = await app.refused(405, method, path, b'{"function": "f"}')

        assert reply.headers["allow"] == allowed
        assert allowed.replace(", ", " or ") in reply.text


@pytest.mark.parametrize("path", [SUBMIT, TASKS, "/worker/request_task", "/livez", "/nothing"])
async def test_no_other_site_is_let_in(app: App, path: str) -> None:
    headers = {
        "origin": "https://evil.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
    }
    for method in ("OPTIONS", "GET", "POST"):
        reply = await app.ask(method, path, b"{}", headers={**JSON, **headers})

        assert not [name for name in reply.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8900",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "0.0.0.0",
        "[::2]:8900",
        "evil.example@127.0.0.1",
    ],
)
async def test_a_foreign_host_is_421(app: App, host: str) -> None:
    await app.refused(421, "POST", SUBMIT, {"function": "f"}, host=host)
    await app.refused(421, "GET", "/livez", token=None, host=host)


@pytest.mark.parametrize(
    "host", [None, "localhost", "localhost:8900", "127.0.0.1:1", "127.8.9.1", "[::1]:8900"]
)
async def test_names_of_this_machine_are_taken(app: App, host: str | None) -> None:
    assert (await app.ask("GET", "/livez", token=None, host=host)).status == 200


# ---- fields


@pytest.mark.parametrize("path", SUBMITS)
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "function"),
        ({"args": [1]}, "function"),
        ({"function": None}, "function"),
        ({"function": 1}, "function"),
        ({"function": []}, "function"),
        ({"function": ""}, "function"),
        ({"function": "f", "args": {}}, "args"),
        ({"function": "f", "args": "x"}, "args"),
        ({"function": "f", "args": 0}, "args"),
        ({"function": "f", "args": False}, "args"),
        ({"function": "f", "kwargs": []}, "kwargs"),
        ({"function": "f", "kwargs": "x"}, "kwargs"),
        ({"function": "f", "module": 1}, "module"),
        ({"function": "f", "module": ["m"]}, "module"),
        ({"function": "f", "package": 1}, "package"),
        ({"function": "f", "package": {}}, "package"),
        ({"function": "f", "version": 1.2, "package": "p"}, "version"),
        ({"function": "f", "version": "1.2"}, "version"),
        ({"function": "f", "package": "p==1", "version": "1.2"}, "version"),
        ({"function": "f", "package": "p", "version": "1.2 ; x"}, "version"),
        ({"function": "f", "package": "p", "version": "===1"}, "version"),
        ({"function": "f", "package": "p", "version": " "}, "version"),
        ({"function": "f", "package": "p", "version": "latest"}, "version"),
        ({"function": "m:f", "module": "n"}, "module"),
    ],
)
async def test_a_missing_or_wrong_field_is_named(
    app: App, path: str, body: object, field: str
) -> None:
    reply = await app.refused(422, "POST", path, body)

    assert field in reply.text
    if path == TASKS:
        assert reply.fields == [field]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"id": "x"}, "id"),
        ({"id": 1}, "id"),
        ({"id": new_id().upper()}, "id"),
        ({"id": new_id().replace("-", "")}, "id"),
        ({"id": "{" + new_id() + "}"}, "id"),
        ({"id": new_id() + "\n"}, "id"),
        ({"id": new_id(at=1e9)}, "id"),
        ({"id": new_id(at=4e9)}, "id"),
        ({"id": "2b8bfb3e-3c8a-4a4a-9a55-000000000000"}, "id"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"timeout": 1e300}, "timeout"),
        ({"retries": 3}, "retries"),
        ({"retries": {"max": "x"}}, "retries.max"),
        ({"retries": {"max": -1}}, "retries.max"),
        ({"retries": {"max": 10**9}}, "retries.max"),
        ({"retries": {"max": 10**30}}, "retries.max"),
        ({"retries": {"backoff": -1}}, "retries.backoff"),
        ({"retries": {"often": 1}}, "retries.often"),
        ({"retries": {"on": ["rain"]}}, "retries.on[0]"),
        ({"priority": 11}, "priority"),
        ({"priority": -11}, "priority"),
        ({"priority": 1.5}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"priority": True}, "priority"),
        ({"run_after": "tomorrow"}, "run_after"),
        ({"run_after": 1}, "run_after"),
        ({"run_after": "2030-01-01T00:00:00"}, "run_after"),
        ({"start_by": "2030-02-30T00:00:00Z"}, "start_by"),
        ({"finish_by": "2030-01-01T00:00:00"}, "finish_by"),
        ({"at_most_once": "yes"}, "at_most_once"),
        ({"isolation": "none"}, "isolation"),
        ({"require_sandbox": 5}, "require_sandbox"),
        ({"require_sandbox": -1}, "require_sandbox"),
        ({"require_sandbox": 10**20}, "require_sandbox"),
        ({"require_sandbox": "4"}, "require_sandbox"),
        ({"result_encoding": "xml"}, "result_encoding"),
        ({"tags": "x"}, "tags"),
        ({"tags": [1]}, "tags[0]"),
        ({"tags": [""]}, "tags"),
        ({"tags": ["x" * 201]}, "tags"),
        ({"tags": ["x"] * 100}, "tags"),
        ({"python": "2.7"}, "python"),
        ({"python": "3.11.4"}, "python"),
        ({"python": 3.11}, "python"),
        ({"python": "../3.11"}, "python"),
        ({"environment": "x"}, "environment"),
        ({"environment": "0" * 64}, "environment"),
        ({"package": ["p", 1]}, "package[1]"),
        ({"package": ["p", "-r x"]}, "package"),
        ({"package": ["p"] * 101}, "package"),
        ({"package": ["p", "q"], "version": "1"}, "version"),
        ({"call": {}}, "call.encoding"),
        ({"call": {"encoding": "json"}}, "call"),
        ({"call": {"encoding": "yaml", "data": ""}}, "call.encoding"),
        ({"call": {"encoding": "pickle", "data": "*"}}, "call.data"),
        ({"call": {"encoding": "pickle", "blob": "sha256:0"}}, "call.blob"),
        ({"call": {"encoding": "pickle", "data": "", "blob": "x"}}, "call"),
        ({"call": {"encoding": "json", "data": "W10="}, "args": [1]}, "call"),
        ({"requires": "2GiB"}, "requires"),
        ({"requires": {"memory": "2"}}, "requires.memory"),
        ({"requires": {"memory": "2 gigs"}}, "requires.memory"),
        ({"requires": {"memory": -1}}, "requires.memory"),
        ({"requires": {"memory": 2**61}}, "requires.memory"),
        ({"requires": {"memory": True}}, "requires.memory"),
        ({"requires": {"cpu": -1}}, "requires.cpu"),
        ({"requires": {"cpu": 0.001}}, "requires.cpu"),
        ({"requires": {"cpu": "2"}}, "requires.cpu"),
        ({"requires": {"gpu": 0.5}}, "requires.gpu"),
        ({"requires": {"gpu": -1}}, "requires.gpu"),
        ({"requires": {"gpu": 10**5}}, "requires.gpu"),
        ({"requires": {"disk": 1}}, "requires.disk"),
        ({"requires": {"labels": ["a"]}}, "requires.labels"),
        ({"requires": {"labels": {"a": 1}}}, "requires.labels[...]"),
        ({"requires": {"labels": {"": "x"}}}, "requires.labels"),
        ({"requires": {"labels": {"a": "x\0"}}}, "requires.labels"),
        ({"requires": {"labels": {str(n): "x" for n in range(33)}}}, "requires.labels"),
        ({"function": {"pickle": "*", "name": "f", "python": "3.11"}}, "function.pickle"),
        ({"function": {"pickle": "", "name": "f", "python": "3.x"}}, "python"),
        ({"function": {"pickle": "gA=="}}, "function.name"),
    ],
    ids=shown,
)
async def test_a_wrong_field_of_v1_is_named(app: App, body: dict[str, Any], field: str) -> None:
    task = {"function": "f", **body}

    alone = await app.refused(422, "POST", TASKS, task)
    listed = await app.refused(422, "POST", TASKS, [{"function": "f"}, task])

    assert alone.fields == [field] and alone.code == "invalid"
    assert listed.json["errors"] == [{"index": 1, **alone.json["errors"][0]}]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("limit_keys", ["x"]),
    ],
)
async def test_what_is_not_built_is_not_passed_over_in_silence(
    app: App, field: str, value: object
) -> None:
    body = {"function": "f", field: value}

    alone = await app.refused(422, "POST", TASKS, body)
    shared = await app.refused(422, "POST", TASKS, {"defaults": body, "tasks": [{}]})

    assert alone.code == "not_supported" and alone.fields == [field]
    assert shared.status == 422 and field in shared.text


@pytest.mark.parametrize(
    "field", ["owner", "state", "is_admin", "sucsess", "Function", "__class__"]
)
async def test_unknown_fields_are_refused_on_v1(app: App, field: str) -> None:
    task = {"function": "f", field: 1}

    assert (await app.refused(422, "POST", TASKS, task)).fields == [field]
    assert (await app.refused(422, "POST", TASKS, [task])).json["errors"][0]["field"] == field
    await app.refused(422, "POST", TASKS, {"tasks": [{}], "defaults": task})
    await app.refused(422, "POST", TASKS, {"tasks": [{"function": "f"}], field: 1})
    await app.refused(422, "POST", TASKS, {"tasks": [{"function": "f"}], "batch": {field: 1}})
    await app.refused(422, "POST", TASKS, json.dumps(task).encode(), headers=NDJSON)
    await app.refused(422, "POST", "/v1/batches", {field: 1})
    await app.refused(422, "POST", "/v1/estimates", task)


async def test_unknown_fields_are_passed_over_on_the_plain_api_and_not_honoured(app: App) -> None:
    body = {"function": "f", "owner": 2, "state": "succeeded", "is_admin": True, "priority": 10}

    task = (await app.ask("POST", SUBMIT, {**body, "id": new_id(), "answer": 5})).json["id"]

    view = (await app.ask("GET", f"/v1/tasks/{task}")).json
    assert (view["state"], view["function"]) == ("queued", "f")
    assert (await app.ask("GET", f"/v1/tasks/{task}", token="other")).status == 404


PACKAGES = [
    " ",
    "\t",
    "..",
    "../evil",
    "./evil",
    "/etc/passwd",
    "~/evil",
    "C:\\evil",
    "\\\\host\\share",
    "-r requirements.txt",
    "-e .",
    "--index-url=https://evil.example/",
    "humanize --index-url https://evil.example/",
    "--extra-index-url x",
    "git+https://evil.example/x.git",
    "https://evil.example/x.whl",
    "file:///etc/passwd",
    "humanize @ file:///srv/x.whl",
    "humanize @ https://evil.example/x.whl",
    "humanize\nevil",
    "humanize\r\n-r x",
    "humanize\x00",
    "humanize; rm -rf /",
    "humanize && id",
    "$(id)",
    "`id`",
    "humanize | id",
    "humanize > x",
    "x" * 10_000,
    "\N{CYRILLIC SMALL LETTER SHHA}umanize",
    "humanize\u200b",
    "\N{SNAKE}",
    "humanize[",
    "humanize[]]",
    "[extra]",
    "==1.0",
    "humanize==",
    "humanize===1",
    "humanize=1",
    "humanize 1.0",
    "humanize,numpy",
    "humanize; python_version > '3'",
    "%2e%2e",
    "humanize #comment",
    "_x",
    "x-",
]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda text: ascii(text)[:30])
async def test_what_is_no_name_of_a_package_is_422(app: App, package: str) -> None:
    body = {"function": "f", "package": package}

    await app.refused(422, "POST", SUBMIT, body)
    alone = await app.refused(422, "POST", TASKS, body)
    listed = await app.refused(422, "POST", TASKS, {**body, "package": ["humanize", package]})

    assert alone.fields == listed.fields == ["package"]


@pytest.mark.parametrize(
    "module",
    [
        *(" ", "..", ".x", "x.", "a..b", "1a", "a b", "a;b", "a/b", "a\x00", "a\n", "x" * 10_000),
        *("a-b", "a:b", "a()", "a[0]", "../a", "\N{SNAKE}", "a,b", "*", "${a}"),
    ],
    ids=lambda text: ascii(text)[:20],
)
async def test_what_is_no_name_of_a_module_is_422(app: App, module: str) -> None:
    body = {"function": "f", "module": module}

    await app.refused(422, "POST", SUBMIT, body)
    assert (await app.refused(422, "POST", TASKS, body)).fields == ["module"]
    await app.refused(422, "POST", TASKS, {"function": f"{module}:f"})


@pytest.mark.parametrize(
    "function",
    [
        *(" ", "f()", "f(1)", "1f", "f;g", "f g", "f\n", "f\x00", "f/g", "a::f", "a:b:f", ":f"),
        *("a:", "f.", ".f", "f..g", "<lambda>", "a:f.<locals>.g", "f[0]", "f=1", "x" * 10_000),
        *("*", "__import__('os').system('id')", "lambda: 1", "\N{SNAKE}"),
    ],
    ids=lambda text: ascii(text)[:20],
)
async def test_what_is_no_name_of_a_function_is_422(app: App, function: str) -> None:
    body = {"function": function}

    await app.refused(422, "POST", SUBMIT, body)
    assert (await app.refused(422, "POST", TASKS, body)).fields == ["function"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"id": None, "answer": 1}, 422),
        ({"id": 1, "answer": 1}, 422),
        ({"id": [], "answer": 1}, 422),
        ({"id": "", "answer": 1}, 404),
        ({"id": "x", "answer": 1}, 404),
        ({"id": new_id().upper(), "answer": 1}, 404),
        ({"id": new_id(), "answer": 1}, 404),
        ({"id": new_id(at=1e9), "answer": 1}, 410),
        ({"id": new_id(), "sucsess": "no"}, 422),
        ({"id": new_id(), "sucsess": 0}, 422),
        ({"id": new_id(), "sucsess": False, "exception": 5}, 422),
        ({"id": new_id(), "sucsess": False, "exception": {"type": 5}}, 422),
        ({"id": new_id(), "answer": 1, "time": "long"}, 422),
    ],
)
async def test_answers_of_a_wrong_shape(app: App, body: object, status: int) -> None:
    await app.refused(status, "POST", ANSWER, body, token="worker")


async def test_answers_for_what_is_not_ones_own(app: App) -> None:
    task = (await app.ask("POST", SUBMIT, {"function": "f"})).json["id"]
    waiting = await app.ask("POST", ANSWER, {"id": task, "answer": 1}, token="worker")
    await taken(app)
    body = {"id": task, "answer": 1}

    foreign = await app.ask("POST", ANSWER, body, token="other worker")
    unknown = await app.ask("POST", ANSWER, {"id": new_id(), "answer": 1}, token="other worker")
    statuses = [
        (await app.ask("POST", ANSWER, {**body, "answer": answer}, token="worker")).status
        for answer in (1, 1, 2)
    ]

    assert waiting.status == 404
    assert (foreign.status, foreign.body) == (unknown.status, unknown.body) == (404, foreign.body)
    assert statuses == [200, 200, 409]


@pytest.mark.parametrize("seconds", [-1, 1e308, 1e-308, 10**30])
async def test_an_odd_time_does_no_harm(app: App, seconds: float) -> None:
    task = (await app.ask("POST", SUBMIT, {"function": "odd:time"})).json["id"]
    await taken(app)

    told = await app.ask("POST", ANSWER, {"id": task, "answer": 1, "time": seconds}, token="worker")

    assert told.status in (200, 422)
    if told.status == 422:
        await app.ask("POST", ANSWER, {"id": task, "answer": 1}, token="worker")
    await app.ask("POST", SUBMIT, {"function": "odd:time"})
    left = await app.ask("GET", "/user/estimate_time_left")
    assert left.status == 200 and isinstance(left.json["time"], float) and left.json["time"] >= 0
    priced = await app.ask("POST", "/v1/estimates", {"function": "odd:time"})
    assert priced.status == 200 and isinstance(priced.json["calls"][0]["p50"], float)
    await taken(app)


# ---- paths and queries

BROKEN_IDS = [
    "x",
    "..",
    "%2e%2e",
    ".",
    "%00",
    "%ff",
    "%zz",
    "%",
    "' OR 1=1 --",
    "'%20OR%20'1'='1",
    "<script>alert(1)",
    "%0d%0aSet-Cookie:%20x=1",
    "x" * 5_000,
    new_id().upper(),
    new_id().replace("-", ""),
    new_id() + "0",
    new_id()[:-1],
    new_id() + "%20",
    "2b8bfb3e-3c8a-4a4a-9a55-000000000000",
    "00000000-0000-0000-0000-000000000000",
    "\N{ARABIC-INDIC DIGIT ZERO}" * 36,
    "1",
    "-1",
    "null",
]


@pytest.mark.parametrize("broken", BROKEN_IDS, ids=shown)
async def test_broken_ids_are_as_unknown_ones(app: App, broken: str) -> None:
    routes = [
        ("GET", "/user/request_answer/{}"),
        ("GET", "/v1/tasks/{}"),
        ("GET", "/v1/tasks/{}/answer"),
        ("GET", "/v1/tasks/{}/logs"),
        ("POST", "/v1/tasks/{}/cancel"),
        ("POST", "/v1/tasks/{}/retry"),
        ("GET", "/v1/batches/{}"),
        ("POST", "/v1/batches/{}/close"),
        ("GET", "/v1/batches/{}/answers"),
    ]
    for method, route in routes:
        unknown = await app.refused(404, method, route.format(new_id()))

        reply = await app.refused(404, method, route.format(broken))

        assert reply.body == unknown.body
        assert reply.headers == unknown.headers


@pytest.mark.parametrize(
    "path",
    [
        "/user/request_answer/",
        "/user/request_answer",
        f"/user/request_answer/{new_id()}/x",
        f"/user/request_answer/{new_id()}/",
        "/user/submit_task/",
        "//user/submit_task",
        "/user/../user/submit_task",
        "/USER/submit_task",
        "/v1/tasks/",
        "/v1",
        "/etc/passwd",
        "/" + "a" * 10_000,
        "/%00",
        "/\u00fc",
    ],
    ids=shown,
)
async def test_paths_that_are_not_there(app: App, path: str) -> None:
    for method in ("GET", "POST"):
        await app.refused(404, method, path, {"function": "f"})


async def test_another_users_things_are_as_absent_ones(app: App) -> None:
    task = (await app.ask("POST", TASKS, {"function": "f"})).json["id"]
    batch = (await app.ask("POST", TASKS, [{"function": "f"}])).json["batch"]
    routes = [
        ("GET", "/user/request_answer/{}", task),
        ("GET", "/v1/tasks/{}", task),
        ("GET", "/v1/tasks/{}/answer", task),
        ("GET", "/v1/tasks/{}/logs", task),
        ("POST", "/v1/tasks/{}/cancel", task),
        ("POST", "/v1/tasks/{}/retry", task),
        ("GET", "/v1/batches/{}", batch),
        ("GET", "/v1/batches/{}/answers", batch),
        ("POST", "/v1/batches/{}/close", batch),
        ("POST", "/v1/batches/{}/cancel", batch),
    ]
    for method, route, identifier in routes:
        unknown = await app.refused(404, method, route.format(new_id()), token="other")
        reply = await app.refused(404, method, route.format(identifier), token="other")

        assert reply.body == unknown.body and reply.headers == unknown.headers

    into = f"{TASKS}?batch={batch}"
    assert (await app.refused(404, "POST", into, [{"function": "f"}], token="other")).status == 404
    assert (await app.ask("GET", TASKS, token="other")).json["tasks"] == []
    assert (await app.ask("GET", f"/v1/tasks/{task}")).json["state"] == "queued"
    await app.ask("POST", f"/v1/batches/{batch}/cancel")


async def test_an_absent_id_past_retention_is_410(app: App) -> None:
    old = new_id(at=1.6e9)

    for path in (f"/user/request_answer/{old}", f"/v1/tasks/{old}", f"/v1/batches/{old}"):
        await app.refused(410, "GET", path)


@pytest.mark.parametrize(
    "query",
    [
        "wait=x",
        "wait=",
        "wait=-1",
        "wait=nan",
        "wait=inf",
        "wait=1e999",
        "wait=0&wait=0",
        "wait=0;drop",
        "&".join(f"a{n}=1" for n in range(1_000)),
    ],
    ids=lambda text: text[:20],
)
@pytest.mark.parametrize(
    ("method", "path", "token"),
    [
        ("POST", SUBMIT, "user"),
        ("GET", f"/user/request_answer/{new_id()}", "user"),
        ("GET", "/worker/request_task", "worker"),
        ("POST", TASKS, "user"),
        ("GET", f"/v1/tasks/{new_id()}", "user"),
        ("GET", f"/v1/batches/{new_id()}", "user"),
    ],
    ids=shown,
)
async def test_queries_that_say_nothing_are_422(
    app: App, method: str, path: str, token: str, query: str
) -> None:
    await app.refused(422, method, f"{path}?{query}", {"function": "f"}, token=token)


UNKNOWN = pytest.mark.parametrize(
    "query", ["nobody_knows=1", "%00=1", "=", "x" * 50_000], ids=lambda text: text[:20]
)


@UNKNOWN
@pytest.mark.parametrize("path", [f"/v1/tasks/{new_id()}", f"/v1/batches/{new_id()}"], ids=shown)
async def test_unknown_fields_of_a_query_are_refused_on_v1(app: App, path: str, query: str) -> None:
    await app.refused(422, "GET", f"{path}?{query}")


@UNKNOWN
async def test_unknown_fields_of_a_query_are_ignored_on_the_plain_api(app: App, query: str) -> None:
    reply = await app.ask("GET", f"/user/estimate_time_left?{query}")

    assert reply.status == 200
    await app.refused(404, "GET", f"/user/request_answer/{new_id()}?{query}")


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        (TASKS, "limit=0", 422),
        (TASKS, "limit=1001", 422),
        (TASKS, "limit=-1", 422),
        (TASKS, "limit=x", 422),
        (TASKS, "limit=1e2", 422),
        (TASKS, "limit=00000000199999999", 422),
        (TASKS, "limit=000000001" + "9" * 5_000, 422),
        (TASKS, "limit=%D9%A1", 422),
        (TASKS, "state=nonsense", 422),
        (TASKS, "cursor=x", 422),
        (TASKS, "cursor=-1", 422),
        (TASKS, "cursor=0x1", 422),
        (TASKS, "cursor=ffffffffffffffff", 422),
        (TASKS, "cursor=" + "f" * 5_000, 422),
        (TASKS, "batch=x", 404),
        (TASKS, "tag=%00", 200),
        (TASKS, "function=%ff%27%20OR%201=1", 200),
        (TASKS, f"batch={new_id()}", 200),
        ("/v1/batches/{}/answers", "cursor=x&wait=0", 422),
        ("/v1/batches/{}/answers", "cursor=-1&wait=0", 422),
        ("/v1/batches/{}/answers", "cursor=ffffffffffffffff&wait=0", 422),
        ("/v1/batches/{}/answers", "order=finished&cursor=ffffffffffffffff&wait=0", 422),
        ("/v1/batches/{}/answers", "order=upwards&wait=0", 422),
        ("/v1/batches/{}/answers", "cursor=" + "f" * 5_000 + "&wait=0", 422),
        ("/v1/tasks/{}/logs", "attempt=x", 200),
    ],
    ids=shown,
)
async def test_pages_that_cannot_be(app: App, path: str, query: str, status: int) -> None:
    batch = await app.ask("POST", TASKS, [{"function": "f"}])
    known = batch.json["ids"][0] if "tasks/{}" in path else batch.json["batch"]

    reply = await app.ask("GET", f"{path.format(known)}?{query}")

    assert reply.status == status, reply.body
    await app.ask("POST", f"/v1/batches/{batch.json['batch']}/cancel")


# ---- again


@pytest.mark.parametrize(("path", "status"), [(SUBMIT, 200), (TASKS, 202)])
async def test_a_key_makes_a_repeat_harmless(app: App, path: str, status: int) -> None:
    key = {**JSON, "idempotency-key": f"key for {path}"}
    body, other = {"function": "f", "args": [1]}, {"function": "f", "args": [2]}

    first = await app.ask("POST", path, body, headers=key)
    before = app.stored()
    again = await app.ask("POST", path, body, headers=key)
    await app.refused(409, "POST", path, other, headers=key)
    elses = await app.ask("POST", path, other, headers=key, token="other")

    assert first.status == again.status == elses.status == status
    assert first.json["id"] == again.json["id"] != elses.json["id"]
    assert again.json["duplicate"] is True and not first.json.get("duplicate")
    assert app.stored() == before + 2  # the other user's task and key


async def test_a_key_works_for_lists(app: App) -> None:
    key = {**JSON, "idempotency-key": "a list"}
    body = [{"function": "f", "args": [n]} for n in range(3)]

    first = await app.ask("POST", TASKS, body, headers=key)
    before = app.stored()
    again = await app.ask("POST", TASKS, body, headers=key)
    await app.refused(409, "POST", TASKS, body[:2], headers=key)

    assert first.json["ids"] == again.json["ids"] and first.json["batch"] == again.json["batch"]
    assert again.json["duplicate"] is True and app.stored() == before
    await app.ask("POST", f"/v1/batches/{first.json['batch']}/cancel")


@pytest.mark.parametrize("key", ["", "x" * 256, "x" * 100_000])
async def test_keys_have_1_to_255_letters(app: App, key: str) -> None:
    headers = {**JSON, "idempotency-key": key}

    await app.refused(422, "POST", SUBMIT, {"function": "f"}, headers=headers)
    await app.refused(422, "POST", TASKS, {"function": "f"}, headers=headers)


async def test_an_id_makes_a_repeat_harmless(app: App) -> None:
    task = new_id()
    body = {"id": task, "function": "f", "args": [1]}

    first = await app.ask("POST", TASKS, body)
    again = await app.ask("POST", TASKS, body)
    changed = await app.refused(409, "POST", TASKS, {**body, "args": [2]})
    foreign = await app.refused(409, "POST", TASKS, body, token="other")

    assert first.json["id"] == again.json["id"] == task
    assert (first.json["duplicate"], again.json["duplicate"]) == (False, True)
    assert changed.status == foreign.status == 409
    assert (await app.ask("GET", f"/v1/tasks/{task}")).json["state"] == "queued"
    await app.ask("POST", f"/v1/tasks/{task}/cancel")
    assert (await app.ask("POST", TASKS, body)).json["duplicate"] is True


async def test_ids_make_a_lists_repeat_harmless(app: App) -> None:
    items = [{"id": new_id(), "function": "f", "args": [n]} for n in range(3)]
    batch = {"id": new_id(), "name": "mine"}

    first = await app.ask("POST", TASKS, {"batch": batch, "tasks": items})
    before = app.stored()
    again = await app.ask("POST", TASKS, {"batch": batch, "tasks": items})
    other = [items[0], {**items[1], "args": [7]}, {"id": new_id(), "function": "f"}]
    await app.refused(409, "POST", TASKS, other)

    assert first.json["ids"] == again.json["ids"] and app.stored() == before
    assert (first.json["duplicate"], again.json["duplicate"]) == (False, True)
    await app.ask("POST", f"/v1/batches/{first.json['batch']}/cancel")


async def test_one_id_twice_in_a_list_is_one_task_or_none(app: App) -> None:
    same = {"id": new_id(), "function": "f", "args": [1]}

    await app.refused(409, "POST", TASKS, [same, {**same, "args": [2]}])
    twice = await app.ask("POST", TASKS, [same, same])

    assert twice.status in (202, 409, 422)
    if twice.status == 202:
        assert len(set(twice.json["ids"])) == 1
        await app.ask("POST", f"/v1/tasks/{same['id']}/cancel")


@pytest.mark.parametrize("shape", ["list", "object", "lines", "batch"])
async def test_a_list_is_stored_whole_or_not_at_all(app: App, shape: str) -> None:
    items = [{"function": "f"}, {"function": "1f"}, {"function": "g"}, {"args": 5}]
    body: bytes = json.dumps(items).encode()
    headers, path = JSON, TASKS
    if shape == "object":
        body = json.dumps({"defaults": {"tags": ["x"]}, "tasks": items}).encode()
    elif shape == "lines":
        body, headers = b"\n".join(json.dumps(item).encode() for item in items), NDJSON
    elif shape == "batch":
        batch = (await app.ask("POST", "/v1/batches", {})).json["id"]
        path = f"{TASKS}?batch={batch}"

    reply = await app.refused(422, "POST", path, body, headers=headers)

    assert [each["index"] for each in reply.json["errors"]] == [1, 3]
    assert reply.json["errors"][0]["field"] == "function"
    assert all(each["message"] for each in reply.json["errors"])


async def test_a_list_full_of_errors_tells_some_of_them(app: App) -> None:
    reply = await app.refused(422, "POST", TASKS, [{"function": "1f"}] * 5_000)

    assert 1 <= len(reply.json["errors"]) <= 100 and reply.seconds < 1


async def test_a_closed_batch_takes_no_more(app: App) -> None:
    batch = (await app.ask("POST", "/v1/batches", {"name": "b"})).json["id"]
    await app.ask("POST", f"/v1/batches/{batch}/close")

    await app.refused(409, "POST", f"{TASKS}?batch={batch}", [{"function": "f"}])
    await app.refused(404, "POST", f"{TASKS}?batch={new_id()}", [{"function": "f"}])
    await app.refused(404, "POST", f"{TASKS}?batch=x", [{"function": "f"}])


# ---- workers

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
JOIN = {"name": "w", "protocol": [1, 1], "slots": 1, "pythons": [PYTHON]}


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"name": None}, 422, "name"),
        ({"slots": 0}, 422, "slots"),
        ({"slots": -1}, 422, "slots"),
        ({"slots": 10**9}, 422, "slots"),
        ({"slots": 10**30}, 422, "slots"),
        ({"slots": "many"}, 422, "slots"),
        ({"protocol": [2, 3]}, 426, None),
        ({"protocol": [1]}, 422, "protocol"),
        ({"protocol": 1}, 422, "protocol"),
        ({"labels": {"a": 1}}, 422, "labels[...]"),
        ({"pythons": "3.11"}, 422, "pythons"),
        ({"owner": 1}, 422, "owner"),
        ({"worker": 5}, 422, "worker"),
    ],
)
async def test_joins_of_a_wrong_shape(
    app: App, change: dict[str, object], status: int, field: str | None
) -> None:
    reply = await app.refused(status, "POST", "/v1/workers", {**JOIN, **change}, token="worker")

    assert field is None or reply.fields == [field]


async def joined(app: App) -> dict[str, Any]:
    reply = await app.ask("POST", "/v1/workers", JOIN, token="worker")
    assert reply.status == 200
    found: dict[str, Any] = reply.json
    return found


@pytest.mark.parametrize("worker", ["x", "..", new_id(), "' OR 1=1", "x" * 5_000], ids=shown)
async def test_another_workers_id_is_never_taken_over(app: App, worker: str) -> None:
    reply = await app.ask("POST", "/v1/workers", {**JOIN, "worker": worker}, token="worker")
    mine = await joined(app)
    stolen = await app.ask(
        "POST", "/v1/workers", {**JOIN, "worker": mine["worker"]}, token="other worker"
    )

    assert reply.status in (200, 404, 422) and stolen.status in (200, 404, 422)
    if stolen.status == 200:
        assert stolen.json["worker"] != mine["worker"]
    going_on = await app.ask(
        "POST",
        f"/v1/workers/{mine['worker']}/exchange",
        {"session": mine["session"], "number": 1},
        token="worker",
    )
    assert going_on.status == 200


@pytest.mark.parametrize(
    "change",
    [
        {"number": "x"},
        {"number": None},
        {"number": 10**30},
        {"want": "x"},
        {"want": 1.5},
        {"seen": "x"},
        {"wait": "x"},
        {"decisions_within": "x"},
        {"reports": {}},
        {"reports": [{}]},
        {"reports": [{"lease": "x"}]},
        {"reports": [{"lease": 5, "outcome": "succeeded"}]},
        {"reports": [{"lease": "x", "outcome": "won"}]},
        {"reports": [{"lease": "x", "outcome": "failed", "error": {"kind": "bad luck"}}]},
        {"reports": [{"lease": "x", "outcome": "succeeded", "usage": {"run_seconds": "x"}}]},
        {"held": [{}]},
        {"held": ["x"]},
        {"environments": [{"digest": "x", "state": "fine"}]},
        {"nobody_knows": 1},
    ],
    ids=lambda value: str(value)[:50],
)
async def test_exchanges_of_a_wrong_shape_are_422(app: App, change: dict[str, object]) -> None:
    mine = await joined(app)
    body = {"session": mine["session"], "number": 1, **change}

    await app.refused(422, "POST", f"/v1/workers/{mine['worker']}/exchange", body, token="worker")


@pytest.mark.parametrize(
    "change",
    [
        {"number": -5},
        {"number": 0},
        {"number": 2**63 - 1},
        {"want": -5},
        {"want": 2**62},
        {"seen": 2**62},
        {"seen": -1},
        {"wait": -5},
        {"decisions_within": -5},
        {"decisions_within": 1e300},
        {"held": [{"lease": "x"}] * 3},
        {"held": [{"lease": "1.1.00"}, {"lease": ""}]},
        {"environments": [{"digest": "x", "state": "ready"}]},
        {"environments": [{"digest": "../" * 1000, "state": "ready"}]},
    ],
    ids=lambda value: str(value)[:50],
)
async def test_odd_exchanges_are_answered(app: App, change: dict[str, object]) -> None:
    mine = await joined(app)
    path = f"/v1/workers/{mine['worker']}/exchange"

    reply = await app.ask(
        "POST", path, {"session": mine["session"], "number": 1, **change}, token="worker"
    )

    assert reply.status in (200, 422) and reply.seconds < 2
    if reply.status == 200:
        assert reply.json["number"] == change.get("number", 1)


@pytest.mark.parametrize(
    "lease",
    [
        *("", "x", "1.1.00", "1.1." + "0" * 32, "-1.1." + "0" * 32, "f" * 5_000, "1.1.ü", "\x00"),
        *("ffffffffffffffff.1." + "0" * 32, "1.ffffffffffffffff." + "0" * 32),
    ],
    ids=lambda text: ascii(text)[:20],
)
async def test_reports_of_leases_that_are_none_are_settled(app: App, lease: str) -> None:
    mine = await joined(app)
    reports = [
        {"lease": lease, "outcome": "succeeded", "encoding": "json", "answer": 1},
        {
            "lease": lease,
            "outcome": "failed",
            "error": {"kind": "lost", "type": "T", "message": ""},
        },
        {"lease": lease, "outcome": "crashed", "usage": {"peak_bytes": 10**15}},
        {"lease": lease, "outcome": "released", "unfit": True},
    ]

    reply = await app.ask(
        "POST",
        f"/v1/workers/{mine['worker']}/exchange",
        {"session": mine["session"], "number": 1, "reports": reports},
        token="worker",
    )

    assert reply.status == 200
    assert all(each["status"] in (404, 409, 422) for each in reply.json["decisions"])
    assert len(reply.json["decisions"]) == 4


@pytest.mark.parametrize(
    "usage",
    [
        {"run_seconds": -1.0},
        {"run_seconds": 1e308, "cpu_seconds": 1e308},
        {"peak_bytes": -1},
        {"peak_bytes": 2**63 - 1},
        {"peak_bytes": 2**63},
        {"install_seconds": 1e308, "import_seconds": 1e308},
    ],
    ids=str,
)
async def test_odd_usage_loses_no_answer(app: App, usage: dict[str, float]) -> None:
    while (await app.ask("GET", "/worker/request_task", token="worker")).json["sucsess"]:
        pass
    asked = {"function": "odd:usage", "priority": 10}  # before what other tests have left
    task = (await app.ask("POST", TASKS, asked)).json["id"]
    mine = await joined(app)
    path = f"/v1/workers/{mine['worker']}/exchange"
    first = {"session": mine["session"], "number": 1, "want": 1, "held": []}
    (dealt,) = (await app.ask("POST", path, first, token="worker")).json["tasks"]
    report = {"lease": dealt["lease"], "outcome": "succeeded", "encoding": "json", "answer": 1}
    second = {"session": mine["session"], "number": 2, "seen": 1}

    reply = await app.ask(
        "POST", path, {**second, "reports": [{**report, "usage": usage}]}, token="worker"
    )

    assert reply.status in (200, 422), reply.body
    if reply.status == 200:
        assert reply.json["decisions"] == [{"lease": dealt["lease"], "status": 200}]
    else:
        third = {**second, "number": 3, "reports": [report]}
        assert (await app.ask("POST", path, third, token="worker")).status == 200
    view = await app.ask("GET", f"/v1/tasks/{task}")
    assert view.status == 200 and view.json["state"] == "succeeded"
    priced = await app.ask("POST", "/v1/estimates", {"function": "odd:usage"})
    assert priced.status == 200 and isinstance(priced.json["calls"][0]["p50"], float)
    assert (await app.ask("GET", "/v1/functions")).status == 200


async def test_an_exchange_of_nobodys_session_is_over(app: App) -> None:
    mine = await joined(app)
    other = {"session": "x", "number": 1}
    body = {"session": mine["session"], "number": 1}
    path = f"/v1/workers/{mine['worker']}/exchange"

    unknown = await app.refused(410, "POST", path, other, token="worker")
    foreign = await app.refused(410, "POST", path, body, token="other worker")

    assert unknown.code == foreign.code == "session_over"


# ---- blobs


@pytest.mark.parametrize(
    "name",
    [
        *("x", "sha256:", "sha256:x", "sha256:" + "0" * 63, "sha256:" + "A" * 64, "..", "%00"),
        *("md5:" + "0" * 32, "sha256:..%2f..%2fx", "sha256:" + "0" * 64 + "%0a"),
    ],
)
async def test_blobs_have_the_name_of_their_content(app: App, name: str) -> None:
    await app.refused(404, "GET", f"/v1/blobs/{name}")
    await app.refused(404, "PUT", f"/v1/blobs/{name}", b"content", headers={})


async def test_a_blob_under_a_wrong_name_is_refused(app: App) -> None:
    name = "/v1/blobs/sha256:" + "0" * 64

    await app.refused(422, "PUT", name, b"content", headers={})
    await app.refused(404, "GET", name)
    headers = {"content-length": str(1 << 50)}
    reply = await app.refused(413, "PUT", name, b"content", headers=headers)
    assert reply.pieces_read == 0
