"""Read `package` and `version`: PEP 508 names with extras and versions, and nothing else."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

MAX_REQUIREMENT_LETTERS = 200
MAX_REQUIREMENTS = 100
MAX_TEXT_LETTERS = 64 * 1024

ALLOWED = "a package is a name with optional extras and versions, like pandas[parquet]>=2,<3"
ALLOWED_VERSION = "a version is exact, like 1.2, or begins with an operator, like >=1.2,<2"

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_CLAUSE = r"(?:~=|==|!=|<=|>=|<|>) *[A-Za-z0-9.*+!_-]+"
_VERSIONS = rf"{_CLAUSE}(?: *, *{_CLAUSE})*"
_REQUIREMENT = re.compile(
    rf"{_NAME} *(?:\[ *{_NAME}(?: *, *{_NAME})* *\])? *(?:{_VERSIONS})?", re.ASCII
)
_VERSION_SET = re.compile(_VERSIONS, re.ASCII)
_PYTHON = re.compile(r"3\.(?:0|[1-9][0-9]?)", re.ASCII)

# What people write that is not a requirement, and how to call it; the first that is found is told.
_FOREIGN: Sequence[tuple[re.Pattern[str], str]] = (
    (re.compile(r"\A *-"), "begins with '-' like an option"),
    (re.compile(r"://|\A *(?:git|hg|svn|bzr)\+"), "is a URL"),
    (re.compile(r"@"), "holds '@', a direct reference"),
    (re.compile(r"[/\\]|\A *[.~]|\.\."), "is a path"),
    (re.compile(r";"), "holds ';', a marker"),
    (re.compile(r"==="), "holds '===': write '=='"),
    (re.compile(r"[$`|&'\"(){}?#%^:]"), "holds signs that no requirement has"),
)


_COMMENT = re.compile(r"(?:^|[ \t])#.*")
_UPLOADS = "uploads "  # with its blank, which no canonical requirement has


class BadRequirement(ValueError):
    """A `package`, `version` or `python` that is refused: `field` says which of them."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True)
class EnvironmentRequest:
    """What an environment must hold: requirements in canonical text, sorted, and a Python."""

    requirements: tuple[str, ...]
    python: str  # "3.11"
    uploads: str = ""
    """Whose uploaded wheels come before the index: "OWNER GENERATION"; empty: nobody's."""

    @property
    def text(self) -> str:
        """The key of this request: equal requests have equal text."""
        uploads = [f"{_UPLOADS}{self.uploads}"] if self.uploads else []
        return "\n".join((f"python {self.python}", *uploads, *self.requirements))

    @property
    def names(self) -> set[str]:
        """The normalised names of what is asked for."""
        return {name_of(requirement) for requirement in self.requirements}

    @classmethod
    def from_text(cls, text: str) -> "EnvironmentRequest":
        """The request whose `text` this is."""
        first, *requirements = text.split("\n")
        uploads = ""
        if requirements and requirements[0].startswith(_UPLOADS):
            uploads = requirements.pop(0).removeprefix(_UPLOADS)
        return cls(tuple(requirements), first.removeprefix("python "), uploads)


@dataclass(frozen=True, slots=True)
class Requested:
    """An environment request, and the normalised name of the first package (None: no package)."""

    environment: EnvironmentRequest
    package: str | None


def parse_request(
    package: str | Sequence[str] | None, version: str | None = None, *, python: str
) -> Requested:
    """What `package` and `version` of a task ask for; "" and None are absent.

    Raises BadRequirement, whose message says what is wrong and what is allowed.
    """
    packages = _packages(package)
    requirements = [_requirement(text) for text in packages]
    if version is not None and version != "":
        _check_may_have_version(package, requirements)
        requirements[0].specifier = _version_set(version)
    texts = tuple(sorted({_canonical(requirement) for requirement in requirements}))
    first = str(canonicalize_name(requirements[0].name)) if requirements else None
    return Requested(EnvironmentRequest(texts, check_python(python)), first)


