from __future__ import annotations

import stat
from pathlib import Path

import pytest

from task_server.client.profile import (
    Profile,
    find_server,
    profile_path,
    read_profile,
    write_profile,
)
from task_server.errors import ProfileError, ServerUnreachable


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "config" / "profile.json"
    write_profile(path, Profile("http://kept:1", "kept-token"))
    return {"TASK_SERVER_PROFILE": str(path)}


def test_the_profile_is_the_last_place_to_look(environ: dict[str, str]) -> None:
    assert find_server(environ=environ) == Profile("http://kept:1", "kept-token")


def test_arguments_come_before_variables_and_those_before_the_profile(
    environ: dict[str, str],
) -> None:
    environ |= {"TASK_SERVER_URL": "http://said:2", "TASK_SERVER_TOKEN": "said"}

    assert find_server(environ=environ) == Profile("http://said:2", "said")
    assert find_server("http://mine:3/", "mine", environ=environ) == Profile(
        "http://mine:3", "mine"
    )


def test_the_kept_token_goes_to_no_other_server(environ: dict[str, str]) -> None:
    assert find_server("http://other:1", environ=environ).token is None
    assert find_server("http://kept:1/", environ=environ).token == "kept-token"


def test_without_a_server_the_error_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(ServerUnreachable, match="task-server up"):
        find_server(environ={"TASK_SERVER_PROFILE": str(tmp_path / "none")})


def test_a_profile_is_for_its_user_alone(environ: dict[str, str]) -> None:
    path = Path(environ["TASK_SERVER_PROFILE"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    path.chmod(0o640)

    with pytest.raises(ProfileError, match="chmod 600"):
        read_profile(path)


def test_a_profile_is_replaced_whole(environ: dict[str, str]) -> None:
    path = Path(environ["TASK_SERVER_PROFILE"])

    write_profile(path, Profile("http://new:1"))

    assert read_profile(path) == Profile("http://new:1", None)
    assert [file.name for file in path.parent.iterdir()] == ["profile.json"]


def test_a_profile_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ProfileError, match=r"profile\.json cannot be written: Not a directory"):
        write_profile(tmp_path / "file" / "in" / "profile.json", Profile("http://127.0.0.1:1"))


def test_a_broken_profile_says_so(environ: dict[str, str]) -> None:
    Path(environ["TASK_SERVER_PROFILE"]).write_text("{")

    with pytest.raises(ProfileError, match="is no profile"):
        find_server(environ=environ)


def test_the_usual_place_is_the_users_configuration() -> None:
    assert profile_path({"XDG_CONFIG_HOME": "/conf"}) == Path("/conf/task-server/profile.json")
