"""Frames to mp4 and back.

Files hold H.264 without B-frames and with a key frame at every second frame, so that any frame is reached by decoding
two. The lossy kind keeps full colour resolution (yuv444p, BT.601, limited range; the tags are in the file). CABAC and
the deblocking filter are off: at the high qualities used here they cost half of the decoding speed and save nothing.
Macroblock trees are off, because with them x264 does not give the same file every time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from roboalign_core.errors import RoboAlignError

GOP = 2


@dataclass(frozen=True)
class VideoCodec:
    """How frames are encoded.

    Attributes:
        crf: quality of the lossy kind, 0 (best) to 51; 12 gives about 41 dB or more at 64x64.
        lossless: every pixel comes back exactly (RGB H.264 at QP 0); files are about four times larger.
    """

    crf: int = 12
    lossless: bool = False

    @property
    def name(self) -> str:
        """The encoder's name in ffmpeg."""
        return "libx264rgb" if self.lossless else "libx264"

    @property
    def pixel_format(self) -> str:
        """The pixel format that the encoder takes."""
        return "rgb24" if self.lossless else "yuv444p"

    def options(self) -> dict[str, str]:
        """The encoder's options."""
        common = {"g": str(GOP), "bf": "0"}
        if self.lossless:
            return {**common, "qp": "0", "preset": "ultrafast"}
        return {
            **common,
            "crf": str(self.crf),
            "preset": "veryfast",
            "tune": "psnr",
            "x264-params": "cabac=0:no-deblock=1:mbtree=0",
        }


def frame_rate(fps: float) -> Fraction:
    """The frame rate as the fraction that the container stores."""
    return Fraction(fps).limit_denominator(1001)


def encode(path: str | os.PathLike[str], frames: Iterable[NDArray[np.uint8]], fps: float, codec: VideoCodec) -> int:
    """Write frames, each (H, W, 3) uint8 and of one size, into an mp4 file; returns their number."""
    rate = frame_rate(fps)
    count = 0
    with av.open(os.fspath(path), "w", format="mp4") as container:
        stream: VideoStream | None = None
        reformatter = VideoReformatter()
        for pixels in frames:
            stream = stream or _add_stream(container, rate, pixels.shape[0], pixels.shape[1], codec)
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if not codec.lossless:
                frame = reformatter.reformat(
                    frame,
                    format=codec.pixel_format,
                    dst_colorspace=Colorspace.ITU601,
                    src_color_range=ColorRange.JPEG,
                    dst_color_range=ColorRange.MPEG,
                )
            frame.pts, frame.time_base = count, 1 / rate
            container.mux(stream.encode(frame))
            count += 1
        if stream is not None:
            container.mux(stream.encode(None))
    return count


