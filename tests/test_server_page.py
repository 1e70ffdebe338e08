"""The page of a real server, with a real model that is tiny, in a real Chromium."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, Tab, find_chromium, wait_for

NASTY = "<img src=x onerror=\"document.title='owned'\"> ‮evil.tif"
SQUARE = [[40, 40], [140, 40], [140, 130], [40, 130], [40, 40]]


@dataclass
class Server:
    """A server process of its own home."""

    process: subprocess.Popen[bytes]
    home: Path
    slide: Path

    @property
    def connection(self) -> dict[str, Any]:
        return json.loads((self.home / "connection.json").read_text())

    def ask(self, path: str, method: str = "GET", body: Any = None, accept: str = "*/*") -> bytes:
        headers = {"Authorization": f"Bearer {self.connection['token']}", "Accept": accept}
        if body is not None:
            headers["Content-Type"] = "application/json"
        data = None if body is None else json.dumps(body).encode()
        url = self.connection["url"] + path
        request = urllib.request.Request(url, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.read()

    def link(self) -> str:
        return json.loads(self.ask("/v1/codes", "POST"))["url"]

    def image(self, name: str, uri: str | None = None) -> dict[str, Any]:
        size = {"width": 640, "height": 512, "pixelSizeMicrons": {"w": 0.5, "h": 0.5}}
        return {"uri": uri or self.slide.as_uri(), "name": name} | size

    def send(self, name: str, uri: str | None = None, regions: list[Any] | None = None) -> str:
        """Send a segment job of the slide; return its id."""
        drawn = annotations(regions or [SQUARE])
        return self.submit({"kind": "segment", "image": self.image(name, uri), "regions": drawn})

    def submit(self, body: dict[str, Any]) -> str:
        return json.loads(self.ask("/v1/jobs", "POST", body))["id"]

    def state(self, job_id: str) -> str:
        return self.job(job_id)["state"]

    def job(self, job_id: str) -> dict[str, Any]:
        return json.loads(self.ask(f"/v1/jobs/{job_id}"))

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def annotations(rings: list[Any]) -> dict[str, Any]:
    features = [
        {
            "type": "Feature",
            "id": f"00000000-0000-4000-8000-{number:012d}",
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {"objectType": "annotation"},
        }
        for number, ring in enumerate(rings)
    ]
    return {"type": "FeatureCollection", "features": features}


@pytest.fixture(scope="module")
def start(tmp_path_factory, tiny_model, write_tiff, drawn_pixels) -> Iterator[Callable[[], Server]]:
    """Return a function that starts a server in a home of its own."""
    servers = []

    def start_one(home: Path | None = None, port: str | None = None) -> Server:
        home = home or tmp_path_factory.mktemp("home")
        slide = home / "slide ä.tif"
        if not slide.exists():
            write_tiff(slide, drawn_pixels, 0.5)
            shutil.copytree(tiny_model, home / "models" / "tiny")
        command = [sys.executable, "-m", "qupath_bridge", "serve", "--root", str(home)]
        command += ["--model", "tiny", "--device", "cpu"]
        command += ["--port", port] if port else []
        env = {**os.environ, "QUPATH_PATHSEGDIFF_HOME": str(home), "OMP_NUM_THREADS": "1"}
        with (home / "said.log").open("wb") as said:
            process = subprocess.Popen(command, env=env, stdout=said, stderr=said)
        servers.append(Server(process, home, slide))
        wait_for(lambda: is_up(servers[-1]))
        return servers[-1]

    yield start_one
    for server in servers:
        server.end()


def is_up(server: Server) -> bool:
    if server.process.poll() is not None:
        raise RuntimeError((server.home / "said.log").read_text())
    connection = server.home / "connection.json"
    return connection.exists() and server.connection["pid"] == server.process.pid


@pytest.fixture(scope="module")
def server(start) -> Server:
    return start()


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium or Chrome on this machine")
    browser = Browser(executable, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def tab(browser, tmp_path) -> Iterator[Tab]:
    (tmp_path / "downloads").mkdir()
    tab = Tab(browser, tmp_path / "downloads")
    tab.resize(1400, 900)
    yield tab
    tab.close()


def card(job_id: str) -> str:
    return f"document.querySelector(\"[data-id='{job_id}']\")"


def in_card(job_id: str, selector: str) -> str:
    return f"{card(job_id)}?.querySelector({json.dumps(selector)})"


def test_an_empty_page_says_which_server_it_is_and_what_to_do_in_qupath(start, tab):
    server = start()
    tab.open(server.link())
    tab.wait_for_text("No jobs yet")
    tab.wait_for_text("PathSegDiff > Segment selection")
    tab.wait_for("document.querySelector('#light').dataset.state")
    text = tab.run("document.querySelector('header').innerText")
    assert server.connection["url"].removeprefix("http://") in text
    assert f"version {server.connection['version']}" in text
    assert "For research. Not for diagnosis." in tab.run("document.body.innerText")


def test_the_code_leaves_the_address_and_works_once(server, browser, tab, tmp_path):
    link = server.link()
    tab.open(link)
    tab.wait_for("sessionStorage.length === 1")
    assert "#" not in tab.run("location.href")
    history = tab.call("Page.getNavigationHistory")["entries"]
    assert not any("code=" in entry["url"] for entry in history)
    other = Tab(browser, tmp_path)
    other.open(link)
    other.wait_for_text("This link has been used already, or has expired.")
    other.wait_for_text("qupath-pathsegdiff page")
    other.close()


def test_a_reload_stays_signed_in_and_a_bare_address_does_not(server, browser, tab, tmp_path):
    tab.open(server.link())
    tab.wait_for("sessionStorage.length === 1")
    tab.call("Page.reload")
    tab.wait_for("document.querySelector('#light')?.dataset.state")
    assert tab.run("document.querySelector('#locked').hidden")
    other = Tab(browser, tmp_path)
    other.open(server.connection["url"])
    other.wait_for_text("This page needs a fresh link.")
    other.wait_for_text("Check the connection")
    assert not any(url.endswith("/v1/jobs") for url in other.requests())
    other.open(server.link())  # only the part after # differs: the page is not loaded again
    other.wait_for("document.querySelector('#locked').hidden")
    other.close()


@pytest.fixture(scope="module")
def finished(server) -> str:
    """Return the id of a finished job."""
    job_id = server.send("slide ä.tif")
    wait_for(lambda: server.job(job_id)["finished"], 60)
    assert server.state(job_id) == "done", server.job(job_id)["error"]
    return job_id


def test_a_finished_job_shows_its_picture_and_its_areas_in_the_classes_colours(
    server, finished, tab
):
    tab.open(server.link())
    tab.wait_for(f"{in_card(finished, 'img')}?.naturalWidth > 0")
    header = tab.run("document.querySelector('header').innerText")
    assert "Ready" in header and header.endswith("CPU")
    result = server.job(finished)["result"]
    rows = tab.run(
        f"[...{card(finished)}.querySelectorAll('tbody tr')].map((row) => ({{"
        "head: row.closest('table').caption.textContent,"
        "class: row.querySelector('.class').textContent,"
        "share: row.querySelector('.share').textContent,"
        "width: row.querySelector('.bar').style.width,"
        "color: row.querySelector('.bar').style.backgroundColor}))"
    )
    assert [(row["head"].lower(), row["class"]) for row in rows] == [
        (found["head"], found["class"]) for found in result["classes"]
    ]
    for row, found in zip(rows, result["classes"], strict=True):
        assert row["color"] == "rgb({}, {}, {})".format(*found["color"])
        assert float(row["width"].removesuffix("%")) == pytest.approx(found["percent"], abs=0.01)
    assert f"{result['objects']} object" in tab.run(f"{card(finished)}.innerText")


def test_the_picture_opens_large_and_closes_by_the_keyboard(server, finished, tab):
    tab.open(server.link())
    tab.wait_for(f"{in_card(finished, '.enlarge')}?.disabled === false")
    tab.run(f"{in_card(finished, '.enlarge')}.focus()")
    tab.press("Enter", 13)
    tab.wait_for("document.querySelector('#enlarged').open")
    tab.wait_for("document.querySelector('#enlarged-picture').naturalWidth > 0")
    tab.press("Escape", 27)
    tab.wait_for("!document.querySelector('#enlarged').open")
    assert tab.run(f"document.activeElement === {in_card(finished, '.enlarge')}")


@pytest.mark.parametrize(
    "button, name, path, accept",
    [
        ("detections", "slide ä.detections.geojson", "detections", "application/geo+json"),
        ("table", "slide ä.class_areas.tsv", "class-areas", "text/tab-separated-values"),
    ],
)
def test_a_download_is_what_the_server_has_under_a_proper_name(
    server, finished, tab, tmp_path, button, name, path, accept
):
    tab.open(server.link())
    tab.wait_for(in_card(finished, f".{button}"))
    tab.run(f"{in_card(finished, f'.{button}')}.click()")
    file = tmp_path / "downloads" / name
    wait_for(file.is_file)
    wait_for(lambda: file.stat().st_size)
    assert file.read_bytes() == server.ask(f"/v1/jobs/{finished}/{path}", accept=accept)


WHOLE_SLIDE = {"regions": "slide", "overlap": 0.75}


@pytest.fixture
def minutes_of_work(server, write_tiff, drawn_pixels) -> dict[str, Any]:
    """Return a slide so large that no machine is done with it before it is looked at."""
    path = server.home / "many.tif"
    write_tiff(path, np.tile(drawn_pixels, (8, 7, 1)), 0.5)
    return server.image("large.tif", path.as_uri()) | {"width": 7 * 640, "height": 8 * 512}


def test_a_running_job_shows_its_progress_live_and_is_cancelled_by_the_keyboard(
    server, tab, minutes_of_work
):
    tab.open(server.link())
    job = {"kind": "segment", "image": minutes_of_work, "regions": None, "options": WHOLE_SLIDE}
    job_id = server.submit(job)
    behind = server.submit(job)
    tab.wait_for(f"{in_card(job_id, 'progress')}?.value > 0")
    assert tab.run(f"{in_card(job_id, '.stage')}.textContent").startswith("Segmenting · ")
    before = tab.run(f"{in_card(job_id, 'progress')}.value")
    tab.wait_for(f"{in_card(job_id, 'progress')}.value > {before}")
    assert "large.tif" in tab.run("document.title")
    assert tab.run(f"{in_card(behind, '.stage')}.textContent") == "Next in the queue"
    for each in (behind, job_id):
        tab.run(f"{in_card(each, '.cancel')}.focus()")
        tab.press("Enter", 13)
        assert tab.run(f"{in_card(each, '.cancel')}.textContent") == "Cancelling…"
        tab.wait_for(f"{card(each)}.dataset.state === 'cancelled'", 5)
        assert server.state(each) == "cancelled"
    # the card went to the other list; the keyboard went with it
    assert tab.run(f"{card(job_id)}.contains(document.activeElement)")


def test_a_training_shows_its_score_and_how_its_head_is_used(server, tab):
    tab.open(server.link())
    regions = annotations([SQUARE, [[x + 200, y + 200] for x, y in SQUARE]])
    for feature, name in zip(regions["features"], ("Tumor", "Stroma"), strict=True):
        feature["properties"]["classification"] = {"name": name, "color": [1, 2, 3]}
    other = Path(shutil.copyfile(server.slide, server.home / "other.tif"))
    images = [server.image("one.tif"), server.image("other.tif", other.as_uri())]
    samples = [{"image": image, "regions": regions} for image in images]
    body = {"kind": "train", "samples": samples, "model": "mine", "heads": ["bed"]}
    job_id = server.submit(body | {"options": {"steps": 4}})
    wait_for(lambda: server.job(job_id)["finished"], 90)
    assert server.state(job_id) == "done", server.job(job_id)["error"]
    tab.wait_for(f"{card(job_id)}?.dataset.state === 'done'")
    text = tab.run(f"{card(job_id)}.innerText")
    assert "Train bed" in text and "into model mine" in text
    score = server.job(job_id)["result"]["meanDice"]
    assert (f"Mean Dice {score:.2f}" if score is not None else "No score") in text
    assert "set the model to “mine”" in text


def test_a_failed_job_says_why(server, tab):
    job_id = server.send("broken.tif", (server.home / "said.log").as_uri())
    wait_for(lambda: server.job(job_id)["finished"])
    tab.open(server.link())
    tab.wait_for(f"{card(job_id)}?.dataset.state === 'failed'")
    message = server.job(job_id)["error"]["message"]
    assert tab.run(f"{in_card(job_id, '.error')}.textContent") == message


def test_the_name_of_an_image_is_text_and_nothing_else(server, tab, tmp_path):
    job_id = server.send(NASTY)
    wait_for(lambda: server.job(job_id)["finished"], 60)
    tab.open(server.link())
    tab.wait_for(f"{in_card(job_id, 'img')}?.naturalWidth > 0")
    assert tab.run(f"{in_card(job_id, 'h3')}.textContent") == NASTY
    assert tab.run("document.querySelectorAll('img').length") == tab.run(
        "document.querySelectorAll('.job img, #enlarged img').length"
    )
    assert "owned" not in tab.run("document.title")
    tab.run(f"{in_card(job_id, '.table')}.click()")
    file = wait_for(lambda: list((tmp_path / "downloads").glob("*.tsv")))[0]
    assert not set(file.name) & set('<>"/\\|‮')


def test_everything_comes_from_the_server_and_the_console_stays_silent(server, finished, tab):
    tab.open(server.link())
    tab.wait_for(f"{in_card(finished, 'img')}?.naturalWidth > 0")
    own = (server.connection["url"], "blob:" + server.connection["url"])
    assert [url for url in tab.requests() if not url.startswith(own)] == []
    assert tab.complaints() == []


def test_questions_never_overlap_and_a_hidden_page_asks_seldom(server, finished, tab):
    tab.open(server.link())
    tab.wait_for("!document.querySelector('#finished').hidden")
    tab.run(
        "window.now = 0; window.most = 0; window.asked = 0; const was = window.fetch;"
        "window.fetch = async (...all) => {"
        " if (!['/v1/health', '/v1/jobs'].includes(all[0].pathname)) { return was(...all); }"
        " asked += 1; now += 1; most = Math.max(most, now);"
        " try { const answer = await was(...all); await answer.clone().text(); return answer; }"
        " finally { now -= 1; } };"
        "document.dispatchEvent(new Event('visibilitychange'));"
    )
    tab.wait_for("window.asked >= 4", 15)
    assert tab.run("window.most") == 1
    tab.run("Object.defineProperty(document, 'hidden', {value: true, configurable: true})")
    time.sleep(3.5)  # the pause that was under way is over
    before = tab.run("window.asked")
    time.sleep(3.5)
    assert tab.run("window.asked") == before
    tab.run("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    tab.wait_for(f"window.asked > {before}", 3)


def test_a_lost_server_is_said_and_one_started_anew_asks_for_a_new_link(start, tab):
    server = start()
    tab.open(server.link())
    tab.wait_for_text("No jobs yet")
    port = server.connection["url"].rsplit(":", 1)[1]
    server.process.kill()
    server.process.wait()
    tab.wait_for_text("The server does not answer.")
    tab.wait_for_text("Check the connection")
    assert tab.run("document.querySelector('#readiness').textContent") == "Not connected"
    again = start(server.home, port)
    tab.run("document.querySelector('#try-now').click()")
    tab.wait_for_text("The server was started anew")
    tab.open(again.link())
    tab.wait_for_text("No jobs yet")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_nothing_is_wider_than_the_window_and_all_text_stands_out(
    server, finished, tab, width, theme
):
    tab.resize(width, 740)
    tab.prefer("prefers-color-scheme", theme)
    tab.open(server.link())
    tab.wait_for(card(finished))
    tab.run(f"{card(finished)}.scrollIntoView()")  # pictures are fetched when they come in sight
    tab.wait_for(f"{in_card(finished, 'img')}?.naturalWidth > 0")
    assert tab.run("document.documentElement.scrollWidth") <= width
    faint = tab.run(CONTRAST)
    assert faint == []
    assert tab.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(245, 244, 248)" if theme == "light" else "rgb(20, 18, 26)"
    )


def test_nothing_moves_for_those_who_prefer_that(server, finished, tab):
    tab.prefer("prefers-reduced-motion", "reduce")
    tab.open(server.link())
    tab.wait_for(card(finished))
    tab.run("document.body.append(document.createElement('progress'))")
    moving = "getComputedStyle(document.querySelector('body > progress')).animationName"
    assert tab.run(moving) == "none"
    tab.prefer("prefers-reduced-motion", "no-preference")
    assert tab.run(moving) == "search"


# Texts that are less than 4.5 times as light or dark as what is behind them (WCAG 2, AA).
CONTRAST = """
(() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = numbers(color).map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    const clear = (numbers(color)[3] ?? 1) === 0;
    return clear && element.parentElement ? behind(element.parentElement) : color;
  };
  const own = (element) => [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  return [...document.body.querySelectorAll("*")]
    .filter((element) => own(element) && element.checkVisibility())
    .map((element) => {
      const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
      const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      return contrast < 4.5 ? `${element.textContent}: ${contrast.toFixed(2)}` : "";
    })
    .filter(Boolean);
})()
"""
