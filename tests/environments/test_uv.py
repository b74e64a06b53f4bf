from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_server.environments import uv
from task_server.environments.uv_output import MAX_MESSAGE_BYTES, explain, readable

FOLDER = PurePosixPath("/tmp/lock-xyz")


def test_uv_sees_only_what_it_needs() -> None:
    environ = {
        "PATH": "/bin",
        "HOME": "/home/a",
        "SSL_CERT_FILE": "/c",
        "SSL_CERT_DIR": "/d",
        "HTTPS_PROXY": "p",
        "NO_PROXY": "n",
        "UV_CACHE_DIR": "/cache",
    }
    secrets = {"TASK_SERVER_TOKEN": "s", "AWS_SECRET_ACCESS_KEY": "s", "PYTHONPATH": "x"}
    leading_away = {"UV_CONFIG_FILE": "x", "UV_PROJECT": "x", "UV_NO_CONFIG": "1"}

    seen = uv.process_environment({**environ, **secrets, **leading_away})

    assert seen == environ


def test_requirements_are_never_arguments() -> None:
    command = uv.compile_command("uv", folder=FOLDER, python="3.11")

    assert command[:3] == ["uv", "pip", "compile"]
    assert command[-2:] == ["--", "/tmp/lock-xyz/requirements.in"]
    assert {"--universal", "--generate-hashes", "--no-python-downloads"} <= set(command)
    assert command[command.index("--only-binary") + 1] == ":all:"
    assert command[command.index("--index-strategy") + 1] == "first-index"
    assert "--exclude-newer" not in command


def test_an_index_and_a_cool_down_can_be_given() -> None:
    command = uv.compile_command(
        "uv", folder=FOLDER, python="3.11", index="https://a/", exclude_newer="2026-01-01T00:00:00Z"
    )

    assert command[command.index("--default-index") + 1] == "https://a/"
    assert command[command.index("--exclude-newer") + 1] == "2026-01-01T00:00:00Z"


def test_only_what_the_lock_pins_is_installed() -> None:
    command = uv.install_command("uv", interpreter=FOLDER / "python", lock_file=FOLDER / "lock")

    assert {"--require-hashes", "--no-deps", "--no-config"} <= set(command)
    assert command[command.index("--link-mode") + 1] == "hardlink"


NOT_FOUND = """\
error: No solution found when resolving dependencies for split (markers: sys_platform == 'linux')
  cause: Because nmpy was not found in the package registry and you require nmpy, we can \
conclude that your requirements are unsatisfiable.

hint: While the active Python version is 3.11, consider `requires-python`.
"""
FORBIDDEN = """\
error: No solution found when resolving dependencies
  cause: Because humanize was not found in the package registry and you require humanize.

hint: An index (https://a/simple) returned a 403 Forbidden error. Check the credentials.
"""
UNAUTHORIZED = """\
error: No solution found when resolving dependencies
  cause: Because acme was not found in the package registry and you require acme.

hint: An index URL (https://user:hunter2@b/index/) could not be queried due to a lack of valid \
authentication credentials (401 Unauthorized)
"""
FORBIDDEN_FILE = """\
error: Failed to download `humanize==4.9.0`
  cause: HTTP status client error (403 Forbidden) for url (http://a/humanize.whl)
"""
REFUSED = """\
error: Request failed after 3 retries in 10.5s
  cause: Failed to fetch: https://user:hunter2@a/index/humanize/?token=hunter2
  cause: client error (Connect)
  cause: Connection refused (os error 111)
"""
UNAVAILABLE = """\
error: Failed to fetch: http://a/index/humanize/
  cause: HTTP status server error (503 Service Unavailable) for url (http://a/index/humanize/)
"""
GONE = """\
error: Failed to download `humanize==4.9.0`
  cause: HTTP status client error (404 Not Found) for url (http://a/humanize.whl)
"""
TOO_MANY = """\
error: Failed to fetch: http://a/index/humanize/
  cause: HTTP status client error (429 Too Many Requests) for url (http://a/index/humanize/)
"""
WRONG_HASH = "error: Failed to download `a==1`\n  cause: Hash mismatch for `a==1`\n"
FULL = """\
warning: Failed to hardlink files; falling back to full copy.
error: Failed to install: humanize-4.17.0-py3-none-any.whl (humanize==4.17.0)
  cause: failed to copy file from /var/a/.cache/uv/archive-v0/ah2/a.po to /data/x/.tmpiM: No \
space left on device (os error 28)
"""
CONFLICT = """\
error: No solution found when resolving dependencies
  cause: Because you require urllib3<2 and urllib3>2, we can conclude that your requirements \
are unsatisfiable.
"""
SOURCES = """\
error: No solution found when resolving dependencies
  cause: Because all versions of docopt have no usable wheels and you require docopt, we can \
conclude that your requirements are unsatisfiable.

hint: Wheels are required for `docopt` because building from source is disabled
"""
PYTHON = """\
error: No solution found when resolving dependencies
  cause: Because the requested Python version (>=3.11) does not satisfy Python>=3.12 and \
numpy==2.5.5 depends on Python>=3.12, we can conclude that numpy==2.5.5 cannot be used.
         And because you require numpy==2.5.5, your requirements are unsatisfiable.
"""
VERSION = "error: No\n  cause: Because there is no version of humanize==99 and you require it"


