"""Videos damaged on purpose, each with the scores that the damage implies (RoboAlign-R1, RobotWorldBench).

``docs/benchmark.md`` has the table of what each degradation takes, and why.
"""

from roboalign_core.benchmark.degradations.apply import DEGRADATIONS, MEANING, degrade, kept, reason_not
from roboalign_core.benchmark.degradations.degradation import Degradation, Pool

__all__ = ["DEGRADATIONS", "MEANING", "Degradation", "Pool", "degrade", "kept", "reason_not"]
