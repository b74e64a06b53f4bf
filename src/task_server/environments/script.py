"""Read the header of a script that says what it needs (PEP 723)."""

import re
import tomllib
from dataclasses import dataclass

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from task_server.environments.requirements import BadRequirement

MAX_SCRIPT_LETTERS = 1024 * 1024

_BLOCK = re.compile(
    r"(?m)^# /// script[ \t]*\r?\n(?P<content>(?:#(?: [^\n]*|\r?)\n)*?)# ///[ \t]*\r?$"
)
_BEGIN = re.compile(r"(?m)^# /// script[ \t]*\r?$")


@dataclass(frozen=True, slots=True)
class Script:
    """What a script needs; `requires_python` is a set of versions, empty for any."""

    dependencies: tuple[str, ...]
    requires_python: str = ""


def parse_script(text: str) -> Script:
    """What the header of a script says; its tables for tools are left alone.

    Raises BadRequirement for a script without a header, or with one that is wrong.
    """
    if len(text) > MAX_SCRIPT_LETTERS:
        raise _bad(f"it is longer than {MAX_SCRIPT_LETTERS} letters")
    begun = len(_BEGIN.findall(text))
    if begun != 1:
        raise _bad("it has no block `# /// script`" if not begun else "it has two such blocks")
    found = _BLOCK.search(text)
    if found is None:
        raise _bad("its block has no end `# ///`, or a line that does not begin with `# `")
    lines = (line.rstrip("\r")[2:] for line in found["content"].splitlines())
    try:
        table = tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError as error:
        raise _bad(f"its block is not TOML: {error}") from None
    return Script(_dependencies(table.get("dependencies", [])), _versions(table))


def _dependencies(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise _bad("dependencies is a list of texts")
    return tuple(value)


def _versions(table: dict[str, object]) -> str:
    value = table.get("requires-python", "")
    if not isinstance(value, str):
        raise _bad("requires-python is text, like >=3.11")
    try:
        return str(SpecifierSet(value))
    except InvalidSpecifier:
        raise _bad(f"requires-python {value[:100]!a} is no set of versions") from None


def _bad(what: str) -> BadRequirement:
    return BadRequirement("script", f"script: {what} (PEP 723)")
