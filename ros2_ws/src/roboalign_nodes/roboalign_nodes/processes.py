"""Nodes as processes: started together, watched, stopped so that nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from roboalign_core.errors import RoboAlignError

PARENT_VARIABLE = "ROBOALIGN_PARENT_PID"  # a node whose parent by this id is gone ends itself

_ORPHAN_POLL = 0.5  # seconds between two looks at the parent
_ORPHAN_GRACE = 5  # whole seconds that an orphan has to leave in good order
_TAIL_LINES = 15
_GRACE = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))  # signal, seconds to obey


@dataclass(frozen=True, slots=True)
class NodeCommand:
    """One node to start.

    Attributes:
        name: for messages and the log file.
        command: the command line.
    """

    name: str
    command: tuple[str, ...]


class NodeGroup:
    """Runs nodes inside a ``with`` block; leaving it stops them all, however it is left.

    Args:
        commands: the nodes.
        environment: the variables that the processes get.
        logs: folder for one log file per node.
    """

    def __init__(self, commands: Sequence[NodeCommand], environment: Mapping[str, str], logs: Path) -> None:
        self._commands, self._logs = commands, logs
        self._environment = {**environment, PARENT_VARIABLE: str(os.getpid())}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> NodeGroup:
        self._logs.mkdir(parents=True, exist_ok=True)
        try:
            for node in self._commands:
                self._start(node)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def check(self) -> None:
        """Look after the nodes.

        Raises:
            RoboAlignError: one has ended; the message has its name, its exit code and the end of its log.
        """
        for name, process in self._processes.items():
            code = process.poll()
            if code is not None:
                raise RoboAlignError(
                    f"node {name}: expected it to run, found it ended ({_reason(code)}){self.tail(name)}"
                )

    def tail(self, name: str) -> str:
        """The end of a node's log, as an indented block that starts on a new line."""
        path = self.log_path(name)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
        return f"; the end of {path}:\n" + "\n".join(f"    {line}" for line in lines or ["(empty)"])

    def log_path(self, name: str) -> Path:
        """Where a node's output goes."""
        return self._logs / f"{name}.log"

    def pids(self) -> dict[str, int]:
        """Process ids by name."""
        return {name: process.pid for name, process in self._processes.items()}

    def stop(self) -> None:
        """Ask all to end, more and more firmly; at once and for good if this is interrupted."""
        try:
            for sign, seconds in _GRACE:
                self._signal(sign, seconds)
        except BaseException:
            self._signal(*_GRACE[-1])
            raise

    def _signal(self, sign: signal.Signals, seconds: float) -> None:
        running = [process for process in self._processes.values() if process.poll() is None]
        for process in running:
            process.send_signal(sign)
        _wait(running, seconds)

    def _start(self, node: NodeCommand) -> None:
        with self.log_path(node.name).open("wb") as log:
            # A session of its own: Ctrl-C in the terminal reaches us alone, and we stop the nodes in order.
            self._processes[node.name] = subprocess.Popen(
                node.command,
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            continue


def _reason(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def end_with_parent() -> None:
    """Let this process end soon after the parent that :data:`PARENT_VARIABLE` names, whatever it is doing by then.

    It gets SIGTERM, so that it can leave in good order; some seconds later the kernel ends it. Call it in the main
    thread; without the variable it does nothing.
    """
    value = os.environ.get(PARENT_VARIABLE)
    if value is None:
        return
    parent = int(value)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process without a line of Python

    def watch() -> None:
        while os.getppid() == parent:  # also false if it was gone before we looked
            time.sleep(_ORPHAN_POLL)
        signal.alarm(_ORPHAN_GRACE)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
