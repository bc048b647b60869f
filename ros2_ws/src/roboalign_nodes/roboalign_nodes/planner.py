"""Node ``planner``: whenever the robot waits, lets the world model imagine candidate actions and sends the best."""

from __future__ import annotations

import math
import sys
import threading
import time
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from roboalign_interfaces.action import Plan
from roboalign_interfaces.msg import ActionChunk, ImaginedPlan, RobotStatus, Scores
from roboalign_interfaces.srv import Imagine, ResetEpisode

from roboalign_core.errors import RoboAlignError
from roboalign_core.planning import METHODS, CEMConfig, ICEMConfig, MPPIConfig
from roboalign_nodes import qos
from roboalign_nodes.conversions import Chunk, candidates_to_request, chunk_to_message, time_to_ns, to_float_array
from roboalign_nodes.frame_feed import StepKey
from roboalign_nodes.lifecycle import ERROR, OK, Health, ManagedNode, run_node
from roboalign_nodes.parameters import ParameterSpec
from roboalign_nodes.policies import Choice, Policy, RandomPolicy, SearchPolicy
from roboalign_nodes.service_calls import call

_CEM, _ICEM, _MPPI = CEMConfig(), ICEMConfig(), MPPIConfig()  # their values are the parameters' defaults
_POLL = 0.2  # seconds between two looks at whether the node is stopping


