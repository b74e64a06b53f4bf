from __future__ import annotations

import pytest

from tests.mutations.guards import SOURCE, Guard
from tests.mutations.lists import GUARDS


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_the_guard_is_where_the_list_says(guard: Guard) -> None:
    text = (SOURCE / "task_server" / guard.file).read_text()

    assert text.count(guard.text) == 1
    assert guard.without != guard.text


def test_every_guard_has_a_name_of_its_own() -> None:
    assert len({(guard.file, guard.name) for guard in GUARDS}) == len(GUARDS)
