"""Lists of like tasks are read by columns: with the same outcome as one by one."""

from __future__ import annotations

from hashlib import blake2b

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_server.errors import RequestError
from task_server.protocol.ids import new_ids, to_text
from task_server.protocol.tasks import Task
from task_server.server.service.requests import Read, Reader
from task_server.server.service.specs import Specs

NOW = 1_800_000_000.0
IDS = [to_text(each) for each in new_ids(4, at=NOW)]
DEEP = "[" * 129 + "]" * 129
ARGS = ["[]", "[1]", '["e5"]', '[{"id":1}]', "null", "7", "[1e999]", r'["\ud800"]', r'["\n"]', DEEP]
LARGE = '["' + 70_000 * "a" + '"]'
ITEMS = st.tuples(
    st.sampled_from([None, *IDS, IDS[0].upper(), to_text(new_ids(1, at=NOW - 1e6)[0]), "x"]),
    st.sampled_from([None, *ARGS, "LARGE"]),
    st.sampled_from([None, "{}", '{"a":2}', "null", "[]"]),
    st.sampled_from(
        ["", "", "", ',"args":[3]', ',"priority":1', r',"\u0069d":"x"', ',"call":null']
    ),
)


class OneByOne(Reader):
    """Reads each item for itself."""

    def _alike(self, raws: list[bytes], shared: Task, prefix: blake2b) -> list[Read] | None:
        return None


def item(own: str | None, args: str | None, kwargs: str | None, more: str) -> str:
    fields = [
        None if own is None else f'"id":"{own}"',
        None if args is None else f'"args":{args.replace("LARGE", LARGE)}',
        None if kwargs is None else f'"kwargs":{kwargs}',
    ]
    told = ",".join(field for field in fields if field)
    return "{" + (told + more if told else more[1:]) + "}"


def outcome(kind: type[Reader], body: str) -> object:
    try:
        read = kind(1, kinds=Specs(default_python="3.11"), now=NOW).read(body.encode())
    except RequestError as error:
        return type(error), error.message, getattr(error, "errors", None)
    return read


@given(
    st.lists(ITEMS, min_size=1, max_size=4) | ITEMS.map(lambda each: [each] * 3),
    st.sampled_from(["", ',"args":[9]', ',"kwargs":{"b":1}', ',"features":{"n":1}']),
)
def test_columns_say_what_items_say_one_by_one(
    items: list[tuple[str | None, str | None, str | None, str]], defaults: str
) -> None:
    listed = ",".join(item(*each) for each in items)
    body = f'{{"defaults":{{"function":"math:sqrt"{defaults}}},"tasks":[{listed}]}}'

    assert outcome(Reader, body) == outcome(OneByOne, body)


def test_like_tasks_are_read_by_columns() -> None:
    items = [{"id": each, "args": [n]} for n, each in enumerate(IDS)]
    raws = [msgspec.json.encode(each) for each in items]
    reader = Reader(1, kinds=Specs(default_python="3.11"), now=NOW)

    found = reader._alike(raws, Task(function="math:sqrt"), blake2b(digest_size=16))

    assert found is not None
    assert [each.payload for each in found][1] == b'"args":[1],"kwargs":{}'


@pytest.mark.parametrize("lines", ['{"args":[1\n2]}\n{"args":[3]},{"args":[4]}', "{}\n,\n{}"])
def test_lines_are_json_each(lines: str) -> None:
    with pytest.raises(RequestError):
        Reader(1, kinds=Specs(default_python="3.11"), now=NOW).read(lines.encode(), is_lines=True)