@pytest.mark.parametrize(
    ("output", "first_line", "is_retryable", "is_unfit"),
    [
        (NOT_FOUND, "'nmpy' was not found in the package index; check the name", False, False),
        (VERSION, "no version of humanize matches ==99", False, False),
        (SOURCES, "'docopt' has no wheel that fits: packages that must be", False, False),
        (PYTHON, "numpy==2.5.5 needs Python >=3.12; this environment has", False, False),
        (CONFLICT, "the requirements cannot be met together", False, False),
        (GONE, "the package index no longer has a file of the lock (404 Not Found)", False, False),
        (FORBIDDEN, "the package index https://a/simple refused access (403 Forb", True, False),
        (UNAUTHORIZED, "the package index https://b/index/ refused access (401", True, False),
        (FORBIDDEN_FILE, "the package index refused access (403 Forbidden)", True, False),
        (REFUSED, "the package index could not be reached: Connection refused", True, False),
        (UNAVAILABLE, "the package index could not be reached: HTTP status server", True, False),
        (TOO_MANY, "the package index could not be reached: HTTP status client", True, False),
        (WRONG_HASH, "the package index served a==1 with another hash than", True, False),
        (FULL, "no space is left on the disk of this machine", True, True),
        ("error: something new\n", "something new", False, False),
        ("", "uv failed", False, False),
    ],
)
def test_the_first_line_names_the_cause(
    output: str, first_line: str, is_retryable: bool, is_unfit: bool
) -> None:
    failure = explain(output)

    assert failure.message.startswith(first_line)
    assert (failure.is_retryable, failure.is_unfit) == (is_retryable, is_unfit)
    assert failure.is_away == ("could not be reached" in first_line)
    assert "hint" not in failure.message


@pytest.mark.parametrize(
    "secret",
    [
        "https://user:hunter2@index.example/index/",
        "https://hunter2@index.example/index/",
        "https://user:pw@hunter2@index.example/index/",
        "https://index.example/index/?token=hunter2&x=1",
        "Bearer hunter2hunter2",
        "Authorization: Basic hunter2==",
        "pypi-hunter2hunter2hunter2",
    ],
)
def test_credentials_are_taken_out(secret: str) -> None:
    text = readable(f"error: Failed to fetch: `{secret}`\n  cause: {secret}")

    assert "hunter2" not in text
    assert "Failed to fetch" in text


def test_paths_and_colours_are_taken_out_and_urls_stay() -> None:
    text = readable(
        "\x1b[1m\x1b[31merror\x1b[39m: Failed to copy to `/tmp/lock-xyz/lib/he.po`\r\n"
        "  from (/var/a/.cache/uv/a.whl) and /var/a/.cache/ of https://a.example/index/x.whl\x07"
    )

    assert text == (
        "Failed to copy to `.../he.po`\n  from (.../a.whl) and ... of https://a.example/index/x.whl"
    )


def test_a_message_is_bounded() -> None:
    failure = explain("error: " + "é" * 10_000 + "\n" + NOT_FOUND)

    assert len(failure.message.encode()) <= MAX_MESSAGE_BYTES
    assert failure.message.startswith("'nmpy' was not found")
    assert failure.message.endswith("(cut)")


@given(st.text(max_size=200))
def test_any_output_can_be_explained(output: str) -> None:
    message = explain(f"error: {output}").message

    assert message
    assert "\x1b" not in message
    assert len(message.encode()) <= MAX_MESSAGE_BYTES
