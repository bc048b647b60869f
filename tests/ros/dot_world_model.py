"""The node ``world_model`` around the dot imagination, as a process of its own."""

import functools
import sys

from ros_support import load_dots

from roboalign_nodes.lifecycle import run_node
from roboalign_nodes.world_model import WorldModelNode

if __name__ == "__main__":
    sys.exit(run_node(functools.partial(WorldModelNode, load_dots)))
