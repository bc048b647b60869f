from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import BROWSER, Chromium

from roboalign_core import RoboAlignError
from roboalign_core.evaluation.report import Section, Video, figure_png, write_report

HOSTILE = '</p><script>alert("x")</script><img src=x onerror=alert(1)> & "quoted"'


class Page(HTMLParser):
    """Collects what a browser would see as elements and as text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def clip(count: int = 10, size: int = 64, seed: int = 0) -> np.ndarray:
    frames = np.random.default_rng(seed).integers(90, 110, (count, size, size, 3), dtype=np.uint8)
    for index in range(count):
        frames[index, 20:36, 3 * index : 3 * index + 16] = (220, 60, 40)
    return frames


def figure() -> bytes:
    figures = pytest.importorskip("matplotlib.figure", reason="matplotlib is not installed")
    drawing = figures.Figure(figsize=(5, 2.5))
    drawing.subplots().plot([0, 1, 2], [0.1, 0.5, 0.6])
    return figure_png(drawing)


def sample(path: Path) -> str:
    rows = [{"task": HOSTILE, "episodes": 16, "success": True}, {"task": "reach", "error": 0.12345, "success": None}]
    write_report(
        path,
        f"Report {HOSTILE}",
        [
            Section("Summary", f"First.\n\nSecond {HOSTILE}", table={"success rate": 0.625, "episodes": 16}),
            Section("Curves", table=rows, figures=[figure()]),
            Section("Episodes", videos=[Video(HOSTILE, clip(), 5.0), Video("odd", clip(7, 51), 5.0)]),
        ],
    )
    return path.read_text(encoding="utf-8")


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    page = Page(sample(tmp_path / "report.html"))
    assert not page.all("script")
    assert len(page.all("img")) == 1, "the plot, and no picture out of a text"
    assert sum(HOSTILE in text for text in page.texts) == 5, "title twice, paragraph, cell, caption"
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_one_file_that_asks_for_nothing(tmp_path: Path) -> None:
    page = Page(sample(tmp_path / "report.html"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    sources = [attributes["src"] or "" for _, attributes in page.elements if "src" in attributes]
    assert len(sources) == 3
    assert all(re.match(r"data:(image/png|video/mp4);base64,", source) for source in sources)
    assert not [attributes for _, attributes in page.elements if "href" in attributes]
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_tables_show_every_column(tmp_path: Path) -> None:
    page = Page(sample(tmp_path / "report.html"))
    heads = [text for text in page.texts if text in ("task", "episodes", "success", "error")]
    assert heads == ["episodes", "task", "episodes", "success", "error"], "the summary's row, then the columns"
    assert "0.1235" in page.texts
    assert "yes" in page.texts


def test_bad_content_leaves_the_old_report(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    before = sample(path)
    with pytest.raises(RoboAlignError, match="PNG"):
        write_report(path, "x", [Section("Plots", figures=[b"GIF89a"])])
    with pytest.raises(RoboAlignError, match="at least one frame"):
        write_report(path, "x", [Section("Videos", videos=[Video("none", clip(0), 5.0)])])
    assert path.read_text(encoding="utf-8") == before


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here; to check in a browser: apt-get install chromium")
def test_videos_play_in_a_browser(tmp_path: Path) -> None:
    sample(tmp_path / "report.html")
    videos = "[...document.querySelectorAll('video')]"
    browser = Chromium(tmp_path / "profile", height=4000)  # videos out of sight do not begin
    try:
        browser.open((tmp_path / "report.html").as_uri())
        browser.wait(f"{videos}.every(video => video.currentTime > 0 || video.error)")
        assert browser.value(f"{videos}.map(video => video.error && video.error.message)") == [None, None]
        assert browser.value(f"{videos}.map(video => [video.videoWidth, video.videoHeight])") == [[256, 256]] * 2
        assert browser.value(f"{videos}.map(video => video.duration)") == pytest.approx([2.0, 1.4], abs=0.01)
    finally:
        browser.close()
