"""The teacher (RoboAlign-R1, RoboAlign-Judge): scores videos by the rubric."""

from roboalign_core.judge.choose import make_judge
from roboalign_core.judge.engine import merge_adapter
from roboalign_core.judge.oracle import OracleJudge
from roboalign_core.judge.parser import ReplyError, parse_reply
from roboalign_core.judge.protocol import Judge, Judgement, Video
from roboalign_core.judge.qwen import QwenConfig, QwenJudge
from roboalign_core.judge.server import ServerConfig, ServerJudge

__all__ = [
    "Judge",
    "Judgement",
    "OracleJudge",
    "QwenConfig",
    "QwenJudge",
    "ReplyError",
    "ServerConfig",
    "ServerJudge",
    "Video",
    "make_judge",
    "merge_adapter",
    "parse_reply",
]
