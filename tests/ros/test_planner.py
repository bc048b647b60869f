"""The node planner, alone and in the closed loop of three nodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("roboalign_interfaces", reason="needs ros2_ws/src/roboalign_interfaces to be built")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.action import ActionClient
from roboalign_interfaces.action import Plan
from roboalign_interfaces.msg import ActionChunk, ImaginedPlan, RobotStatus
from roboalign_interfaces.srv import Imagine, ResetEpisode
from ros_support import DotImagination, Loop, load_dots, make_dot_env, wait_until

from roboalign_core.planning import CEMConfig
from roboalign_nodes import qos
from roboalign_nodes.conversions import message_to_chunk, message_to_image, ns_to_time, request_to_candidates
from roboalign_nodes.planner import PlannerNode
from roboalign_nodes.policies import RandomPolicy, SearchPolicy
from roboalign_nodes.robot_sim import RobotSimNode
from roboalign_nodes.world_model import WorldModelNode

SMALL: dict[str, Any] = {"candidates": 32, "horizon": 6, "iterations": 2, "elites": 4, "diagnostics_period": 0.1}


class Bench:
    """A planner, a robot that only says where it is, and a world model that likes to go right."""

    def __init__(self, loop: Loop, **parameters: Any) -> None:
        self.loop = loop
        self.requests: list[Imagine.Request] = []
        self.trouble: list[str] = []  # error messages for the next answers
        self.meanwhile: list[Callable[[], None]] = []  # called before the next answers
        self.episode = 1  # that a reset begins
        self.resets: list[ResetEpisode.Request] = []
        loop.probe.create_service(Imagine, "imagine", self._imagine)
        loop.probe.create_service(ResetEpisode, "reset", self._reset)
        self.chunks = loop.listen(ActionChunk, "action_chunk", qos.COMMAND)
        self.plans = loop.listen(ImaginedPlan, "imagined_plan", qos.COMMAND)
        self.diagnostics = loop.listen(DiagnosticArray, "/diagnostics", 10)
        self.node = loop.add(PlannerNode, **{**SMALL, **parameters})
        self._statuses = loop.probe.create_publisher(RobotStatus, "status", qos.STATUS)
        wait_until(lambda: self._statuses.get_subscription_count() == 1, "the planner's subscription")
        wait_until(lambda: loop.probe.count_publishers("action_chunk") == 1, "the planner's publisher")

    def say(self, step: int, episode: int = 1, waiting: bool = True, done: bool = False, later: bool = False) -> None:
        status = RobotStatus(episode=episode, step=step, waiting=waiting, done=done, instruction="go", action_dim=3)
        status.header.stamp = ns_to_time(episode * 1000 + step + later * 1_000_000)
        self._statuses.publish(status)

    def health(self) -> DiagnosticStatus:
        return self.diagnostics[-1].status[0]

    def _imagine(self, request: Imagine.Request, response: Imagine.Response) -> Imagine.Response:
        self.requests.append(request)
        if self.meanwhile:
            self.meanwhile.pop(0)()
        if self.trouble:
            response.message = self.trouble.pop(0)
            return response
        response.ok = True
        response.scores = [float(value) for value in request_to_candidates(request)[:, :, 0].sum(axis=1)]
        return response

    def _reset(self, request: ResetEpisode.Request, response: ResetEpisode.Response) -> ResetEpisode.Response:
        self.resets.append(request)
        response.ok, response.episode = True, self.episode
        return response


def test_a_waiting_robot_gets_a_good_chunk(loop: Loop) -> None:
    bench = Bench(loop)
    bench.say(0)
    wait_until(lambda: bench.chunks and bench.plans, "a chunk")
    chunk = message_to_chunk(bench.chunks[0])
    assert (chunk.episode, chunk.step, chunk.actions.shape) == (1, 0, (6, 3))
    assert chunk.actions[:, 0].mean() > 0.5
    assert bench.chunks[0].header.stamp == ns_to_time(1000)
    plan = bench.plans[0]
    assert plan.chunk == bench.chunks[0]
    assert (plan.policy, list(plan.scores.names), len(plan.candidate_scores)) == ("cem", ["objective"], 32)
    assert plan.scores.total == pytest.approx(chunk.actions[:, 0].sum(), abs=1e-4)
    assert plan.replan_ms > 0
    contexts = {(request.episode, request.step, request.instruction) for request in bench.requests}
    assert contexts == {(1, 0, "go")}
    assert [request.return_frames for request in bench.requests] == [False, False, False, True]
    bench.say(1, waiting=False)
    bench.say(4)
    wait_until(lambda: len(bench.chunks) == 2, "the next chunk")
    assert bench.chunks[1].step == 4
    assert bench.chunks[1].plan_id > bench.chunks[0].plan_id


def test_a_repeated_request_gets_the_same_chunk_again(loop: Loop) -> None:
    bench = Bench(loop)
    bench.say(0)
    wait_until(lambda: bench.chunks, "a chunk")
    asked = len(bench.requests)
    bench.say(0)
    wait_until(lambda: len(bench.chunks) == 2, "the chunk again")
    assert bench.chunks[0] == bench.chunks[1]
    bench.say(4)  # whatever was said before has arrived once the answer to this is there
    wait_until(lambda: len(bench.plans) == 2, "the next plan")
    assert [plan.chunk.step for plan in bench.plans] == [0, 4]
    assert [request.step for request in bench.requests[:asked]] == [0] * asked
    assert all(request.step == 4 for request in bench.requests[asked:])


def test_a_failed_plan_is_told_and_tried_again(loop: Loop) -> None:
    bench = Bench(loop)
    bench.trouble = ["camera: no frame"]
    bench.say(0)
    wait_until(lambda: bench.diagnostics and "imagine: camera: no frame" in bench.health().message, "the error")
    assert bench.health().level == DiagnosticStatus.ERROR
    assert not bench.chunks
    bench.say(0)
    wait_until(lambda: bench.chunks, "a chunk")
    wait_until(lambda: bench.health().level == DiagnosticStatus.OK, "good health")


def test_the_random_policy_asks_nobody_and_repeats_itself_by_seed(loop: Loop) -> None:
    bench = Bench(loop, policy="random", seed=5)
    bench.say(0)
    wait_until(lambda: bench.chunks and bench.plans, "a chunk")
    assert bench.requests == []
    assert (bench.plans[0].policy, list(bench.plans[0].scores.names)) == ("random", [])
    expected = RandomPolicy(6).choose(lambda candidates: candidates, 3, (5, 1, 0), None).actions
    np.testing.assert_array_equal(message_to_chunk(bench.chunks[0]).actions, expected)


def test_a_done_or_busy_robot_gets_nothing(loop: Loop) -> None:
    bench = Bench(loop)
    bench.say(3, waiting=False)
    bench.say(4, waiting=False, done=True)
    bench.say(0, episode=2)
    wait_until(lambda: bench.chunks, "a chunk")
    assert [(chunk.episode, chunk.step) for chunk in bench.chunks] == [(2, 0)]


def test_a_plan_that_a_new_episode_overtakes_is_not_sent(loop: Loop) -> None:
    bench = Bench(loop)

    def count_anew() -> None:
        bench.say(0, later=True)
        wait_until(lambda: bench.node._status.header.stamp == ns_to_time(1_001_000), "the status")

    bench.meanwhile = [count_anew]
    bench.say(0)
    wait_until(lambda: bench.chunks, "a chunk")
    assert bench.chunks[0].header.stamp == ns_to_time(1_001_000)


def test_stopping_while_the_world_model_is_silent(domain: int) -> None:
    with Loop(domain) as loop:
        node = loop.add(PlannerNode, **SMALL)
        statuses = loop.probe.create_publisher(RobotStatus, "status", qos.STATUS)
        statuses.publish(RobotStatus(episode=1, waiting=True, action_dim=3))
        wait_until(lambda: node._status is not None, "the status")
    assert node._worker is None  # leaving the block did not hang


def test_policies_repeat_themselves_by_seed() -> None:
    def to_the_right(candidates: np.ndarray) -> np.ndarray:
        return np.asarray(candidates[:, :, 0].sum(axis=1))

    policy = SearchPolicy(CEMConfig(candidates=16, horizon=4, iterations=2, elites=4))
    left_over = np.ones((2, 3), np.float32)
    choices = [policy.choose(to_the_right, 3, seed, left_over) for seed in ((1, 1, 0), (1, 1, 0), (1, 1, 4))]
    np.testing.assert_array_equal(choices[0].actions, choices[1].actions)
    assert (choices[0].actions != choices[2].actions).any()
    assert choices[0].score == pytest.approx(float(choices[0].actions[:, 0].sum()))


# -- the closed loop ---------------------------------------------------------------------------------------------------


@pytest.fixture
def closed(loop: Loop) -> tuple[Loop, Any]:
    loop.add(partial(RobotSimNode, make_dot_env), repeat_period=0.2)
    loop.add(partial(WorldModelNode, load_dots))
    planner = loop.add(PlannerNode, **SMALL)
    return loop, planner


def run(loop: Loop, statuses: list[Any], **request: Any) -> RobotStatus:
    answer = loop.call(ResetEpisode, "reset", ResetEpisode.Request(**request))
    assert answer.ok, answer.message
    wait_until(
        lambda: statuses and statuses[-1].episode == answer.episode and statuses[-1].done, "the end of the episode"
    )
    return statuses[-1]


def test_planning_reaches_the_goal_and_imagination_matches(closed: tuple[Loop, Any]) -> None:
    loop, _ = closed
    statuses = loop.listen(RobotStatus, "status", qos.STATUS)
    plans = loop.listen(ImaginedPlan, "imagined_plan", qos.COMMAND)
    for seed, instruction in enumerate(("go right", "go left", "go right")):
        status = run(loop, statuses, seed=seed, instruction=instruction)
        assert status.success
        assert status.step <= 8
    wait_until(lambda: len(plans) >= 6, "two plans per episode")
    for plan in plans:
        assert len(plan.frames) == 6
        assert message_to_image(plan.frames[0]).shape == (64, 64, 3)


def test_random_actions_go_through_the_same_nodes(loop: Loop) -> None:
    loop.add(partial(RobotSimNode, make_dot_env))
    loop.add(PlannerNode, policy="random", **SMALL)
    statuses = loop.listen(RobotStatus, "status", qos.STATUS)
    ends = [run(loop, statuses, seed=seed, instruction="go right") for seed in range(4)]
    assert sum(status.success for status in ends) <= 1
    assert any(status.step == 30 for status in ends)


class Goals:
    """A client of the action follow_instruction."""

    def __init__(self, loop: Loop) -> None:
        self._client = ActionClient(loop.probe, Plan, "follow_instruction")
        self.feedback: list[Any] = []
        wait_until(self._client.server_is_ready, "the action server")

    def send(self, **fields: Any) -> Any:
        """A goal handle."""
        future = self._client.send_goal_async(
            Plan.Goal(**fields), feedback_callback=lambda message: self.feedback.append(message.feedback)
        )
        return self._result(future.done, future.result, "the goal to be accepted")

    def result(self, handle: Any) -> Any:
        future = handle.get_result_async()
        return self._result(future.done, future.result, "the result").result

    def close(self) -> None:
        self._client.destroy()

    def _result(self, done: Callable[[], bool], result: Callable[[], Any], what: str) -> Any:
        wait_until(done, what)
        return result()


def test_the_action_follows_an_instruction(closed: tuple[Loop, Any]) -> None:
    goals = Goals(closed[0])
    result = goals.result(goals.send(instruction="go left", seed=2))
    assert (result.success, result.episode, result.message) == (True, 1, "")
    assert 1 <= result.steps <= 8
    assert goals.feedback
    assert all(feedback.step <= result.steps for feedback in goals.feedback)
    refused = goals.result(goals.send(instruction="make coffee", seed=2))
    assert not refused.success
    assert "make coffee" in refused.message
    goals.close()


def test_the_action_is_cancelled(loop: Loop) -> None:
    loop.add(partial(RobotSimNode, make_dot_env), max_steps=100_000, repeat_period=0.1)
    loop.add(partial(WorldModelNode, lambda *_: Backwards()))
    loop.add(PlannerNode, **SMALL)
    statuses = loop.listen(RobotStatus, "status", qos.STATUS)
    goals = Goals(loop)
    handle = goals.send(instruction="go right", seed=0)
    wait_until(lambda: statuses and statuses[-1].step > 4, "the loop to run")
    handle.cancel_goal_async()
    result = goals.result(handle)
    assert (result.success, result.message) == (False, "cancelled")
    count = len(statuses)
    wait_until(lambda: len(statuses) >= count + 5, "repeated statuses")
    assert len({status.step for status in statuses[-4:]}) == 1  # the robot waits, and gets nothing more
    goals.close()


def begin(bench: Bench, goals: Goals) -> Any:
    """A goal after its reset; what the robot says from now on is of the new episode."""
    count = len(bench.resets)
    handle = goals.send(instruction="go")
    wait_until(lambda: len(bench.resets) > count, "the reset")
    return handle


def test_a_cancelled_episode_is_not_one_of_a_robot_that_counts_anew(loop: Loop) -> None:
    bench, goals = Bench(loop), Goals(loop)
    handle = begin(bench, goals)
    bench.say(0)
    wait_until(lambda: bench.chunks and goals.feedback, "the goal's first chunk")
    handle.cancel_goal_async()
    assert goals.result(handle).message == "cancelled"
    bench.say(0, later=True)
    wait_until(lambda: len(bench.chunks) == 2, "a chunk for the new episode 1")
    assert bench.chunks[1].header.stamp == ns_to_time(1_001_000)
    goals.close()


def test_a_goal_ends_when_the_robot_counts_anew(loop: Loop) -> None:
    bench, goals = Bench(loop), Goals(loop)
    bench.episode = 5
    handle = begin(bench, goals)
    bench.say(2, episode=5)
    wait_until(lambda: goals.feedback, "feedback")
    bench.say(0, episode=1, later=True)
    result = goals.result(handle)
    assert (result.success, result.episode, result.steps) == (False, 5, 2)
    assert result.message == "another episode was started"
    goals.close()


@pytest.mark.parametrize("earlier", [1, 5])
def test_the_first_goal_after_the_robot_counts_anew(loop: Loop, earlier: int) -> None:
    bench, goals = Bench(loop), Goals(loop)
    bench.say(3, episode=earlier, waiting=False, done=True)
    wait_until(lambda: bench.node._status is not None, "the status of the robot before")
    handle = begin(bench, goals)
    count = len(bench.diagnostics)
    wait_until(lambda: len(bench.diagnostics) > count + 4, "time to pass")
    bench.say(0, later=True)
    wait_until(lambda: goals.feedback, "feedback")
    bench.say(4, waiting=False, done=True, later=True)
    result = goals.result(handle)
    assert (result.message, result.steps) == ("the episode was over before the task was reached", 4)
    assert goals.feedback[0].step == 0
    goals.close()


def test_an_episode_begins_without_a_score(loop: Loop) -> None:
    bench, goals = Bench(loop), Goals(loop)
    handle = begin(bench, goals)
    bench.say(0)
    wait_until(lambda: bench.chunks, "a chunk")
    bench.say(4, waiting=False, done=True)
    goals.result(handle)
    wait_until(lambda: goals.feedback and goals.feedback[-1].step == 4, "the last feedback")
    assert goals.feedback[-1].score > 0
    bench.episode = 2
    handle = begin(bench, goals)
    bench.say(0, episode=2, waiting=False)
    wait_until(lambda: goals.feedback[-1].step == 0, "the first feedback of the next goal")
    assert math.isnan(goals.feedback[-1].score)
    bench.say(1, episode=2, waiting=False, done=True)
    goals.result(handle)
    goals.close()


class Backwards(DotImagination):
    """Prefers the wrong direction, so that an episode never ends."""

    def score(self, actions: np.ndarray) -> np.ndarray:
        return -super().score(actions)
