"""The models that are shipped with the package."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from roboalign_core.bundled import MODELS, bundled_models
from roboalign_core.planning import OBJECTIVES, ImaginationServer, ObjectiveConfig, load_objective
from roboalign_core.reward.model import FOLDER
from roboalign_core.world_model import WorldModel
from roboalign_core.world_model.huggingface import load_llama

pytestmark = pytest.mark.skipif(not bundled_models(), reason="this checkout ships no weights")


@pytest.fixture(params=bundled_models())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_it_fits_into_a_repository_and_has_a_card(name: str) -> None:
    files = [path for path in (MODELS / name).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in MODELS.rglob("*")) <= 60e6, "all models together"
    assert "license" in (MODELS / name / "README.md").read_text()
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}


@torch.no_grad()
def test_it_decodes_as_transformers_does(name: str) -> None:
    """Two frames, greedy, token by token, at full precision but for the rounding of the embeddings that are stored."""
    model = WorldModel.from_pretrained(name, dtype=torch.float32)
    llama = load_llama(name)
    layout, rng = model.config.layout, np.random.default_rng(0)
    frame = rng.integers(0, 256, (*model.config.image_size, 3), dtype=np.uint8)
    actions = rng.uniform(-1, 1, (2, 2, model.config.action_dim)).astype(np.float32)
    bins, context = model.action_bins(actions), model.encode(torch.from_numpy(frame)[None])
    ids = torch.cat([layout.context_ids(context.codes), context.start], dim=1).repeat(2, 1)
    found = model.rollout(frame, actions, mode="plain").tokens
    for step in range(2):
        ids = torch.cat([ids, layout.action_ids(bins[:, step])], dim=1)
        for token in range(layout.dynamics_tokens):
            logits = llama(ids).logits[:, -1, : layout.dynamics_codes]
            chosen = logits.gather(1, found[:, step, token, None])[:, 0]
            # Groups are scored with what their codes' rounded embeddings have in common: near ties may fall either way.
            allowed = 0.05 if model.config.dynamics.code_channels else 0.0
            assert (logits.max(-1).values - chosen <= allowed).all(), (step, token)
            ids = torch.cat([ids, found[:, step, token : token + 1]], dim=1)


def test_its_objective_belongs_to_it(name: str) -> None:
    """And so does the student, where one lies beside it."""
    world_model = WorldModel.from_pretrained(name)
    has_student = (MODELS / name / FOLDER).is_dir()
    for kind in OBJECTIVES if has_student else ("progress",):
        judge = load_objective(ObjectiveConfig(kind), world_model, name)
        server = ImaginationServer(world_model, judge)
        frame = np.zeros((64, 64, 3), np.uint8)
        width = world_model.config.action_dim
        for instruction in judge.instructions or ["push the red cube left"]:
            server.reset(frame, instruction)
            scores = server.score(np.zeros((2, 3, width), np.float32))
            assert np.isfinite(scores).all()
