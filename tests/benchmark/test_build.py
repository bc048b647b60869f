"""Building a benchmark: the same files every time, also after a crash; splits by episode; whose scores they are."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killed import killed_before

from roboalign_core.benchmark import Benchmark, Origin, Split, build, sources
from roboalign_core.benchmark.build import BuildConfig
from roboalign_core.benchmark.recipe import check
from roboalign_core.episodes import Episode, EpisodeStore, StoreSpec
from roboalign_core.errors import RoboAlignError

LENGTH, COUNT = 10, 12
FINISHED = ["benchmark.json", "pairs.parquet", "stores"]
INSTRUCTIONS = ("push the cube left", "push the cube right", "reach the cube")


def episode(number: int, camera: str = "front", source: str = "toy", **changes: object) -> Episode:
    """A square that moves over a shaded table; the actions tell episodes apart, the camera's pixels differ."""
    rng = np.random.default_rng(number)
    frames = np.full((LENGTH, 24, 24, 3), 90 if camera == "front" else 140, np.uint8)
    frames += rng.integers(20, size=frames.shape, dtype=np.uint8)
    for t in range(LENGTH):
        frames[t, 8:14, t + 2 : t + 8] = (220, 40, 40)
    fields = {
        "frames": frames,
        "actions": rng.normal(size=(LENGTH, 2)).astype(np.float32),
        "instruction": INSTRUCTIONS[number % 3],
        "success": number % 4 != 3,
        "fps": 5.0,
        "source": source,
        "camera": camera,
    }
    return Episode(**{**fields, **changes})  # type: ignore[arg-type]


def store_of(path: Path, episodes: list[Episode]) -> Path:
    EpisodeStore.create(path, StoreSpec.like(episodes[0])).append(episodes)
    return path


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    """One robot seen by two cameras."""
    for camera in ("front", "side"):
        store_of(tmp_path / "data" / camera, [episode(number, camera) for number in range(COUNT)])
    return tmp_path / "data"


def settings(stores: Path, out: Path, **changes: object) -> BuildConfig:
    return BuildConfig(**{"out": str(out), "stores": [str(stores)], "pairs": 60, "seed": 1, **changes})  # type: ignore[arg-type]


