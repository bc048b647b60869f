"""Parts of recordings under any instruction: what is drawn, what is held back, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_recordings import TELLS, ToyOracle, make_recordings, patch_oracle

from roboalign_core.benchmark import Split
from roboalign_core.benchmark.sources import open_sources, split_of
from roboalign_core.episodes import EpisodeStore
from roboalign_core.errors import RoboAlignError
from roboalign_core.reward.recordings import Recordings
from roboalign_core.rubric import HIGHEST

SPLITS = {"train": 0.7, "validation": 0.2, "test": 0.1}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_recordings(tmp_path_factory.mktemp("recorded") / "store", 30)


@pytest.fixture(autouse=True)
def oracle(monkeypatch: pytest.MonkeyPatch) -> ToyOracle:
    return patch_oracle(monkeypatch)


def opened(store: Path, positions: tuple[str, ...] = ("thing.x",)) -> Recordings:
    return Recordings([str(store)], (32, 32), positions, SPLITS, 3)


def test_parts_are_frames_of_one_episode_with_what_belongs_to_them(store: Path, oracle: ToyOracle) -> None:
    found, episodes = opened(store), list(EpisodeStore.open(store))
    random, lengths = np.random.default_rng(0), []
    for _ in range(60):
        part = found.draw(random, 5)
        lengths.append(len(part.frames))
        states = part.positions * found.std + found.mean
        shown = [np.flatnonzero(frame[16, :, 0] > 150).mean() for frame in part.frames]
        np.testing.assert_allclose(states[:, 0], shown, atol=0.6)
        whole = [episode for episode in episodes if len(episode) >= len(part.frames)]
        assert any(
            np.array_equal(episode.frames[k : k + len(part.frames)], part.frames)
            for episode in whole
            for k in range(len(episode) - len(part.frames) + 1)
        )
        np.testing.assert_allclose(part.scores * HIGHEST, oracle.outcome(states[:, 0], part.instruction), atol=1e-5)
    assert min(lengths) >= 5
    assert 0.3 < np.mean(np.array(lengths) == 12) < 0.8
    assert len(set(lengths)) > 3


def test_every_instruction_is_asked_and_the_own_one_oftener(store: Path) -> None:
    found, random = opened(store), np.random.default_rng(1)
    drawn = [found.draw(random, 5).instruction for _ in range(300)]
    assert set(drawn) == set(TELLS) == set(found.instructions)
    own = EpisodeStore.open(store).instructions[0]
    assert all(text == own for text in EpisodeStore.open(store).instructions)
    assert drawn.count(own) > 1.4 * max(drawn.count(text) for text in TELLS if text != own)


def test_episodes_that_are_held_back_are_never_drawn(store: Path) -> None:
    found, random = opened(store), np.random.default_rng(2)
    parents = open_sources(store)[0].parents
    train = [row for row, parent in enumerate(parents) if split_of(parent, 3, SPLITS) is Split.TRAIN]
    assert 0 < found.count == len(train) < len(parents)
    seen = {found.draw(random, 12).frames.tobytes() for _ in range(400)}
    episodes = EpisodeStore.open(store)
    assert seen == {episodes[row].frames.tobytes() for row in train}


def test_positions_are_standardised_and_gaps_are_nan(store: Path, tmp_path: Path) -> None:
    other = make_recordings(tmp_path / "other", 6, columns=("thing.x", "thing.y"), seed=9)
    both = Recordings([str(store), str(other)], (32, 32), ("thing.x", "thing.y"), SPLITS, 3)
    random = np.random.default_rng(0)
    parts = [both.draw(random, 12) for _ in range(200)]
    values = np.concatenate([part.positions for part in parts])
    assert abs(values[:, 0].mean()) < 0.3
    assert values[:, 0].std() == pytest.approx(1, abs=0.3)
    assert {bool(np.isnan(part.positions[:, 1]).all()) for part in parts} == {True, False}
    assert all(np.isfinite(part.positions[:, 0]).all() for part in parts)


def test_stores_that_cannot_be_learned_from_are_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RoboAlignError, match=r"positions: expected columns of observation.state, found 'hand.z' in no"):
        opened(store, ("thing.x", "hand.z"))
    lacking = make_recordings(tmp_path / "lacking", 3, columns=("other.x",))
    with pytest.raises(RoboAlignError, match=r"lacking: observation.state: expected the column thing.x, found other.x"):
        opened(lacking)
    with pytest.raises(RoboAlignError, match="expected episodes of the split train, found none among 30"):
        Recordings([str(store)], (32, 32), (), {"test": 1.0}, 0)
    monkeypatch.setattr("roboalign_core.benchmark.sources.load_oracle", lambda source: None)
    with pytest.raises(RoboAlignError, match="expected episodes that an oracle can judge, found those of 'toy-top'"):
        opened(store)


def test_more_episodes_are_another_identity(store: Path, tmp_path: Path) -> None:
    fewer = make_recordings(tmp_path / "fewer", 8)
    assert opened(store).identity == [["toy", 30, 360]]
    assert opened(fewer).identity == [["toy", 8, 96]]
