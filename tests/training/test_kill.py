"""``kill -9`` at any moment: checkpoints are whole, and the same command goes on to the same result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from killed import killed_before

from roboalign_core import cli
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json
from roboalign_core.tensors import load_tensors
from roboalign_core.training.checkpoints import Checkpoints, only_process

TINY = [
    "model.tokenizer.height=32",
    "model.tokenizer.width=32",
    "model.tokenizer.fine_width=16",
    "model.tokenizer.latent_width=32",
    "model.tokenizer.heads=2",
    "model.tokenizer.encoder_blocks=1",
    "model.tokenizer.decoder_blocks=1",
]
RUN = ["stage.clips=6", "stage.distance=3", "loop.steps=24", "loop.checkpoint_every=3", "loop.log_every=1"]
FILES = {"model.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"}


def command(store: Path, out: Path) -> list[str]:
    return ["train", "stage=tokenizer", f"data=[{store}]", f"out={out}", *TINY, *RUN]


def run(store: Path, out: Path, before: str = "") -> int:
    """Train in a process of its own; returns its exit code."""
    program = before + "from roboalign_core import cli\nsys.exit(cli.main(sys.argv[1:]))\n"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", f"import sys\n{program}", *command(store, out)]
    return subprocess.run(arguments, stdout=subprocess.DEVNULL, env=environment, check=False).returncode


def logged(out: Path) -> int:
    path = out / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def assert_whole(out: Path) -> list[str]:
    """Every checkpoint loads fully; returns their names."""
    folders = sorted((out / "checkpoints").glob("step-*"))
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == FILES
        state = read_json(folder / "state.json")
        assert folder.name == f"step-{state['step']:08d}"
        model, optimizer = (load_tensors(folder / f"{name}.safetensors") for name in ("model", "optimizer"))
        parameters = sum(value.is_floating_point() and "standardise" not in name for name, value in model.items())
        assert len({name.rsplit(".", 1)[0] for name in optimizer}) == parameters
        assert load_tensors(folder / "random.safetensors")["torch"].dtype == torch.uint8
    return [folder.name for folder in folders]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_run_survives_being_killed(store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "killed"
    assert run(store, out, killed_before("open", r"metrics\.jsonl\|a", 3)) == -signal.SIGKILL
    assert logged(out) == 2  # before the first checkpoint
    assert assert_whole(out) == []
    assert run(store, out, killed_before("os.rename", r"\|.*/optimizer\.safetensors", 1)) == -signal.SIGKILL
    assert list((out / "checkpoints").glob(".tmp-*/model.safetensors"))  # while it saves
    assert assert_whole(out) == []
    assert run(store, out, killed_before("open", r"metrics\.jsonl\|a", 12)) == -signal.SIGKILL
    assert logged(out) == 11  # between two checkpoints
    assert assert_whole(out) == ["step-00000006", "step-00000009"]
    assert run(store, out) == 0
    assert assert_whole(out) == ["step-00000021", "step-00000024"]
    assert logged(out) == 24
    assert not list(out.rglob("*.tmp*"))

    assert cli.main(command(store, tmp_path / "whole")) == 0
    for name in ("model", "optimizer", "random"):
        ours, theirs = (
            load_tensors(run / "checkpoints" / "step-00000024" / f"{name}.safetensors")
            for run in (out, tmp_path / "whole")
        )
        assert all(torch.equal(ours[key], value) for key, value in theirs.items()), name
    exported = Path("model") / "tokenizer.safetensors"
    assert (out / exported).read_bytes() == (tmp_path / "whole" / exported).read_bytes()
    results = [read_json(run / "results.json") for run in (out, tmp_path / "whole")]
    assert results[0]["loss"] == results[1]["loss"]
    assert {"command", "seed", "git", "machine", "versions", "episodes", "steps"} <= results[0].keys()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_before_every_single_file_operation(tmp_path: Path) -> None:
    script = Path(__file__).with_name("kill_everywhere.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["wrong"] == [], done.stderr[-3000:]
    assert result["operations"] > 50
    assert result["killed"] >= result["operations"]


# -- the folder -----------------------------------------------------------------------------------------------------


def save(checkpoints: Checkpoints, step: int) -> None:
    checkpoints.save(step, {"model": {"w": torch.full((3,), float(step))}}, {"step": step})


def test_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.newest() is None
    for step in (5, 10, 100, 1000):
        save(checkpoints, step)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["step-00000100", "step-00001000"]
    newest = checkpoints.newest()
    assert newest == tmp_path / "c" / "step-00001000"
    assert load_tensors(newest / "model.safetensors")["w"].tolist() == [1000.0] * 3


def test_a_failed_save_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path / "c")
    save(checkpoints, 1)
    with monkeypatch.context() as patch:
        patch.setattr(
            "roboalign_core.training.checkpoints.write_json", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
        )
        with pytest.raises(OSError, match="full"):
            save(checkpoints, 2)
    assert checkpoints.newest() == tmp_path / "c" / "step-00000001"
    checkpoints.tidy()
    assert [path.name for path in (tmp_path / "c").iterdir()] == ["step-00000001"]
    save(checkpoints, 2)
    assert checkpoints.newest() == tmp_path / "c" / "step-00000002"


def test_a_run_folder_belongs_to_one_process(tmp_path: Path) -> None:
    with only_process(tmp_path / "run"):
        with (
            pytest.raises(RoboAlignError, match="expected nobody else to train in there"),
            only_process(tmp_path / "run"),
        ):
            pass
        with only_process(tmp_path / "other"):
            pass
    with only_process(tmp_path / "run"):
        pass
