"""The node ``robot_sim`` around the dot environment, as a process of its own."""

import functools
import sys

from ros_support import make_dot_env

from roboalign_nodes.lifecycle import run_node
from roboalign_nodes.robot_sim import RobotSimNode

if __name__ == "__main__":
    sys.exit(run_node(functools.partial(RobotSimNode, make_dot_env)))
