from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from roboalign_core import RoboAlignError, doctor
from roboalign_core.doctor import Check, DoctorConfig, examine


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_what_is_missing_has_a_line_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "bundled_models", list)
    monkeypatch.setattr(doctor, "_RCLPY", "raise ImportError('no rclpy here')")
    checks = by_name(examine(DoctorConfig(render=False)))
    assert "render" not in checks
    assert all(check.fix for check in checks.values() if not check.ok)
    assert not checks["mujoco"].ok
    assert checks["mujoco"].fix == 'pip install "roboalign[sim]"'
    assert checks["rclpy"].found == "ImportError: no rclpy here"
    assert checks["weights"].fix == "make train-tabletop"


def test_a_check_that_hangs_or_crashes_is_a_missing_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_RENDER", "import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "_RCLPY", "import os; os.abort()")
    checks = by_name(examine(DoctorConfig(timeout_s=2.0)))
    assert checks["render"].found == "no answer within 2 s"
    assert not checks["rclpy"].ok
    assert checks["rclpy"].found


def test_damaged_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tabletop"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.safetensors").write_bytes(b"\x08\x00")
    monkeypatch.setattr(doctor, "MODELS", tmp_path)
    monkeypatch.setattr(doctor, "bundled_models", lambda: ["tabletop"])
    check = doctor._weights()
    assert not check.ok
    assert "tokenizer.safetensors" in check.found


def test_bad_limit_is_refused() -> None:
    with pytest.raises(RoboAlignError, match="timeout_s above 0"):
        doctor.run(DoctorConfig(timeout_s=0))


def test_command(tmp_path: Path) -> None:
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    command = [sys.executable, "-m", "roboalign_core.cli", "doctor", f"out={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["python"] == results["torch"] == results["render"] == 1
    assert all(results[name] in (0, 1) for name in results["detail"])
