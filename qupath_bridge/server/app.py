"""The HTTP interface: what is asked for, handed to the queue of jobs; who asks, looked at first."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, NotFound

from qupath_bridge import __version__
from qupath_bridge.errors import EXPECTED_ERRORS
from qupath_bridge.jobs import Job, JobQueue, RequestLimits, parse_job
from qupath_bridge.server import answers
from qupath_bridge.server.access import Access, bearer
from qupath_bridge.server.body import read_json
from qupath_bridge.server.models import describe_models
from qupath_bridge.server.openapi import document

LOG = logging.getLogger(__name__)
NAME = "qupath-pathsegdiff"
OPEN = {"health", "session"}
"""Views of /v1/ that need no token; `session` takes a code instead."""
PAGE = Path(__file__).parent / "page"
PAGE_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
TABLE = "text/tab-separated-values"


@dataclass(frozen=True)
class AppSettings:
    """What the interface has to know. url: of the server. model: its own, a name or folder."""

    access: Access
    url: str
    model: str = "default"
    limits: RequestLimits = field(default_factory=RequestLimits)


def create_app(queue: JobQueue, settings: AppSettings) -> Flask:
    """Return the application over a queue of jobs."""
    app = Flask(NAME, static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.config["MAX_CONTENT_LENGTH"] = settings.limits.body_bytes
    app.before_request(lambda: _refusal(settings.access))
    app.after_request(_secured)
    _add_errors(app)
    _add_about(app, queue, settings)
    _add_jobs(app, queue, settings)
    _add_results(app, queue)
    for address, (name, mimetype) in PAGE_FILES.items():
        app.add_url_rule(address, name, _page_view(PAGE / name, mimetype))
    return app


def _refusal(access: Access) -> Response | None:
    """Return why the one who asks gets no answer; None if they do."""
    if not access.names.knows_host(request.headers.get("Host")):
        return answers.problem(
            403,
            "the Host header names another server; use the address that the server printed, or"
            " start it with --allow-host NAME if it is behind a reverse proxy",
        )
    if not access.names.knows_origin(request.headers.get("Origin")):
        return answers.problem(403, "a page of another origin may not ask this server")
    if request.endpoint in OPEN or not request.path.startswith("/v1/"):
        return None
    if access.has_token(request.headers.get("Authorization")):
        return None
    return _unauthorized("the token is missing or wrong; it stands in connection.json")


def _unauthorized(detail: str) -> Response:
    return answers.problem(401, detail, WWW_Authenticate="Bearer")


def _secured(answer: Response) -> Response:
    for name, value in answers.SECURE.items():
        answer.headers[name] = value
    answer.headers.setdefault("Content-Security-Policy", "default-src 'none'")
    return answer


def _add_errors(app: Flask) -> None:
    for kind in EXPECTED_ERRORS:
        app.register_error_handler(kind, answers.problem_of)
    app.register_error_handler(HTTPException, answers.problem_of_http)

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        LOG.error("%s %s", request.method, request.path, exc_info=error)
        return answers.problem(
            500, "something in the server went wrong that should not; its serve.log says what"
        )


def _add_about(app: Flask, queue: JobQueue, settings: AppSettings) -> None:
    access = settings.access

    @app.get("/v1/health")
    def health() -> Response:
        told = {"name": NAME, "version": __version__, "device": queue.device}
        return answers.json_answer({**told, "ready": queue.ready})

    @app.get("/v1/models")
    def models() -> Response:
        return answers.json_answer({"models": describe_models(settings.model)})

    @app.get("/v1/openapi.json")
    def openapi() -> Response:
        return answers.json_answer(document(settings.limits))

    @app.post("/v1/codes")
    def codes() -> Response:
        code = access.codes.new()
        return answers.json_answer({"code": code, "url": f"{settings.url}/#code={code}"}, 201)

    @app.post("/v1/session")
    def session() -> Response:
        if not access.codes.use(bearer(request.headers.get("Authorization"))):
            return _unauthorized(
                "the code is used up or too old; get a new link: qupath-pathsegdiff page"
            )
        return answers.json_answer({"token": access.token})


def _add_jobs(app: Flask, queue: JobQueue, settings: AppSettings) -> None:
    @app.post("/v1/jobs")
    def submit() -> Response:
        body = read_json(request, settings.limits)
        job = queue.submit(parse_job(body, settings.limits))
        return answers.json_answer(job.as_json(), 202, location=f"/v1/jobs/{job.id}")

    @app.get("/v1/jobs")
    def jobs() -> Response:
        return answers.json_answer({"jobs": [job.as_json() for job in queue.jobs()]})

    @app.get("/v1/jobs/<job_id>")
    def job(job_id: str) -> Response:
        return answers.json_answer(queue.job(job_id).as_json())

    @app.delete("/v1/jobs/<job_id>")
    def cancel(job_id: str) -> Response:
        if (job := queue.job(job_id)).is_finished:
            return answers.json_answer(job.as_json())
        return answers.json_answer(queue.cancel(job_id).as_json(), 202)


def _add_results(app: Flask, queue: JobQueue) -> None:
    @app.get("/v1/jobs/<job_id>/detections")
    def detections(job_id: str) -> Response:
        missing = _missing(queue.job(job_id))
        path = queue.folder(job_id).detections
        return missing or answers.gzipped_answer(path, "application/geo+json")

    @app.get("/v1/jobs/<job_id>/class-areas")
    def class_areas(job_id: str) -> Response:
        missing, folder = _missing(queue.job(job_id)), queue.folder(job_id)
        kinds = ("application/json", TABLE)
        if request.accept_mimetypes.best_match(kinds, kinds[0]) == TABLE:
            return missing or answers.file_answer(folder.table, TABLE, vary="Accept")
        return missing or answers.file_answer(folder.class_areas, kinds[0], vary="Accept")

    @app.get("/v1/jobs/<job_id>/overlay")
    def overlay(job_id: str) -> Response:
        missing = _missing(queue.job(job_id))
        return missing or answers.file_answer(queue.folder(job_id).overlay, "image/png")


def _missing(job: Job) -> Response | None:
    """Return why a job has no objects to send; None if it has."""
    if job.has_objects:
        return None
    if job.kind == "train":
        return answers.problem(409, "a training finds no objects; its job says what it learned")
    if job.error is not None:
        return answers.problem(409, f"the job failed: {job.error.message}")
    if job.is_finished:
        return answers.problem(409, "the job was cancelled and has no result; run it again")
    return answers.problem(409, f"the job is {job.state}; ask again when it is done")


def _page_view(path: Path, mimetype: str) -> Callable[[], Response]:
    def view() -> Response:
        if not path.is_file():
            raise NotFound()
        answer = answers.file_answer(path, mimetype)
        answer.headers["Content-Security-Policy"] = answers.PAGE_POLICY
        return answer

    return view
