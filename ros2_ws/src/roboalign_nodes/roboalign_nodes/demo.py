"""``roboalign demo``: the closed loop as three processes, from a free ROS domain to a report."""

from __future__ import annotations

import os
import signal
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roboalign_core.configs import config_dir
from roboalign_core.errors import RoboAlignError, require
from roboalign_core.planning import ObjectiveConfig, objective_config
from roboalign_core.verb import Verb
from roboalign_nodes.demo_report import summarise, write_demo_report
from roboalign_nodes.middleware import environment, tidy_shared_memory
from roboalign_nodes.processes import NodeCommand, NodeGroup
from roboalign_nodes.recording import EpisodeRecord

if TYPE_CHECKING:  # needs rclpy, which is asked for when the demo runs
    from roboalign_nodes.driver import LoopDriver

NODE_MODULES = {name: f"roboalign_nodes.{name}" for name in ("robot_sim", "world_model", "planner")}


@dataclass
class DemoConfig:
    """The demo.

    Attributes:
        env: name of the environment.
        world_model: weights of world model and objective: a bundled name or a folder; None: named like the environment.
        objective: what the planner maximises, a node of ``configs/objective/``; None: as ``objectives`` says for the
            environment where its bundled model and the parameter files that ship are used, else as the parameter file
            says.
        objectives: names of objectives, by environment.
        episodes: episodes of the planner, by the policy of its parameter file (cem where that is random); the
            environment's instructions take turns.
        random_episodes: episodes of random actions through the same nodes, on the same scenes.
        seed: of the scenes (episode i has seed + i) and of the planner.
        out: folder for results.json, report.html and the nodes' logs.
        rate_hz: control steps per second; 0: as fast as possible, simulated time waits for the planner.
        max_steps: control steps per episode.
        execute_steps, candidates, horizon, iterations: in place of the values in the nodes' parameter files.
        instructions: what to ask for; empty: whatever the environment knows.
        fps: speed of the report's videos, frames per second.
        open: open the report in a browser.
        domain_id: ROS domain; None: a free one.
        params: folder of the nodes' parameter files; None: the ones that ship.
        startup_timeout: seconds for the nodes to become active.
        stall_timeout: seconds that the loop may stand still.
    """

    env: str = "tabletop"
    world_model: str | None = None
    objective: Any = None
    objectives: dict[str, str] = field(default_factory=lambda: {"tabletop": "both", "robosuite_lift": "progress"})
    episodes: int = 16
    random_episodes: int = 16
    seed: int = 1000
    out: str = "runs/demo"
    rate_hz: float = 0.0
    max_steps: int = 30
    execute_steps: int | None = 3
    candidates: int | None = None
    horizon: int | None = None
    iterations: int | None = None
    instructions: list[str] | None = None
    fps: float = 5.0
    open: bool = False
    domain_id: int | None = None
    params: str | None = None
    startup_timeout: float = 180.0
    stall_timeout: float = 120.0


