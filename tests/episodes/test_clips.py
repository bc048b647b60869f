from __future__ import annotations

import json
import logging
import time

import numpy as np
import pytest
import torch

from roboalign_core.episodes import (
    AugmentationConfig,
    ClipConfig,
    ClipSampler,
    EpisodeStore,
    FrameCache,
    StoreSpec,
    split_episodes,
    video,
)
from roboalign_core.episodes.augment import augment
from roboalign_core.errors import RoboAlignError

PLAIN = AugmentationConfig(photometric=False, geometric=False)


@pytest.fixture
def cache(store):
    return FrameCache.open_or_build(store, progress=False)


def test_the_cache_holds_what_the_store_holds(store, cache):
    assert cache.frames.shape == (80, 64, 64, 3)
    assert cache.size == (64, 64)
    for index, episode in enumerate(store):
        np.testing.assert_array_equal(cache.episode_frames(index), episode.frames)
        np.testing.assert_array_equal(cache.episode_actions(index), episode.actions)
        np.testing.assert_array_equal(cache.episode_extra("progress", index), episode.extras["progress"])
    with pytest.raises(RoboAlignError, match="expected one of"):
        cache.episode_extra("depth", 0)


def test_the_cache_is_built_once_and_again_when_the_store_changes(store, cache, make_episode, monkeypatch):
    built = store.path / "cache/64x64/frames.npy"
    first = built.stat().st_ino
    FrameCache.open_or_build(store, progress=False)
    assert built.stat().st_ino == first
    store.append([make_episode(7)])
    again = FrameCache.open_or_build(store, progress=False)
    assert again.frames.shape[0] == 92
    assert {path.name for path in (store.path / "cache").iterdir()} == {"64x64", ".build.lock"}


def test_a_damaged_cache_is_built_again(store, cache):
    path = store.path / "cache/64x64/frames.npy"
    expected = np.array(cache.frames)
    path.write_bytes(path.read_bytes()[:1000])
    np.testing.assert_array_equal(FrameCache.open_or_build(store, progress=False).frames, expected)


def test_the_cache_resizes(store):
    cache = FrameCache.open_or_build(store, size=(32, 48), progress=False)
    assert cache.frames.shape == (80, 32, 48, 3)
    assert abs(cache.frames.mean() - FrameCache.open_or_build(store, progress=False).frames.mean()) < 1


def test_an_empty_store_cannot_be_cached(tmp_path, spec):
    with pytest.raises(RoboAlignError, match="found an empty store"):
        FrameCache.open_or_build(EpisodeStore.create(tmp_path / "s", spec))


@pytest.mark.parametrize("stride", [1, 2])
def test_clips_are_windows_of_their_episode(cache, stride):
    clip = ClipSampler(cache, ClipConfig(4, stride, PLAIN), seed=1).sample(50)
    assert clip.frames.shape == (50, 4, 64, 64, 3)
    assert clip.frames.dtype == torch.uint8
    assert clip.actions.shape == (50, 4, 3)
    assert clip.actions.dtype == torch.float32
    for frames, actions, episode, start in zip(clip.frames, clip.actions, clip.episode, clip.start, strict=True):
        window = slice(int(start), int(start) + 3 * stride + 1, stride)
        np.testing.assert_array_equal(frames, cache.episode_frames(int(episode))[window])
        np.testing.assert_array_equal(actions, cache.episode_actions(int(episode))[window])
    assert clip.images().shape == (50, 4, 3, 64, 64)
    assert 0 <= clip.images().min() <= clip.images().max() <= 1


def test_episodes_are_drawn_uniformly_and_starts_uniformly_within_them(cache):
    clip = ClipSampler(cache, ClipConfig(8, 1, PLAIN), seed=3).sample(6000)
    counts = np.bincount(clip.episode.numpy(), minlength=5)
    # Five episodes of 8 to 24 frames: were frames uniform, the shares would run from 0.02 to 0.34.
    np.testing.assert_allclose(counts / 6000, 0.2, atol=0.025)
    starts = np.bincount(clip.start.numpy()[clip.episode.numpy() == 4], minlength=17)
    assert len(starts) == 17  # [0, L - T] with L = 24 and T = 8, both ends included
    assert starts.min() > 0.5 * starts.mean()
    assert starts.max() < 1.6 * starts.mean()


def test_weights_choose_the_windows(cache):
    weights = np.zeros(80)
    weights[[9, 40]] = 1, 3  # frame 1 of episode 1 and frame 4 of episode 3
    weights[79] = 1000  # no clip fits there
    clip = ClipSampler(cache, ClipConfig(8, 1, PLAIN), seed=0, weights=weights).sample(1000)
    drawn = set(zip(clip.episode.tolist(), clip.start.tolist(), strict=True))
    assert drawn == {(1, 1), (3, 4)}
    assert float((clip.episode == 3).float().mean()) == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("weights", [np.zeros(80), np.ones(79), -np.ones(80), np.full(80, np.nan)])
def test_unusable_weights_are_refused(cache, weights):
    with pytest.raises(RoboAlignError, match="clip weights"):
        ClipSampler(cache, ClipConfig(8), weights=weights)


