"""A real Groovy that tests talk to; it is found by PATHSEGDIFF_GROOVY, a folder of its jars."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

DRIVER = Path(__file__).with_name("groovy_driver.groovy")
SHARED = Path(__file__).parents[1] / "groovy_scripts" / "shared"


def groovy_command() -> list[str]:
    """Return the command that runs a Groovy script, or skip where there is no Groovy."""
    named = os.environ.get("PATHSEGDIFF_GROOVY")
    if not named:
        pytest.skip("no Groovy: set PATHSEGDIFF_GROOVY to the folder of its jars (CONTRIBUTING.md)")
    jars = sorted(Path(named).glob("groovy*.jar"))
    if not jars:
        pytest.fail(f"PATHSEGDIFF_GROOVY is {named}, where there is no groovy*.jar")
    if shutil.which("java") is None:
        pytest.skip("no Java to run Groovy with")
    return ["java", "-cp", os.pathsep.join(map(str, jars)), "groovy.ui.GroovyMain"]


class GroovyError(Exception):
    """What a piece of Groovy threw; `kind` is its class's simple name."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Groovy:
    """One JVM that evaluates pieces of Groovy."""

    def __init__(self) -> None:
        command = [*groovy_command(), str(DRIVER)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def __call__(self, code: str, shared: Path = SHARED, **variables: Any) -> Any:
        """Return what a piece of Groovy evaluates to; classes of `shared` are at hand.

        Raises:
            GroovyError: it threw.
        """
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([code, str(shared), variables]) + "\n")
        self._process.stdin.flush()
        stuck = threading.Timer(100, self._process.kill)
        stuck.start()
        try:
            answer = json.loads(self._process.stdout.readline())
        finally:
            stuck.cancel()
        if "error" in answer:
            raise GroovyError(answer["type"], answer["error"] or "")
        return answer["value"]

    def close(self) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()
