"""The base class of our nodes: lifecycle, parameters, diagnostics; and what runs one as a process."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.client import Client
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, TransitionCallbackReturn
from rclpy.publisher import Publisher
from rclpy.service import Service
from rclpy.subscription import Subscription
from rclpy.timer import Timer

from roboalign_core.errors import RoboAlignError
from roboalign_nodes.parameters import ParameterSpec, declare
from roboalign_nodes.processes import end_with_parent

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

_COMMON = (
    ParameterSpec("autostart", True, "configure and activate at start, without a lifecycle manager"),
    ParameterSpec("diagnostics_period", 1.0, "seconds between two messages on /diagnostics", 0.1, 60.0),
)


@dataclass(frozen=True, slots=True)
class Health:
    """What a node says of itself on /diagnostics."""

    level: bytes = OK
    message: str = "running"
    values: Mapping[str, Any] = field(default_factory=dict)


class ManagedNode(LifecycleNode):
    """A lifecycle node: configure makes or loads what it works with, activate serves, deactivate stops serving.

    Subclasses name their parameters in ``PARAMETERS`` and fill the hooks ``configure``, ``activate``, ``deactivate``,
    ``release`` and ``health``. A hook that raises :class:`RoboAlignError` makes its transition fail with that message.

    Args:
        name: the node's name; the command line may remap it.
        options: keyword arguments of ``rclpy.node.Node``, such as ``context`` and ``parameter_overrides``.

    Raises:
        RoboAlignError: a parameter has a wrong value.
    """

    PARAMETERS: ClassVar[tuple[ParameterSpec, ...]] = ()

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self._reason = ""
        self._active = False
        self._own: set[Any] = set()  # what exists without configure()
        declare(self, (*_COMMON, *self.PARAMETERS))
        self._warn_of_unknown_parameters()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        group = MutuallyExclusiveCallbackGroup()  # of its own, so that health is told while the node is at work
        self.create_timer(self.value("diagnostics_period"), self._publish_health, callback_group=group)

    # -- hooks -------------------------------------------------------------------------------------------------------

    def configure(self) -> None:
        """Make or load what the node works with, and its publishers, subscriptions and services."""

    def activate(self) -> None:
        """Start to serve."""

    def deactivate(self) -> None:
        """Stop to serve; must not raise."""

    def release(self) -> None:
        """Let go of what :meth:`configure` made, even by halves, except publishers and the like; must not raise."""

    def health(self) -> Health:
        """What to publish on /diagnostics while active."""
        return Health()

    # -- for subclasses and owners -----------------------------------------------------------------------------------

    def value(self, name: str) -> Any:
        """The current value of a parameter."""
        return self.get_parameter(name).value

    @property
    def active(self) -> bool:
        """Whether the node serves."""
        return self._active

    def start(self) -> None:
        """Configure and activate, if the parameter ``autostart`` says so.

        Raises:
            RoboAlignError: one of the two failed; the message says why.
        """
        if not self.value("autostart"):
            return
        for transition in (self.trigger_configure, self.trigger_activate):
            if transition() != TransitionCallbackReturn.SUCCESS:
                raise RoboAlignError(f"{self.get_name()}: {self._reason}")

    def destroy_node(self) -> None:
        """Stop serving, release everything, then destroy the node."""
        if self._active:
            self._active = False
            self.deactivate()
        self.release()
        super().destroy_node()

    # -- lifecycle callbacks -----------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by the state machine."""
        self._own = set(self._entities())
        result = self._guard(self.configure)
        if result != TransitionCallbackReturn.SUCCESS:
            self._undo_configure()
            return result
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by the state machine."""
        result = super().on_activate(state)  # publishers first, what activate() publishes must not get lost
        if result == TransitionCallbackReturn.SUCCESS:
            result = self._guard(self.activate)
        self._active = result == TransitionCallbackReturn.SUCCESS
        if self._active:
            self.get_logger().info("active")
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by the state machine."""
        self._active = False
        self.deactivate()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by the state machine."""
        self._undo_configure()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Called by the state machine."""
        if self._active:
            self._active = False
            self.deactivate()
        self.release()
        return super().on_shutdown(state)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _entities(self) -> list[Any]:
        return [*self.publishers, *self.subscriptions, *self.services, *self.clients, *self.timers]

    def _undo_configure(self) -> None:
        self.release()
        destroyers: tuple[tuple[type, Callable[[Any], Any]], ...] = (
            (LifecyclePublisher, self.destroy_lifecycle_publisher),
            (Publisher, self.destroy_publisher),
            (Subscription, self.destroy_subscription),
            (Service, self.destroy_service),
            (Client, self.destroy_client),
            (Timer, self.destroy_timer),
        )
        for entity in self._entities():
            if entity not in self._own:
                next(destroy for kind, destroy in destroyers if isinstance(entity, kind))(entity)

    def _guard(self, hook: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            hook()
        except RoboAlignError as error:
            self._reason = str(error)
            self.get_logger().error(f"{hook.__name__}: {error}")
            return TransitionCallbackReturn.FAILURE
        except Exception as error:  # rclpy would swallow it without a word
            self._reason = f"{type(error).__name__}: {error}"
            self.get_logger().error(f"{hook.__name__}: {traceback.format_exc()}")
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def _publish_health(self) -> None:
        health = self.health() if self._active else Health(WARN, f"not active {self._reason}".strip())
        status = DiagnosticStatus(level=health.level, name=self.get_fully_qualified_name(), message=health.message)
        status.hardware_id = self.get_name()
        status.values = [KeyValue(key=key, value=str(value)) for key, value in health.values.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _warn_of_unknown_parameters(self) -> None:
        unknown = sorted(name for name in self._parameter_overrides if not self.has_parameter(name))
        known = [name for name in unknown if not name.startswith("qos_overrides.")]
        if known:
            self.get_logger().warning(f"unknown parameters, ignored: {', '.join(known)}")


def run_node(make: Callable[[], ManagedNode], threads: int = 2) -> int:
    """Run one node as a process, in its main thread, until it is asked to stop (SIGINT, SIGTERM) or its parent is gone.

    Returns:
        The exit code: 0 after a stop, 2 after a :class:`RoboAlignError` at start.
    """
    node: ManagedNode | None = None
    executor: MultiThreadedExecutor | None = None
    for sign in (signal.SIGINT, signal.SIGTERM):  # rclpy adds its own; these also end what comes before its loop
        signal.signal(sign, signal.default_int_handler)
    try:
        end_with_parent()
        rclpy.init()
        node = make()
        node.start()
        executor = MultiThreadedExecutor(threads)
        executor.add_node(node)
        while rclpy.ok():
            executor.spin_once(timeout_sec=0.5)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RoboAlignError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    finally:
        if executor is not None:
            executor.shutdown(timeout_sec=5.0)
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0
