"""Following a batch, and the line that shows it."""

from __future__ import annotations

import io
import json
import threading
from typing import Any

import pytest

from task_server.client.batch import Batch
from task_server.client.progress import Bar, follow, progress_of
from task_server.client.requests import Request
from task_server.errors import NotFound, ServerUnreachable
from task_server.protocol.tasks import BatchView, Quantiles
from tests.client.scripted import ScriptedTransport, problem
from tests.client.test_client import scripted

NOTHING = {"p10": 0.0, "p50": 0.0, "p90": 0.0}
ETA = {"p10": 40.0, "p50": 46.0, "p90": 55.0}


def told(done: int, *, name: str = "progress", eta: Any = ETA) -> bytes:
    view = {
        "id": "b",
        "name": None,
        "open": False,
        "total": 10_000,
        "expected": None,
        "counts": {"queued": 10_000 - done, "succeeded": done},
        "progress": done / 10_000,
        "core_seconds": NOTHING,
        "eta": eta,
    }
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (done, name.encode(), json.dumps(view).encode())


def following(*streams: Any) -> tuple[Any, ScriptedTransport]:
    left = list(streams)
    client, transport = scripted(lambda request: left.pop(0))
    return client, transport


def done_of(view: BatchView) -> int:
    return view.counts["succeeded"]


def test_a_batch_is_followed_to_its_end_whatever_the_pieces() -> None:
    text = b"retry: 1000\n\n" + told(0) + b": still here\n\n" + told(5) + told(9, name="done")
    client, transport = following([text[:30], text[30:200], text[200:], told(10)])

    assert [done_of(view) for view in follow(client.session, "b")] == [0, 5, 9]
    assert [request.path for request in transport.requests] == ["/v1/batches/b/events"]


def test_a_stream_that_breaks_or_ends_early_is_opened_again() -> None:
    client, transport = following(
        [told(1), ServerUnreachable("cut")], [told(2)], [told(3, name="done")]
    )

    assert [done_of(view) for view in follow(client.session, "b")] == [1, 2, 3]
    assert len(transport.requests) == 3


def test_a_batch_that_is_not_there_is_an_error() -> None:
    client, _ = following(problem(404, "not_found"))

    with pytest.raises(NotFound):
        list(follow(client.session, "b"))


def view_of(eta: Quantiles | None, **counts: int) -> BatchView:
    total = sum(counts.values())
    return BatchView("b", None, False, total, None, counts, 0.5, Quantiles(0, 0, 0), eta)


def test_the_words_tell_how_many_and_how_long() -> None:
    eta = Quantiles(40.2, 46.0, 54.9)

    assert progress_of(view_of(eta, queued=2688, succeeded=7312)) == (
        7312,
        10_000,
        "7,312 of 10,000, done in 40-55 s",
    )
    assert progress_of(view_of(None, queued=1))[2] == "0 of 1, there is no worker"
    failed = view_of(eta, running=1, succeeded=1, failed=1, cancelled=1)
    assert progress_of(failed)[2] == "3 of 4, 2 without an answer, done in 40-55 s"
    assert progress_of(view_of(eta, succeeded=3))[2] == "3 of 3"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_is_as_long_as_what_is_done() -> None:
    out = Terminal()
    bar = Bar(out)

    bar.show(1, 3, "1 of 3")

    assert out.getvalue() == "\r\x1b[K[" + "=" * 10 + "-" * 20 + "] 1 of 3"


def test_the_bar_stands_aside_for_what_is_printed_and_goes_at_the_end() -> None:
    out = Terminal()
    bar = Bar(out)
    bar.show(1, 3, "1 of 3")
    begin = len(out.getvalue())

    with bar.aside():
        out.write("answer\n")
    bar.close()
    bar.show(2, 3, "2 of 3")

    line = "[" + "=" * 10 + "-" * 20 + "] 1 of 3"
    assert out.getvalue()[begin:] == f"\r\x1b[Kanswer\n\r\x1b[K{line}\r\x1b[K"


def test_what_is_no_terminal_stays_clean_and_nobody_is_asked() -> None:
    client, transport = following()
    out = io.StringIO()
    bar = Bar(out)

    bar.follow(client.session, "b")
    bar.show(1, 2, "1 of 2")
    with bar.aside():
        pass
    bar.close()

    assert out.getvalue() == "" and transport.requests == []


def test_a_bar_follows_its_batch_and_minds_no_error() -> None:
    streams: list[Any] = [[told(7312), ServerUnreachable("cut")], problem(410, "gone")]
    client, _ = following(*streams)
    out = Terminal()
    before = set(threading.enumerate())

    Bar(out).follow(client.session, "b")
    for thread in set(threading.enumerate()) - before:
        thread.join(10)

    assert "7,312 of 10,000, done in 40-55 s" in out.getvalue()


def test_values_come_in_order_beside_a_bar() -> None:
    def handle(request: Request) -> Any:
        lines = [
            {"index": i, "id": f"t{i}", "state": "succeeded", "encoding": "json", "answer": i}
            for i in range(3)
        ]
        if "/answers" in request.path:
            return [json.dumps(line).encode() + b"\n" for line in lines]
        raise AssertionError(request.path)

    client, _ = scripted(handle)

    assert list(Batch(client.session, "b", 3).with_progress()) == [0, 1, 2]