def checksums(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_BATCH", 16)


@pytest.mark.usefixtures("small_batches")
def test_the_same_settings_give_the_same_files(tmp_path: Path, stores: Path) -> None:
    figures = build.build(settings(stores, tmp_path / "one"))
    build.build(settings(stores, tmp_path / "two"))
    build.build(settings(stores, tmp_path / "other", seed=2))
    assert checksums(tmp_path / "one") == checksums(tmp_path / "two")
    assert checksums(tmp_path / "one") != checksums(tmp_path / "other")
    benchmark = Benchmark.open(tmp_path / "one")
    benchmark.verify(deep=True)
    assert figures["pairs"] == len(benchmark.pairs) == 60
    assert figures["videos"] <= 60
    assert {pair.store for pair in benchmark.pairs} == {"toy-front", "toy-side"}


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("before_part", [True, False], ids=["videos written, pairs not", "between batches"])
def test_a_crash_changes_nothing(
    tmp_path: Path, stores: Path, monkeypatch: pytest.MonkeyPatch, before_part: bool
) -> None:
    build.build(settings(stores, tmp_path / "whole"))
    written: list[Path] = []
    write = build.write_pairs

    def crash(path: Path, pairs: object) -> None:
        if not before_part and len(written) < 2:
            write(path, pairs)  # type: ignore[arg-type]
        written.append(path)
        if before_part or len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(build, "write_pairs", crash)
    with pytest.raises(KeyboardInterrupt):
        build.build(settings(stores, tmp_path / "broken"))
    with pytest.raises(RoboAlignError, match="expected a finished benchmark"):
        Benchmark.open(tmp_path / "broken")
    monkeypatch.setattr(build, "write_pairs", write)
    with pytest.raises(RoboAlignError, match="found others for seed"):
        build.build(settings(stores, tmp_path / "broken", seed=5))
    build.build(settings(stores, tmp_path / "broken"))
    assert checksums(tmp_path / "broken") == checksums(tmp_path / "whole")
    assert build.build(settings(stores, tmp_path / "broken"))["pairs"] == 60  # a finished one is left as it is


@pytest.mark.timeout(900)
def test_killed_at_any_moment_the_same_command_goes_on(tmp_path: Path, stores: Path) -> None:
    program = (
        "import sys; from roboalign_core.benchmark import build; build._BATCH = 4;"
        "build.build(build.BuildConfig(out=sys.argv[1], stores=[sys.argv[2]], pairs=60, seed=1))"
    )
    out = tmp_path / "killed"

    def exit_code(folder: Path, before: str = "") -> int:
        command = [sys.executable, "-c", before + program, str(folder), str(stores)]
        return subprocess.run(command, check=False).returncode

    assert exit_code(tmp_path / "whole") == 0
    for pattern, number in ((r"\|.*/killed/parts/0", 5), (r"\|.*/killed/stores/", 9)):  # at a batch's end, and in one
        assert exit_code(out, killed_before("os.rename", pattern, number)) == -signal.SIGKILL
    assert len(list(out.glob("parts/0*.parquet"))) >= 4
    assert exit_code(out) == 0
    assert checksums(out) == checksums(tmp_path / "whole")


def test_who_waited_for_the_same_build_finds_it_finished(
    tmp_path: Path, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build.build(settings(stores, tmp_path / "whole"))
    wanted, lock = settings(stores, tmp_path / "out"), build.exclusive

    @contextmanager
    def late(path: Path) -> Iterator[None]:
        monkeypatch.setattr(build, "exclusive", lock)
        build.build(wanted)
        with lock(path):
            yield

    monkeypatch.setattr(build, "exclusive", late)
    assert build.build(wanted)["pairs"] == 60
    assert checksums(tmp_path / "out") == checksums(tmp_path / "whole")
    assert names(tmp_path / "out") == FINISHED


@pytest.mark.parametrize("kept", [(), ("parts",), ("parts", ".build.lock")], ids=["settings", "parts", "all"])
def test_a_crash_after_the_last_file_leaves_nothing_for_good(
    tmp_path: Path, stores: Path, monkeypatch: pytest.MonkeyPatch, kept: tuple[str, ...]
) -> None:
    finish, out = build.finish, tmp_path / "out"

    def crash(*about: Any) -> None:
        finish(*about)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "finish", crash)
        with pytest.raises(KeyboardInterrupt):
            build.build(settings(stores, out))
    assert names(out) == sorted([*FINISHED, ".build.lock", "build.json", "parts"])
    if "parts" not in kept:
        shutil.rmtree(out / "parts")
    if ".build.lock" not in kept:
        (out / ".build.lock").unlink()
    assert build.build(settings(stores, out))["pairs"] == 60
    assert names(out) == FINISHED


def test_all_that_was_made_from_one_episode_is_in_one_split(tmp_path: Path, stores: Path) -> None:
    build.build(settings(stores, tmp_path / "out", pairs=150))
    pairs = Benchmark.open(tmp_path / "out").pairs
    by_parent: dict[str, set[Split]] = {}
    cameras: dict[str, set[str]] = {}
    for pair in pairs:
        by_parent.setdefault(pair.parent, set()).add(pair.split)
        cameras.setdefault(pair.parent, set()).add(pair.store)
    assert all(len(splits) == 1 for splits in by_parent.values())
    assert any(len(found) == 2 for found in cameras.values())  # one episode, two cameras, one split
    assert len(by_parent) == COUNT


def test_scores_without_an_oracle_follow_the_rules(tmp_path: Path, stores: Path) -> None:
    build.build(settings(stores, tmp_path / "out", pairs=150))
    pairs = Benchmark.open(tmp_path / "out").pairs
    recorded = [pair for pair in pairs if pair.origin is Origin.RECORDED]
    assert {pair.scores for pair in recorded} == {(3, 2, 1, 1, 1, 2), (2, 0, 1, 1, 1, 2)}
    assert len({(pair.store, pair.parent) for pair in recorded}) == len(recorded)  # none twice
    degraded = [pair for pair in pairs if pair.origin is Origin.DEGRADED]
    assert all(sum(pair.scores) < 10 for pair in degraded)
    swapped = [pair for pair in degraded if [change.name for change in pair.degradations] == ["instruction_swap"]]
    assert swapped
    for pair in swapped:
        assert pair.scores[1] == 0
        assert pair.scores[2:] == (1, 1, 1, 2)
        assert pair.instruction in INSTRUCTIONS
    assert all(pair.labeller == "rule" for pair in pairs)


class ToyOracle:
    """Knows that every toy episode pushes the cube right, once it has eight frames."""

    source = "toy"
    instructions = INSTRUCTIONS

    def score(self, episode: Episode, instruction: str) -> np.ndarray:
        done = instruction == "push the cube right" and len(episode) >= 8
        return np.array([3 if done else 1, 2 if done else 0, 1, 1, 1, 2], np.float32)


def test_an_oracle_scores_other_words_for_the_same_video(
    tmp_path: Path, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "load_oracle", lambda source: ToyOracle() if source == "toy" else None)
    build.build(settings(stores, tmp_path / "out", pairs=40, degradations={"instruction_swap": 1.0}, combined=0.0))
    benchmark = Benchmark.open(tmp_path / "out")
    for pair in benchmark.pairs:
        done = pair.instruction == "push the cube right"
        assert pair.scores[:2] == ((3, 2) if done else (1, 0))
        assert pair.labeller == "oracle"
        if pair.origin is Origin.DEGRADED:
            assert pair.instruction != benchmark.episode(pair).instruction
    assert sum(len(benchmark.store(name)) for name in benchmark.info["stores"]) <= 2 * COUNT  # no video is kept twice


def test_a_video_that_was_not_damaged_keeps_the_success_of_its_recording(tmp_path: Path, stores: Path) -> None:
    only = {"origins": {"recorded": 0.3, "degraded": 0.7}, "degradations": {"instruction_swap": 1.0}, "combined": 0.0}
    build.build(settings(stores, tmp_path / "out", pairs=60, **only))
    benchmark = Benchmark.open(tmp_path / "out")
    truth = {rows.actions.tobytes(): rows for rows in EpisodeStore.open(stores / "front")}
    first = {(pair.store, pair.episode): pair for pair in reversed(benchmark.pairs)}
    assert {pair.origin for pair in first.values()} == {Origin.RECORDED, Origin.DEGRADED}  # some were needed for others
    for pair in benchmark.pairs:
        video = benchmark.episode(pair)
        recorded = truth[video.actions.tobytes()]
        assert (video.success, video.instruction) == (recorded.success, recorded.instruction)


def test_a_damaged_video_keeps_no_success_under_other_words(tmp_path: Path, stores: Path) -> None:
    twice = {"origins": {"degraded": 1.0}, "degradations": {"instruction_swap": 1.0, "blur": 1.0}, "combined": 1.0}
    build.build(settings(stores, tmp_path / "out", pairs=40, **twice))
    benchmark = Benchmark.open(tmp_path / "out")
    both = [pair for pair in benchmark.pairs if len({change.name for change in pair.degradations}) == 2]
    assert both
    assert all(pair.instruction != benchmark.episode(pair).instruction for pair in both)
    assert all(benchmark.episode(pair).success is None for pair in both)


def test_an_oracle_says_what_a_cut_video_comes_to(
    tmp_path: Path, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "load_oracle", lambda source: ToyOracle())
    only = {"degraded": 1.0}
    weights = {"truncation": 1.0}
    build.build(settings(stores, tmp_path / "out", pairs=40, origins=only, degradations=weights, strength=[0.05, 1.0]))
    benchmark = Benchmark.open(tmp_path / "out")
    lengths = {len(benchmark.episode(pair)) for pair in benchmark.pairs}
    assert min(lengths) < 8 <= max(lengths)
    for pair in benchmark.pairs:
        done = pair.instruction == "push the cube right" and len(benchmark.episode(pair)) >= 8
        assert pair.scores[:2] == ((3, 2) if done else (1, 0))


def test_recordings_without_words_need_some(tmp_path: Path) -> None:
    silent = store_of(tmp_path / "silent", [episode(number, instruction="") for number in range(3)])
    with pytest.raises(RoboAlignError, match=r"found none; give them one: instructions=\{toy: \.\.\.\}"):
        build.build(settings(silent, tmp_path / "out"))
    build.build(settings(silent, tmp_path / "given", pairs=8, instructions={"toy": "move things about"}))
    pairs = Benchmark.open(tmp_path / "given").pairs
    assert {pair.instruction for pair in pairs} == {"move things about"}
    assert not any(change.name == "instruction_swap" for pair in pairs for change in pair.degradations)


def test_what_cannot_be_had_is_said(tmp_path: Path, stores: Path) -> None:
    only = {"recorded": 1.0, "degraded": 0.0}
    with pytest.raises(RoboAlignError, match=r"pair 2\d: expected one more that these stores and settings allow"):
        build.build(settings(stores, tmp_path / "out", pairs=100, origins=only))
    with pytest.raises(RoboAlignError, match="expected an episode store, or stores in its folders, found none"):
        build.build(settings(tmp_path / "out" / "stores" / "absent", tmp_path / "other"))


def test_something_else_in_the_folder_stays(tmp_path: Path, stores: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(RoboAlignError, match="expected a new folder or an unfinished benchmark"):
        build.build(settings(stores, tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": 0}, "pairs: expected at least 1, found 0"),
        ({"seed": -1}, "seed: expected 0 or more"),
        ({"stores": []}, "stores: expected at least one"),
        ({"shares": [1.0, 2.0]}, "shares: expected 1 or none, found 2"),
        ({"shares": [-1.0]}, "shares: expected shares of 0 or more"),
        ({"origins": {"recorded": 1.0, "dreamt": 1.0}}, "origins: expected some of"),
        ({"origins": {"recorded": 0.0}}, "origins: expected shares of 0 or more with a positive sum"),
        ({"splits": {"train": float("nan")}}, "splits: expected shares"),
        ({"splits": {"dev": 1.0}}, "splits: expected some of"),
        ({"degradations": {"sabotage": 1.0}}, "degradations: expected some of"),
        ({"combined": 1.5}, "combined: expected a share from 0 to 1"),
        ({"strength": [0.0, 1.0]}, r"strength: expected \[low, high\]"),
        ({"strength": [0.5]}, r"strength: expected \[low, high\]"),
        ({"models": ["tabletop"]}, "models: expected some where, and only where, generated pairs are wanted"),
        ({"origins": {"generated": 1.0}}, "models: expected some where, and only where"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RoboAlignError, match=message):
        check(BuildConfig(**{"out": "out", "stores": ["store"], **changes}))  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_splits_hold_about_their_shares_and_stay(share: float) -> None:
    shares = {"train": 1 - share, "test": share}
    found: Callable[[int], Split] = lambda n: sources.split_of(f"toy:{n}", 3, shares)  # noqa: E731
    held = np.mean([found(n) is Split.TEST for n in range(2000)])
    assert abs(held - share) < 0.04
    assert [found(n) for n in range(50)] == [found(n) for n in range(50)]
