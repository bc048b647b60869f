"""Parameters: all described, all mirrored by the yaml files, all checked."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("roboalign_interfaces", reason="needs ros2_ws/src/roboalign_interfaces to be built")

from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, ListParameters, SetParameters
from rclpy.context import Context
from ros_support import Loop, load_dots, make_dot_env

from roboalign_core.configs import config_dir
from roboalign_core.errors import RoboAlignError
from roboalign_nodes.planner import PlannerNode
from roboalign_nodes.robot_sim import RobotSimNode
from roboalign_nodes.world_model import WorldModelNode

NODES: dict[str, Any] = {
    "robot_sim": partial(RobotSimNode, make_dot_env),
    "world_model": partial(WorldModelNode, load_dots),
    "planner": PlannerNode,
}
NOT_IN_YAML = {"instructions", "use_sim_time", "start_type_description_service"}


def yaml_values(name: str) -> dict[str, Any]:
    tree = yaml.safe_load((config_dir() / "ros" / f"{name}.yaml").read_text())
    assert list(tree) == [f"/**/{name}"]
    return tree[f"/**/{name}"]["ros__parameters"]


@pytest.mark.parametrize("name", NODES)
def test_yaml_has_every_parameter_with_its_default(loop: Loop, name: str) -> None:
    node = loop.add(NODES[name], start=False)
    declared = {key: parameter.value for key, parameter in node._parameters.items() if key not in NOT_IN_YAML}
    assert yaml_values(name) == declared
    assert {key: type(value) for key, value in yaml_values(name).items()} == {
        key: type(value) for key, value in declared.items()
    }


@pytest.mark.parametrize("name", NODES)
def test_every_parameter_is_described_and_numbers_have_ranges(loop: Loop, name: str) -> None:
    loop.add(NODES[name], start=False)
    names = loop.call(ListParameters, f"{name}/list_parameters", ListParameters.Request()).result.names
    own = [key for key in names if key not in ("use_sim_time", "start_type_description_service")]
    request = DescribeParameters.Request(names=own)
    descriptors = loop.call(DescribeParameters, f"{name}/describe_parameters", request).descriptors
    assert len(descriptors) == len(own) >= 9
    for descriptor in descriptors:
        assert len(descriptor.description) > 10, descriptor.name
        if descriptor.type == ParameterType.PARAMETER_INTEGER:
            assert descriptor.integer_range, descriptor.name
        if descriptor.type == ParameterType.PARAMETER_DOUBLE:
            assert descriptor.floating_point_range, descriptor.name


@pytest.mark.parametrize(
    ("name", "parameter", "value", "reason"),
    [
        ("planner", "policy", "best", "expected one of cem, icem, mppi, random, found 'best'"),
        ("planner", "candidates", 0, "candidates"),
        ("planner", "horizon", 2.5, "horizon"),
        ("robot_sim", "rate_hz", -1.0, "rate_hz"),
        ("robot_sim", "safety_mode", "freeze", "expected one of none, zeros, hold"),
        ("world_model", "order", "pixel", "expected one of frame, token"),
    ],
)
def test_a_wrong_value_is_refused_at_start(domain: int, name: str, parameter: str, value: object, reason: str) -> None:
    with Loop(domain) as loop, pytest.raises(RoboAlignError, match=f"{name}: parameter {parameter}: .*{reason}"):
        loop.add(NODES[name], **{parameter: value})


def test_parameters_that_do_not_fit_together_are_refused_when_configured(loop: Loop) -> None:
    with pytest.raises(RoboAlignError, match="elites: expected at most 4 candidates, found 8"):
        loop.add(PlannerNode, candidates=4)


def test_a_wrong_value_is_refused_while_running(loop: Loop) -> None:
    node = loop.add(PlannerNode, start=False)
    value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value="best")
    request = SetParameters.Request(parameters=[ParameterMessage(name="policy", value=value)])
    result = loop.call(SetParameters, "planner/set_parameters", request).results[0]
    assert not result.successful
    assert "cem, icem, mppi, random" in result.reason
    assert node.value("policy") == "cem"


@pytest.mark.parametrize("namespace", ["/", "/left/arm"])
def test_the_yaml_file_counts_in_any_namespace(domain: int, tmp_path: Path, namespace: str) -> None:
    file = tmp_path / "robot_sim.yaml"
    file.write_text((config_dir() / "ros" / "robot_sim.yaml").read_text().replace("max_steps: 30", "max_steps: 17"))
    context = Context()
    context.init(args=["--ros-args", "--params-file", str(file)], domain_id=domain)
    try:
        node = RobotSimNode(make_dot_env, context=context, namespace=namespace)
        try:
            assert node.value("max_steps") == 17
        finally:
            node.destroy_node()
    finally:
        context.try_shutdown()
