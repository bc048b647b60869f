from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest

from roboalign_core import RoboAlignError
from roboalign_core.evaluation.metrics import psnr
from roboalign_core.evaluation.video import mp4_bytes, side_by_side, write_mp4


def moving_square(count: int = 12, size: int = 32) -> np.ndarray:
    frames = np.full((count, size, size, 3), (40, 60, 90), np.uint8)
    for index in range(count):
        frames[index, 8:16, index : index + 8] = (220, 60, 40)
    return frames


def decode(data: bytes) -> np.ndarray:
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_frames_survive_the_round_trip() -> None:
    frames = moving_square()
    decoded = decode(mp4_bytes(frames, fps=5, upscale=4))
    assert decoded.shape == (12, 128, 128, 3)
    assert psnr(decoded[:, 2::4, 2::4], frames).min() > 30


def test_stream_is_what_browsers_play() -> None:
    data = mp4_bytes(moving_square(), fps=5)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.profile in ("Main", "Constrained Baseline", "Baseline")
        assert float(stream.average_rate) == 5
        assert stream.frames == 12
    assert data.index(b"moov") < data.index(b"mdat"), "the index comes first"


def test_odd_sides_get_one_more_line() -> None:
    assert decode(mp4_bytes(np.zeros((2, 33, 47, 3), np.uint8), fps=5)).shape == (2, 34, 48, 3)


def test_fractional_rate() -> None:
    with av.open(io.BytesIO(mp4_bytes(moving_square(), fps=29.97))) as container:
        assert float(container.streams.video[0].average_rate) == pytest.approx(29.97, abs=1e-3)


def test_write_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "clip.mp4"
    write_mp4(path, moving_square(3), fps=5)
    write_mp4(path, moving_square(7), fps=5)
    assert len(decode(path.read_bytes())) == 7
    assert [entry.name for entry in path.parent.iterdir()] == ["clip.mp4"]


def test_side_by_side_places_videos_and_labels() -> None:
    frames = moving_square(4, 48)
    joined = side_by_side([frames, 255 - frames], ["imagined", "real"], upscale=2)
    assert joined.shape == (4, 24 + 96, 96 + 4 + 96, 3)
    np.testing.assert_array_equal(joined[:, 24::2, :96:2], frames)
    np.testing.assert_array_equal(joined[:, 24::2, 100::2], 255 - frames)
    labels = joined[0, :24]
    assert labels[:, :96].max() > 150, "a label is drawn"
    assert (labels[:, :96] != labels[:, 100:]).any(), "each has its own"


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        (np.zeros((2, 8, 8), np.uint8), 5, r"\(T, H, W, 3\)"),
        (np.zeros((2, 8, 8, 3), np.float32), 5, "float32"),
        (np.zeros((0, 8, 8, 3), np.uint8), 5, "at least one frame"),
        (np.zeros((2, 8, 8, 3), np.uint8), 0, "frame rate"),
        ([[1]], 5, "found list"),
    ],
)
def test_bad_frames_leave_no_file(tmp_path: Path, frames: np.ndarray, fps: float, message: str) -> None:
    with pytest.raises(RoboAlignError, match=message):
        write_mp4(tmp_path / "clip.mp4", frames, fps)
    assert list(tmp_path.iterdir()) == []


def test_side_by_side_refuses_what_does_not_fit() -> None:
    frames = moving_square()
    with pytest.raises(RoboAlignError, match=r"real \(11, 32, 32, 3\)"):
        side_by_side([frames, frames[1:]], ["imagined", "real"])
    with pytest.raises(RoboAlignError, match="found 1 and 2"):
        side_by_side([frames, frames], ["imagined"])
    with pytest.raises(RoboAlignError, match=r"\.mp4"):
        write_mp4("clip.avi", frames, 5)
