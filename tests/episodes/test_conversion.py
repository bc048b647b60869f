"""A conversion that is stopped anywhere goes on, and ends with the files of one that never was."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from killed import killed_before

from roboalign_core.episodes import conversion, video
from roboalign_core.episodes.convert import ConvertConfig, convert
from roboalign_core.episodes.video import VideoCodec
from roboalign_core.errors import RoboAlignError

EPISODES = 2


def write_droid(folder: Path, frames: np.ndarray, fps: float, **changes: object) -> None:
    folder.mkdir(parents=True)
    for camera in ("0", "2"):
        video.encode(folder / f"{camera}.mp4", frames, fps, VideoCodec())
    states = np.linspace(-1, 1, len(frames) * 7).reshape(-1, 7)
    content = {"texts": [folder.name], "success": 1, "states": states.tolist(), "video_length": len(frames), **changes}
    (folder / "annotation.json").write_text(json.dumps(content))


@pytest.fixture
def droid(tmp_path: Path, make_episode: Callable) -> Path:
    """Two cameras, two rates."""
    for number in range(EPISODES):
        write_droid(tmp_path / f"droid/{number}", make_episode(number).frames, 4 if number == 1 else 5)
    return tmp_path / "droid"


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "_GROUP_BYTES", 1)


def settings(droid: Path, out: Path, **changes: object) -> ConvertConfig:
    return ConvertConfig(**{"src": str(droid), "out": str(out), **changes})  # type: ignore[arg-type]


def checksums(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Stops:
    """Stops the process, as it were, before or after the n-th file that gets its name."""

    def __init__(self, number: int, after: bool) -> None:
        self.left, self.after, self.replace = number, after, os.replace

    def __call__(self, source: object, target: object) -> None:
        self.left -= 1
        if self.left or self.after:
            self.replace(source, target)  # type: ignore[arg-type]
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize(("camera", "after"), [(None, True), ("wrist", False)], ids=["four stores", "two stores"])
def test_stopped_at_any_file_the_same_command_goes_on(
    tmp_path: Path, droid: Path, monkeypatch: pytest.MonkeyPatch, camera: str | None, after: bool
) -> None:
    convert(settings(droid, tmp_path / "whole", camera=camera))
    whole = checksums(tmp_path / "whole")
    stops = 0
    for number in range(1, 200):
        out = tmp_path / f"out{number}"
        stop = Stops(number, after)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stop)
            try:
                convert(settings(droid, out, camera=camera))
            except KeyboardInterrupt:
                stops += 1
        if stop.left > 0:
            break
        if not out.exists():
            results = convert(settings(droid, out, camera=camera))
            assert results["episodes"] == EPISODES * (2 if camera is None else 1)
            assert results["frame_psnr_db"] > 38
        assert checksums(out) == whole
    assert stops > 15
    with pytest.raises(RoboAlignError, match="expected a new or empty folder"):  # also tidies up after a late stop
        convert(settings(droid, tmp_path / f"out{number - 1}", camera=camera))
    assert not (tmp_path / f".out{number - 1}.converting").exists()


@pytest.mark.usefixtures("small_groups")
def test_only_what_was_not_kept_is_read_again(tmp_path: Path, droid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (droid / "0/annotation.json").write_text("{}")
    write = conversion.write_json

    def stop(path: Path, value: object) -> None:
        write(path, value)
        if value["done"]:  # type: ignore[index]
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "write_json", stop)
        with pytest.raises(KeyboardInterrupt):
            convert(settings(droid, tmp_path / "out", skip_bad=True))
    (droid / "1/2.mp4").write_bytes(b"")
    (droid / "1/0.mp4").write_bytes(b"")  # read already: nobody looks
    results = convert(settings(droid, tmp_path / "out", skip_bad=True))
    assert (results["episodes"], results["skipped"]) == (1, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["droid", "out"]


@pytest.mark.usefixtures("small_groups")
def test_another_conversion_is_not_mixed_in(
    tmp_path: Path, droid: Path, make_episode: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", Stops(9, after=True))
        with pytest.raises(KeyboardInterrupt):
            convert(settings(droid, tmp_path / "out"))
    with pytest.raises(RoboAlignError, match=r"\.out\.converting: expected an unfinished .* found one with other crf"):
        convert(settings(droid, tmp_path / "out", crf=3))
    write_droid(droid / "new", make_episode(7).frames, 5)
    with pytest.raises(RoboAlignError, match="found one with other recordings"):
        convert(settings(droid, tmp_path / "out"))
    assert (tmp_path / ".out.converting/journal.json").is_file()


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("change", [{"crf": 40}, {"lossless": True}, {"camera": "wrist"}])
def test_other_settings_find_nothing_of_a_run_that_was_stopped_at_its_first_store(
    tmp_path: Path, droid: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(conversion.Growing, "flush", stop_after(conversion.Growing.flush))
        with pytest.raises(KeyboardInterrupt):
            convert(settings(droid, tmp_path / "out", **change))
    with pytest.raises(RoboAlignError, match=f"found one with other {next(iter(change))}"):
        convert(settings(droid, tmp_path / "out"))


def stop_after(flush: Callable) -> Callable:
    def stopped(store: object) -> None:
        flush(store)
        raise KeyboardInterrupt

    return stopped


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "null", '{"identity": null}', "[" * 100_000])
def test_a_journal_that_makes_no_sense_is_refused(tmp_path: Path, droid: Path, content: str) -> None:
    folder = tmp_path / ".out.converting"
    folder.mkdir()
    (folder / "journal.json").write_text(content)
    with pytest.raises(RoboAlignError, match=r"journal\.json: expected the journal of a stopped conversion.*remove /"):
        convert(settings(droid, tmp_path / "out"))
    assert (folder / "journal.json").is_file()


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("change", [{"done": 999}, {"done": -3}, {"done": "x"}, {"stores": None}, {"stores": [[1, 2]]}])
def test_progress_that_makes_no_sense_is_refused(
    tmp_path: Path, droid: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", Stops(9, after=True))
        with pytest.raises(KeyboardInterrupt):
            convert(settings(droid, tmp_path / "out"))
    path = tmp_path / ".out.converting/journal.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RoboAlignError, match="expected the journal of a stopped conversion"):
        convert(settings(droid, tmp_path / "out"))
    assert path.is_file()


def test_the_goal_may_be_a_link_to_an_empty_folder(tmp_path: Path, droid: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    convert(settings(droid, tmp_path / "link", camera="wrist"))
    assert any((tmp_path / "real").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["droid", "link", "real"]


def test_an_error_leaves_nothing(tmp_path: Path, droid: Path) -> None:
    (droid / "1/annotation.json").write_text("{}")
    with pytest.raises(RoboAlignError, match=r"1/annotation\.json"):
        convert(settings(droid, tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["droid"]


@pytest.mark.usefixtures("small_groups")
@pytest.mark.timeout(900)
def test_killed_at_any_moment_the_same_command_goes_on(tmp_path: Path, make_episode: Callable) -> None:
    for number in range(8):
        write_droid(tmp_path / f"droid/{number}", make_episode(number).frames, 5)
    program = (
        "import sys; from roboalign_core.episodes import conversion; conversion._GROUP_BYTES = 1;"
        "from roboalign_core.episodes.convert import ConvertConfig, convert;"
        "convert(ConvertConfig(src=sys.argv[1], out=sys.argv[2], camera='wrist'))"
    )

    def exit_code(before: str = "") -> int:
        command = [sys.executable, "-c", before + program, str(tmp_path / "droid"), str(tmp_path / "killed")]
        return subprocess.run(command, check=False).returncode

    for pattern, number in ((r"\|.*/file-.*\.mp4", 2), (r"\|.*/journal\.json", 5)):  # in a group, and at its end
        assert exit_code(killed_before("os.rename", pattern, number)) == -signal.SIGKILL
    assert len(list(tmp_path.glob(".killed.converting/**/file-*.mp4"))) >= 4
    assert exit_code() == 0
    convert(settings(tmp_path / "droid", tmp_path / "whole", camera="wrist"))
    assert checksums(tmp_path / "killed") == checksums(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["droid", "killed", "whole"]
