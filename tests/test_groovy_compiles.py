"""Every script compiles; without QuPath, all but QuPath's own classes is resolved."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qupath_bridge.settings import RunSettings

SCRIPTS = Path(__file__).parents[1] / "groovy_scripts"
FILES = sorted(SCRIPTS.rglob("*.groovy"))
NAMES = {
    "Segment selection",
    "Segment tissue",
    "Train a head from these annotations",
    "Export class areas",
    "Export regions",
    "Import results",
    "Cancel my jobs",
    "Check the connection",
}

COMPILE = """
import org.codehaus.groovy.control.*
def config = new CompilerConfiguration(classpath: folder)
def unit = new CompilationUnit(config)
unit.addSource(new File(file))
try {
    unit.compile(Phases.SEMANTIC_ANALYSIS)
    []
} catch (MultipleCompilationErrorsException error) {
    error.errorCollector.errors*.cause*.message
}
"""


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_script_compiles_and_lacks_only_qupaths_classes(groovy, file):
    told = groovy(COMPILE, file=str(file), folder=str(SCRIPTS / "shared"))
    others = [text for text in told if not text.startswith("unable to resolve class qupath.")]
    assert others == []
    if file.stem == "InQuPath":
        assert len(told) == 7  # it is in this one file that QuPath is named


def test_a_broken_script_would_be_told(groovy, tmp_path):
    broken = tmp_path / "broken.groovy"
    broken.write_text("import no.such.Thing\nprintln(", encoding="utf-8")
    assert groovy(COMPILE, file=str(broken), folder=str(tmp_path))


def test_the_menu_has_the_scripts_it_should_have():
    assert {file.stem for file in SCRIPTS.glob("*.groovy")} == NAMES


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_scripts_are_in_ascii_since_windows_may_read_them_in_any_code_page(file):
    assert file.read_bytes().isascii()


@pytest.mark.parametrize("name", ["Segment selection", "Segment tissue"])
def test_settings_are_the_first_lines_and_their_defaults_those_of_run(name):
    text = (SCRIPTS / f"{name}.groovy").read_text(encoding="utf-8")
    settings = text[: text.index("// ---- end of settings")].splitlines()
    values = dict(re.match(r"(\w+) = (.*?) +//", line).groups() for line in settings)
    assert values == {
        "model": f"'{RunSettings().model}'",
        "heads": "[]",
        "smallestObject": f"{RunSettings().min_object_um2:g}",
    }
    assert "um^2" in settings[2]