def run(config: DemoConfig, modules: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run the demo.

    Args:
        config: settings.
        modules: the Python module of each node; the ones that ship, unless a node is replaced.

    Returns:
        The results; ``report.html`` and ``logs/`` are in ``config.out`` by then.

    Raises:
        RoboAlignError: a setting makes no sense, ROS 2 is absent, a node fails, or the loop stands still.
    """
    _check(config)
    out = Path(config.out)
    commands = [NodeCommand(name, _command(name, module, config)) for name, module in (modules or NODE_MODULES).items()]
    with tidy_shared_memory(), _interruptible() as check_interrupted:
        require("rclpy", "ros")
        require("roboalign_interfaces.msg", "ros")
        group = NodeGroup(commands, _node_environment(out), out / "logs")
        with _domain(config.domain_id) as domain_id, _variables(environment(domain_id)), group as nodes:

            def check() -> None:
                check_interrupted()
                nodes.check()

            planned, random, dropped = _drive(domain_id, check, config)
    results = summarise(planned, random, *dropped)
    report = out / "report.html"
    write_demo_report(report, f"Closed loop: {config.env}", results, planned, random, config.fps)
    _show(results, report)
    if config.open:
        webbrowser.open(report.resolve().as_uri())
    return results


def _drive(
    domain_id: int, check: Callable[[], None], config: DemoConfig
) -> tuple[list[EpisodeRecord], list[EpisodeRecord], tuple[int, int]]:
    """Run all episodes; returns planned, random, and the frames that world model and recorder missed."""
    from roboalign_nodes.driver import LoopDriver

    with LoopDriver(domain_id, check) as driver:
        with _status("waiting for the nodes"):
            driver.wait_ready(config.startup_timeout)
        known = config.instructions or driver.instructions()
        own = driver.policy()
        planned = _episodes(driver, "cem" if own == "random" else own, config.episodes, known, config)
        random = _episodes(driver, "random", config.random_episodes, known, config)
        dropped = int(driver.health("world_model")["frames_dropped"])
        return planned, random, (dropped, driver.frames_dropped)


def _episodes(
    driver: LoopDriver, policy: str, count: int, known: Sequence[str], config: DemoConfig
) -> list[EpisodeRecord]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if count == 0:
        return []
    driver.set_policy(policy)
    records: list[EpisodeRecord] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console()) as progress:
        task = progress.add_task(policy, total=count)
        for index in range(count):
            instruction = known[index % len(known)] if known else ""
            progress.update(task, description=f"{policy}: {instruction or 'any instruction'}")
            records.append(driver.run_episode(config.seed + index, instruction, policy, config.stall_timeout))
            reached = sum(record.success for record in records)
            progress.update(task, advance=1, description=f"{policy}: {reached} of {len(records)} reached")
    return records


def _command(name: str, module: str, config: DemoConfig) -> tuple[str, ...]:
    folder = Path(config.params) if config.params else config_dir() / "ros"
    file = folder / f"{name}.yaml"
    if not file.is_file():
        raise RoboAlignError(f"params: expected the parameter file {file}, found none")
    overrides = _overrides(config)[name]
    values = [part for key, value in overrides.items() for part in ("-p", f"{key}:={_yaml(value)}")]
    return (sys.executable, "-m", module, "--ros-args", "--params-file", str(file), *values)


def _overrides(config: DemoConfig) -> dict[str, dict[str, Any]]:
    """Parameters that this run sets, by node; everything else comes from the parameter files."""
    planner = {"candidates": config.candidates, "horizon": config.horizon, "iterations": config.iterations}
    robot: dict[str, Any] = {"env": config.env, "rate_hz": config.rate_hz, "max_steps": config.max_steps}
    robot["execute_steps"] = config.execute_steps
    nodes: dict[str, dict[str, Any]] = {
        "robot_sim": robot,
        "world_model": {"model": config.world_model or config.env, **_objective(config)},
        "planner": {"seed": config.seed, **planner},
    }
    return {name: {key: value for key, value in values.items() if value is not None} for name, values in nodes.items()}


def _objective(config: DemoConfig) -> dict[str, Any]:
    """Parameters of the world model's node that the objective's settings are."""
    bundled = config.world_model is None and config.params is None and config.env in config.objectives
    asked = {"name": config.objectives[config.env]} if config.objective is None and bundled else config.objective
    if asked is None:
        return {}
    found = objective_config(asked)
    if found.weights != ObjectiveConfig(found.name).weights:
        raise RoboAlignError(
            f"demo objective: expected the usual weights, which are no parameter of the node, found {found.weights}"
        )
    named = {key: getattr(found, key) for key in asked if key not in ("name", "weights")}
    return {"objective": found.name, **named}


def _yaml(value: Any) -> str:
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(float(value)) if isinstance(value, float) else str(value)


def _node_environment(out: Path) -> dict[str, str]:
    return {
        "PYTHONUNBUFFERED": "1",
        "RCUTILS_COLORIZED_OUTPUT": "0",
        "ROS_LOG_DIR": str((out / "logs" / "ros").resolve()),
    }


@contextmanager
def _variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the recorder in this process and for the nodes, and take them back."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _domain(chosen: int | None) -> Iterator[int]:
    if chosen is not None:
        yield chosen
        return
    with require("domain_coordinator", "ros").domain_id() as found:
        yield int(found)


@contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Let SIGINT and SIGTERM end the block by KeyboardInterrupt, even where a script's ``&`` had SIGINT ignored.

    The first signal is kept until the yielded function is called, as every wait does several times a second, or until
    the block ends: raised wherever Python happens to be, it may get lost in a destructor or leave a thread half
    started. A second signal does not wait.
    """
    interrupted = threading.Event()

    def check() -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt

    def on_signal(signum: int, frame: Any) -> None:
        check()
        interrupted.set()

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {sign: signal.signal(sign, on_signal) for sign in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
        check()
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _check(config: DemoConfig) -> None:
    for name in ("episodes", "max_steps"):
        if getattr(config, name) < 1:
            raise RoboAlignError(f"demo {name}: expected at least 1, found {getattr(config, name)}")
    if config.random_episodes < 0 or config.seed < 0:
        raise RoboAlignError(
            f"demo: expected random_episodes and seed of at least 0, found {config.random_episodes} and {config.seed}"
        )
    if config.fps <= 0 or config.rate_hz < 0:
        raise RoboAlignError(f"demo: expected fps > 0 and rate_hz >= 0, found {config.fps:g} and {config.rate_hz:g}")
    if config.domain_id is not None and not 0 <= config.domain_id <= 101:
        raise RoboAlignError(f"demo domain_id: expected 0 to 101 (safe on Linux), found {config.domain_id}")
    if any(not text.strip() for text in config.instructions or []):
        raise RoboAlignError("demo instructions: expected sentences, found an empty one")


def _show(results: Mapping[str, Any], report: Path) -> None:
    from rich.table import Table

    table = Table(title="success by instruction")
    for column in ("instruction", "planned", "random"):
        table.add_column(column)
    for row in results["detail"]["instructions"]:
        rates = [row[f"{label}_success_rate"] for label in ("planned", "random")]
        table.add_row(row["instruction"], *("–" if rate is None else f"{rate:.2f}" for rate in rates))
    console = _console()
    console.print(table)
    console.print(f"report: {report}")


def _status(text: str) -> Any:
    return _console().status(text)


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


VERB = Verb(
    name="demo",
    help="run the closed loop (robot, world model, planner) over ROS 2 and write a report",
    config=DemoConfig,
    run=run,
)