def test_the_same_seed_gives_the_same_clips_and_a_state_goes_on_exactly(cache):
    config = ClipConfig(6)
    sampler = ClipSampler(cache, config, seed=5)
    sampler.sample(3)
    state = json.loads(json.dumps(sampler.state_dict()))
    expected = [sampler.sample(4) for _ in range(3)]
    resumed = ClipSampler(cache, config, seed=99)
    resumed.load_state_dict(state)
    for clip in expected:
        found = resumed.sample(4)
        assert torch.equal(found.frames, clip.frames)
        assert torch.equal(found.actions, clip.actions)
    other = ClipSampler(cache, config, seed=6)
    other.sample(3)
    assert not torch.equal(other.sample(4).frames, expected[0].frames)
    with pytest.raises(RoboAlignError, match="expected the state of a sampler"):
        resumed.load_state_dict({})


def test_short_episodes_are_left_out_with_one_warning(cache, caplog):
    with caplog.at_level(logging.WARNING):
        sampler = ClipSampler(cache, ClipConfig(10, 2))
    assert [record.getMessage() for record in caplog.records] == [
        "3 of 5 episodes are shorter than a clip of 19 frames and are left out"
    ]
    assert sampler.episodes.tolist() == [3, 4]
    with pytest.raises(RoboAlignError, match=r"expected episodes of 30 frames .*found 5 episodes, the longest of 24"):
        ClipSampler(cache, ClipConfig(30))
    with pytest.raises(RoboAlignError, match="expected episodes 0 to 4, found 2 to 5"):
        ClipSampler(cache, ClipConfig(4), episodes=[2, 5])


@pytest.mark.parametrize(
    "config", [AugmentationConfig(), AugmentationConfig(geometric=False), AugmentationConfig(photometric=False)]
)
def test_all_frames_of_a_clip_are_changed_alike_and_clips_differently(config):
    still = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    frames = torch.from_numpy(np.broadcast_to(still, (4, 5, 64, 64, 3)).copy())
    out = augment(frames, config, np.random.default_rng(1))
    assert out.shape == frames.shape
    assert out.dtype == torch.uint8
    for clip in out:
        assert all(torch.equal(frame, clip[0]) for frame in clip)
        assert not torch.equal(clip[0], frames[0, 0])
    assert not torch.equal(out[0], out[1])


def test_each_change_can_be_switched_off(cache):
    frames = torch.from_numpy(np.array(cache.frames[:8]))[None]
    nothing = dict.fromkeys(("brightness", "contrast", "saturation", "hue", "zoom", "shift"), 0.0)
    assert augment(frames, AugmentationConfig(**nothing), np.random.default_rng(0)) is frames
    for name in nothing:
        changed = augment(frames, AugmentationConfig(**{**nothing, name: 0.3}), np.random.default_rng(0))
        assert not torch.equal(changed, frames), name
    with pytest.raises(RoboAlignError, match=r"augmentation\.zoom"):
        AugmentationConfig(zoom=1.5)


def test_brightness_and_shift_do_what_they_say():
    frames = torch.full((1, 1, 32, 32, 3), 100, dtype=torch.uint8)
    frames[:, :, :, 16:] = 200
    nothing = dict.fromkeys(("brightness", "contrast", "saturation", "hue", "zoom", "shift"), 0.0)
    rng = np.random.default_rng(0)
    brighter = augment(frames, AugmentationConfig(**{**nothing, "brightness": 0.2}), rng).int() - frames.int()
    assert brighter.unique().numel() == 1  # the same amount at every pixel
    assert 0 < abs(int(brighter[0, 0, 0, 0, 0])) <= 51
    shifted = augment(frames, AugmentationConfig(**{**nothing, "shift": 0.25}), rng)
    edge = int((shifted[0, 0, 16, :, 0] < 150).sum())
    assert edge != 16
    assert abs(edge - 16) <= 8


def test_splits_are_by_episode_and_stay_when_the_store_grows():
    train, held = split_episodes(100, 0.2, seed=1)
    assert sorted([*train, *held]) == list(range(100))
    assert 10 <= len(held) <= 30
    more_train, more_held = split_episodes(150, 0.2, seed=1)
    assert set(train) <= set(more_train)
    assert set(held) <= set(more_held)
    assert not np.array_equal(held, split_episodes(100, 0.2, seed=2)[1])
    assert [len(side) for side in split_episodes(2, 0.01, seed=0)] == [1, 1]
    assert len(split_episodes(7, 0.0, seed=0)[1]) == 0
    for count, share in ((1, 0.5), (10, 1.0)):
        with pytest.raises(RoboAlignError, match="holdout"):
            split_episodes(count, share, seed=0)


def test_a_cache_costs_about_one_decoding_and_clips_next_to_nothing(tmp_path, make_episode):
    """In time of the processor, against the decoder's on the same machine: seeking every frame costs five of these."""
    episodes = [make_episode(seed, length=100) for seed in range(10)]
    store = EpisodeStore.create(tmp_path / "s", StoreSpec.like(episodes[0]))
    store.append(episodes)

    def seconds(work):
        started = time.process_time()
        work()
        return time.process_time() - started

    decoding = seconds(lambda: [frame.shape for frame in video.decode(store.file("video", 0))])
    assert seconds(lambda: FrameCache.open_or_build(store, progress=False)) < 3 * decoding
    sampler = ClipSampler(FrameCache.open_or_build(store, progress=False), ClipConfig(8, 1, PLAIN))
    drawing = seconds(lambda: [sampler.sample(32) for _ in range(20)])
    assert drawing / (20 * 32 * 8) < 0.1 * decoding / store.frames
