"""Say in plain words why uv failed, without secrets and paths, and whether a retry may help."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from packaging.utils import canonicalize_name

MAX_MESSAGE_BYTES = 4096

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.")
_CONTROL = re.compile(r"[^\S\n ]|[\x00-\x09\x0b-\x1f\x7f]")
_USER_INFO = re.compile(r"(?<=://)[^/\s`'\"]*@")
_QUERY = re.compile(r"(?<=[^\s?])\?[^\s`'\")]*(?==)[^\s`'\")]*")
_TOKEN = re.compile(r"\b(?:pypi-[\w-]{16,}|gh[a-z]_\w{16,}|(?:Bearer|Basic) +[\w.~+/=-]+)")
_PATH = re.compile(r"(?<![\w:/.\]-])/(?:[^\s/`'\":,]+/)+([^\s/`'\":,]*)")
_MARKERS = re.compile(r"(?<=[\w.\]-])\{[^}\n]*\}")
_SPLIT = re.compile(r" for split \(markers: .*\)$", re.MULTILINE)
_HINT = re.compile(r"\n\s*hint: .*?(?=\n\n|\Z)", re.DOTALL)
_NOISE = re.compile(
    r"^(?:Resolved|Prepared|Installed|Uninstalled|Audited|Using Python|Using CPython|Creating"
    r"|warning: |Downloading|Downloaded| [+~-] ).*\n?",
    re.MULTILINE,
)
_YOUNG = re.compile(
    r"hint: `([\w.-]+)` was filtered by `exclude-newer` to only include packages uploaded before"
    r" \S+\. (?:The requested version, v(\S+), was published at \S+?\. )?"
)
_UNDATED = re.compile(r"`([\w.]+)-[^`]*` is missing an upload date")
_INDEX = re.compile(r"\bindex(?:\s+URL)?\s+\((\S+)\)")
_CAUSE = re.compile(r"^\s*(?:cause|Caused by): (.+)$|^\s*╰─▶ (.+)$", re.MULTILINE)
_REQUIREMENT = r"(?P<name>[A-Za-z0-9][\w.-]*)(?P<extras>\[[\w,.-]*\])?(?P<versions>[<>=!~][^\s;]*)?"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why uv failed. The first line of `message` names the cause.

    `is_retryable`: it may well work later. `is_unfit`: this machine is at fault, another may do.
    `is_away`: the index could not be reached, which says nothing about what was asked for.
    """

    message: str
    is_retryable: bool
    is_unfit: bool = False
    is_away: bool = False


def readable(output: str) -> str:
    """The part of uv's output that a user should see: no colours, secrets, paths or progress.

    At most MAX_MESSAGE_BYTES of UTF-8.
    """
    text = _HINT.sub("", _NOISE.sub("", _clean(output)))
    text = _SPLIT.sub("", _MARKERS.sub("", text))
    return bounded(text.strip().removeprefix("error: "))


def bounded(text: str, limit: int = MAX_MESSAGE_BYTES) -> str:
    """`text` cut to `limit` bytes of UTF-8; the end says that it was cut."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= limit:
        return encoded.decode()
    mark = "\n... (cut)"
    return encoded[: limit - len(mark)].decode(errors="ignore") + mark


def too_young(output: str) -> list[tuple[str, str]]:
    """Name and version (empty: any) of what uv left out because it was uploaded too lately."""
    text = re.sub(r"\s+", " ", _clean(output).replace("\n", " "))
    return [(name, version or "") for name, version in _YOUNG.findall(text)]


def undated(output: str) -> set[str]:
    """Normalised names of packages whose index does not tell when files were uploaded."""
    return {str(canonicalize_name(name)) for name in _UNDATED.findall(_clean(output))}


def explain(output: str) -> Failure:
    """What uv's output (stderr, or both streams) says went wrong."""
    text = _MARKERS.sub("", _clean(output))
    for rule in _RULES:
        match = rule.pattern.search(text)
        if match:
            return _failure(rule.say(match, text), output, rule)
    return _failure(_last_cause(text) or "uv failed", output, _UNKNOWN)


def _failure(cause: str, output: str, rule: _Rule) -> Failure:
    details = readable(output)
    message = cause if details in ("", cause) else f"{cause}\n{details}"
    return Failure(bounded(message), rule.is_retryable, rule.is_unfit, rule.is_away)


def _clean(output: str) -> str:
    text = _CONTROL.sub("", _ANSI.sub("", output))
    text = _QUERY.sub("", _USER_INFO.sub("", text))
    text = _TOKEN.sub("...", text)
    return _PATH.sub(lambda match: f".../{match.group(1)}" if match.group(1) else "...", text)


