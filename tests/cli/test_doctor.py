from __future__ import annotations

import json
import os
from typing import Any

import pytest

from task_server.cli import doctor
from task_server.cli.application import run

pytestmark = pytest.mark.e2e


def findings(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    status = run(["doctor", "-o", "json", *arguments])
    rows = json.loads(capsys.readouterr().out)
    return status, {row["what"]: row for row in rows}


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("TASK_SERVER_PROFILE", str(tmp_path / "none.json"))
    monkeypatch.delenv("TASK_SERVER_URL", raising=False)


def test_doctor_says_what_is_there_and_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    status, found = findings(capsys)

    assert status == 0
    assert found["uv"]["state"] == "ok" and "uv" in found["uv"]["found"]
    assert found["server"]["state"] == "missing" and "task-server up" in found["server"]["found"]


def test_doctor_looks_at_the_disk_that_the_data_is_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("TASK_SERVER_DATA", str(tmp_path / "data"))

    _, found = findings(capsys)

    assert found["disk"]["found"].endswith(f" GiB free for {tmp_path / 'data'}")


def test_doctor_tries_the_sandbox_out(capsys: pytest.CaptureFixture[str]) -> None:
    status, found = findings(capsys, "--worker", "--max-sandbox", "1")

    assert status == 0
    assert found["sandbox"]["found"].startswith("level ")
    assert found["a task tries to outlive its runner"]["found"] == "denied"
    assert found["a task works"]["found"] == "yes"
    assert "root" in found["layer: namespace"]["hint"]
    assert "--network" in found["a task tries to connect"]["hint"]


def test_doctor_tries_as_a_worker_does_whatever_its_shell_closes_to_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    mask = os.umask(0o077)
    try:
        _, found = findings(capsys, "--worker")
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(mask)

    assert found["sandbox"]["state"] == "ok"


def test_hints_take_several_lines_rather_than_cut_what_they_are_about(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hint = "long " * 60 + "end"
    monkeypatch.setattr(
        doctor, "_sandbox", lambda _: [doctor.Finding("layer", "missing", hint=hint)]
    )

    run(["doctor", "--worker"])

    printed = capsys.readouterr().out
    assert "missing" in printed and "long end" in " ".join(printed.split())


def test_doctor_says_what_is_wrong_with_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    status, found = findings(capsys, "--worker", "--runner-uids", "many")

    assert status == 1
    assert found["sandbox"]["state"] == "broken" and "64000-64999" in found["sandbox"]["found"]
