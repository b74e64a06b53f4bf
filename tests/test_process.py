"""What the processes of server and worker set up alike."""

import gc
import platform
import subprocess
import sys

import pytest

from task_server.process import settle_heap

COPIES = """
import resource
from task_server.process import settle_heap

def copies():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [bytes([number]) * (1 << 20) for number in range(5)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

settle_heap()
copies()
print(copies())
"""


def test_what_was_there_at_the_start_is_not_looked_at_by_the_collector() -> None:
    here = [object()]

    settle_heap()

    try:
        assert gc.get_freeze_count() > 1000
        assert not any(each is here for each in gc.get_objects())
    finally:
        gc.unfreeze()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="others keep what they like")
def test_memory_of_large_pieces_is_not_taken_anew_each_time() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COPIES], check=True, stdout=subprocess.PIPE, text=True
    )

    pages_of_all_pieces = 20 * 5 * 256
    assert int(done.stdout) < pages_of_all_pieces / 10
