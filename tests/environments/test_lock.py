import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_server.environments.lock import BadLock, empty_lock, parse_lock, wanted_platforms

A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
PLAIN = f"humanize==4.9.0 \\\n    --hash={A} \\\n    --hash={B}\nnumpy==2.4.6 \\\n    --hash={B}\n"


def test_comments_order_and_wrapping_do_not_change_the_digest() -> None:
    plain = parse_lock(PLAIN, python="3.11")
    other = parse_lock(
        f"# made by a tool\nNumpy==2.4.6 --hash={B}  # why\n\n"
        f"humanize==4.9.0 \\\n  --hash={B} \\\n  --hash={A}\n    # via nothing\n",
        python="3.11",
    )

    assert plain == other
    assert plain.digest == other.digest
    assert len(plain.digest) == 64


def test_the_python_is_part_of_the_digest() -> None:
    digests = {parse_lock(PLAIN, python=python).digest for python in ("3.11", "3.12")}
    empties = {empty_lock(python).digest for python in ("3.11", "3.12")}

    assert len(digests | empties) == 4


def test_a_lock_reads_its_own_text_back() -> None:
    lock = parse_lock(PLAIN, python="3.11")

    again = parse_lock(lock.text)

    assert again == lock
    assert again.text == lock.text
    assert parse_lock(empty_lock("3.12").text) == empty_lock("3.12")


def test_a_marker_that_is_true_wherever_the_lock_is_used_is_left_out() -> None:
    where = wanted_platforms("3.11")

    lock = parse_lock(f"humanize==4.9.0 ; {where} \\\n    --hash={A}\n", python="3.11")

    assert lock == parse_lock(f"humanize==4.9.0 --hash={A}", python="3.11")


def test_versions_are_those_of_the_machine() -> None:
    lock = parse_lock(
        f"colorama==0.4.6 ; sys_platform == 'win32' --hash={A}\n"
        f"numpy==1.26.4 ; sys_platform == 'darwin' --hash={A}\n"
        f"numpy==2.4.6 ; sys_platform != 'darwin' --hash={B}\n",
        python="3.11",
    )

    assert lock.versions() == {"numpy": "2.4.6"}
    assert lock.versions({"sys_platform": "darwin"}) == {"numpy": "1.26.4"}
    assert lock.versions({"sys_platform": "win32"}) == {"colorama": "0.4.6", "numpy": "2.4.6"}
    assert empty_lock("3.11").versions() == {}


@pytest.mark.parametrize(
    "line",
    [
        "humanize==4.9.0",
        f"humanize --hash={A}",
        f"humanize>=4 --hash={A}",
        f"humanize==4.* --hash={A}",
        "humanize==4.9.0 --hash=md5:00",
        f"humanize @ https://evil.example/x.whl --hash={A}",
        f"https://evil.example/x.whl --hash={A}",
        f"./x.whl --hash={A}",
        f"humanize==4.9.0 --index-url=x --hash={A}",
        f"humanize==4.9.0 --hash={A} --index-url=x",
        f"--index-url=x --hash={A}",
        "--index-url https://evil.example",
        "-r other.txt",
        "-e .",
        f"humanize==4.9.0 ; nonsense --hash={A}",
    ],
)
def test_anything_but_pinned_and_hashed_versions_is_refused(line: str) -> None:
    with pytest.raises(BadLock):
        parse_lock(f"{line}\n", python="3.11")


@pytest.mark.parametrize("text", ["", "# python 4\n", PLAIN, "# python ../..\n"])
def test_a_lock_without_a_python_is_refused(text: str) -> None:
    with pytest.raises(BadLock):
        parse_lock(text)


def test_a_lock_of_another_python_is_refused() -> None:
    with pytest.raises(BadLock, match=r"for Python 3\.12, not 3\.11"):
        parse_lock(empty_lock("3.12").text, python="3.11")


@given(st.text(max_size=80))
def test_no_text_does_anything_but_parse_or_be_refused(text: str) -> None:
    try:
        lock = parse_lock(text, python="3.11")
    except BadLock:
        return

    assert parse_lock(lock.text) == lock
