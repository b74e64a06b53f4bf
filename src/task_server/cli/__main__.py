"""`python -m task_server.cli` is `task-server`."""

from task_server.cli import main

main()
