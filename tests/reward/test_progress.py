"""The planner's objective: instructions, files, and what it refuses."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from roboalign_core.errors import RoboAlignError
from roboalign_core.reward.progress import ProgressConfig, ProgressHead, ProgressModel

INSTRUCTIONS = ["push left", "push right", "reach"]


@pytest.fixture(scope="module")
def progress() -> ProgressModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ProgressConfig(
            INSTRUCTIONS, cells=4, channels=8, dim=6, state=["x", "y"], width=16, slots=3, hidden=16
        )
        return ProgressModel(config, ProgressHead(config))


@pytest.fixture
def folder(progress: ProgressModel, tmp_path: Path) -> Path:
    progress.save_pretrained(tmp_path / "objective", dtype=torch.float32)
    return tmp_path / "objective"


def features(seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(seed))


def expected(count: int, steps: int = 2) -> torch.Tensor:
    return torch.randn(count, steps, 6, generator=torch.Generator().manual_seed(1))


def test_each_instruction_has_a_score_of_its_own(progress: ProgressModel) -> None:
    first, later = features(), expected(5)
    scores = np.stack([progress.score(first, later, instruction) for instruction in INSTRUCTIONS], axis=-1)
    assert scores.shape == (5, 2, 3)
    assert scores.dtype == np.float32
    with torch.no_grad():
        known = progress.head(first.expand(10, -1, -1), later.flatten(0, 1)).numpy()
    np.testing.assert_allclose(scores.reshape(10, 3), known, atol=1e-6)
    assert len(np.unique(scores)) == 30


def test_positions_in_the_first_frame_matter(progress: ProgressModel) -> None:
    first, later = features(), expected(1)
    assert (progress.score(first, later, "reach") != progress.score(first.flip(1), later, "reach")).all()


def test_what_never_changes_is_taken_from_the_real_frame(progress: ProgressModel) -> None:
    head = ProgressHead(replace(progress.config, constant=["y"]))
    head.load_state_dict(progress.head.state_dict())
    first, later = torch.tensor([[0.3, -0.4]]), torch.tensor([[0.9, 5.0]])
    with torch.no_grad():
        found, without = head.progress(first, later), progress.head.progress(first, later)
        assert torch.equal(found, head.progress(first, torch.tensor([[0.9, -5.0]])))
        assert torch.equal(found, progress.head.progress(first, torch.tensor([[0.9, -0.4]])))
        assert not torch.equal(found, head.progress(first, torch.tensor([[0.8, 5.0]])))
    assert not torch.equal(found, without)


def test_half_precision_features_are_taken(progress: ProgressModel) -> None:
    first, later = features(), expected(3)
    np.testing.assert_allclose(
        progress.score(first.bfloat16(), later.bfloat16(), "reach"), progress.score(first, later, "reach"), atol=0.1
    )


@pytest.mark.parametrize("instruction", ["", "  ", None, 3, "Reach", "fly"])
def test_other_instructions_are_refused(progress: ProgressModel, instruction: str) -> None:
    with pytest.raises(RoboAlignError, match="instruction: expected"):
        progress.score(features(), expected(1), instruction)


def test_the_round_trip_changes_nothing(progress: ProgressModel, folder: Path) -> None:
    """The folder holds nothing else: an objective need not lie beside a world model."""
    again = ProgressModel.from_pretrained(folder)
    assert again.config == progress.config
    first, later = features(), expected(5)
    np.testing.assert_array_equal(again.score(first, later, "reach"), progress.score(first, later, "reach"))


def test_damage_is_named(folder: Path, tmp_path: Path) -> None:
    def damaged(name: str) -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    missing = damaged("missing")
    (missing / "progress.safetensors").unlink()
    with pytest.raises(RoboAlignError, match=r"progress\.safetensors: expected weights"):
        ProgressModel.from_pretrained(missing)
    half = damaged("half")
    (half / "progress.safetensors").write_bytes((folder / "progress.safetensors").read_bytes()[:200])
    with pytest.raises(RoboAlignError, match="expected a whole safetensors file"):
        ProgressModel.from_pretrained(half)
    other = damaged("other")
    config = json.loads((other / "progress.json").read_text())
    (other / "progress.json").write_text(json.dumps(config | {"hidden": 17}))
    with pytest.raises(RoboAlignError, match="weights do not fit the configuration"):
        ProgressModel.from_pretrained(other)
    (other / "progress.json").write_text(json.dumps(config | {"colour": "red"}))
    with pytest.raises(RoboAlignError, match="expected the keys of ProgressConfig"):
        ProgressModel.from_pretrained(other)
    with pytest.raises(RoboAlignError, match=r"a folder with progress\.json"):
        ProgressModel.from_pretrained(tmp_path)
