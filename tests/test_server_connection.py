"""A server's start and end, and the file by which it is found."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from server_process import environment, serving, start

from qupath_bridge.errors import ServerError
from qupath_bridge.server.connection import (
    Connection,
    read_connection,
    remove_connection,
    write_connection,
)

OWN = Connection("http://127.0.0.1:1", "secret", os.getpid(), "1")


def run_command(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qupath_bridge", *arguments]
    return subprocess.run(
        command, env=environment(home), capture_output=True, text=True, timeout=60, check=False
    )


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """Return the error of a command that failed in one line."""
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done
    assert done.stderr.startswith("error: ")
    return done.stderr


def test_a_connection_is_written_for_the_user_alone_and_read_back(tmp_path):
    home = tmp_path / "new" / "home"
    write_connection(home, OWN)
    assert read_connection(home) == OWN
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "connection.json").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in home.iterdir()] == ["connection.json"]


def test_an_open_older_file_does_not_leave_the_new_one_open(tmp_path):
    (tmp_path / "connection.json").write_text("{}")
    (tmp_path / "connection.json").chmod(0o666)
    write_connection(tmp_path, OWN)
    assert (tmp_path / "connection.json").stat().st_mode & 0o777 == 0o600


def test_a_link_in_its_place_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "other").write_text("mine")
    (tmp_path / "connection.json").symlink_to(tmp_path / "other")
    write_connection(tmp_path, OWN)
    assert (tmp_path / "other").read_text() == "mine" and read_connection(tmp_path) == OWN


def test_only_the_own_connection_is_removed(tmp_path):
    write_connection(tmp_path, OWN)
    remove_connection(tmp_path, Connection(OWN.url, "other", OWN.pid, "1"))
    assert read_connection(tmp_path) == OWN
    remove_connection(tmp_path, OWN)
    assert not (tmp_path / "connection.json").exists()
    remove_connection(tmp_path, OWN)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", '{"url": 1}', "[" * 9999, "\xff"])
def test_a_damaged_connection_is_refused_with_a_remedy(tmp_path, text):
    (tmp_path / "connection.json").write_text(text, encoding="latin-1")
    with pytest.raises(ServerError, match="remove it and start one"):
        read_connection(tmp_path)


def test_no_connection_says_how_to_start_a_server(tmp_path):
    assert "qupath-pathsegdiff serve" in one_sentence(run_command(tmp_path, "page", "--print"))


def test_a_connection_of_a_process_that_is_gone_is_stale(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    write_connection(tmp_path, Connection(OWN.url, "x", gone.pid, "1"))
    with pytest.raises(ServerError, match=f"process {gone.pid}.*is gone"):
        read_connection(tmp_path)


@pytest.mark.parametrize("pid", [0, -1, 10**12])
def test_a_number_that_is_no_process_is_stale(tmp_path, pid):
    write_connection(tmp_path, Connection(OWN.url, "x", pid, "1"))
    with pytest.raises(ServerError, match="is gone"):
        read_connection(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives away")
def test_a_connection_of_another_user_is_not_trusted(tmp_path):
    write_connection(tmp_path, OWN)
    os.chown(tmp_path / "connection.json", 12345, 12345)
    with pytest.raises(ServerError, match="another user"):
        read_connection(tmp_path)


def test_an_unreadable_connection_is_refused_with_a_remedy(tmp_path):
    (tmp_path / "connection.json").mkdir()
    with pytest.raises(ServerError, match="cannot be read"):
        read_connection(tmp_path)


def test_a_connection_that_leads_to_nobody_or_to_another_program_is_said(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
    write_connection(tmp_path, Connection(url, "x", os.getpid(), "1"))
    assert "does not answer" in one_sentence(run_command(tmp_path, "page", "--print"))


def test_a_server_answers_soon_says_three_lines_and_ends_soon(tmp_path):
    before = time.monotonic()
    with serving(tmp_path) as server:
        assert time.monotonic() - before < 8.0  # 0.6 s on an idle machine
        lines = server.printed.read_text().splitlines()
        url = server.connection["url"]
        assert len(lines) == 3 and url in lines[0]
        assert f"{url}/#code=" in lines[1] and str(tmp_path / "server") in lines[2]
        assert server.connection["token"] not in server.printed.read_text()
        assert server.connection["pid"] == server.process.pid
        before = time.monotonic()
        assert server.end(signal.SIGTERM) == 0
        assert time.monotonic() - before < 3.0
        assert not (tmp_path / "connection.json").exists()
        assert len(server.printed.read_text().splitlines()) == 3


def test_ctrl_c_ends_it_although_clients_hang_on(tmp_path):
    with serving(tmp_path) as server:
        hanging = [server.raw() for _ in range(5)]
        for client in hanging:
            client.sendall(b"POST /v1/jobs HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf")
        before = time.monotonic()
        assert server.end(signal.SIGINT) == 0
        assert time.monotonic() - before < 3.0
        for client in hanging:
            client.close()


def test_a_server_that_was_killed_leaves_a_stale_file_and_the_next_one_mends_it(tmp_path):
    server = start(tmp_path, [])
    server.process.kill()
    server.process.wait()
    assert "is gone" in one_sentence(run_command(tmp_path, "page", "--print"))
    with serving(tmp_path) as second:
        done = run_command(tmp_path, "page", "--print")
        assert done.stdout.startswith(second.connection["url"] + "/#code=")


def test_a_second_server_of_one_home_says_which_process_has_it(tmp_path):
    with serving(tmp_path) as first:
        said = one_sentence(run_command(tmp_path, "serve", "--port", "0"))
        assert str(first.process.pid) in said
        assert first.connection["pid"] == first.process.pid


def test_a_taken_port_is_said_where_it_was_asked_for(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = one_sentence(run_command(tmp_path, "serve", "--port", str(port)))
    assert f"port {port}" in said and "--port" in said
    assert not (tmp_path / "connection.json").exists()


def test_a_free_port_is_taken_where_none_was_asked_for(tmp_path):
    from qupath_bridge.server.serve import USUAL_PORT, _bind

    try:
        other = socket.create_server(("127.0.0.1", USUAL_PORT))
    except OSError:
        other = None  # taken by somebody else: just as well
    try:
        with _bind("127.0.0.1", USUAL_PORT, or_free=True) as bound:
            assert bound.getsockname()[1] not in (0, USUAL_PORT)
    finally:
        if other:
            other.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "no such host.example"], "--host"),
        (["--host", "203.0.113.7"], "203.0.113.7"),
        (["--root", "/no/such/folder"], "/no/such/folder"),
        (["--map", "x"], "FROM=TO"),
        (["--model", "none"], "none"),
    ],
)
def test_options_that_cannot_be_are_said_in_a_sentence(tmp_path, options, said):
    assert said in one_sentence(run_command(tmp_path, "serve", "--port", "0", *options))


def test_another_address_than_loopback_is_warned_of(tmp_path):
    with serving(tmp_path, "--host", "0.0.0.0") as server:
        lines = server.printed.read_text().splitlines()
        assert len(lines) == 4 and "0.0.0.0" in lines[0] and "TLS" in lines[0]
        assert server.connection["url"].startswith("http://127.0.0.1:")


def test_the_launcher_starts_a_server_with_the_same_options(tmp_path, monkeypatch):
    with serving(tmp_path, "--root", str(tmp_path), "--map", r"C:\x=/y", "--keep-days", "3"):
        launcher = json.loads((tmp_path / "launcher.json").read_text())
    assert launcher["command"][-7:] == [
        "serve",
        *("--root", str(tmp_path), "--map", r"C:\x=/y", "--keep-days", "3.0"),
    ]
    process = subprocess.Popen(
        launcher["command"], env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None and "serving at" in process.stdout.readline()
        process.stdout.close()  # whoever started it is gone
        process.terminate()
    assert process.returncode == 0


def test_the_servers_process_loads_no_deep_learning(tmp_path):
    code = (
        "import sys, qupath_bridge.cli, qupath_bridge.server.serve, qupath_bridge.server.page_link;"
        "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
    with serving(tmp_path) as server:
        server.ask("GET", "/v1/models")
        maps = Path(f"/proc/{server.process.pid}/maps")
        if maps.exists():
            assert "libtorch" not in maps.read_text()
