"""The OpenAPI document tells the truth: schemathesis asks a running server whatever it allows."""

import subprocess
import sys
from pathlib import Path

import pytest
from server_process import serving

EXAMPLES = "5"
# Not every body that is well-formed can be done: most name files that are not there. And DELETE
# cancels a job, which is there afterwards.
UNFIT = "positive_data_acceptance,use_after_free"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.fixture(scope="module")
def document(server):
    return server.ask("GET", "/v1/openapi.json").json()


def operations(document):
    return [
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item
        if method != "parameters"
    ]


def test_the_document_names_every_route_and_no_other(document):
    from flask import Flask

    from qupath_bridge.server.access import Access, Names
    from qupath_bridge.server.app import AppSettings, create_app

    app: Flask = create_app(None, AppSettings(Access("x", Names("h", 1)), ""))  # type: ignore[arg-type]
    routes = {
        (method, rule.rule.replace("<job_id>", "{job}"))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/v1/")
        for method in rule.methods - {"HEAD"}
    }
    assert routes == set(operations(document))


def test_schemathesis_finds_nothing(server):
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run"),
        f"{server.connection['url']}/v1/openapi.json",
        *("--header", f"Authorization: Bearer {server.connection['token']}"),
        *("--checks", "all", "--exclude-checks", UNFIT),
        *("--phases", "coverage,fuzzing", "--max-examples", EXAMPLES),
        *("--request-timeout", "60", "--suppress-health-check", "all"),
        *("--generation-deterministic", "--continue-on-failure", "--no-color", "--warnings", "off"),
    ]
    done = subprocess.run(
        command, cwd=server.home, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "Tested: 11" in done.stdout
    assert "Traceback" not in (server.home / "server" / "serve.log").read_text()
