from __future__ import annotations

import pytest

from task_server import errors
from task_server.client import requests
from task_server.client.requests import Reply, Request
from task_server.protocol.tasks import Submitted
from tests.client.scripted import problem, reply


def test_what_is_not_given_is_not_in_the_query() -> None:
    assert requests.read_task("a").path == "/v1/tasks/a"
    assert requests.read_task("a", wait=2.5).path == "/v1/tasks/a?wait=2.5"
    assert requests.list_tasks(state="queued", tag=None, limit=3).path == (
        "/v1/tasks?state=queued&limit=3"
    )


def test_ids_cannot_leave_their_part_of_the_path() -> None:
    assert requests.read_task("../x?y#z").path == "/v1/tasks/..%2Fx%3Fy%23z"
    assert requests.get_blob("sha256:ab").path == "/v1/blobs/sha256:ab"


def test_a_token_and_the_content_type_travel_in_headers() -> None:
    with_body = requests.headers_of(Request("POST", "/x", b"{}"), "secret")
    without = requests.headers_of(Request("GET", "/x"), None)

    assert with_body["Authorization"] == "Bearer secret"
    assert with_body["Content-Type"] == "application/json"
    assert "Authorization" not in without and "Content-Type" not in without


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "not_found", errors.NotFound),
        (410, "session_over", errors.SessionOver),
        (422, "not_supported", errors.NotSupported),
        (503, "unavailable", errors.Unavailable),
        (409, "unheard_of", errors.Conflict),
    ],
)
def test_a_refusal_is_raised_as_its_class(
    status: int, code: str, kind: type[errors.RequestError]
) -> None:
    with pytest.raises(kind, match="because") as caught:
        requests.accepted(problem(status, code, "because"))

    assert caught.value.status == status


def test_a_refusal_of_an_item_says_which() -> None:
    body = {
        "status": 422,
        "code": "invalid",
        "detail": "1 of 2 tasks is wrong",
        "errors": [{"index": 1, "field": "timeout", "message": "is negative"}],
    }

    with pytest.raises(errors.Invalid) as caught:
        requests.accepted(reply(422, body))

    assert caught.value.errors == body["errors"]


def test_the_plain_api_and_other_programs_refuse_in_their_own_words() -> None:
    plain = reply(403, {"sucsess": False, "error": {"code": "forbidden", "message": "a worker's"}})
    proxy = Reply(502, {}, b"<html>bad gateway</html>")

    assert str(requests.refusal(plain)) == "a worker's"
    assert requests.refusal(proxy).status == 502


def test_retry_after_is_told() -> None:
    headers = {"retry-after": "3"}
    assert requests.refusal(problem(429, "too_many_requests", **headers)).retry_after == 3.0
    assert requests.refusal(problem(429, "too_many_requests")).retry_after is None


def test_a_reply_of_another_shape_is_an_error_of_ours() -> None:
    with pytest.raises(errors.TaskServerError, match="not what this client expects"):
        requests.value_of(reply(200, {"ids": 5}), Submitted)
    with pytest.raises(errors.TaskServerError):
        requests.value_of(Reply(200, {}, b"\xff"), Submitted)
