"""The text of an installed script: filled in, marked as ours, the user's settings kept.

A script begins with its settings, up to a line that ends them. Installed, its last line says who
put it there, and has two digests: of its code, which leaves out the values of settings, and of it
all. So it can be told whether a user changed nothing, settings only, or the code as well.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

END_OF_SETTINGS = "// ---- end of settings ----"
MARK = re.compile(
    r"^// Put here by qupath-pathsegdiff (?P<version>\S+);"
    r' "scripts uninstall" takes it away\. (?P<code>[0-9a-f]{16}) (?P<all>[0-9a-f]{16})\s*$'
)
SETTING = re.compile(
    r"""^(?P<name>\w+)[ ]=[ ](?P<value>(?:'[^'\n]*'|"[^"\n]*"|[^/\n'"])*?)(?P<rest>\s*(?://.*)?)$""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class InstalledScript:
    """A script of ours as it was found. settings: the values by name, as they are written."""

    code_is_ours: bool
    is_untouched: bool
    settings: dict[str, str]


def filled(template: str, home: str, version: str, settings: dict[str, str]) -> str:
    """Return the text to install. `settings` are values to keep; names unknown here are dropped."""
    text = template.replace("@VERSION@", version).replace("@HOME@", _quoted(home))
    body = _with_settings(text.rstrip("\n") + "\n", settings)
    mark = f'// Put here by qupath-pathsegdiff {version}; "scripts uninstall" takes it away.'
    return f"{body}{mark} {_digest(_code_of(body))} {_digest(body)}\n"


def read_installed(text: str) -> InstalledScript | None:
    """Return what became of an installed script; None if it is none of ours."""
    lines = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    mark = MARK.match(lines[-1])
    if mark is None:
        return None
    body = "\n".join(lines[:-1]) + "\n"
    code_is_ours = _digest(_code_of(body)) == mark["code"]
    return InstalledScript(code_is_ours, _digest(body) == mark["all"], _settings_of(body))


def _settings_of(body: str) -> dict[str, str]:
    found = map(SETTING.match, _split(body)[0].splitlines())
    return {match["name"]: match["value"].strip() for match in found if match}


def _with_settings(body: str, values: dict[str, str]) -> str:
    before, after = _split(body)
    lines = []
    for line in before.splitlines(keepends=True):
        match = SETTING.match(line.rstrip("\n"))
        if match and match["name"] in values:
            line = f"{match['name']} = {values[match['name']]}{match['rest']}\n"
        lines.append(line)
    return "".join(lines) + after


def _code_of(body: str) -> str:
    before, after = _split(body)
    names = [match["name"] if (match := SETTING.match(x)) else x for x in before.splitlines()]
    return "\n".join([*names, after])


def _split(body: str) -> tuple[str, str]:
    """Return the settings and the rest of a script; one without an end of settings has none."""
    at = body.find(END_OF_SETTINGS)
    return (body[:at], body[at:]) if at >= 0 else ("", body)


def _quoted(text: str) -> str:
    """Return a text for within Groovy's single quotes, in ASCII only."""
    units = text.replace("\\", "\\\\").replace("'", "\\'").encode("utf-16-be", "surrogatepass")
    codes = [units[i] << 8 | units[i + 1] for i in range(0, len(units), 2)]
    return "".join(chr(code) if 32 <= code < 127 else f"\\u{code:04x}" for code in codes)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
