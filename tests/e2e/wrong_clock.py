"""`task-server` on a machine whose clock is wrong; the first argument says by how many seconds."""

import sys
import time

seconds = float(sys.argv.pop(1))
right, right_ns = time.time, time.time_ns
time.time = lambda: right() + seconds
time.time_ns = lambda: right_ns() + int(seconds * 1e9)

from task_server.cli import main  # noqa: E402  (whatever it imports must see the wrong clock)

if __name__ == "__main__":
    main()
