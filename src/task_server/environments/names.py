"""Read `function` and `module`: which callable a task names (WIRE section 5)."""

from dataclasses import dataclass

MAX_NAME_LETTERS = 255

ALLOWED_FUNCTION = "a function is a name, a dotted name or module:name, like linalg.norm"
ALLOWED_MODULE = "a module is a dotted name, like package.module"


class BadName(ValueError):
    """A `function` or `module` that is refused: `field` says which of them."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True)
class Target:
    """The callable that is named: its module (None: to be found) and its dotted name in there."""

    module: str | None
    qualname: str


def parse_target(function: str, module: str | None = None) -> Target:
    """The callable that `function` and `module` name; "" and None as module are absent.

    Raises BadName, whose message says what is wrong and what is allowed.
    """
    _check_length("function", function, ALLOWED_FUNCTION)
    before, colon, qualname = function.rpartition(":")
    if ":" in before:
        raise BadName("function", f"{function!r} has more than one colon; {ALLOWED_FUNCTION}")
    _check_dotted("function", qualname, ALLOWED_FUNCTION)
    inside = _module("function", before, ALLOWED_FUNCTION) if colon else None
    given = _module("module", module, ALLOWED_MODULE) if module else None
    if inside and given and inside != given:
        raise BadName("module", f"module is {given!r} but function names {inside!r}")
    return Target(inside or given, qualname)


def _module(field: str, module: str, allowed: str) -> str:
    _check_length(field, module, allowed)
    _check_dotted(field, module, allowed)
    return module


def _check_length(field: str, text: str, allowed: str) -> None:
    if not isinstance(text, str):
        raise BadName(field, f"{field} is not text; {allowed}")
    if not text.strip():
        raise BadName(field, f"{field} is blank; {allowed}")
    if len(text) > MAX_NAME_LETTERS:
        raise BadName(field, f"{field} is longer than {MAX_NAME_LETTERS} letters; {allowed}")


def _check_dotted(field: str, text: str, allowed: str) -> None:
    if "<" in text:
        raise BadName(field, f"{text!r} is a lambda or lies inside a function: send it by value")
    if text.endswith(")"):
        raise BadName(field, f"{text!r} has brackets: arguments go into args and kwargs")
    for part in text.split("."):
        if not part.isidentifier():
            raise BadName(field, f"{part!a} in {text!a} is not a name; {allowed}")
