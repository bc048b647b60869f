"""The study on the bundled world model and its simulator's own oracle: a damaged model is found worse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from roboalign_core.bundled import bundled_models
from roboalign_core.evaluation import alignment
from roboalign_core.evaluation.alignment import study
from roboalign_core.evaluation.alignment_config import AlignmentStudyConfig
from roboalign_core.world_model import WorldModel

pytestmark = pytest.mark.skipif("tabletop" not in bundled_models(), reason="no model is bundled: make train-tabletop")


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Episodes in which the expert gets there."""
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from roboalign_sim.collect import CollectConfig, run

    out = tmp_path_factory.mktemp("held_out") / "store"
    policies = {"tabletop": {"expert": 1.0}}
    run(CollectConfig(str(out), episodes=8, seed=77, workers=1, steps=14, policies=policies))
    return out


def test_a_damaged_model_is_worse_by_the_oracle(
    held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alignment, "load_perceptual", lambda: (None, "too slow here"))
    model = WorldModel.from_pretrained("tabletop")
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.dynamics.parameters():
            weight += 0.5 * weight.std().nan_to_num() * torch.randn_like(weight)
    model.save_pretrained(tmp_path / "damaged")
    config = AlignmentStudyConfig(
        models={"sft": ["tabletop"], "damaged": [str(tmp_path / "damaged")]},
        data=str(held_out),
        horizons=[12],
        effector=["finger.x", "finger.y"],
        training_reward={"damaged": ["positions"]},
        resamples=500,
        videos=1,
    )
    figures = study(config, str(tmp_path / "out"))
    assert figures["damaged_minus_sft_h12_oracle_total_ci_high"] < 0
    assert figures["damaged_minus_sft_h12_psnr_db_ci_high"] < 0
    assert figures["damaged_minus_sft_h12_effector_error_cm_ci_low"] > 0
    assert figures["damaged_minus_sft_h12_oracle_error_ci_low"] > 0
    assert figures["real_h12_oracle_total"] > figures["damaged_h12_oracle_total"]
    assert figures["damaged_minus_sft_h12_training_reward_ci_high"] < 0
    assert "oracle_total" in figures["detail"]["not_independent"]["damaged"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "damaged is worse than sft" in page
    assert "This total is not independent" in page
