"""Who may do what with folders: enter those of tests, damage environments."""

from pathlib import Path

_DEPTH = 3
"""The folder, and those above it that pytest made: one more where tests run side by side."""


def let_others_enter(folder: Path) -> None:
    """Let every user into `folder`, which pytest made for its own user alone."""
    for each in (folder, *folder.parents)[:_DEPTH]:
        status = each.stat()
        if status.st_uid == folder.stat().st_uid and status.st_mode & 0o011 != 0o011:
            each.chmod(status.st_mode | 0o011)


def let_damage(folder: Path) -> None:
    """Let the owner of an environment change what is in it."""
    for each in (folder, *folder.rglob("*")):
        if each.is_dir() and not each.is_symlink():
            each.chmod(0o755)
