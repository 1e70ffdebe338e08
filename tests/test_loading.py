"""Loading torch out of the reach of Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SLOW = """
import time
for _ in range(300):
    try:
        time.sleep(0.1)
    except BaseException:  # as C++ code that loses an interrupt
        pass
"""
PROGRAM = """
import sys
from model.loading import load_apart
from qupath_bridge.cli_base import sentence_not_trace
sys.path.insert(0, sys.argv[1])

@sentence_not_trace
def command():
    print("loading", flush=True)
    load_apart("slow_to_load")

command()
"""


def test_what_is_loaded_is_there_afterwards():
    code = "import sys; from model.loading import load_apart, is_loading; load_apart('wave')"
    code += "; sys.exit('wave' not in sys.modules or is_loading())"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_module_that_cannot_be_loaded_is_told_by_its_own_import():
    code = (
        "from model.loading import load_apart; load_apart('no_such_module'); import no_such_module"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert told.stderr.count("Traceback") == 1 and "ModuleNotFoundError" in told.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a child alone")
def test_ctrl_c_while_a_module_loads_that_would_lose_it_ends_the_program_at_once(tmp_path: Path):
    (tmp_path / "slow_to_load.py").write_text(SLOW)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout.readline() == "loading\n"
        time.sleep(0.5)
        asked = time.monotonic()
        program.send_signal(signal.SIGINT)
        _, err = program.communicate(timeout=25)
    assert time.monotonic() - asked < 5
    assert program.returncode == 130 and "Traceback" not in err
    assert "interrupted" in err
