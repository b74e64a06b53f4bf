"""Two workers on one data folder."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from task_server.settings import WorkerSettings
from task_server.worker import process_tree
from task_server.worker import run as worker
from task_server.worker.alone import FolderInUse, hold


def test_a_second_worker_is_refused_before_it_harms_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker, "hide_memory", lambda: None)
    monkeypatch.setattr(worker, "log_to_stderr", lambda: None)
    monkeypatch.setattr(os, "umask", lambda _: 0)
    monkeypatch.setattr(process_tree, "end_marked", lambda mark: pytest.fail(mark))
    settings = WorkerSettings(server="http://127.0.0.1:1", data=tmp_path)

    with hold(tmp_path), caplog.at_level(logging.ERROR):
        status = worker.run(settings)

    assert status == worker.IN_USE
    assert f"another worker runs with the data folder {tmp_path}" in caplog.text


def test_a_worker_that_was_killed_holds_its_folder_no_longer(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from task_server.worker.alone import hold;"
        " held = hold(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )

    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)

    assert ended.returncode == -9
    with hold(tmp_path), pytest.raises(FolderInUse):
        hold(tmp_path)
