"""Recordings beside themselves after damage: what is drawn, in which looks, what is held back, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_recordings import make_recordings, patch_oracle

from roboalign_core.benchmark import Split
from roboalign_core.benchmark.degradations import DEGRADATIONS
from roboalign_core.benchmark.sources import open_sources, split_of
from roboalign_core.episodes import Episode, EpisodeStore
from roboalign_core.episodes.boxes import BOXES, box_columns
from roboalign_core.errors import RoboAlignError
from roboalign_core.reward.damages import Damages
from roboalign_core.rubric import KEYS

SPLITS = {"train": 0.7, "validation": 0.2, "test": 0.1}
SMOOTH = KEYS.index("temporal_consistency")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_recordings(tmp_path_factory.mktemp("recorded") / "store", 20)


@pytest.fixture(scope="module")
def wordless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stores of one folder, as of two cameras, whose recordings have no instruction."""
    root = tmp_path_factory.mktemp("wordless")
    given = list(EpisodeStore.open(make_recordings(root / "given", 9, seed=5)))
    for camera, some in (("left", given[:3]), ("right", given[3:])):
        episodes = [replace(one, instruction="", success=None, camera=camera) for one in some]
        recorded = EpisodeStore.open(root / "given").spec
        EpisodeStore.create(root / "cameras" / camera, replace(recorded, camera=camera)).append(episodes)
    return root / "cameras"


def _boxes(episode: Episode) -> np.ndarray:
    place = episode.extras["observation.state"][:, :1]
    robot = np.tile(np.float32([0, 0, 1, 0.1]), (len(episode), 1))
    edges = [(place - 3) / 32, np.full_like(place, 13 / 32), (place + 4) / 32, np.full_like(place, 20 / 32)]
    return np.concatenate([robot, *edges], 1).astype(np.float32)


def opened(*folders: Path, instructions: dict[str, str] | None = None, size: tuple[int, int] = (32, 32)) -> Damages:
    return Damages([str(folder) for folder in folders], size, instructions or {}, SPLITS, 3, 8)


def test_what_is_damaged_lies_beside_what_it_was(store: Path) -> None:
    found, random = opened(store), np.random.default_rng(0)
    drawn = [found.draw(random, 5) for _ in range(150)]
    for one in drawn:
        assert one.clean.shape[1:] == one.damaged.shape[1:] == (32, 32, 3)
        assert 2 <= len(one.damaged) <= len(one.clean)
        assert len(one.clean) >= 5
        assert one.scores.shape == (2, 6)
        assert one.scores.min() >= 0
        assert one.scores.max() <= 1
        assert (one.scores[0] > one.scores[1]).any() or not one.scores[0, 0]
        different = len(one.damaged) < len(one.clean) or (one.damaged != one.clean).any()
        assert different
    assert {len(one.clean) for one in drawn} >= {5, 6, 12}
    assert any(len(one.damaged) < len(one.clean) for one in drawn)
    assert not any(one.judged for one in drawn)
    assert np.mean([one.scores[0, SMOOTH] > one.scores[1, SMOOTH] for one in drawn]) > 0.3


