"""The OpenAPI 3.1 document of the HTTP interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qupath_bridge import __version__
from qupath_bridge.jobs import RequestLimits
from qupath_bridge.server.schemas import request_schemas
from qupath_bridge.server.schemas_answers import ANSWERS

Tree = dict[str, Any]
PROBLEMS = {
    400: "The request is not HTTP, or its body no JSON.",
    401: "The token or code is missing, wrong or used up.",
    403: "The Host or Origin header is not this server's.",
    404: "There is no such job (any more).",
    409: "The job has no such result, or not yet.",
    411: "The request says no length.",
    413: "The body is too large.",
    415: "The body is not sent as application/json.",
    422: "The body asks for what cannot be done; the detail names the field.",
    429: "Too many jobs wait.",
    431: "The headers are too long.",
    501: "The transfer encoding is not taken.",
    507: "The disk is full.",
}
EVERYWHERE = (400, 403, 411, 413, 431, 501)
JOB_ID = {
    "name": "job",
    "in": "path",
    "required": True,
    "description": "A job's id.",
    "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
}


def document(limits: RequestLimits) -> Tree:
    """Return the document; `limits` are those of this server."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "qupath-pathsegdiff",
            "version": __version__,
            "summary": "Segment tissue in images, and train heads, one job after another.",
            "license": {"name": "GPL-3.0-or-later", "identifier": "GPL-3.0-or-later"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": {**_about(), **_jobs(), **_results()},
        "components": {
            "schemas": {**request_schemas(limits), **ANSWERS},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token in connection.json.",
                },
                "code": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A code of /v1/codes: ten minutes, once.",
                },
            },
        },
    }


def _about() -> Tree:
    return {
        "/v1/health": {
            "get": _operation(
                "health", "What runs here; needs no token.", {200: _json("Health")}, security=[]
            )
        },
        "/v1/models": {
            "get": _operation(
                "models", "Models, heads and classes.", {200: _json("Models")}, (401,)
            )
        },
        "/v1/openapi.json": {
            "get": _operation("openapi", "This document.", {200: _json("Document")}, (401,))
        },
        "/v1/codes": {
            "post": _operation(
                "newCode", "A link to the page that works once.", {201: _json("Code")}, (401,)
            )
        },
        "/v1/session": {
            "post": _operation(
                "session",
                "The token, for a code.",
                {200: _json("Session")},
                (401,),
                security=[{"code": []}],
            )
        },
    }


def _jobs() -> Tree:
    accepted = _json("Job", "The job; its address is in Location.")
    accepted["headers"] = {"Location": {"required": True, "schema": {"type": "string"}}}
    submit = _operation("submit", "Queue a job.", {202: accepted}, (401, 415, 422, 429, 507))
    submit["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": _reference("Request")}},
    }
    cancelled = {200: _json("Job", "It was finished already."), 202: _json("Job", "It stops.")}
    listed = {200: _json("Jobs")}
    return {
        "/v1/jobs": {
            "post": submit,
            "get": _operation("jobs", "All jobs, newest first.", listed, (401, 507)),
        },
        "/v1/jobs/{job}": {
            "parameters": [JOB_ID],
            "get": _operation("job", "A job as it is now.", {200: _json("Job")}, (401, 404, 507)),
            "delete": _operation("cancel", "Cancel a job.", cancelled, (401, 404, 507)),
        },
    }


def _results() -> Tree:
    objects = _answer(
        "The objects, as QuPath reads them; gzip if that is accepted.",
        {"application/geo+json": _reference("FeatureCollection")},
    )
    areas = _answer(
        "The class areas; the table if Accept names it first.",
        {
            "application/json": _reference("ClassAreas"),
            "text/tab-separated-values": {"type": "string"},
        },
    )
    picture = _answer("The regions with their objects, at most 1200 px wide.", {"image/png": {}})
    parts = {
        "detections": ("detections", "The objects of a job.", objects),
        "class-areas": ("classAreas", "The class areas of a job.", areas),
        "overlay": ("overlay", "The picture of a job.", picture),
    }
    return {
        f"/v1/jobs/{{job}}/{part}": {
            "parameters": [JOB_ID],
            "get": _operation(name, summary, {200: answer}, (401, 404, 409, 507)),
        }
        for part, (name, summary, answer) in parts.items()
    }


def _operation(
    name: str,
    summary: str,
    answers: Mapping[int, Tree],
    problems: tuple[int, ...] = (),
    security: list[Tree] | None = None,
) -> Tree:
    told = {str(status): answer for status, answer in answers.items()}
    for status in sorted({*problems, *EVERYWHERE}):
        told[str(status)] = _problem(status)
    operation: Tree = {"operationId": name, "summary": summary, "responses": told}
    if security is not None:
        operation["security"] = security
    return operation


def _problem(status: int) -> Tree:
    answer = _answer(PROBLEMS[status], {"application/problem+json": _reference("Problem")})
    if status == 401:
        answer["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    if status == 429:
        answer["headers"] = {"Retry-After": {"schema": {"type": "string", "pattern": "^[0-9]+$"}}}
    return answer


def _json(name: str, description: str | None = None) -> Tree:
    return _answer(description or f"{name}.", {"application/json": _reference(name)})


def _answer(description: str, content: Mapping[str, Tree]) -> Tree:
    kinds = {kind: {"schema": schema} for kind, schema in content.items()}
    return {"description": description, "content": kinds}


def _reference(name: str) -> Tree:
    return {"$ref": f"#/components/schemas/{name}"}