class PlannerNode(ManagedNode):
    """The planner. Its topics, services and actions are relative and remappable.

    - subscribes to ``status`` (RobotStatus, latched); a waiting robot is a request for a chunk
    - asks ``imagine`` (Imagine) for the scores of candidates, and for the frames of the chosen plan
    - ``action_chunk`` (ActionChunk): the chosen plan; ``imagined_plan`` (ImaginedPlan): with scores, frames and timing
    - serves the action ``follow_instruction`` (Plan): resets the robot (``reset``), reports until the episode is over

    A repeated request for the same step is answered with the same chunk, a failed one is tried again.
    """

    PARAMETERS = (
        ParameterSpec("policy", "cem", "how chunks are chosen; read for every plan", choices=(*METHODS, "random")),
        ParameterSpec("candidates", _CEM.candidates, "action sequences that are imagined per iteration", 1, 65_536),
        ParameterSpec("horizon", _CEM.horizon, "control steps of a plan", 1, 1000),
        ParameterSpec("iterations", _CEM.iterations, "rounds of sampling and refitting", 1, 100),
        ParameterSpec("elites", _CEM.elites, "best candidates that the next round is fitted to", 1, 65_536),
        ParameterSpec("keep", _CEM.keep, "elites that compete again in the next round", 0, 65_536),
        ParameterSpec(
            "std", _CEM.std, "standard deviation of the first round, in the actions' range [-1, 1]", 0.0, 10.0
        ),
        ParameterSpec("min_std", _CEM.min_std, "standard deviation never falls below", 0.0, 10.0),
        ParameterSpec("smoothness", _CEM.smoothness, "share of a step's noise that the next step keeps", 0.0, 0.999),
        ParameterSpec("momentum", _CEM.momentum, "share of mean and deviation that a refit keeps", 0.0, 1.0),
        ParameterSpec(
            "answer", _CEM.answer, "the plan: mean of the last elites, or the best candidate", choices=("mean", "best")
        ),
        ParameterSpec("colour", _ICEM.colour, "icem: exponent of the noise's power spectrum, 0 is white", 0.0, 10.0),
        ParameterSpec("shrink", _ICEM.shrink, "icem: factor by which candidates fall from round to round", 1.0, 100.0),
        ParameterSpec(
            "temperature", _MPPI.temperature, "mppi: of the weights, in standard deviations of the scores", 1e-6, 1e6
        ),
        ParameterSpec("mppi_std", _MPPI.std, "mppi: standard deviation of all rounds, in place of std", 0.0, 10.0),
        ParameterSpec("budget_ms", _CEM.budget_ms, "no round is begun that would end later; 0: no limit", 0.0, 1e6),
        ParameterSpec("seed", _CEM.seed, "of the sampling; episode and step are mixed in", 0, 2**31 - 1),
        ParameterSpec("show_plan", True, "ask for the imagined frames of the chosen plan"),
        ParameterSpec("service_timeout", 60.0, "seconds that an answer of the world model may take", 0.1, 3600.0),
    )

    def __init__(self, **options: Any) -> None:
        super().__init__("planner", **options)
        self._change = threading.Condition()  # guards what the callbacks and the worker share
        self._status: RobotStatus | None = None
        self._request: RobotStatus | None = None
        self._request_time = 0.0
        self._stopping = False
        self._begun = 0  # episodes that were seen to begin; a robot that counts anew uses their numbers again
        self._cancelled: set[int] = set()  # episodes
        self._score = math.nan
        self._worker: threading.Thread | None = None
        self._sent: ActionChunk | None = None
        self._plan_id = 0
        self._replan_ms: list[float] = []
        self._problem = ""
        self._goals: ActionServer | None = None

    # -- lifecycle ---------------------------------------------------------------------------------------------------

    def configure(self) -> None:
        """Make the clients, the action server and the topics."""
        self._policy()  # tells at once if its parameters do not fit together
        self._chunk_out = self.create_lifecycle_publisher(ActionChunk, "action_chunk", qos.COMMAND)
        self._plan_out = self.create_lifecycle_publisher(ImaginedPlan, "imagined_plan", qos.COMMAND)
        statuses, answers, goals = MutuallyExclusiveCallbackGroup(), ReentrantCallbackGroup(), ReentrantCallbackGroup()
        self.create_subscription(RobotStatus, "status", self._on_status, qos.STATUS, callback_group=statuses)
        self._imagine = self.create_client(Imagine, "imagine", callback_group=answers)
        self._reset = self.create_client(ResetEpisode, "reset", callback_group=answers)
        self._goals = ActionServer(
            self,
            Plan,
            "follow_instruction",
            self._follow,
            callback_group=goals,
            goal_callback=lambda _: GoalResponse.ACCEPT if self.active else GoalResponse.REJECT,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )

    def activate(self) -> None:
        """Start the thread that plans."""
        self._stopping = False
        self._worker = threading.Thread(target=self._work, name="planning")
        self._worker.start()

    def deactivate(self) -> None:
        """Stop the thread that plans."""
        with self._change:
            self._stopping = True
            self._change.notify_all()
        if self._worker is not None:
            self._worker.join()
            self._worker = None

    def release(self) -> None:
        """Destroy the action server."""
        if self._goals is not None:
            self._goals.destroy()
            self._goals = None

    def health(self) -> Health:
        """Plans so far, and what went wrong last."""
        with self._change:
            values: dict[str, Any] = {"policy": self.value("policy"), "plans": len(self._replan_ms)}
            if self._replan_ms:
                values["replan_ms_median"] = f"{float(np.median(self._replan_ms)):.1f}"
            return Health(ERROR if self._problem else OK, self._problem or "running", values)

    # -- requests ----------------------------------------------------------------------------------------------------

    def _on_status(self, message: RobotStatus) -> None:
        with self._change:
            before = self._status
            anew = before is not None and _counts_anew(message, before)
            if anew:  # what is known of an episode of this number is of another one
                self._cancelled.clear()
                self._sent = None
            if anew or before is None or message.episode != before.episode:
                self._begun += 1
                self._score = math.nan
            self._status = message
            self._request = message if message.waiting and not message.done else None
            self._request_time = time.perf_counter()
            self._change.notify_all()

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._stopping or self._request is not None)
                if self._stopping:
                    return
                request, since, begun = self._request, self._request_time, self._begun
                self._request = None
                cancelled = request is None or request.episode in self._cancelled
            if request is None or cancelled:
                continue
            problem = ""
            try:
                self._serve(request, since, begun)
            except RoboAlignError as error:
                problem = str(error)
            except Exception as error:  # otherwise the thread would end, and nobody would know why nothing is planned
                problem = f"{type(error).__name__}: {error}"
            if not self._stopping:
                self._complain(problem)

    def _serve(self, request: RobotStatus, since: float, begun: int) -> None:
        key = _key(request)
        previous = self._sent
        if previous is not None and previous.header.stamp == request.header.stamp:
            self._chunk_out.publish(previous)  # the robot repeats itself, so the chunk got lost
            return
        choice = self._policy().choose(
            lambda candidates: self._evaluate(candidates, request),
            int(request.action_dim),
            (self.value("seed"), key.episode, key.step),
            _left_over(previous, key),
        )
        replan_ms = (time.perf_counter() - since) * 1e3
        frames = self._show(choice, request)
        self._plan_id = max(self._plan_id + 1, time.time_ns())  # rises across restarts of this node, too
        chunk = Chunk(choice.actions, step=key.step, episode=key.episode, plan_id=self._plan_id)
        message = chunk_to_message(chunk, request.header.stamp)
        with self._change:
            if self._stopping or self._begun != begun or key.episode in self._cancelled:
                return
            self._replan_ms.append(replan_ms)
            self._score = math.nan if choice.score is None else choice.score
            self._sent = message
        self._plan_out.publish(self._imagined_plan(message, choice, frames, replan_ms))
        self._chunk_out.publish(message)

    # -- the world model ---------------------------------------------------------------------------------------------

    def _evaluate(self, candidates: npt.NDArray[np.float32], request: RobotStatus) -> npt.NDArray[np.float32]:
        return np.array(self._ask(candidates, request, return_frames=False).scores, np.float32)

    def _show(self, choice: Choice, request: RobotStatus) -> list[Any]:
        if choice.score is None or not self.value("show_plan"):
            return []
        return list(self._ask(choice.actions[None], request, return_frames=True).frames)

    def _ask(
        self, candidates: npt.NDArray[np.float32], status: RobotStatus, *, return_frames: bool
    ) -> Imagine.Response:
        request = candidates_to_request(np.asarray(candidates, np.float32))
        request.episode, request.step, request.instruction = status.episode, status.step, status.instruction
        request.return_frames = return_frames
        response = call(self._imagine, request, self.value("service_timeout"), self._why_give_up)
        if not response.ok:
            raise RoboAlignError(f"imagine: {response.message}")
        return response

    def _why_give_up(self) -> str | None:
        if self._stopping:
            return "the planner is stopping"
        return None

    # -- the action --------------------------------------------------------------------------------------------------

    def _follow(self, goal: ServerGoalHandle) -> Plan.Result:
        result = Plan.Result()
        reset = ResetEpisode.Request(seed=goal.request.seed, instruction=goal.request.instruction)
        before = self._status
        try:
            answer = call(self._reset, reset, self.value("service_timeout"), self._why_give_up)
            if not answer.ok:
                raise RoboAlignError(answer.message)
        except RoboAlignError as error:
            return _aborted(goal, result, str(error))
        result.episode = answer.episode
        return self._until_over(goal, result, before)

    def _until_over(self, goal: ServerGoalHandle, result: Plan.Result, before: RobotStatus | None) -> Plan.Result:
        """Report until the episode is over; ``before``: the newest status before its reset, whatever its number."""
        begun: int | None = None
        reported: StepKey | None = None
        while True:
            with self._change:
                self._change.wait(_POLL)
                status, score, newest, stopping = self._status, self._score, self._begun, self._stopping
                cancelled = goal.is_cancel_requested
                if cancelled and begun in (None, newest):
                    self._cancelled.add(result.episode)
            if cancelled:
                result.message = "cancelled"
                goal.canceled()
                return result
            if stopping:
                return _aborted(goal, result, "the planner is stopping")
            if status is None or (before is not None and status.header.stamp == before.header.stamp):
                continue
            if begun is None and status.episode < result.episode:
                continue
            if begun is None and status.episode == result.episode:
                begun = newest
            if begun != newest:
                return _aborted(goal, result, "another episode was started")
            if _key(status) == reported:
                continue
            reported = _key(status)
            result.steps, result.success = status.step, status.success
            goal.publish_feedback(Plan.Feedback(step=status.step, score=score))
            if status.done:
                result.message = "" if status.success else "the episode was over before the task was reached"
                goal.succeed()
                return result

    # -- inside ------------------------------------------------------------------------------------------------------

    def _policy(self) -> Policy:
        if self.value("policy") == "random":
            return RandomPolicy(self.value("horizon"))
        method = METHODS[self.value("policy")]
        values = {field.name: self.value(field.name) for field in fields(method)}
        return SearchPolicy(method(**values | ({"std": self.value("mppi_std")} if method is MPPIConfig else {})))

    def _imagined_plan(self, chunk: ActionChunk, choice: Choice, frames: list[Any], replan_ms: float) -> ImaginedPlan:
        message = ImaginedPlan(policy=self.value("policy"), chunk=chunk, frames=frames, replan_ms=replan_ms)
        message.header = chunk.header
        message.candidate_scores = to_float_array(choice.candidate_scores)
        if choice.score is not None:
            message.scores = Scores(header=chunk.header, names=["objective"], values=[choice.score], total=choice.score)
        return message

    def _complain(self, problem: str) -> None:
        if problem and problem != self._problem:  # once, not with every repetition of the request
            self.get_logger().error(problem)
        with self._change:
            self._problem = problem


def _key(status: RobotStatus) -> StepKey:
    return StepKey(int(status.episode), int(status.step))


def _counts_anew(status: RobotStatus, before: RobotStatus) -> bool:
    """Whether the robot went back although time went on: another robot process has taken over."""
    later = time_to_ns(status.header.stamp) > time_to_ns(before.header.stamp)
    return later and not _key(status).after(_key(before))


def _aborted(goal: ServerGoalHandle, result: Plan.Result, message: str) -> Plan.Result:
    result.message = message
    goal.abort()
    return result


def _left_over(previous: ActionChunk | None, key: StepKey) -> npt.NDArray[np.float32] | None:
    """What the robot has not executed of the plan before, if that belongs to the same episode."""
    if previous is None or previous.episode != key.episode:
        return None
    actions = np.array(previous.actions, np.float32).reshape(previous.horizon, previous.action_dim)
    return actions[key.step - previous.step :]


def main() -> int:
    """Entry point."""
    return run_node(PlannerNode, threads=4)


if __name__ == "__main__":
    sys.exit(main())
