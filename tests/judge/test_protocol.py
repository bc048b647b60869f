"""What every judge takes and gives, and the judge that reads the state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from judge_support import INSTRUCTION, toy_episode

import roboalign_core
from roboalign_core.benchmark.oracles import READ, Tolerance
from roboalign_core.episodes import Episode
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.probe import ProbeConfig, ProbeNetwork, StateProbe
from roboalign_core.judge import Judgement, OracleJudge, Video, make_judge
from roboalign_core.judge.choose import judge_settings
from roboalign_core.judge.oracle import ProbedJudge
from roboalign_core.rubric import Scores

FRAMES = np.zeros((4, 8, 8, 3), np.uint8)


class Counting:
    """Three for the right instruction, one for another; the rest says how bright the recording ends."""

    def score(self, episode: Episode, instruction: str) -> np.ndarray:
        bright = float(episode.frames[-1].mean() > 128)
        return np.array([3 if instruction == episode.instruction else 1, 2, bright, bright, 1, 0], np.float32)


@pytest.mark.parametrize(
    ("frames", "instruction", "message"),
    [
        (FRAMES.astype(np.float32), "go", "frames: expected a uint8 array, found float32 array"),
        ([[0]], "go", "frames: expected a uint8 array, found list"),
        (FRAMES[0], "go", r"frames: expected shape \(T, H, W, 3\), T of 2 or more, found \(8, 8, 3\)"),
        (FRAMES[:1], "go", r"T of 2 or more, found \(1, 8, 8, 3\)"),
        (FRAMES[..., :1], "go", r"found \(4, 8, 8, 1\)"),
        (FRAMES, "  ", "instruction: expected text, found '  '"),
        (FRAMES, None, "instruction: expected text, found None"),
    ],
)
def test_a_video_is_checked(frames: object, instruction: object, message: str) -> None:
    with pytest.raises(RoboAlignError, match=message):
        Video(frames, instruction)  # type: ignore[arg-type]


def test_a_judgement_is_checked() -> None:
    scores = Scores.perfect(2)
    with pytest.raises(RoboAlignError, match=r"expected deviations \(2, 6\) and replies of 2 videos, found \(1, 6\)"):
        Judgement(scores, np.zeros((1, 6), np.float32), ((), ()))
    with pytest.raises(RoboAlignError, match=r"replies of 2 videos, found .* and 1"):
        Judgement(scores, np.zeros((2, 6), np.float32), ((),))
    with pytest.raises(RoboAlignError, match="deviations: expected finite numbers of 0 or more"):
        Judgement(scores, np.full((2, 6), np.nan, np.float32), ((), ()))
    assert len(Judgement(scores, np.zeros((2, 6), np.float32), ((), ()))) == 2


def test_the_oracle_of_an_episode_s_source_is_asked_once() -> None:
    loaded = []

    def load(source: str) -> Counting:
        loaded.append(source)
        return Counting()

    judge = OracleJudge(load)
    videos = [Video.of(toy_episode(0)), Video.of(toy_episode(1)), Video.of(toy_episode(1), INSTRUCTION)]
    found = judge.judge(videos)
    np.testing.assert_array_equal(found.scores.raw, [[3, 2, 0, 0, 1, 0], [3, 2, 1, 1, 1, 0], [1, 2, 1, 1, 1, 0]])
    assert found.replies == ((), (), ())
    assert not found.std.any()
    assert loaded == ["toy"]


def test_a_source_without_an_oracle_is_refused() -> None:
    with pytest.raises(RoboAlignError, match=r"expected one for episodes of 'toy' .*found none"):
        OracleJudge().judge([Video.of(toy_episode(0))])


def test_the_oracle_sees_no_state_in_frames() -> None:
    judge, episode = OracleJudge(lambda source: Counting()), toy_episode(0)
    with pytest.raises(RoboAlignError, match=r"video 1: expected a recorded episode.*found frames alone"):
        judge.judge([Video.of(episode), Video(episode.frames, "go")])
    with pytest.raises(RoboAlignError, match="found frames alone"):
        judge.score([episode.frames], ["go"])
    with pytest.raises(RoboAlignError, match="video 0: expected the frames of its episode, found other frames"):
        judge.judge([Video(episode.frames[::-1].copy(), "go", episode)])


class Far:
    """What it scores is how far x came; it is told what it was given."""

    source, columns, instructions = "toy", ("x", "y"), ("go left", "go right")

    def __init__(self) -> None:
        self.given: list[tuple[np.ndarray, np.ndarray, str, Tolerance]] = []

    def as_seen(self, states: np.ndarray, frames: np.ndarray) -> np.ndarray:
        assert len(states) == len(frames)
        return states

    def score_states(
        self, states: np.ndarray, actions: np.ndarray, instruction: str, tolerance: Tolerance
    ) -> np.ndarray:
        self.given.append((states, actions, instruction, tolerance))
        return np.array([3, 2, 1, 1, float(states[-1, 0] > states[0, 0]), 2], np.float32)


def probe(seed: int = 0) -> StateProbe:
    """Reads something from frames, in columns of another order than the oracle's."""
    torch.manual_seed(seed)
    config = ProbeConfig(["z", "y", "x"], [0.0] * 3, [1.0] * 3, 16, 16, 8)
    return StateProbe(config, ProbeNetwork(config))


