from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from roboalign_core import RoboAlignError
from roboalign_core.evaluation.report import Section, Video, figure_png, write_report

HOSTILE = '</p><script>alert("x")</script><img src=x onerror=alert(1)> & "quoted"'
BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

# A report runs no script of its own, so the check brings its probe along, and with it a policy that lets it run.
PROBE = """<script>
const videos = [...document.querySelectorAll('video')];
const tell = () => document.body.setAttribute('data-videos',
  videos.map(v => `${v.readyState},${v.videoWidth}x${v.videoHeight},${v.duration},${v.error ? v.error.message : ''}`)
  .join(';'));
videos.forEach(v => ['loadeddata', 'canplaythrough', 'error'].forEach(e => v.addEventListener(e, tell)));
setInterval(tell, 100);
</script></body>"""


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
    text = sample(tmp_path / "report.html")
    text = re.sub(r"<meta http-equiv=[^>]*>", "", text).replace("</body>", PROBE)
    (tmp_path / "probe.html").write_text(text, encoding="utf-8")
    command = [
        str(BROWSER),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--timeout=4000",
        "--dump-dom",
        (tmp_path / "probe.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r'data-videos="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    states = [entry.split(",") for entry in found.group(1).split(";")]
    assert [state[1] for state in states] == ["256x256", "256x256"]
    assert [float(state[2]) for state in states] == pytest.approx([2.0, 1.4], abs=0.01)
    assert all(int(state[0]) >= 2 for state in states), states
