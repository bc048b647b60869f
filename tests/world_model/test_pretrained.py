"""Model folders: what is saved comes back, and what is damaged is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from roboalign_core import bundled
from roboalign_core.bundled import resolve_model
from roboalign_core.errors import RoboAlignError
from roboalign_core.tensors import load_tensors, save_tensors
from roboalign_core.world_model import WorldModel, WorldModelConfig

WEIGHTS = ["tokenizer.safetensors", "frame_head.safetensors", "dynamics/model.safetensors"]


@pytest.fixture(scope="module")
def saved(model: WorldModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path, dtype=torch.float32)
    return path


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.mark.parametrize("order", ["token", "frame"])
def test_the_round_trip_changes_nothing(
    model: WorldModel, saved: Path, frame: np.ndarray, actions: np.ndarray, order
) -> None:
    again = WorldModel.from_pretrained(saved, dtype=torch.float32)
    assert again.config == model.config
    assert again.dtype == torch.float32
    expected, found = (m.rollout(frame, actions, order=order) for m in (model, again))
    assert torch.equal(found.tokens, expected.tokens)
    assert np.array_equal(found.frames, expected.frames)
    with torch.no_grad():
        ids = torch.arange(model.config.layout.vocabulary)[None, :30]
        assert torch.equal(again.dynamics.hidden(ids), model.dynamics.hidden(ids))


def test_saving_again_writes_the_same(saved: Path, tmp_path: Path) -> None:
    WorldModel.from_pretrained(saved, dtype=torch.float32).save_pretrained(tmp_path, dtype=torch.float32)
    files = sorted(path.relative_to(saved) for path in saved.rglob("*") if path.is_file())
    assert len(files) == 6
    for name in files:
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes(), name


def test_half_precision_is_half_the_size_and_loads_at_full(
    model: WorldModel, saved: Path, tmp_path: Path, frame: np.ndarray, actions: np.ndarray
) -> None:
    model.save_pretrained(tmp_path)
    small = (tmp_path / "dynamics" / "model.safetensors").stat().st_size
    assert small < 0.6 * (saved / "dynamics" / "model.safetensors").stat().st_size
    for dtype in (torch.float32, torch.bfloat16):
        loaded = WorldModel.from_pretrained(tmp_path, dtype=dtype)
        assert loaded.dtype == dtype
        assert loaded.rollout(frame, actions).frames.shape == (5, 7, 32, 32, 3)


def test_by_default_weights_have_the_format_that_this_machine_computes(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for flags, expected in (({"avx2"}, torch.float32), ({"avx2", "avx512_bf16"}, torch.bfloat16)):
        monkeypatch.setattr("roboalign_core.precision._cpu_flags", lambda flags=flags: frozenset(flags))
        assert WorldModel.from_pretrained(saved).dtype == expected


def test_older_models_score_all_channels_together_and_have_one_context_frame(folder: Path, model: WorldModel) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["dynamics"]["code_channels"]
    path.write_text(json.dumps(config))
    assert WorldModelConfig.from_dict(config).code_groups.sizes == (model.config.layout.dynamics_codes,)
    del config["tokenizer"]["context_frames"]
    assert WorldModelConfig.from_dict(config).tokenizer.context_frames == 1
    del config["dynamics"]["positions"]
    with pytest.raises(RoboAlignError, match="dynamics lacks positions; was it made by another version"):
        WorldModelConfig.from_dict(config)


# -- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WEIGHTS)
def test_missing_weights_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(RoboAlignError, match=f"{folder / name}: expected weights"):
        WorldModel.from_pretrained(folder)


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights_are_named(folder: Path, name: str, keep: float) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(keep * len(content))])
    with pytest.raises(RoboAlignError, match=f"{folder / name}: expected a whole safetensors file"):
        WorldModel.from_pretrained(folder)


def test_a_pickle_is_no_weights_file(folder: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, folder / "tokenizer.safetensors")
    with pytest.raises(RoboAlignError, match="expected a whole safetensors file"):
        WorldModel.from_pretrained(folder)


def test_weights_of_another_layout_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["action_bins"] = 17
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RoboAlignError, match=r"embedding.weight: expected \(61, 32\), found \(60, 32\)"):
        WorldModel.from_pretrained(folder)


def test_weights_of_another_tokenizer_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["tokenizer"]["decoder_blocks"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RoboAlignError, match=r"dynamics_blocks.1.*found nothing.*more\)"):
        WorldModel.from_pretrained(folder)


def test_a_tensor_that_is_not_there_is_named(folder: Path) -> None:
    path = folder / "dynamics" / "model.safetensors"
    tensors = load_tensors(path)
    del tensors["model.embed_tokens.weight"]
    save_tensors(path, tensors)
    with pytest.raises(RoboAlignError, match=r"found no 'model\.embed_tokens\.weight'"):
        WorldModel.from_pretrained(folder)


def test_a_damaged_configuration_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(RoboAlignError, match=f"{folder / 'config.json'}: expected valid UTF-8 JSON"):
        WorldModel.from_pretrained(folder)


def test_an_unknown_device_is_refused(saved: Path) -> None:
    with pytest.raises(RoboAlignError, match="device: expected one that torch can use here, found 'abacus'"):
        WorldModel.from_pretrained(saved, device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(RoboAlignError, match="found 'cuda'"):
            WorldModel.from_pretrained(saved, device="cuda")


def test_a_failed_save_leaves_the_old_file(
    folder: Path, config: WorldModelConfig, make_model: Callable[..., WorldModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def full(tensors, path, metadata) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("roboalign_core.tensors.save_file", full)
    with pytest.raises(OSError, match="No space"):
        make_model(config, seed=1).save_pretrained(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


# -- names ----------------------------------------------------------------------------------------------------------


def test_names_of_models(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "MODELS", tmp_path)
    assert bundled.bundled_models() == ["model"]
    assert resolve_model("model") == folder
    assert resolve_model(str(folder)) == folder
    assert resolve_model(folder) == folder
    with pytest.raises(RoboAlignError, match=r"model 'chair': expected a bundled name \(model\), a folder with config"):
        resolve_model("chair")
    with pytest.raises(RoboAlignError, match=f"model '{tmp_path}'"):
        resolve_model(tmp_path)


def test_a_hub_name_that_cannot_be_had_is_one_clear_error() -> None:
    with pytest.raises(RoboAlignError, match="model 'nobody/nothing': not on disk, and the hub did not give it"):
        resolve_model("nobody/nothing")
