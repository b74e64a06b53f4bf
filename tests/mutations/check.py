"""Take out each guard of `lists` in turn: the tests named with it must fail.

python -m tests.mutations.check [WORD ...]     only guards whose name or file has a WORD
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutations.guards import SOURCE, Guard
from tests.mutations.lists import GUARDS

ROOT = Path(__file__).parents[2]
SECONDS = 300.0
FAILED = 1
"""Exit status of pytest when tests ran and one failed."""


def mutate(guard: Guard, source: Path) -> None:
    """Take a guard out of the tree at `source`."""
    path = source / "task_server" / guard.file
    text = path.read_text()
    assert text.count(guard.text) == 1, f"{guard.name}: its text is not there once"
    path.write_text(text.replace(guard.text, guard.without))


def do_tests_fail(tests: str, guard: Guard | None) -> bool:
    """Whether these tests fail without the guard; None: with all of them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # runners may be other users
        source = Path(folder) / SOURCE.name
        shutil.copytree(SOURCE, source, ignore=shutil.ignore_patterns("__pycache__"))
        if guard is not None:
            mutate(guard, source)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        ended = subprocess.run(
            [*command, *shlex.split(tests)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
            check=False,
        )
    if ended.returncode not in (0, FAILED):
        print(ended.stdout.decode(errors="replace"))  # noqa: T201  # a program
    return ended.returncode == FAILED


def check(guard: Guard) -> bool:
    """Tell whether a guard is missed when it is taken out."""
    began = time.monotonic()
    missed = do_tests_fail(guard.tests, guard)
    word = "missed" if missed else "NOT MISSED"
    print(f"{word:10}  {time.monotonic() - began:5.1f} s  {guard.file}: {guard.name}", flush=True)  # noqa: T201  # a program
    return missed


def _fail_anyway(tests: str) -> str | None:
    return tests if do_tests_fail(tests, None) else None


def main(words: list[str]) -> int:
    """Check all guards, or those that a word names; 1 when one is not missed."""
    chosen = [
        guard
        for guard in GUARDS
        if not words or any(word in f"{guard.file} {guard.name}" for word in words)
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for tests in pool.map(_fail_anyway, sorted({guard.tests for guard in chosen})):
            if tests is not None:
                print(f"these fail without any change: {tests}")  # noqa: T201  # a program
                return 1
        missed = sum(pool.map(check, chosen))
    print(f"{missed} of {len(chosen)} guards are missed when taken out")  # noqa: T201  # a program
    return 0 if missed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
