"""The student that is shipped tells done from not done, and one instruction from another, on episodes it never saw."""

from __future__ import annotations

import numpy as np
import pytest

from roboalign_core.bundled import MODELS
from roboalign_core.reward.model import FOLDER, RewardModel
from roboalign_sim.collect import CollectConfig, collect_episodes

pytestmark = pytest.mark.skipif(not (MODELS / "tabletop" / FOLDER).is_dir(), reason="this checkout ships no student")

FOLLOWING, SUCCESS = 0, 1


def test_it_knows_what_is_done_and_what_was_asked() -> None:
    policies = {"tabletop": {"expert": 0.6, "incomplete": 0.2, "wrong_object": 0.2}}
    config = CollectConfig(out="unused", episodes=40, workers=1, seed=777, policies=policies)
    episodes = list(collect_episodes(config))
    done = np.array([bool(episode.success) for episode in episodes])
    assert 10 < done.sum() < 35
    student = RewardModel.from_pretrained("tabletop")
    scores = student.score([episode.frames for episode in episodes], [episode.instruction for episode in episodes]).raw
    assert scores[done, SUCCESS].mean() > scores[~done, SUCCESS].mean() + 0.7
    pushes = [episode for episode in episodes if episode.success and "cube" in episode.instruction]
    other = [episode.instruction.replace("red cube", "blue cylinder") for episode in pushes]
    right, wrong = (
        student.score([episode.frames for episode in pushes], words).raw[:, FOLLOWING]
        for words in ([episode.instruction for episode in pushes], other)
    )
    assert (right > wrong).mean() >= 0.8