def requirement_lines(text: str) -> list[str]:
    """The requirements in the text of a requirements file; comments and blank lines are none.

    Raises BadRequirement, which names the line, for options, paths, URLs and all else.
    """
    if len(text) > MAX_TEXT_LETTERS:
        raise BadRequirement("requirements", f"longer than {MAX_TEXT_LETTERS} letters")
    found = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        stripped = _COMMENT.sub("", line).strip(" \t")
        if not stripped:
            continue
        try:
            _requirement(stripped)
        except BadRequirement as error:
            raise BadRequirement("requirements", f"line {number}: {error.message}") from None
        found.append(stripped)
    if len(found) > MAX_REQUIREMENTS:
        raise BadRequirement("requirements", f"more than {MAX_REQUIREMENTS} packages")
    return found


def name_of(requirement: str) -> str:
    """The normalised name in a requirement of canonical text."""
    found = re.match(_NAME, requirement, re.ASCII)
    return str(canonicalize_name(found[0])) if found else ""


def check_python(python: str) -> str:
    """`python` itself if it reads like "3.11", else BadRequirement."""
    if not isinstance(python, str) or not _PYTHON.fullmatch(python):
        raise BadRequirement("python", "python is a version without its patch, like 3.11")
    return python


def _packages(package: str | Sequence[str] | None) -> list[str]:
    if package is None or package == "":
        return []
    if isinstance(package, str):
        return [package]
    if not isinstance(package, list | tuple):
        raise BadRequirement("package", f"package is text or a list of texts; {ALLOWED}")
    if len(package) > MAX_REQUIREMENTS:
        raise BadRequirement("package", f"more than {MAX_REQUIREMENTS} packages")
    return list(package)


def _requirement(text: str) -> Requirement:
    _check_text("package", text, ALLOWED)
    for pattern, what in _FOREIGN:
        if pattern.search(text):
            raise BadRequirement("package", f"{text!r} {what}; {ALLOWED}")
    if not _REQUIREMENT.fullmatch(text.strip(" ")):
        raise BadRequirement("package", f"{text!r} is not a requirement; {ALLOWED}")
    try:
        return Requirement(text.strip(" "))
    except InvalidRequirement:
        raise BadRequirement("package", f"{text!r} is not a requirement; {ALLOWED}") from None


def _check_text(field: str, text: str, allowed: str) -> None:
    if not isinstance(text, str):
        raise BadRequirement(field, f"{field} is not text; {allowed}")
    if len(text) > MAX_REQUIREMENT_LETTERS:
        raise BadRequirement(field, f"longer than {MAX_REQUIREMENT_LETTERS} letters; {allowed}")
    if not text.isascii():
        raise BadRequirement(field, f"{text!a} holds letters that are not ASCII; {allowed}")
    if not text.isprintable():
        raise BadRequirement(field, f"{text!r} holds control characters; {allowed}")
    if not text.strip(" "):
        raise BadRequirement(field, f"{field} is blank; {allowed}")


def _check_may_have_version(
    package: str | Sequence[str] | None, requirements: Sequence[Requirement]
) -> None:
    if not requirements:
        raise BadRequirement("version", "version is given without package")
    if not isinstance(package, str):
        raise BadRequirement(
            "version", "version is given beside a list of packages: write it there"
        )
    if requirements[0].specifier:
        raise BadRequirement("version", f"version is given twice: {package!r} has one already")


def _version_set(version: str) -> SpecifierSet:
    _check_text("version", version, ALLOWED_VERSION)
    stripped = version.strip(" ")
    is_set = stripped[0] in "~=!<>"
    try:
        if not is_set:
            return SpecifierSet(f"=={Version(stripped)}")
        if "===" not in stripped and _VERSION_SET.fullmatch(stripped):
            return SpecifierSet(stripped)
    except (InvalidSpecifier, InvalidVersion):
        pass
    raise BadRequirement("version", f"{version!r} is not a version; {ALLOWED_VERSION}")


def _canonical(requirement: Requirement) -> str:
    extras = sorted({str(canonicalize_name(extra)) for extra in requirement.extras})
    in_brackets = f"[{','.join(extras)}]" if extras else ""
    return f"{canonicalize_name(requirement.name)}{in_brackets}{_sorted_set(requirement.specifier)}"


def _sorted_set(specifiers: SpecifierSet) -> str:
    return ",".join(sorted(str(specifier) for specifier in specifiers))
