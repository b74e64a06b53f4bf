from __future__ import annotations

from pathlib import Path

import pytest

from task_server.machine import is_loopback
from task_server.options import checked, labels_of, settings_of, weights_of
from task_server.settings import ServerSettings, WorkerSettings, database_url_in


def test_every_setting_says_what_it_is() -> None:
    for kind in (ServerSettings, WorkerSettings):
        for name, setting in settings_of(kind).items():
            assert setting.help and setting.variable == "TASK_SERVER_" + name.upper()
            assert setting.unit or not name.endswith(("_seconds", "_bytes"))


def test_values_that_are_not_given_are_the_defaults(tmp_path: Path) -> None:
    settings = checked(ServerSettings, {"data": tmp_path, "port": None, "lease_seconds": 5.0})

    assert settings == ServerSettings(data=tmp_path, lease_seconds=5.0)
    assert settings.port == 8900 and settings.database_url == f"sqlite:///{tmp_path}/task-server.db"


@pytest.mark.parametrize(
    "values",
    [{"port": -1}, {"port": 65536}, {"lease_seconds": 0.0}, {"auth": "off"}, {"body_bytes": 0}],
)
def test_values_out_of_range_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"Expected|Invalid"):
        checked(ServerSettings, values)


def test_without_tokens_only_this_machine_may_reach_it() -> None:
    with pytest.raises(ValueError, match="loopback"):
        checked(ServerSettings, {"auth": "none", "host": "0.0.0.0"})

    assert checked(ServerSettings, {"auth": "none", "host": "localhost"}).auth == "none"


def test_weights_of_owners_are_numbers_by_name() -> None:
    assert weights_of("") == {}
    assert weights_of("alice=2, a=b=0.5,") == {"alice": 2.0, "a=b": 0.5}


@pytest.mark.parametrize(
    "text", ["alice", "alice=", "=2", "a=0", "a=-1", "a=nan", "a=inf", "a=1e9"]
)
def test_other_weights_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="weights are NAME=WEIGHT"):
        checked(ServerSettings, {"share_weights": text})


@pytest.mark.parametrize("blobs", ["s3://bucket", "s3://bucket/below/that", "/a/folder", "folder"])
def test_blobs_lie_in_a_directory_or_in_a_bucket(blobs: str) -> None:
    assert checked(ServerSettings, {"blobs": blobs}).blobs == blobs


@pytest.mark.parametrize(
    "blobs",
    ["s3://", "s3:///x", "s3://key:secret@bucket", "s3://bucket/?x=1", "gs://bucket", "s3://a b"],
)
def test_other_places_for_blobs_are_refused(blobs: str) -> None:
    with pytest.raises(ValueError, match="neither a directory nor s3://BUCKET/PREFIX"):
        checked(ServerSettings, {"blobs": blobs})


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
    ],
)
def test_loopback_is_what_other_machines_cannot_reach(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_a_databases_url_is_absolute() -> None:
    assert database_url_in(Path("data")) == f"sqlite:///{Path.cwd()}/data/task-server.db"


def test_labels_are_names_with_values() -> None:
    assert labels_of("rack=b, disk=ssd,") == {"rack": "b", "disk": "ssd"}
    with pytest.raises(ValueError, match="NAME=VALUE"):
        checked(WorkerSettings, {"server": "http://x", "labels": "rack"})
