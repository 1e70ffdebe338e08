"""The OpenAPI document tells the truth: schemathesis asks a running server whatever it allows."""

import hypothesis
import pytest
import schemathesis
from server_process import serving

EXAMPLES = 8
# Not every body that is well-formed can be done: most name files that are not there.
UNFIT = {"positive_data_acceptance"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.fixture(scope="module")
def document(server):
    return server.ask("GET", "/v1/openapi.json").json()


def checks():
    schemathesis.openapi  # noqa: B018 - it is this that registers them
    return [c for c in schemathesis.checks.CHECKS.get_all() if c.__name__ not in UNFIT]


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


def test_schemathesis_finds_nothing(server, document):
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=server.connection["url"])
    headers = {"Authorization": f"Bearer {server.connection['token']}"}
    asked = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy())
        def ask(case):
            case.call_and_validate(headers=headers, checks=checks())
            asked.add((case.method, case.path))

        ask()
    assert asked == set(operations(document))
