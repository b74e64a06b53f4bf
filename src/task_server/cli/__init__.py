"""The command line. It needs Typer and Rich, which the extra `cli` brings."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    from task_server.cli.long_running import run_plain

    status = run_plain(sys.argv[1:])
    if status is not None:
        sys.exit(status)
    try:
        import rich  # noqa: F401  (only whether it is there)
        import typer  # noqa: F401
    except ImportError:
        print(
            "the command line is not installed; run: pip install 'task-server[all]'",
            file=sys.stderr,
        )
        sys.exit(2)
    from task_server.cli.application import run

    sys.exit(run(sys.argv[1:]))
