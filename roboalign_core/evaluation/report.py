"""A report: one HTML file that holds its text, tables, pictures and videos, and asks the network for nothing."""

from __future__ import annotations

import base64
import html
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.video import mp4_bytes
from roboalign_core.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VIDEO_PIXELS = 256  # smaller frames are enlarged to about this height

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Video:
    """A looping video.

    Attributes:
        caption: shown below it, as plain text.
        frames: ``(T, H, W, 3)`` uint8.
        fps: frames per second.
    """

    caption: str
    frames: NDArray[np.uint8]
    fps: float


@dataclass(frozen=True)
class Section:
    """A part of a report. Every string in it is plain text and is escaped; an empty line in `text` ends a paragraph.

    Attributes:
        title: the heading.
        text: paragraphs.
        table: rows, each a mapping from column to value (columns in the order in which they first appear), or one
            mapping, shown as two columns.
        figures: PNG files, for example from :func:`figure_png`.
        videos: videos.
    """

    title: str
    text: str = ""
    table: Sequence[Row] | Row | None = None
    figures: Sequence[bytes] = ()
    videos: Sequence[Video] = ()


def write_report(path: str | os.PathLike[str], title: str, sections: Sequence[Section]) -> None:
    """Write a report atomically.

    Raises:
        RoboAlignError: a video that cannot be encoded, or a figure that is not a PNG file.
    """
    body = "\n".join(_section(section) for section in sections)
    write_text(path, _PAGE.format(title=html.escape(title), style=_STYLE, body=body))


def interval_rows(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of a table: every figure of a study that has a confidence interval, with its limits."""
    return [
        {"figure": key, "value": value, "95 % low": figures[f"{key}_ci_low"], "95 % high": figures[f"{key}_ci_high"]}
        for key, value in figures.items()
        if f"{key}_ci_low" in figures
    ]


def figure_png(figure: Figure, dpi: int = 144) -> bytes:
    """A matplotlib figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    return buffer.getvalue()


def _section(section: Section) -> str:
    parts = [f"<section>\n<h2>{html.escape(section.title)}</h2>"]
    paragraphs = [text for text in section.text.split("\n\n") if text.strip()]
    parts += [f"<p>{html.escape(text.strip())}</p>" for text in paragraphs]
    if section.table:
        parts.append(_table(section.table))
    parts += [_figure(png, section.title) for png in section.figures]
    if section.videos:
        parts.append('<div class="videos">\n' + "\n".join(_video(video) for video in section.videos) + "\n</div>")
    return "\n".join([*parts, "</section>"])


def _table(table: Sequence[Row] | Row) -> str:
    if isinstance(table, Mapping):
        rows = "\n".join(f'<tr><th scope="row">{_text(key)}</th>{_cell(value)}</tr>' for key, value in table.items())
        return f'<div class="table"><table>\n<tbody>\n{rows}\n</tbody>\n</table></div>'
    columns = list(dict.fromkeys(key for row in table for key in row))
    head = "".join(f'<th scope="col">{_text(column)}</th>' for column in columns)
    rows = "\n".join("<tr>" + "".join(_cell(row.get(column, "")) for column in columns) + "</tr>" for row in table)
    return f'<div class="table"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>'


def _cell(value: Any) -> str:
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    kind = "number" if number else "text"
    return f'<td class="{kind}">{_text(value)}</td>'


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}" if math.isfinite(value) else "–"
    return html.escape(str(value))


def _figure(png: bytes, title: str) -> str:
    if not png.startswith(b"\x89PNG\r\n\x1a\n"):
        raise RoboAlignError(f"report section {title!r}: expected the bytes of a PNG file as figure, found other data")
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{_base64(png)}">'


def _video(video: Video) -> str:
    height = video.frames.shape[1] if video.frames.ndim == 4 else 0
    upscale = max(1, round(_VIDEO_PIXELS / height)) if height else 1
    data = _base64(mp4_bytes(video.frames, video.fps, upscale))
    return (
        "<figure>"
        f'<video autoplay loop muted playsinline controls preload="auto" src="data:video/mp4;base64,{data}"></video>'
        f"<figcaption>{html.escape(video.caption)}</figcaption></figure>"
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


_STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #5c6670; --line: #dfe3e8; --paper: #fff; --raised: #f6f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9aa4ae; --line: #343a41; --paper: #15181c; --raised: #1d2126; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1.5rem; letter-spacing: -0.01em; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 0.75rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: 0 0 0.8rem; white-space: pre-line; overflow-wrap: anywhere; }
.table { overflow-x: auto; margin: 0.75rem 0; }
table { border-collapse: collapse; font-size: 0.92rem; }
th, td { text-align: left; padding: 0.35rem 1.4rem 0.35rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; color: var(--soft); }
.number { text-align: right; font-variant-numeric: tabular-nums; }
img { display: block; max-width: 100%; height: auto; margin: 1rem 0; background: #fff; border-radius: 6px; }
.videos { display: grid; gap: 1.25rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
figure { margin: 0; padding: 0.6rem; background: var(--raised); border-radius: 8px; }
video { display: block; width: 100%; border-radius: 4px; }
figcaption { margin-top: 0.5rem; font-size: 0.9rem; color: var(--soft); overflow-wrap: anywhere; }
"""

# The policy forbids scripts and every request, so that not even a hostile instruction could make the page do one.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""
