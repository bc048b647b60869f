"""RobotWorldBench: (video, instruction, six scores) pairs out of real and simulated robot data."""

from roboalign_core.benchmark.benchmark import Benchmark
from roboalign_core.benchmark.pairs import Applied, Origin, Pair, Split

__all__ = ["Applied", "Benchmark", "Origin", "Pair", "Split"]
