from __future__ import annotations

from pathlib import Path

from task_server.worker.sandbox.files import folders_of
from task_server.worker.sandbox.uids import closed_folder


def test_an_environment_needs_itself_and_the_python_that_it_is_made_of(tmp_path: Path) -> None:
    python = tmp_path / "pythons" / "3.11" / "bin" / "python3.11"
    python.parent.mkdir(parents=True)
    python.touch()
    environment = tmp_path / "environment"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").symlink_to(python)
    (environment / "pyvenv.cfg").write_text(f"home = {python.parent}\nversion = 3.11\n")

    found = folders_of(environment / "bin" / "python")

    assert found == (environment, python.parent.parent)


def test_a_python_of_the_system_needs_nothing_more() -> None:
    assert folders_of(Path("/usr/bin/python3")) == ()


def test_the_folder_that_others_cannot_enter_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    inside = closed / "open"
    inside.mkdir(parents=True)
    for folder in (*tmp_path.parents, tmp_path, inside):
        if folder.stat().st_uid == inside.stat().st_uid:
            folder.chmod(folder.stat().st_mode | 0o005)

    closed.chmod(0o700)
    assert closed_folder(inside / "file") == closed
    closed.chmod(0o711)
    assert closed_folder(inside / "file") is None
