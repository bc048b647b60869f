"""The launch file: what can be told without ROS' launch, and the rest where it is there."""

from __future__ import annotations

import ast
import importlib.util
import runpy
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "launch" / "closed_loop.launch.py"


def _has_launch() -> bool:
    # Our own folder launch/ can be imported as a namespace package, so ask for what only ROS' launch has.
    try:
        return all(importlib.util.find_spec(name) is not None for name in ("launch.actions", "launch_ros.actions"))
    except ModuleNotFoundError:
        return False


needs_launch = pytest.mark.skipif(not _has_launch(), reason="ROS' launch and launch_ros come from apt, not from PyPI")


def declarations() -> list[dict[str, Any]]:
    """The keyword arguments of every DeclareLaunchArgument, and its name."""
    calls = [node for node in ast.walk(ast.parse(FILE.read_text())) if isinstance(node, ast.Call)]
    return [
        {"name": ast.literal_eval(call.args[0]), **{keyword.arg: keyword.value for keyword in call.keywords}}
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "DeclareLaunchArgument"
    ]


def test_every_argument_is_declared_with_description_and_default() -> None:
    for declared in declarations():
        assert "default_value" in declared, declared["name"]
        assert len(ast.literal_eval(declared["description"])) > 15, declared["name"]


def test_every_argument_that_is_read_is_declared_and_the_other_way_round() -> None:
    names = {declared["name"] for declared in declarations()}
    assert {"namespace", "use_sim_time", "params_file"} <= names
    read = {
        ast.literal_eval(call.args[0])
        for call in ast.walk(ast.parse(FILE.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in ("LaunchConfiguration", "value")
        and isinstance(call.args[0], ast.Constant)
    }
    assert read == names


def test_no_package_shadows_ros_launch() -> None:
    assert not (FILE.parent / "__init__.py").exists()


@needs_launch
def test_the_description_has_three_nodes() -> None:
    from launch.actions import DeclareLaunchArgument, OpaqueFunction

    from launch import LaunchContext

    module = runpy.run_path(str(FILE))
    context = LaunchContext()
    nodes: list[Any] = []
    for entity in module["generate_launch_description"]().entities:
        if isinstance(entity, OpaqueFunction):
            nodes = list(entity.execute(context) or [])
        else:
            entity.visit(context)
        if isinstance(entity, DeclareLaunchArgument):
            assert entity.description
    assert [node.node_executable for node in nodes] == ["robot_sim", "world_model", "planner"]
