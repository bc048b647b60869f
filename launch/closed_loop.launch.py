"""The closed loop for ROS' own ``launch``: a (simulated) robot, a world model and a planner.

    ros2 launch roboalign closed_loop.launch.py env:=tabletop
    ros2 launch roboalign closed_loop.launch.py simulate:=false camera_topic:=/front/image_raw

The parameter files are the source of truth; arguments choose the deployment. Then, for example:

    ros2 action send_goal /follow_instruction roboalign_interfaces/action/Plan \
        "{instruction: 'push the red cube left', seed: 1}" --feedback
"""

from __future__ import annotations

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from roboalign_core.configs import config_dir
from roboalign_nodes.middleware import profile_path

ARGUMENTS = [
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of all nodes and topics."),
    DeclareLaunchArgument(
        "use_sim_time", default_value="false", choices=["true", "false"], description="Take the time from /clock."
    ),
    DeclareLaunchArgument(
        "params_dir",
        default_value=str(config_dir() / "ros"),
        description="Folder with robot_sim.yaml, world_model.yaml and planner.yaml.",
    ),
    DeclareLaunchArgument(
        "params_file", default_value="", description="One more parameter file for all nodes, applied after those."
    ),
    DeclareLaunchArgument(
        "simulate",
        default_value="true",
        choices=["true", "false"],
        description="Start the simulated robot; false where a real one speaks the same topics.",
    ),
    DeclareLaunchArgument("env", default_value="tabletop", description="Environment of the simulated robot."),
    DeclareLaunchArgument(
        "world_model", default_value="tabletop", description="Weights: a bundled name, a folder, or a hub id."
    ),
    DeclareLaunchArgument(
        "policy",
        default_value="cem",
        choices=["cem", "icem", "mppi", "random"],
        description="How the planner chooses actions.",
    ),
    DeclareLaunchArgument(
        "rate_hz", default_value="5.0", description="Control steps per second of the simulated robot; 0.0: no pacing."
    ),
    DeclareLaunchArgument(
        "camera_topic",
        default_value="camera/image_raw",
        description="Topic of the camera that the world model follows.",
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=["true", "false"],
        description="Configure and activate the nodes at start; false leaves that to a lifecycle manager.",
    ),
    DeclareLaunchArgument("log_level", default_value="info", description="Log level of all nodes."),
    DeclareLaunchArgument(
        "discovery_range",
        default_value="SUBNET",
        choices=["SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT"],
        description="Who can see the nodes (ROS_AUTOMATIC_DISCOVERY_RANGE).",
    ),
    DeclareLaunchArgument(
        "fastdds_profile",
        default_value=str(profile_path()),
        description="Fast DDS profile; the one that ships carries camera streams without loss.",
    ),
]


def generate_launch_description() -> LaunchDescription:
    """Entry point of ``ros2 launch``."""
    profile = LaunchConfiguration("fastdds_profile")
    return LaunchDescription(
        [
            *ARGUMENTS,
            SetEnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", profile),
            SetEnvironmentVariable("FASTDDS_DEFAULT_PROFILES_FILE", profile),
            SetEnvironmentVariable("ROS_AUTOMATIC_DISCOVERY_RANGE", LaunchConfiguration("discovery_range")),
            OpaqueFunction(function=_nodes),
        ]
    )


def _nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    chosen: dict[str, dict[str, object]] = {
        "robot_sim": {"env": value("env"), "rate_hz": float(value("rate_hz"))},
        "world_model": {"model": value("world_model")},
        "planner": {"policy": value("policy")},
    }
    if value("simulate") == "false":
        del chosen["robot_sim"]
    shared = {"use_sim_time": value("use_sim_time") == "true", "autostart": value("autostart") == "true"}
    extra = [value("params_file")] if value("params_file") else []
    return [
        Node(
            package="roboalign_nodes",
            executable=name,
            name=name,
            namespace=value("namespace"),
            parameters=[f"{value('params_dir')}/{name}.yaml", {**parameters, **shared}, *extra],
            remappings=[("camera/image_raw", value("camera_topic"))],
            arguments=["--ros-args", "--log-level", value("log_level")],
            output="screen",
            emulate_tty=True,
        )
        for name, parameters in chosen.items()
    ]
