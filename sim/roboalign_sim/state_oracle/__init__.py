"""The state oracles: six scores of simulated episodes out of where everything was. See docs/benchmark.md."""

from roboalign_sim.state_oracle.checks import Finding
from roboalign_sim.state_oracle.lift import LIFT, LiftOracle
from roboalign_sim.state_oracle.tabletop import TABLETOP, TABLETOP_ORANGE_CYAN, TABLETOP_SWAPPED, TabletopOracle

__all__ = ["LIFT", "TABLETOP", "TABLETOP_ORANGE_CYAN", "TABLETOP_SWAPPED", "Finding", "LiftOracle", "TabletopOracle"]
