"""Between ROS messages and numpy arrays: the one place that knows the wire layout."""

from __future__ import annotations

import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from roboalign_interfaces.msg import ActionChunk
from roboalign_interfaces.srv import Imagine
from sensor_msgs.msg import Image

from roboalign_core.errors import RoboAlignError

_CHANNELS = 3
_LIMIT = 1.0 + 1e-6  # actions are normalised; the rest is rounding


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive actions.

    Attributes:
        actions: (H, A) float32 in [-1, 1].
        step: control step that the first action starts from.
        episode: number of the episode; 0 means whichever runs now.
        plan_id: number of the plan; 0 means unnumbered.
    """

    actions: npt.NDArray[np.float32]
    step: int = 0
    episode: int = 0
    plan_id: int = 0


def time_to_ns(stamp: Time) -> int:
    """A stamp in nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def ns_to_time(nanoseconds: int) -> Time:
    """Nanoseconds as a stamp."""
    seconds, rest = divmod(int(nanoseconds), 1_000_000_000)
    return Time(sec=seconds, nanosec=rest)


def image_to_message(frame: npt.NDArray[np.uint8], stamp: Time, frame_id: str) -> Image:
    """A frame (H, W, 3) uint8 RGB as ``rgb8``.

    Raises:
        RoboAlignError: the frame has another shape or dtype.
    """
    if frame.ndim != 3 or frame.shape[2] != _CHANNELS or frame.dtype != np.uint8 or 0 in frame.shape:
        raise RoboAlignError(f"frame: expected (H, W, 3) uint8, found {frame.shape} {frame.dtype}")
    message = Image(height=frame.shape[0], width=frame.shape[1], encoding="rgb8", step=frame.shape[1] * _CHANNELS)
    message.header.stamp = stamp
    message.header.frame_id = frame_id
    data = array.array("B")  # assigning anything else makes rclpy check every single byte
    data.frombytes(np.ascontiguousarray(frame).data.cast("B"))
    message.data = data
    return message


def message_to_image(message: Image) -> npt.NDArray[np.uint8]:
    """The frame of an ``rgb8`` or ``bgr8`` message: (H, W, 3) uint8 RGB, a view onto the message's bytes.

    Raises:
        RoboAlignError: another encoding, or a height, width, step and data that do not fit together.
    """
    height, width, step = int(message.height), int(message.width), int(message.step)
    if message.encoding not in ("rgb8", "bgr8"):
        raise RoboAlignError(f"image: expected encoding rgb8 or bgr8, found {message.encoding!r}")
    if height < 1 or width < 1:
        raise RoboAlignError(f"image: expected a height and width of at least 1, found {height} x {width}")
    if step < width * _CHANNELS:
        raise RoboAlignError(f"image: expected a step of at least {width * _CHANNELS} bytes a row, found {step}")
    if len(message.data) != height * step:
        raise RoboAlignError(
            f"image: expected {height} rows x {step} bytes = {height * step}, found {len(message.data)}"
        )
    rows = np.frombuffer(message.data, np.uint8).reshape(height, step)[:, : width * _CHANNELS]
    frame = rows.reshape(height, width, _CHANNELS)
    return frame if message.encoding == "rgb8" else frame[..., ::-1]


def chunk_to_message(chunk: Chunk, stamp: Time, names: tuple[str, ...] = ()) -> ActionChunk:
    """A chunk as a message.

    Raises:
        RoboAlignError: the actions are not (H, A), finite and in [-1, 1].
    """
    check_actions(chunk.actions, "chunk")
    if chunk.actions.ndim != 2:
        raise RoboAlignError(f"chunk: expected actions (H, A), found shape {chunk.actions.shape}")
    horizon, action_dim = chunk.actions.shape
    message = ActionChunk(
        episode=chunk.episode, step=chunk.step, plan_id=chunk.plan_id, horizon=horizon, action_dim=action_dim
    )
    message.header.stamp = stamp
    message.actions = to_float_array(chunk.actions)
    message.names = list(names)
    return message


def message_to_chunk(message: ActionChunk) -> Chunk:
    """The chunk of a message.

    Raises:
        RoboAlignError: sizes that do not fit, or actions that are not finite and in [-1, 1].
    """
    actions = _from_floats(message.actions, (message.horizon, message.action_dim), "chunk")
    return Chunk(actions, int(message.step), int(message.episode), int(message.plan_id))


def candidates_to_request(candidates: npt.NDArray[np.float32]) -> Imagine.Request:
    """Candidates (N, H, A) float32 as a request, all other fields unset.

    Raises:
        RoboAlignError: another shape, or values that are not finite and in [-1, 1].
    """
    check_actions(candidates, "candidates")
    if candidates.ndim != 3:
        raise RoboAlignError(f"candidates: expected shape (N, H, A), found {candidates.shape}")
    n, horizon, action_dim = candidates.shape
    request = Imagine.Request(n=n, horizon=horizon, action_dim=action_dim)
    request.candidates = to_float_array(candidates)
    return request


def request_to_candidates(request: Imagine.Request) -> npt.NDArray[np.float32]:
    """The candidates (N, H, A) float32 of a request.

    Raises:
        RoboAlignError: sizes that do not fit, or actions that are not finite and in [-1, 1].
    """
    return _from_floats(request.candidates, (request.n, request.horizon, request.action_dim), "candidates")


def to_float_array(values: npt.NDArray[np.floating]) -> array.array[float]:
    """Any array as the flat float32 sequence that a message takes without checking it element by element."""
    flat = array.array("f")
    flat.frombytes(np.ascontiguousarray(values, np.float32).data.cast("B"))
    return flat


def check_actions(actions: npt.NDArray[np.floating], what: str) -> None:
    """Refuse actions that no robot should get.

    Raises:
        RoboAlignError: they are empty, not finite, or outside [-1, 1].
    """
    if actions.size == 0:
        raise RoboAlignError(f"{what}: expected at least one action, found shape {actions.shape}")
    if not np.isfinite(actions).all():
        raise RoboAlignError(
            f"{what}: expected finite actions, found {int((~np.isfinite(actions)).sum())} that are not"
        )
    if float(np.abs(actions).max()) > _LIMIT:
        raise RoboAlignError(f"{what}: expected actions in [-1, 1], found up to {float(np.abs(actions).max()):g}")


def _from_floats(values: array.array[float], shape: tuple[int, ...], what: str) -> npt.NDArray[np.float32]:
    expected = int(np.prod(shape))
    if expected < 1 or len(values) != expected:
        sizes = " x ".join(str(size) for size in shape)
        raise RoboAlignError(f"{what}: expected {sizes} = {expected} values, at least one, found {len(values)}")
    array_ = np.array(values, np.float32).reshape(shape)
    check_actions(array_, what)
    return array_
