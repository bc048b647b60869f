"""Node ``world_model``: follows the robot's camera and imagines candidate actions on request."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from roboalign_interfaces.msg import RobotStatus
from roboalign_interfaces.srv import Imagine
from sensor_msgs.msg import Image

from roboalign_core.errors import RoboAlignError
from roboalign_core.planning import OBJECTIVES, ObjectiveConfig
from roboalign_nodes import qos
from roboalign_nodes.conversions import (
    image_to_message,
    message_to_image,
    request_to_candidates,
    time_to_ns,
    to_float_array,
)
from roboalign_nodes.frame_feed import FrameFeed, SeenFrame, StepKey
from roboalign_nodes.lifecycle import OK, WARN, Health, ManagedNode, run_node
from roboalign_nodes.parameters import ParameterSpec

Order = Literal["frame", "token"]
_OBJECTIVE = ObjectiveConfig()  # its values are the parameters' defaults


class Imagination(Protocol):
    """What the node needs of the core's ``ImaginationServer``; bad input raises :class:`RoboAlignError`.

    A frame that raised has changed nothing; it is shown again.
    """

    def reset(self, reference_frame: npt.NDArray[np.uint8], instruction: str) -> None:
        """A new episode that starts from this frame (H, W, 3)."""

    def observe(self, frame: npt.NDArray[np.uint8], follows: bool) -> None:
        """The episode's next real frame (H, W, 3), which imagination starts from; ``follows``: none was lost before."""

    def score(self, actions: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Candidates (N, H, A) → (N,), higher is better."""

    def imagine(self, actions: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """One candidate (H, A) → (H, H, W, 3)."""


def load_imagination(model: str, objective: ObjectiveConfig, order: Order, threads: int) -> Imagination:
    """The core's server, from weights."""
    import torch

    from roboalign_core.planning import ImaginationServer, load_objective
    from roboalign_core.world_model import WorldModel

    if threads:
        torch.set_num_threads(threads)
    world_model = WorldModel.from_pretrained(model)
    return ImaginationServer(world_model, load_objective(objective, world_model, model), order)


class WorldModelNode(ManagedNode):
    """The world model. Its topics and services are relative and remappable.

    - subscribes to ``camera/image_raw`` (sensor_msgs/Image, sensor data) and ``status`` (RobotStatus), paired by stamp
    - serves ``imagine`` (Imagine): scores candidates from the frame of a given step, shows the best one if asked
    - ``imagined/image`` (sensor_msgs/Image): the frames of an answer that has frames, one after the other, for viewers

    Args:
        load: called with the model's name, the objective's settings, the order of decoding, and the number of threads.
    """

    PARAMETERS = (
        ParameterSpec("model", "tabletop", "world model: a bundled name, a folder, or a hub id"),
        ParameterSpec(
            "objective",
            _OBJECTIVE.name,
            "what scores imagined futures: a progress head, the student reward model, or both",
            choices=OBJECTIVES,
        ),
        ParameterSpec(
            "progress_model", _OBJECTIVE.progress_model, "progress head, named like the model; empty: the one beside it"
        ),
        ParameterSpec(
            "reward_model", _OBJECTIVE.reward_model, "student, named like the model; empty: the one beside it"
        ),
        ParameterSpec(
            "past",
            _OBJECTIVE.past,
            "frames seen, the newest, that the student's videos begin with; 0: the whole episode",
            0,
            100_000,
        ),
        ParameterSpec(
            "finishers",
            _OBJECTIVE.finishers,
            "share of a request's candidates, the best by progress on the way, that are imagined to the end; 1: all",
            0.01,
            1.0,
        ),
        ParameterSpec(
            "worth", _OBJECTIVE.worth, "both: progress that the student's best opinion counts as", 0.0, 100.0
        ),
        ParameterSpec(
            "finalists",
            _OBJECTIVE.finalists,
            "both: candidates of a request, the best by progress, that the student sees, at most",
            1,
            65_536,
        ),
        ParameterSpec(
            "order", "frame", "decoding: all tokens of a frame in one pass, or one by one", choices=("frame", "token")
        ),
        ParameterSpec("threads", 0, "threads of torch; 0: as many as it likes", 0, 1024),
        ParameterSpec("frame_timeout", 0.5, "seconds that a request waits for the frame of its step", 0.01, 60.0),
        ParameterSpec("pending_frames", 64, "frames that may wait until a request looks at them", 2, 10_000),
        ParameterSpec("imagined_frame_id", "camera_optical_frame", "frame of the imagined images"),
    )

    def __init__(
        self, load: Callable[[str, ObjectiveConfig, Order, int], Imagination] = load_imagination, **options: Any
    ) -> None:
        super().__init__("world_model", **options)
        self._load = load
        self._imagination: Imagination | None = None
        self._arrival = threading.Condition()  # guards the feed and what belongs to it
        self._feed = FrameFeed()
        self._instructions: dict[int, str] = {}
        self._bad_frame = ""
        self._context: StepKey | None = None  # what the imagination looks at; touched by requests only
        self._restarts = 0
        self._requests = 0
        self._latency_ms = 0.0

    # -- lifecycle ---------------------------------------------------------------------------------------------------

    def configure(self) -> None:
        """Load the weights and make the topics."""
        settings = ("progress_model", "reward_model", "past", "finishers", "worth", "finalists")
        objective = ObjectiveConfig(self.value("objective"), **{name: self.value(name) for name in settings})
        self._imagination = self._load(self.value("model"), objective, self.value("order"), self.value("threads"))
        self._feed = FrameFeed(self.value("pending_frames"))
        self._context, self._restarts = None, 0
        arrivals, requests = MutuallyExclusiveCallbackGroup(), MutuallyExclusiveCallbackGroup()
        self._viewer_out = self.create_lifecycle_publisher(Image, "imagined/image", qos.CAMERA)
        self.create_subscription(Image, "camera/image_raw", self._on_image, qos.CAMERA, callback_group=arrivals)
        self.create_subscription(RobotStatus, "status", self._on_status, qos.STATUS, callback_group=arrivals)
        self.create_service(Imagine, "imagine", self._on_imagine, callback_group=requests)

    def release(self) -> None:
        """Let go of the weights."""
        self._imagination = None

    def health(self) -> Health:
        """Frames seen and lost, requests answered."""
        with self._arrival:
            feed, bad = self._feed, self._bad_frame
            values = {
                "frames_received": feed.received,
                "frames_dropped": feed.dropped,
                "requests": self._requests,
                "latency_ms": f"{self._latency_ms:.1f}",
            }
        return Health(WARN if bad else OK, bad or "running", values)

    # -- inputs ------------------------------------------------------------------------------------------------------

    def _on_image(self, message: Image) -> None:
        try:
            frame = message_to_image(message)
        except RoboAlignError as error:
            if str(error) != self._bad_frame:  # once, not at the camera's rate
                self.get_logger().error(f"camera: {error}")
            self._bad_frame = str(error)
            return
        with self._arrival:
            self._bad_frame = ""
            self._feed.add(frame, time_to_ns(message.header.stamp))
            self._arrival.notify_all()

    def _on_status(self, message: RobotStatus) -> None:
        key, stamp = StepKey(int(message.episode), int(message.step)), time_to_ns(message.header.stamp)
        with self._arrival:
            self._instructions = {
                episode: text for episode, text in self._instructions.items() if episode >= key.episode - 1
            }
            self._instructions[key.episode] = message.instruction
            self._feed.announce(key, stamp)
            self._arrival.notify_all()

    def _on_imagine(self, request: Imagine.Request, response: Imagine.Response) -> Imagine.Response:
        start = time.perf_counter()
        try:
            self._answer(request, response)
        except RoboAlignError as error:
            response.message = str(error)
        except Exception as error:  # a planner waits for the answer, and the node has others to serve
            self.get_logger().error(f"imagine: {type(error).__name__}: {error}")
            response.message = f"{type(error).__name__}: {error}"
        response.ok = not response.message
        self._requests += 1
        self._latency_ms = response.latency_ms = (time.perf_counter() - start) * 1e3
        return response

    # -- inside ------------------------------------------------------------------------------------------------------

    def _answer(self, request: Imagine.Request, response: Imagine.Response) -> None:
        imagination = self._imagination
        if imagination is None or not self.active:
            raise RoboAlignError("world_model: expected an active node, found one that is not")
        candidates = request_to_candidates(request)
        context = self._look(imagination, StepKey(request.episode, request.step) if request.episode else None)
        instruction = self._instructions.get(context.episode, "")
        if request.instruction and request.instruction != instruction:
            raise RoboAlignError(f"instruction: expected the episode's, {instruction!r}, found {request.instruction!r}")
        scores = np.asarray(imagination.score(candidates), np.float32)
        response.episode, response.step = context.episode, context.step
        response.scores = to_float_array(scores)
        if request.return_frames:
            frames = imagination.imagine(candidates[int(scores.argmax())])
            stamp, frame_id = self.get_clock().now().to_msg(), self.value("imagined_frame_id")
            response.frames = [image_to_message(frame, stamp, frame_id) for frame in frames]
            for image in response.frames:
                self._viewer_out.publish(image)

    def _look(self, imagination: Imagination, wanted: StepKey | None) -> StepKey:
        """Show the imagination the frames up to the wanted step (None: all); returns the newest step seen."""
        with self._arrival:
            self._arrival.wait_for(lambda: self._has(wanted), self.value("frame_timeout"))
            self._forget_if_restarted()
            frames = self._feed.take(wanted)
            newest = frames[-1].key if frames else self._context
            if wanted is not None and newest != wanted:
                self._feed.expired(wanted)
            instructions = dict(self._instructions)
        if frames:
            self._show(imagination, frames, instructions)
        if self._context is None or (wanted is not None and self._context != wanted):
            expected = "a frame" if wanted is None else f"the frame of {wanted}"
            raise RoboAlignError(f"camera: expected {expected}, found {self._context or 'none yet'}")
        return self._context

    def _show(self, imagination: Imagination, frames: Sequence[SeenFrame], instructions: Mapping[int, str]) -> None:
        """Show all frames; where the imagination raises, those that it did not take wait for the next request."""
        for index, seen in enumerate(frames):
            try:
                if self._context is None or seen.key.episode != self._context.episode:
                    imagination.reset(seen.frame, instructions.get(seen.key.episode, ""))
                else:
                    imagination.observe(seen.frame, seen.key.step == self._context.step + 1)
            except Exception:
                with self._arrival:
                    self._feed.put_back(frames[index:], self._restarts)
                raise
            self._context = seen.key

    def _forget_if_restarted(self) -> None:
        if self._feed.restarts != self._restarts:
            self._restarts = self._feed.restarts
            self._context = None

    def _has(self, wanted: StepKey | None) -> bool:
        self._forget_if_restarted()
        if self._context is not None and wanted in (None, self._context):
            return True
        newest = self._feed.newest
        return newest is not None and (wanted is None or not wanted.after(newest))


def main() -> int:
    """Entry point."""
    return run_node(WorldModelNode, threads=3)


if __name__ == "__main__":
    sys.exit(main())
