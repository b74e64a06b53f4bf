"""What a server looks at before it trusts a database: its version, and how durable it is."""

from __future__ import annotations

from task_server.errors import DatabaseUnusable
from task_server.store.postgres.connection import Connection

OLDEST = 14


async def warnings(connection: Connection) -> list[str]:
    """What to tell about a database's settings. Raises DatabaseUnusable when it cannot be used."""
    major = connection.get_server_version().major
    if major < OLDEST:
        raise DatabaseUnusable(f"PostgreSQL {major} is too old; {OLDEST} or newer is needed")
    if await connection.fetchval("SELECT pg_is_in_recovery()"):
        raise DatabaseUnusable(
            "this PostgreSQL is a standby, which takes no changes; name the primary with --database"
        )
    encoding = connection.get_settings().server_encoding
    if encoding != "UTF8":
        raise DatabaseUnusable(
            f"the database's encoding is {encoding}; make one with UTF8:"
            " createdb -E UTF8 -T template0"
        )
    row = await connection.fetchrow(
        "SELECT current_setting('synchronous_commit'), current_setting('fsync'),"
        " current_setting('full_page_writes'), current_setting('synchronous_standby_names'),"
        " (SELECT count(*) FROM pg_stat_replication)"
    )
    assert row is not None  # a SELECT without FROM
    return _told_by(*row)


def _told_by(commit: str, fsync: str, pages: str, confirming: str, standbys: int) -> list[str]:
    told = []
    if commit not in ("on", "remote_apply"):
        told.append(
            f"synchronous_commit is {commit}: what was acknowledged can be lost in a crash;"
            " set it to on"
        )
    if fsync == "off":
        told.append("fsync is off: a crash of the machine can lose or break the database")
    if pages == "off":
        told.append("full_page_writes is off: a crash of the machine can break the database")
    if standbys and not confirming:
        told.append(
            "there is a standby, but synchronous_standby_names is empty: a failover can lose what"
            " was acknowledged"
        )
    return told