def decode(
    path: str | os.PathLike[str], first: int = 0, count: int | None = None, fps: float | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Yield frames ``first`` to ``first + count`` (all of them by default), each (H, W, 3) uint8.

    Only the range asked for is decoded: reading starts at the key frame before it, found by time.

    Args:
        path: an mp4 file.
        first: index of the first frame.
        count: number of frames; None means up to the end.
        fps: the frame rate by which ``first`` is turned into a time; needed if ``first`` is not 0.

    Raises:
        RoboAlignError: the file is absent, not a video, damaged, or ends too early.
    """
    if not Path(path).is_file():
        raise RoboAlignError(f"{path}: expected a video, found nothing there")
    found = 0
    try:
        with av.open(os.fspath(path), metadata_errors="ignore") as container:
            for frame in _frames_from(container, path, first, fps):
                if found == count:
                    break
                yield frame
                found += 1
    except av.FFmpegError as error:
        raise RoboAlignError(
            f"{path}: expected a readable video, found damage at frame {first + found}: {error}"
        ) from error
    if count is not None and found < count:
        raise RoboAlignError(f"{path}: expected {count} frames from frame {first} on, found {found}")


def decode_timed(path: str | os.PathLike[str], start: float = 0.0) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Yield the frames from ``start`` (s) on, each with its time in seconds and as (H, W, 3) uint8.

    Raises:
        RoboAlignError: the file is absent, not a video, damaged, or a frame has no time.
    """
    if not Path(path).is_file():
        raise RoboAlignError(f"{path}: expected a video, found nothing there")
    time = 0.0
    try:
        with av.open(os.fspath(path), metadata_errors="ignore") as container:
            stream = _strict_stream(container, path)
            reformatter = VideoReformatter()
            if start > 0 and stream.time_base:
                container.seek(int(start / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if frame.time is None:
                    raise RoboAlignError(f"{path}: expected a time for each frame, found none after {time:.3f} s")
                time = frame.time
                if time >= start:
                    yield time, _pixels(reformatter, frame)
    except av.FFmpegError as error:
        raise RoboAlignError(f"{path}: expected a readable video, found damage after {time:.3f} s: {error}") from error


def decode_into(out: NDArray[np.uint8], path: str | os.PathLike[str], first: int = 0, fps: float | None = None) -> None:
    """Decode ``len(out)`` frames into ``out`` (T, H, W, 3) uint8; errors as in `decode`, or if sizes differ."""
    for row, frame in enumerate(decode(path, first, len(out), fps)):
        if frame.shape != out.shape[1:]:
            raise RoboAlignError(f"{path}: expected frames of shape {out.shape[1:]}, found {frame.shape}")
        out[row] = frame


def read_all(path: str | os.PathLike[str], expected: int, why: str) -> NDArray[np.uint8]:
    """Decode a whole video into (T, H, W, 3) uint8.

    Args:
        path: of the video.
        expected: the number of frames that it must have.
        why: where that number comes from, for the message.

    Raises:
        RoboAlignError: as in `decode`, or the video has another number of frames.
    """
    header = probe(path)
    if header.frames and header.frames != expected:  # known before decoding; some containers do not say
        raise RoboAlignError(f"{path}: expected {expected} frames, {why}, found {header.frames}")
    frames = list(islice(decode(path), expected + 1))
    if len(frames) != expected:
        found = len(frames) if len(frames) < expected else f"more than {expected}"
        raise RoboAlignError(f"{path}: expected {expected} frames, {why}, found {found}")
    return np.stack(frames)


@dataclass(frozen=True)
class VideoInfo:
    """What the container says about its first video stream, without decoding."""

    frames: int
    height: int
    width: int
    fps: float
    codec: str
    pixel_format: str


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Read the header of a video.

    Raises:
        RoboAlignError: the file is absent or is not a video.
    """
    if not Path(path).is_file():
        raise RoboAlignError(f"{path}: expected a video, found nothing there")
    try:
        with av.open(os.fspath(path), metadata_errors="ignore") as container:
            stream = _video_stream(container, path)
            context = stream.codec_context
            rate = stream.average_rate or Fraction(0)
            return VideoInfo(
                stream.frames, context.height, context.width, float(rate), context.name, str(context.pix_fmt)
            )
    except av.FFmpegError as error:
        raise RoboAlignError(f"{path}: expected a readable video, found: {error}") from error


def _add_stream(
    container: av.container.OutputContainer, rate: Fraction, height: int, width: int, codec: VideoCodec
) -> VideoStream:
    stream = cast(VideoStream, container.add_stream(codec.name, rate=rate, options=codec.options()))
    stream.height, stream.width, stream.pix_fmt = height, width, codec.pixel_format
    context = stream.codec_context
    context.time_base = 1 / rate
    context.thread_count = 1  # small frames: more threads only add overhead, and the output would depend on them
    if not codec.lossless:
        context.colorspace, context.color_range = Colorspace.ITU601, ColorRange.MPEG
    return stream


def _video_stream(container: av.container.InputContainer, path: str | os.PathLike[str]) -> VideoStream:
    if not container.streams.video:
        raise RoboAlignError(f"{path}: expected a readable video, found no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:  # a damaged header names no decoder
        raise RoboAlignError(f"{path}: expected a readable video, found a stream of unknown kind")
    return stream


def _frames_from(
    container: av.container.InputContainer, path: str | os.PathLike[str], first: int, fps: float | None
) -> Iterator[NDArray[np.uint8]]:
    stream = _strict_stream(container, path)
    reformatter = VideoReformatter()  # shared, because building the colour conversion costs more than a small frame
    if first:
        if fps is None:
            raise ValueError("fps is needed to start at a frame other than 0")
        rate = frame_rate(fps)
        time_base = stream.time_base or 1 / rate
        container.seek(round(first / rate / time_base), stream=stream)
    for frame in container.decode(stream):
        if first and frame.pts is not None and round(frame.pts * (frame.time_base or time_base) * rate) < first:
            continue
        yield _pixels(reformatter, frame)


def _strict_stream(container: av.container.InputContainer, path: str | os.PathLike[str]) -> VideoStream:
    stream = _video_stream(container, path)
    stream.thread_count = 1
    stream.codec_context.options = {"err_detect": "explode"}  # a damaged frame is an error, not a guess
    return stream


def _pixels(reformatter: VideoReformatter, frame: VideoFrame) -> NDArray[np.uint8]:
    return cast(NDArray[np.uint8], reformatter.reformat(frame, format="rgb24").to_ndarray())
