"""What the processes of server and worker set up alike."""

import gc

from task_server.process import settle_heap


def test_what_was_there_at_the_start_is_not_looked_at_by_the_collector() -> None:
    here = [object()]

    settle_heap()

    try:
        assert gc.get_freeze_count() > 1000
        assert not any(each is here for each in gc.get_objects())
    finally:
        gc.unfreeze()
