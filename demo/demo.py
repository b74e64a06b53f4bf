"""task-server at work: real packages, plain HTTP, a batch that says when it will be done.

`make demo` runs it. It exits with 0 only if every answer was right.
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from functions import (
    accuracy_on_irises,
    count_primes,
    longest_run,
    primes_by_sieve,
    thumbnail,
)
from plain import PlainClient
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from running import task_server

from task_server import Batch, Client
from task_server.client.profile import find_server

HUMANIZE = {"package": "humanize", "function": "intcomma", "args": [1234567]}
CALLS = 1000
WIDTH = 2000
"""Numbers that one call of the batch looks at."""
STARTS = range(0, CALLS * WIDTH, WIDTH)
ENDS = range(WIDTH, (CALLS + 1) * WIDTH, WIDTH)
SAMPLE = 25
"""One call in so many is tried before the batch is estimated."""
LOOK_SECONDS = 0.3
"""How often the batch's ETA is asked for."""


class Demo:
    """The steps, and what they found wrong."""

    def __init__(self, url: str, console: Console) -> None:
        self.client = Client()
        self.plain = PlainClient(url, find_server().token or "")
        self.console = console
        self.wrong: list[str] = []

    def run(self) -> None:
        """All steps; each is tried, whatever became of those before."""
        for step in (self.call_packages, self.call_by_value, self.call_plainly):
            self._try(step)
        self._try(self.run_batch)
        self._try(self.tell_time_left)
        self._try(self.show_functions)
        self.client.close()

    def call_packages(self) -> None:
        """Functions of packages that are not installed here"""
        client = self.client
        self.check(
            "humanize:intcomma(1234567)",
            lambda: client.call("humanize:intcomma", 1234567, package="humanize"),
            lambda answer: answer == "1,234,567",
        )
        self.check(
            "the same again, its environment being there",
            lambda: client.call("humanize:intcomma", 7654321, package="humanize"),
            lambda answer: answer == "7,654,321",
        )
        self.check(
            "scikit-learn: a classifier of iris flowers",
            lambda: client.options(package="scikit-learn").call(accuracy_on_irises, 1),
            lambda answer: 0.9 <= answer <= 1.0,
        )
        self.check(
            "pillow: a picture of 640 x 400, made small",
            lambda: client.options(package="pillow").call(thumbnail, _picture(640, 400), 160),
            lambda answer: _png_size(answer) == (160, 100),
            show=lambda answer: f"a PNG of 160 x 100, {len(answer)} bytes",
        )

    def call_by_value(self) -> None:
        """A function of this demo, which no worker has"""
        self.check(
            "longest_run('mississippiii')",
            lambda: self.client.call(longest_run, "mississippiii"),
            lambda answer: answer == ("i", 3),
        )

    def call_plainly(self) -> None:
        """The plain API: two HTTP requests, from any language"""
        submitted: dict[str, Any] = {}

        def submit() -> dict[str, Any]:
            submitted.update(self.plain.post("/user/submit_task", HUMANIZE))
            return submitted

        self.check(
            "POST /user/submit_task",
            submit,
            lambda reply: reply["sucsess"] is True,
            show=lambda reply: f"id {reply['id']}",
        )
        self.check(
            "GET /user/request_answer/<id>",
            lambda: self.plain.get(f"/user/request_answer/{submitted['id']}?wait=30"),
            lambda reply: reply["sucsess"] is True and reply["answer"] == "1,234,567",
            show=lambda reply: repr(reply["answer"]),
        )

    def run_batch(self) -> None:
        """A batch of 1,000 calls: the primes below two million"""
        expected = primes_by_sieve(WIDTH, CALLS)
        sample = list(self.client.map(count_primes, STARTS[::SAMPLE], ENDS[::SAMPLE]))
        self.expect(f"a sample of {len(sample)} calls", sample == expected[::SAMPLE])
        eta = self.client.estimate_map(count_primes, STARTS, ENDS).eta
        assert eta is not None, "an estimate needs a worker, and there is none"
        self.console.print(
            f"        estimated before it is sent: [bold]{eta.p50:.1f} s[/]"
            f" ({eta.p10:.1f} to {eta.p90:.1f} s)",
            highlight=False,
        )
        started = time.monotonic()
        answers = self._follow(self.client.map(count_primes, STARTS, ENDS))
        took = time.monotonic() - started
        self.console.print(
            f"        took: [bold]{took:.1f} s[/], {took / eta.p50:.2f} times the estimate",
            highlight=False,
        )
        right = sum(answers.get(index) == wanted for index, wanted in enumerate(expected))
        self.expect(
            f"{right:,} of {CALLS:,} answers are right: {sum(answers.values()):,} primes",
            right == CALLS,
        )

    def _follow(self, batch: Batch) -> dict[int, int]:
        answers: dict[int, int] = {}
        columns = (BarColumn(40), MofNCompleteColumn(), TextColumn("{task.fields[eta]}"))
        with Progress(TextColumn("       "), *columns, console=self.console) as progress:
            bar = progress.add_task("", total=len(batch), eta="")
            looked_at = 0.0
            for answer in batch.as_completed():
                answers[answer.index] = answer.result()
                progress.update(bar, completed=len(answers))
                if time.monotonic() - looked_at > LOOK_SECONDS:
                    looked_at = time.monotonic()
                    eta = batch.eta()
                    progress.update(bar, eta=f"done in {eta.p50:.1f} s" if eta else "")
            progress.update(bar, eta="done")
        return answers

    def tell_time_left(self) -> None:
        """How long the work will take that is still there"""
        batch = self.client.map(count_primes, STARTS[::2], ENDS[::2])
        busy = self.plain.get("/user/estimate_time_left")
        self.expect(
            f"GET /user/estimate_time_left -> {busy['time']:.1f} s on one core,"
            f" done in {busy['eta_seconds'] or 0:.1f} s",
            busy["sucsess"] is True and busy["time"] > 0,
        )
        batch.wait(60)
        idle = self.plain.get("/user/estimate_time_left")
        self.expect(f"when it is done -> {idle['time']:.1f} s", idle["time"] == 0)

    def show_functions(self) -> None:
        """What is known of each function now"""
        rows = self.plain.get("/v1/functions")["functions"]
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("        function", no_wrap=True)
        for column in ("calls", "p50", "p90", "total", "install"):
            table.add_column(column, justify="right")
        for row in sorted(rows, key=lambda each: str(each["function"])):
            run = row["run_seconds"]
            seconds = (run["p50"], run["p90"], run["total"], row["install_seconds"])
            table.add_row(f"        {row['function']}", str(row["calls"]), *map(_duration, seconds))
        self.console.print(table)
        calls = {row["function"]: row["calls"] for row in rows}
        counted = CALLS // SAMPLE + CALLS + CALLS // 2
        self.expect(
            f"every call of count_primes is counted: {counted:,}",
            calls.get("functions:count_primes") == counted,
        )

    def check(
        self,
        what: str,
        call: Callable[[], Any],
        is_right: Callable[[Any], bool],
        *,
        show: Callable[[Any], str] = repr,
    ) -> None:
        """Call, look at the answer, and say how long it took."""
        started = time.monotonic()
        answer = call()
        took = _duration(time.monotonic() - started)
        self.expect(f"{what} -> {escape(show(answer))}  [dim]{took}[/]", is_right(answer))

    def expect(self, what: str, is_right: bool) -> None:
        """Show what was found, and remember what is wrong."""
        mark = "[green]ok[/]   " if is_right else "[red]WRONG[/]"
        self.console.print(f"  {mark} {what}", highlight=False)
        if not is_right:
            self.wrong.append(what)

    def _try(self, step: Callable[[], None]) -> None:
        self.console.print(f"\n[bold]{step.__doc__}[/]")
        try:
            step()
        except Exception as error:  # the rest is to be seen too; the exit status tells
            self.expect(escape(f"{type(error).__name__}: {error}"), False)


def _picture(width: int, height: int) -> bytes:
    """A PPM picture: red grows to the right, green downwards."""
    pixels = bytearray()
    for y in range(height):
        for x in range(width):
            pixels += bytes((255 * x // width, 255 * y // height, 128))
    return b"P6 %d %d 255\n" % (width, height) + pixels


def _png_size(data: bytes) -> tuple[int, int] | None:
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def _duration(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.1f} s"


def main() -> int:
    """Run the demo; its exit status."""
    console = Console() if sys.stdout.isatty() else Console(width=110)
    started = time.monotonic()
    console.print("[bold]Starting a server and a worker on this machine[/]")
    with task_server() as url:
        took = time.monotonic() - started
        console.print(
            f"  [green]ok[/]    task-server ready on {url}  [dim]{_duration(took)}[/]",
            highlight=False,
        )
        demo = Demo(url, console)
        demo.run()
    took = time.monotonic() - started
    if demo.wrong:
        console.print(f"\n[red]{len(demo.wrong)} of the answers were wrong:[/]")
        for what in demo.wrong:
            console.print(f"  {what}", highlight=False)
        return 1
    console.print(f"\n[green]Every answer was right.[/] All of it took {took:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
