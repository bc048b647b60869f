"""The review page in a real browser: keys are pressed, the video plays, the server is killed and started again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from browser import BROWSER, Chromium

Serve = Callable[..., AbstractContextManager[str]]
HIDDEN = ("secret", "freeze", "degraded", "recorded", "oracle", "rule", "mp4", "png", "test")
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium here; to check in a browser: apt-get install chromium"
)


def start(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """The command as a user types it, and the address that it names."""
    command = [sys.executable, "-m", "roboalign_core.cli", "benchmark", "review", str(folder), "rater=anna"]
    process = subprocess.Popen([*command, "open_browser=false"], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    for line in process.stdout:
        if found := re.search(r"http://\S+", line):
            return process, found.group()
    raise AssertionError(f"the server ended with {process.wait()}")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    chromium = Chromium(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


def lines(folder: Path) -> list[dict[str, Any]]:
    """The rater's judgements as they stand in the file, oldest first."""
    return [json.loads(line) for line in (folder / "reviews" / "anna.jsonl").read_text().splitlines()[1:]]


def shown(page: Chromium) -> str:
    return str(page.value("element('instruction').textContent"))


def chosen_steps(page: Chromium) -> list[int]:
    """Of every scale the step that is marked, -1 where none is."""
    steps = "[...box.querySelectorAll('.step')].findIndex(step => step.getAttribute('aria-checked') == 'true')"
    return list(page.value(f"[...document.querySelectorAll('.scale')].map(box => {steps})"))


def begin(browser: Chromium, url: str) -> None:
    browser.open("about:blank")
    browser.open(url)
    browser.wait("typeof busy != 'undefined' && !busy")


def test_a_person_judges_goes_back_and_judges_anew(review_folder: Path, serve_review: Serve, browser: Chromium) -> None:
    with serve_review(review_folder) as url:
        begin(browser, url)
        assert browser.value("element('progress').textContent") == "1 of 4 · 0 judged"
        page = "document.documentElement"
        assert browser.value(f"{page}.scrollHeight <= innerHeight && {page}.scrollWidth <= innerWidth")

        first = shown(browser)
        browser.press("3", "2", "1", "5")
        assert browser.value("element('message').textContent") == "Temporal Consistency goes from 0 to 1."
        browser.press("j", "0", "1", "Enter")
        assert browser.value("element('message').textContent") == "Temporal Consistency has no score yet."
        assert not lines(review_folder)
        browser.press("1", "ArrowUp", "k", "0", "Enter")
        assert [list(line["scores"].values()) for line in lines(review_folder)] == [[3, 2, 0, 1, 0, 1]]
        assert browser.value("element('progress').textContent") == "2 of 4 · 1 judged"

        browser.press("u")
        assert lines(review_folder)[1]["cannot_judge"] is True
        browser.press("b", "b")
        assert shown(browser) == first
        assert chosen_steps(browser) == [3, 2, 0, 1, 0, 1]
        browser.press("Enter")
        assert len(lines(review_folder)) == 2, "nothing was changed, so nothing is saved"
        browser.press("b", "1", "Enter")
        one, two, again = lines(review_folder)
        assert (again["pair"], again["scores"]) == (one["pair"], {**one["scores"], "instruction_following": 1})

        browser.press("Enter", "u", "u")
        assert browser.value("!element('end').hidden && element('work').hidden")
        assert {line["pair"] for line in lines(review_folder)} == {0, 1, 2, 3}
        assert two["pair"] != one["pair"]


def test_the_video_plays_over_and_over_and_pauses(review_folder: Path, serve_review: Serve, browser: Chromium) -> None:
    with serve_review(review_folder) as url:
        begin(browser, url)
        browser.wait("video.currentTime > 0.2")
        assert browser.value("[video.videoWidth, video.videoHeight, video.duration]") == [512, 384, 1]
        assert browser.value("[element('first').naturalWidth, element('first').naturalHeight]") == [512, 384]
        browser.wait("video.ended")
        browser.wait("!video.ended && video.currentTime > 0")
        browser.press(" ")
        held = browser.value("video.currentTime")
        time.sleep(0.15)
        assert browser.value("[video.paused, video.currentTime]") == [True, held]
        browser.press(" ")
        browser.wait(f"!video.paused && video.currentTime != {held}")


def test_the_page_gives_nothing_away(review_folder: Path, serve_review: Serve, browser: Chromium) -> None:
    with serve_review(review_folder) as url:
        begin(browser, url)
        for _ in range(4):
            page = browser.value("document.documentElement.outerHTML")
            assert [word for word in HIDDEN if word in page] == []
            assert not browser.value("element('instruction').children.length"), "an instruction is text"
            browser.press("u")
        origins = browser.value("performance.getEntriesByType('resource').map(entry => entry.name)")
        assert len(origins) > 4
        assert {name.split(":")[0] for name in origins if not name.startswith(url)} <= {"blob", "data"}


def test_a_killed_server_loses_nothing_that_was_saved(
    review_folder: Path, serve_review: Serve, browser: Chromium
) -> None:
    server, url = start(review_folder)
    try:
        begin(browser, url)
        browser.press("3", "2", "1", "1", "1", "2", "Enter")
        second = shown(browser)
    finally:
        server.kill()  # SIGKILL
        server.wait()
    with (review_folder / "reviews" / "anna.jsonl").open("a") as file:
        file.write('{"pair": 2, "scores": {"instruction_follow')
    browser.press("0", "0", "0", "0", "0", "0", "Enter")
    assert "The server does not answer" in browser.value("element('message').textContent")
    assert shown(browser) == second
    with serve_review(review_folder, port=int(url.rstrip("/").rsplit(":", 1)[1])) as again:
        assert again == url
        browser.press("Enter")
        assert [sum(line["scores"].values()) for line in lines(review_folder)] == [10, 0], "they were still on the page"
        begin(browser, url)
        assert browser.value("element('progress').textContent") == "3 of 4 · 2 judged"
        assert "dropped" in browser.value("element('message').textContent")