def test_the_oracle_on_what_a_probe_reads() -> None:
    oracle, reader, episodes = Far(), probe(), [toy_episode(0), toy_episode(1)]
    judge = ProbedJudge(reader, lambda source: oracle)  # type: ignore[arg-type,return-value]
    found = judge.judge([Video(episode.frames, "go left", episode) for episode in episodes])
    for (states, actions, instruction, tolerance), episode, row in zip(
        oracle.given, episodes, found.scores.raw, strict=True
    ):
        np.testing.assert_array_equal(states, reader.read(episode.frames)[:, [2, 1]])
        assert actions is episode.actions
        assert (instruction, tolerance) == ("go left", READ)
        assert row[4] == (states[-1, 0] > states[0, 0])
    assert judge.describe() == ProbedJudge(probe()).describe() != ProbedJudge(probe(1)).describe()
    with pytest.raises(RoboAlignError, match=r"video 0: expected an episode.*found frames alone"):
        judge.score([episodes[0].frames], ["go left"])


def test_what_an_oracle_could_not_judge_is_found_before_it_is_asked() -> None:
    judge = ProbedJudge(probe(), lambda source: Far())  # type: ignore[arg-type,return-value]
    judge.check("toy", ["go left", "go left"])
    with pytest.raises(RoboAlignError, match="toy: expected instructions among go left; go right, found 'dance'"):
        judge.check("toy", ["go left", "dance"])
    blind = probe()
    blind.config.columns[2] = "w"
    with pytest.raises(RoboAlignError, match="oracle of 'toy': expected a probe that reads 'x', found z, y, w"):
        ProbedJudge(blind, lambda source: Far()).check("toy", ["go left"])  # type: ignore[arg-type,return-value]
    with pytest.raises(RoboAlignError, match=r"expected one for episodes of 'toy' .*found none"):
        ProbedJudge(probe()).check("toy", ["go left"])


def test_as_many_instructions_as_videos() -> None:
    judge = OracleJudge(lambda source: Counting())
    with pytest.raises(RoboAlignError, match="one instruction for each of 1 videos, found 2 instructions"):
        judge.score([FRAMES], ["go", "stop"])
    with pytest.raises(RoboAlignError, match="one instruction for each of 2 videos, found one text"):
        judge.score([FRAMES, FRAMES], "go")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "jury"}, "judge: expected one of server, qwen, oracle, found 'jury'"),
        ("server", "judge: expected one of server, qwen, oracle, found None"),
        ({"name": "server", "colour": 1}, "judge server: .*colour"),
        ({"name": "server", "concurrency": "many"}, "judge server: .*many"),
        ({"name": "server", "url": "ftp://x/v1"}, r"judge\.url: expected http"),
        ({"name": "server", "url": "http://me:secret@host/v1"}, r"judge\.url: expected http.*without a password"),
        ({"name": "server", "images": "gif"}, "judge.images: expected one of png, jpeg, found 'gif'"),
        ({"name": "server", "extra": {"n": 5}}, r"judge.extra: .*\['n'\]"),
        ({"name": "server", "timeout_s": 0}, "judge.timeout_s"),
        ({"name": "server", "sampling": {"samples": 0}}, "samples: expected at least 1, found 0"),
        ({"name": "server", "sampling": {"temperature": 0}}, "temperature: expected above 0"),
        ({"name": "server", "retry": {"attempts": 0}}, "attempts: expected at least 1"),
        ({"name": "server", "retry": {"first_s": -1}}, "first_s: expected 0 seconds or more, found -1"),
        ({"name": "server", "budget": {"tokens": -1}}, "tokens: expected a number of 0 or more, found -1"),
        ({"name": "server", "shown": {"frames": 1}}, "frames: expected at least 2, found 1"),
        ({"name": "server", "shown": {"side": 3}}, "side: expected 0 or at least 16 pixels, found 3"),
        ({"name": "server"}, "judge: model: expected the model's name on the server, found nothing"),
        ({"name": "qwen", "batch": 0}, "judge.batch: expected at least 1"),
        ({"name": "qwen"}, "judge: model: expected a folder or hub id of a vision-language model, found nothing"),
    ],
    ids=str,
)
def test_settings_are_checked(settings: object, message: str) -> None:
    with pytest.raises(RoboAlignError, match=message) as found:
        make_judge(settings)
    assert "secret" not in str(found.value)


def test_defaults_fill_what_is_left_out() -> None:
    _, config = judge_settings({"name": "server", "cache": ""}, model="qwen", cache="folder")
    assert (config.model, config.cache) == ("qwen", "folder")
    _, config = judge_settings({"name": "server", "model": "other", "cache": "mine"}, model="qwen", cache="folder")
    assert (config.model, config.cache) == ("other", "mine")
    assert make_judge({"name": "oracle"}, model="", cache="folder").name == "oracle"


def test_the_public_name() -> None:
    from roboalign_core.judge import Judge

    assert roboalign_core.Judge is Judge
    assert all(getattr(roboalign_core, name) for name in roboalign_core.__all__)
