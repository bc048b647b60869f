"""The demo: three real processes, an episode each, a report, and nothing left behind however it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("roboalign_interfaces", reason="needs ros2_ws/src/roboalign_interfaces to be built")
pytest.importorskip("matplotlib", reason="needs the extra viz")

from roboalign_interfaces.msg import ImaginedPlan
from ros_support import LIMIT, Loop, load_dots, make_dot_env, wait_until

from roboalign_core.cli import compose
from roboalign_core.configs import config_dir
from roboalign_core.errors import RoboAlignError
from roboalign_core.planning import ObjectiveConfig
from roboalign_core.planning.objective import PAST
from roboalign_nodes import demo, qos
from roboalign_nodes.demo import NODE_MODULES, DemoConfig, run
from roboalign_nodes.middleware import SHARED_MEMORY, _mapped, clean_shared_memory, mapped_here, wait_until_unmapped
from roboalign_nodes.planner import PlannerNode
from roboalign_nodes.processes import NodeCommand, NodeGroup
from roboalign_nodes.robot_sim import RobotSimNode
from roboalign_nodes.world_model import WorldModelNode

DOTS = {**NODE_MODULES, "robot_sim": "dot_robot_sim", "world_model": "dot_world_model"}
SMALL: dict[str, Any] = {"max_steps": 12, "candidates": 32, "horizon": 6, "iterations": 2}


MARK = "ROBOALIGN_TEST_MARK"


def nodes() -> dict[int, str]:
    """Nodes that run on this machine and are ours: process ids and command lines."""
    return {pid: line for pid, line in _ours() if "--ros-args" in line}


def _ours() -> Iterator[tuple[int, str]]:
    """Processes that this one has started, and theirs; a demo may be among them."""
    mark = f"{MARK}={os.getpid()}".encode()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_bytes().split(b"\0") and path.name != str(os.getpid()):
                yield int(path.name), (path / "cmdline").read_text().replace("\0", " ")
        except OSError:  # ended in the meantime, or somebody else's
            continue


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(MARK, str(os.getpid()))
    before = dict(os.environ)
    clean_shared_memory()
    alone = not others_use_shared_memory()
    mapped = mapped_here()
    yield
    os.environ.clear()
    os.environ.update(before)
    stayed = sorted(nodes().values())
    kill_ours()  # so that the next test starts afresh
    gc.collect()
    new = wait_until_unmapped(known=mapped)
    left = clean_shared_memory()
    assert stayed == [], f"{len(stayed)} nodes still ran: {[line[:100] for line in stayed]}"
    assert not new, f"still mapped by this process: {sorted(new)}"
    if alone and not others_use_shared_memory():  # otherwise it may be theirs
        assert left == [], f"{len(left)} segments"


def kill_ours() -> None:
    while found := list(_ours()):
        for pid, _ in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def others_use_shared_memory() -> bool:
    """Whether other processes on this machine use Fast DDS, too."""
    return "/dev/shm/fast" in _mapped(SHARED_MEMORY, others_only=True)


def config(out: Path, **changes: Any) -> DemoConfig:
    return DemoConfig(out=str(out), **{**SMALL, "episodes": 2, "random_episodes": 2, **changes})


@pytest.mark.slow
def test_demo_from_start_to_report(tmp_path: Path) -> None:
    results = run(config(tmp_path, episodes=3), DOTS)
    assert (results["success_rate"], results["episodes"]) == (1.0, 3)
    assert results["random_success_rate"] <= 0.5
    detail = results["detail"]
    shown = sum(row["steps"] + 1 for row in (*detail["planned"], *detail["random"]))
    for dropped in (results["frames_dropped"], detail["recorder_frames_dropped"]):
        assert 0 <= dropped < shown  # sensor data: a busy machine may lose some
    assert 0 < results["replan_ms_median"] < 1000 * max(row["seconds"] for row in detail["planned"])
    assert [row["instruction"] for row in detail["planned"]] == ["go left", "go right", "go left"]
    assert [row["seed"] for row in detail["planned"]] == [1000, 1001, 1002]
    assert [row["planned_episodes"] for row in detail["instructions"]] == [2, 1]
    first = detail["look_ahead"][0]
    assert first["steps_ahead"] == 1
    assert first["frames"] >= 3 - detail["recorder_frames_dropped"]
    assert first["imagined_psnr_db"] > first["copy_psnr_db"] + 10  # the double knows the physics
    page = (tmp_path / "report.html").read_text()
    assert page.count("<video") == 3
    assert page.count("data:image/png") == 3
    assert {path.name for path in (tmp_path / "logs").glob("*.log")} == {f"{name}.log" for name in NODE_MODULES}


@pytest.mark.parametrize(("own", "planned"), [("icem", "icem"), ("random", "cem")])
def test_the_demo_plans_by_the_planners_own_policy(domain: int, tmp_path: Path, own: str, planned: str) -> None:
    with Loop(domain) as loop:  # no fixture: pytest would hold it, and its shared memory, for too long
        loop.add(partial(RobotSimNode, make_dot_env), max_steps=12, repeat_period=0.2, diagnostics_period=0.1)
        loop.add(partial(WorldModelNode, load_dots), diagnostics_period=0.1)
        loop.add(PlannerNode, policy=own, candidates=32, horizon=6, iterations=2, diagnostics_period=0.1)
        plans = loop.listen(ImaginedPlan, "imagined_plan", qos.COMMAND)
        first, second, _ = demo._drive(domain, lambda: None, config(tmp_path, episodes=1, random_episodes=1))
    assert [record.policy for record in (*first, *second)] == [planned, "random"]
    for record in (*first, *second):
        assert {plan.policy for plan in plans if plan.chunk.episode == record.episode} == {record.policy}


@pytest.mark.slow
def test_a_node_that_is_killed_ends_the_demo(tmp_path: Path) -> None:
    def kill() -> None:
        victim = find_running("dot_world_model", tmp_path)
        logs = [tmp_path / "logs" / f"{name}.log" for name in ("planner", "world_model")]  # neither waits for the other
        wait_until(lambda: all("active" in log.read_text() for log in logs), "planner and world model")
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(RoboAlignError, match=r"(?s)node world_model: .*killed by SIGKILL.*world_model.log:\n.*active"):
        run(config(tmp_path, episodes=10_000), DOTS)
    killer.join()
    assert not (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_a_node_that_does_not_start_is_named_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(
        RoboAlignError, match=r"(?s)node world_model: .*exit code 2.*model 'nowhere': expected a bundled"
    ):
        run(config(tmp_path, world_model="nowhere"), {**DOTS, "world_model": NODE_MODULES["world_model"]})


@pytest.mark.slow
def test_an_unknown_instruction_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RoboAlignError, match=r"reset: instruction: expected one of .*found 'make coffee'"):
        run(config(tmp_path, instructions=["make coffee"]), DOTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sign", "log", "text"),
    [
        (signal.SIGINT, "planner", "active"),
        (signal.SIGTERM, "planner", "active"),
        (signal.SIGINT, "robot_sim", ""),  # while everything starts
        (signal.SIGKILL, "planner", "active"),  # leaves it to the nodes to end
    ],
)
def test_interrupted_from_outside(tmp_path: Path, sign: signal.Signals, log: str, text: str) -> None:
    program = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # as a shell without job control starts what has an &
        "from test_demo import DOTS, config, run\n"
        "from pathlib import Path\n"
        "try:\n"
        f"    run(config(Path({str(tmp_path)!r}), episodes=10_000), DOTS)\n"
        "except KeyboardInterrupt:\n"
        "    raise SystemExit(130)\n"
    )
    demo = subprocess.Popen([sys.executable, "-c", program])
    file = tmp_path / "logs" / f"{log}.log"
    try:
        wait_until(lambda: file.exists() and text in file.read_text(), f"the node {log}", 2.5 * LIMIT)
        demo.send_signal(sign)
        assert demo.wait(2 * LIMIT) == (-sign if sign == signal.SIGKILL else 130)
    finally:
        demo.kill()
        demo.wait()
    if sign == signal.SIGKILL:
        wait_until(lambda: not nodes(), "the nodes to end")
        clean_shared_memory()  # what the demo itself left; the next one does it, too


def test_a_stubborn_node_is_killed_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "roboalign_nodes.processes._GRACE", ((signal.SIGINT, 0.3), (signal.SIGTERM, 0.3), (signal.SIGKILL, 5))
    )
    program = (
        "import signal, time\n"
        "for s in (2, 15): signal.signal(s, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\n"
        "time.sleep(60)\n"
    )
    command = NodeCommand("stubborn", (sys.executable, "-c", program, "--ros-args"))
    with NodeGroup([command], {}, tmp_path) as group:
        wait_until(lambda: "deaf" in group.log_path("stubborn").read_text(), "the process")
        pid = group.pids()["stubborn"]
        group.check()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("state", ["starts", "waits", "is deaf"])
def test_a_node_ends_itself_when_its_parent_is_gone(tmp_path: Path, state: str) -> None:
    mark = tmp_path / "mark"
    node = (
        "import functools, pathlib, signal, sys, time\n"
        "from ros_support import make_dot_env\n"
        "from roboalign_nodes.lifecycle import run_node\n"
        "from roboalign_nodes.robot_sim import RobotSimNode\n"
        "def block():\n"
        f"    if {state == 'is deaf'}: signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"    pathlib.Path({str(mark)!r}).touch()\n"
        "    time.sleep(600)\n"
        f"sys.exit(run_node(functools.partial(RobotSimNode, make_dot_env) if {state == 'starts'} else block))\n"
    )
    program = (  # the parent: gone before the node has had a look, or while the node is being made
        "import os, pathlib, subprocess, sys, time\n"
        "from roboalign_nodes.processes import PARENT_VARIABLE\n"
        "env = {**os.environ, PARENT_VARIABLE: str(os.getpid())}\n"
        f"subprocess.Popen([sys.executable, '-c', {node!r}, '--ros-args'], env=env, start_new_session=True)\n"
        f"while {state != 'starts'} and not pathlib.Path({str(mark)!r}).exists(): time.sleep(0.01)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=2 * LIMIT)
    assert state == "starts" or len(nodes()) == 1
    wait_until(lambda: not nodes(), "the orphan to end")
    clean_shared_memory()  # of the deaf one; the next demo does it, too


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"episodes": 0}, "episodes: expected at least 1"),
        ({"max_steps": 0}, "max_steps: expected at least 1"),
        ({"random_episodes": -1}, "random_episodes"),
        ({"seed": -1}, "seed"),
        ({"rate_hz": -1.0}, "rate_hz"),
        ({"fps": 0.0}, "fps > 0"),
        ({"objective": {"name": "fame"}}, "objective: expected one of progress, student, both, found 'fame'"),
        ({"objective": {"name": "student", "weights": {"physics_adherence": 1.0}}}, "expected the usual weights"),
        ({"domain_id": 300}, "domain_id: expected 0 to 101"),
        ({"instructions": ["go left", ""]}, "found an empty one"),
        ({"params": "/nowhere"}, "parameter file /nowhere/robot_sim.yaml, found none"),
    ],
)
def test_bad_settings_start_nothing(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(RoboAlignError, match=reason):
        run(config(tmp_path / "out", **changes), DOTS)
    assert not (tmp_path / "out").exists()


def test_yaml_mirrors_the_dataclass() -> None:
    settings = yaml.safe_load((config_dir() / "demo.yaml").read_text())
    assert settings.pop("defaults") == ["_self_", {"objective": None}]
    assert {**settings, "objective": None} == dataclasses.asdict(DemoConfig())


def test_an_objective_is_handed_to_the_world_model() -> None:
    assert demo._overrides(compose(demo.VERB, []))["world_model"] == {"model": "tabletop", "objective": "both"}
    lift = compose(demo.VERB, ["env=robosuite_lift"])
    assert demo._overrides(lift)["world_model"] == {"model": "robosuite_lift", "objective": "progress"}
    for own in ("world_model=runs/model", "params=my/params", "env=other"):
        assert "objective" not in str(demo._overrides(compose(demo.VERB, [own])))
    chosen = compose(demo.VERB, ["objective=both", "objective.reward_model=runs/reward", "objective.worth=1"])
    assert demo._overrides(chosen)["world_model"] == {
        "model": "tabletop",
        "objective": "both",
        "progress_model": "",
        "reward_model": "runs/reward",
        "past": PAST,
        "finishers": ObjectiveConfig("both").finishers,
        "worth": 1.0,
        "finalists": 16,
    }


@pytest.mark.slow
def test_the_command_reports_a_missing_model(tmp_path: Path) -> None:
    pytest.importorskip("mujoco", reason="needs the extra sim")
    arguments = ["demo", "world_model=nowhere", f"out={tmp_path / 'out'}"]
    done = subprocess.run(
        [sys.executable, "-m", "roboalign_core.cli", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "model 'nowhere'" in done.stderr
    assert not (tmp_path / "out" / "results.json").exists()


def find_running(module: str, out: Path) -> int:
    """Process id of a node of this run, once it is there."""
    found: list[int] = []

    def look() -> bool:
        found[:] = [pid for pid, line in nodes().items() if f" {module} --ros-args" in line]
        return bool(found) and (out / "logs" / "planner.log").exists()

    wait_until(look, f"the process {module}")
    return found[0]
