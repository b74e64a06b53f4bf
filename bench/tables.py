"""Results, as people read them."""

from __future__ import annotations

from collections.abc import Iterable

from rich.markup import escape
from rich.table import Table

from bench.figures import Result
from bench.peers.comparison import BACKLOG, Row
from bench.processors import Shares

VERDICTS = {None: "", "goal": "[green]goal[/]", "must": "[green]pass[/]", "missed": "[red]miss[/]"}
PROCESSES = Shares.__struct_fields__


def table(results: Iterable[Result], title: str) -> Table:
    """The best of all rounds beside what is wanted."""
    shown = Table(box=None, pad_edge=False, header_style="bold", title=title, title_justify="left")
    shown.add_column("scenario", no_wrap=True)
    for column in ("best", "", "reference", "ratio", "must", "goal", ""):
        shown.add_column(column, justify="right" if column else "left", no_wrap=True)
    for result in results:
        shown.add_row(
            result.name,
            number(result.value),
            result.unit,
            "" if result.ratio is None else number(result.reference),
            "" if result.ratio is None else f"{result.ratio:.2f}x",
            _wanted(result, result.must),
            _wanted(result, result.goal),
            VERDICTS[result.verdict],
        )
    return shown


def shares_table(results: Iterable[Result]) -> Table:
    """Processor time of a task in the best round, by process."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("us of processor time a task", no_wrap=True)
    for process in PROCESSES:
        shown.add_column(process, justify="right", no_wrap=True)
    for result in results:
        if result.shares is not None:
            shown.add_row(result.name, *_shares(result.shares))
    return shown


def peers_table(rows: Iterable[Row]) -> Table:
    """All systems beside each other."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("system", no_wrap=True)
    for column in (
        "tasks/s",
        "ratio",
        "p50 ms",
        "1 MiB echo p50 ms",
        "idle PSS MB",
        f"{BACKLOG:,} at once, tasks/s",
        "fsync before its reply",
    ):
        shown.add_column(column, justify="right")
    shown.add_column("")
    for row in rows:
        figures = (row.rate, row.ratio, row.call_ms, row.echo_ms, row.memory_mb, row.backlog_rate)
        durable = "yes" if row.is_durable else "no"
        shown.add_row(row.title, *map(number, figures), durable, escape(row.error))
    return shown


def number(value: float | None) -> str:
    """Three digits, or all of a large one."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _wanted(result: Result, wanted: float | None) -> str:
    if wanted is None:
        return ""
    return f"{wanted:g}x" if result.ratio is not None else f"{wanted:g}"


def _shares(shares: Shares) -> list[str]:
    values = [getattr(shares, process) for process in PROCESSES]
    return [f"{value:.0f}" if value else "" for value in values]
