"""Parameters of a node: declared with description and range, checked when they are set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

from roboalign_core.errors import RoboAlignError


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """One parameter.

    Attributes:
        name: as in the yaml file.
        default: the value without a yaml file; its type is the parameter's type.
        description: one line with the unit.
        low, high: the allowed range of a number, both ends included.
        choices: the allowed words of a string, or empty for any.
    """

    name: str
    default: bool | int | float | str | list[str]
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def descriptor(self) -> ParameterDescriptor:
        """What ``ros2 param describe`` shows."""
        descriptor = ParameterDescriptor(description=self.description)
        if self.choices:
            descriptor.additional_constraints = "one of: " + ", ".join(self.choices)
        if self.low is None or self.high is None:
            return descriptor
        if isinstance(self.default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high))]
        else:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(self.low), to_value=float(self.high))
            ]
        return descriptor


def declare(node: Node, specs: Sequence[ParameterSpec]) -> None:
    """Declare the parameters; values come from the yaml file or the command line where they name them.

    Raises:
        RoboAlignError: a given value has the wrong type, is out of range, or is not one of the choices.
    """
    for spec in specs:
        try:
            value = node.declare_parameter(spec.name, spec.default, spec.descriptor()).value
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise RoboAlignError(f"{node.get_name()}: parameter {spec.name}: {error} ({spec.description})") from error
        reason = _refusal(spec, value)
        if reason:
            raise RoboAlignError(f"{node.get_name()}: parameter {spec.name}: {reason}")
    by_name = {spec.name: spec for spec in specs}

    def check(parameters: list[Parameter[Any]]) -> SetParametersResult:
        reasons = [_refusal(by_name[p.name], p.value) for p in parameters if p.name in by_name]
        reason = "; ".join(filter(None, reasons))
        return SetParametersResult(successful=not reason, reason=reason)

    node.add_on_set_parameters_callback(check)


def _refusal(spec: ParameterSpec, value: Any) -> str:
    if spec.choices and value not in spec.choices:
        return f"expected one of {', '.join(spec.choices)}, found {value!r}"
    return ""