def _last_cause(text: str) -> str:
    causes = [first or second for first, second in _CAUSE.findall(text)]
    line = causes[-1] if causes else text.strip().partition("\n")[0].removeprefix("error: ")
    return re.sub(r" for url \(.*\)", "", line)


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    say: Callable[[re.Match[str], str], str]
    is_retryable: bool = False
    is_unfit: bool = False
    is_away: bool = False


def _full(match: re.Match[str], _text: str) -> str:
    return "no space is left on the disk of this machine"


def _unwritable(match: re.Match[str], text: str) -> str:
    return f"this machine cannot write its environments: {_last_cause(text)}"


def _refused(match: re.Match[str], text: str) -> str:
    index = _INDEX.search(text)
    named = f" {index.group(1)}" if index else ""
    return f"the package index{named} refused access ({match.group(1)}); check its credentials"


def _wrong_hash(match: re.Match[str], _text: str) -> str:
    return f"the package index served {match.group(1)} with another hash than the lock has"


def _gone(match: re.Match[str], _text: str) -> str:
    return f"the package index no longer has a file of the lock ({match.group(1)})"


def _unreachable(_match: re.Match[str], text: str) -> str:
    return f"the package index could not be reached: {_last_cause(text)}"


def _unknown(match: re.Match[str], _text: str) -> str:
    return f"'{match.group('name')}' was not found in the package index; check the name"


def _no_version(match: re.Match[str], _text: str) -> str:
    return f"no version of {match.group('name')} matches {match.group('versions') or 'the request'}"


def _other_python(match: re.Match[str], _text: str) -> str:
    package, needed = match.group("package"), match.group("needed")
    return f"{package} needs Python {needed}; this environment has {match.group('python')}"


def _needs_python(match: re.Match[str], _text: str) -> str:
    return f"{match.group('name')} needs Python {match.group('needed')}: ask for another `python`"


def _unreadable(match: re.Match[str], _text: str) -> str:
    return f"'{match.group('name')}' has a wheel that cannot be read"


def _no_wheel(match: re.Match[str], _text: str) -> str:
    return (
        f"'{match.group(1)}' has no wheel that fits: "
        "packages that must be built from their sources are not supported"
    )


def _conflict(_match: re.Match[str], _text: str) -> str:
    return "the requirements cannot be met together"


def _words(pattern: str) -> re.Pattern[str]:
    # uv wraps no lines, but tells long reasons over several: any blank may be a line's end.
    return re.compile(pattern.replace(" ", r"\s+"), re.IGNORECASE)


# What no rule knows.
_UNKNOWN = _Rule(re.compile(""), lambda match, text: "")

# The first rule that is found is told: what the machine or the index lacks comes before what the
# request lacks, because a missing answer of the index reads like a missing package.
_RULES: Sequence[_Rule] = (
    _Rule(_words(r"No space left on device|Disk quota exceeded"), _full, True, True),
    _Rule(_words(r"Permission denied|Read-only file system"), _unwritable, True, True),
    _Rule(_words(r"\b((?:401 Unauthorized|403 Forbidden))\b"), _refused, True),
    _Rule(_words(r"Hash mismatch for `([^`]+)`"), _wrong_hash, True),
    _Rule(_words(r"HTTP status client error \((4(?!08|25|29)\d\d [\w ]+)\)"), _gone),
    _Rule(
        _words(
            r"Failed to (?:fetch|download)|error sending request|operation timed out|dns error"
            r"|network was disabled|connection (?:reset|refused|closed)"
        ),
        _unreachable,
        is_retryable=True,
        is_away=True,
    ),
    _Rule(
        _words(
            rf"{_REQUIREMENT} was not found in the"
            " (?:package registry|cache|provided package locations)"
        ),
        _unknown,
    ),
    _Rule(_words(rf"there is no version of {_REQUIREMENT}"), _no_version),
    _Rule(
        _words(
            r"Python version \((?P<python>[^)]+)\) does not satisfy Python\s?(?P<needed>\S+)"
            r" and (?P<package>\S+) depends on"
        ),
        _other_python,
    ),
    _Rule(
        _words(r"Because (?P<name>[\w.-]+)\S* requires Python (?P<needed>\S+) and only"),
        _needs_python,
    ),
    _Rule(_words(r"(?P<name>[\w.-]+)==\S+ has an invalid package format"), _unreadable),
    _Rule(_words(r"Wheels are required for `([^`]+)`"), _no_wheel),
    _Rule(_words(r"(?:all versions of )?([\w.-]+)\S* has no (?:usable )?wheels"), _no_wheel),
    _Rule(_words(r"requirements are unsatisfiable|are incompatible"), _conflict),
)