def test_without_an_oracle_recordings_are_seen_in_many_looks(wordless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roboalign_core.benchmark.sources.load_oracle", lambda source: None)
    found, random = opened(wordless, instructions={"toy": "move it about"}), np.random.default_rng(0)
    drawn = [found.draw(random, 12) for _ in range(80)]
    told = [one.instruction for one in drawn]
    assert set(told) <= set(found.instructions)
    assert 25 < told.count("move it about") < 55  # the others mean nothing
    assert len(set(told)) > 20
    firsts = {one.clean[0].tobytes() for one in drawn}
    assert len(firsts) == 80  # never the same look twice
    kept = [one for one in drawn if len(one.damaged) == len(one.clean) and (one.damaged[0] == one.clean[0]).all()]
    assert len(kept) > 40  # most damages leave the first frame, so both were given the same look
    colours = np.array([one.clean.mean((0, 1, 2)) for one in drawn])
    assert (colours.std(0) > 5).all()


def test_an_oracle_s_recordings_are_seen_as_they_are(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch_oracle(monkeypatch)
    found, random = opened(store), np.random.default_rng(1)
    frames = {frame.tobytes() for episode in EpisodeStore.open(store) for frame in episode.frames}
    for _ in range(20):
        one = found.draw(random, 6)
        assert one.judged
        assert all(frame.tobytes() in frames for frame in one.clean)


def test_things_are_damaged_where_they_are_boxed_and_judged(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thing that moves is seen apart from the robot, a stripe at the upper edge; what is done to it is no blur."""
    columns = box_columns(("robot", "thing"))
    boxed = [replace(one, extras={**one.extras, BOXES: _boxes(one)}) for one in EpisodeStore.open(store)]
    spec = EpisodeStore.open(store).spec
    EpisodeStore.create(tmp_path / "boxed", replace(spec, extras={**spec.extras, BOXES: columns})).append(boxed)
    things = {name for name, one in DEGRADATIONS.items() if one.family in ("objects", "contacts")}
    assert not things & set(opened(tmp_path / "boxed")._groups[0][0].kinds)  # nothing says what became of the task
    patch_oracle(monkeypatch)
    assert not things & set(opened(store)._groups[0][0].kinds)
    found, random = opened(tmp_path / "boxed"), np.random.default_rng(3)
    assert things < set(found._groups[0][0].kinds)
    monkeypatch.setattr("roboalign_core.reward.damages._Recorded.kinds", ["object_vanishing"])
    for _ in range(10):
        one = found.draw(random, 8)
        assert (one.scores[0, 2:] > one.scores[1, 2:]).all()
        changed = (one.clean != one.damaged).any((0, 3))
        assert changed[13:20].any()
        assert not changed[:5].any()


def test_what_an_oracle_judges_keeps_its_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An oracle's limits are for one frame after the other: half the frames would be twice the speed."""
    patch_oracle(monkeypatch)
    episodes = list(EpisodeStore.open(make_recordings(tmp_path / "given", 12, seed=8)))
    for number, one in enumerate(episodes):
        one.frames[:] = 20 * np.arange(len(one), dtype=np.uint8)[:, None, None, None]  # says when
        episodes[number] = replace(one, frames=one.frames)
    EpisodeStore.create(tmp_path / "timed", EpisodeStore.open(tmp_path / "given").spec).append(episodes)
    found, random = opened(tmp_path / "timed"), np.random.default_rng(0)
    assert {int(step) for _ in range(40) for step in np.diff(found.draw(random, 4).clean[:, 0, 0, 0])} == {20}
    monkeypatch.setattr("roboalign_core.benchmark.sources.load_oracle", lambda source: None)
    monkeypatch.setattr("roboalign_core.reward.damages.looking", lambda frames, look, still: frames.copy())
    found = opened(tmp_path / "timed")
    assert {int(step) for _ in range(80) for step in np.diff(found.draw(random, 4).clean[:, 0, 0, 0])} == {20, 40, 60}


def test_made_up_words_are_few_enough_and_only_where_they_are_used(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Damages([str(store)], (32, 32), {}, SPLITS, 3, 4)
    assert max(len(text.split()) for text in short.instructions) <= 4
    patch_oracle(monkeypatch)
    assert opened(store).instructions == ["move it right"]


def test_episodes_that_are_held_back_are_never_drawn(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patch_oracle(monkeypatch)
    found, random = opened(store), np.random.default_rng(2)
    parents, episodes = open_sources(store)[0].parents, EpisodeStore.open(store)
    train = {
        episodes[row].frames.tobytes()
        for row, parent in enumerate(parents)
        if split_of(parent, 3, SPLITS) is Split.TRAIN
    }
    seen = {one.clean.tobytes() for _ in range(300) if len((one := found.draw(random, 12)).clean) == 12}
    assert seen <= train
    assert len(seen) > 0.7 * len(train)


def test_the_same_state_draws_the_same(store: Path) -> None:
    found = opened(store)
    first, second = (found.draw(np.random.default_rng(7), 5) for _ in range(2))
    np.testing.assert_array_equal(first.clean, second.clean)
    np.testing.assert_array_equal(first.damaged, second.damaged)
    np.testing.assert_array_equal(first.scores, second.scores)


def test_a_folder_with_few_episodes_is_drawn_from_less_often(
    store: Path, wordless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roboalign_core.benchmark.sources.load_oracle", lambda source: None)
    few = sum(
        split_of(parent, 3, SPLITS) is Split.TRAIN for source in open_sources(wordless) for parent in source.parents
    )
    found, random = opened(store, wordless, instructions={"toy": "move it about"}), np.random.default_rng(3)
    draws = [found.draw(random, 6).instruction for _ in range(300)]
    told = np.array([draws.count("move it right"), draws.count("move it about")])
    assert told[1] / told.sum() == pytest.approx(few / (few + 10), abs=0.12)


def test_stores_that_cannot_be_learned_from_are_refused(
    store: Path, wordless: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RoboAlignError, match=r"cameras: expected episodes of the split train with an instruction"):
        opened(store, wordless)
    with monkeypatch.context() as patched:
        patch_oracle(patched)
        lacking = make_recordings(tmp_path / "lacking", 3, columns=("other.x",))
        with pytest.raises(RoboAlignError, match=r"lacking: observation.state: expected the column thing.x, found oth"):
            opened(lacking)
    with pytest.raises(RoboAlignError, match=r"absent: expected an episode store"):
        opened(tmp_path / "absent")
    patch_oracle(monkeypatch)  # so that they are seen as they are
    dark = [replace(one, frames=np.zeros_like(one.frames)) for one in EpisodeStore.open(store)]
    EpisodeStore.create(tmp_path / "dark", EpisodeStore.open(store).spec).append(dark)
    with pytest.raises(RoboAlignError, match=r"stage.damaged: expected recordings that damage changes, found none in"):
        opened(tmp_path / "dark").draw(np.random.default_rng(0), 6)


def test_more_episodes_are_another_identity(store: Path, tmp_path: Path) -> None:
    assert opened(store).identity == [["toy", 20, 240]]
    assert opened(make_recordings(tmp_path / "fewer", 8)).identity == [["toy", 8, 96]]
