"""Stores as training data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from roboalign_core.episodes import AugmentationConfig, Episode, EpisodeStore, StoreSpec
from roboalign_core.errors import RoboAlignError
from roboalign_core.training.data import TrainingData

OFF = AugmentationConfig(photometric=False, geometric=False)
MakeStore = Callable[..., Path]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, new_store: MakeStore) -> TrainingData:
    folder = tmp_path_factory.mktemp("two")
    stores = [new_store(folder / "a", episodes=6), new_store(folder / "b", episodes=2, first=100)]
    return TrainingData([str(store) for store in stores], (32, 32))


def test_episodes_are_numbered_through(two: TrainingData) -> None:
    assert two.episodes == 8
    assert two.lengths.tolist() == [12] * 8
    assert (two.action_dim, two.fps) == (2, 5.0)
    stores = [EpisodeStore.open(store.path) for store in two.stores]
    frames = two.frames(torch.tensor([5, 6, 7]), torch.tensor([0, 3, 11]))
    assert frames.shape == (3, 32, 32, 3)
    assert frames.dtype == torch.uint8
    for frame, (store, episode, step) in zip(frames, [(0, 5, 0), (1, 0, 3), (1, 1, 11)], strict=True):
        np.testing.assert_array_equal(frame.numpy(), stores[store][episode].frames[step])
    rows = two.column("observation.state", torch.tensor([7]), torch.tensor([4]))
    np.testing.assert_array_equal(rows[0].numpy(), stores[1][1].extras["observation.state"][4])


def test_batches_come_from_stores_in_proportion(two: TrainingData) -> None:
    sampler = two.sampler(4, OFF, seed=0)
    clips = [sampler.sample(8) for _ in range(100)]
    assert all(clip.frames.shape == (8, 4, 32, 32, 3) and clip.actions.shape == (8, 4, 2) for clip in clips)
    first = np.concatenate([two.caches[0].actions.reshape(-1, 2)])
    known = {tuple(row) for row in first.tolist()}
    share = np.mean([tuple(row) in known for clip in clips for row in clip.actions[:, 0].tolist()])
    assert 0.70 < share < 0.80


def test_a_sampler_goes_on_where_another_stopped(two: TrainingData) -> None:
    sampler, other = two.sampler(4, AugmentationConfig(), seed=0), two.sampler(4, AugmentationConfig(), seed=9)
    sampler.sample(5)
    other.load_state_dict(sampler.state_dict())
    for _ in range(3):
        ours, theirs = sampler.sample(5), other.sample(5)
        assert torch.equal(ours.frames, theirs.frames)
        assert torch.equal(ours.actions, theirs.actions)


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_a_share_of_the_clips_shows_motion(tmp_path: Path, share: float) -> None:
    """Episodes of 12 frames in which the object moves in a few frames only, and clips of 8 frames."""
    rng = np.random.default_rng(0)

    def episode(moves: bool) -> Episode:
        place = np.zeros((12, 1), np.float32)
        place[9:] = 0.1 if moves else 0.001
        return Episode(
            frames=np.zeros((12, 16, 16, 3), np.uint8),
            actions=rng.uniform(-1, 1, (12, 1)).astype(np.float32),
            instruction="",
            success=None,
            fps=5.0,
            source="toy",
            camera="top",
            extras={"observation.state": place},
        )

    spec = StoreSpec(5.0, 16, 16, ("x",), "toy", "top", {"observation.state": ("cube_x",)})
    EpisodeStore.create(tmp_path / "s", spec).append([episode(index % 4 == 0) for index in range(20)])
    data = TrainingData([str(tmp_path / "s")], (16, 16))
    clip = data.sampler(8, OFF, 0, columns=["cube_x"], threshold=0.01, share=share).sample(4000)
    moving = (clip.episode % 4 == 0) & (clip.start >= 2)
    assert clip.start.max() == 4
    assert float(moving.float().mean()) == pytest.approx(share, abs=0.03)


def test_columns_that_are_not_there_are_refused(two: TrainingData) -> None:
    with pytest.raises(RoboAlignError, match=r"balance.columns: expected names among x, y, found 'z'"):
        two.sampler(4, OFF, 0, columns=["x", "z"], threshold=0.01, share=0.5)
    with pytest.raises(RoboAlignError, match="expected per-frame column 'velocity'"):
        two.column_names("velocity")


def test_stores_must_agree(tmp_path: Path, two: TrainingData) -> None:
    spec = StoreSpec(5.0, 32, 32, ("x", "y", "z"), "toy", "top")
    EpisodeStore.create(tmp_path / "wide", spec)
    with pytest.raises(RoboAlignError, match=r"one action width, found \[2, 3\]"):
        TrainingData([str(two.stores[0].path), str(tmp_path / "wide")], (32, 32))
    with pytest.raises(RoboAlignError, match="at least one folder"):
        TrainingData([], (32, 32))


def test_a_constant_column_can_be_standardised(two: TrainingData, tmp_path: Path, new_store: MakeStore) -> None:
    mean, std = two.column_range("observation.state")
    rows = np.concatenate([cache.extras["observation.state"] for cache in two.caches])
    np.testing.assert_allclose(mean, rows.mean(0), atol=1e-6)
    np.testing.assert_allclose(std, rows.std(0), atol=1e-6)
    data = TrainingData([str(new_store(tmp_path / "s", episodes=2))], (32, 32))
    data.caches[0].extras["observation.state"][:, 1] = 3
    assert data.column_range("observation.state")[1][1] == 1


def test_nothing_is_decoded_before_frames_are_asked_for(tmp_path: Path, new_store: MakeStore) -> None:
    data = TrainingData([str(new_store(tmp_path / "s", episodes=2))], (32, 32))
    assert data.episodes == 2
    assert data.lengths.tolist() == [12, 12]
    assert not (tmp_path / "s" / "cache").exists()
