"""`roboalign doctor`: what this machine has, and the line that brings what it lacks."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from roboalign_core.bundled import MODELS, bundled_models
from roboalign_core.errors import RoboAlignError
from roboalign_core.precision import native_dtype
from roboalign_core.tensors import load_tensors
from roboalign_core.verb import Verb

_OLDEST_TORCH = (2, 10)
_APT_LIBRARIES = "apt-get install -y libegl1 libgl1 libglib2.0-0"
_ROS_LINE = (
    'pip install "roboalign[ros]", or, with ROS 2 Jazzy from apt, source /opt/ros/jazzy/setup.bash before this command'
)

# Optional modules, and the extra that brings each.
_OPTIONAL = {
    "mujoco": "sim",
    "gymnasium": "sim",
    "robosuite": "sim",
    "matplotlib": "viz",
    "torchvision": "perceptual",
    "lpips": "perceptual",
    "peft": "judge",
}

# The three programs below run in processes of their own: the core imports neither simulators nor ROS, an OpenGL or DDS
# library that crashes does not take the doctor with it, and a library that hangs runs into the time limit.
_RENDER = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 2"/><geom type="sphere" size="1" rgba="1 0 0 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    picture = renderer.render()
if picture[..., 0].max() < 32:
    raise SystemExit("the picture is black")
print("draws (MuJoCo " + mujoco.__version__ + ")")
"""
_RCLPY = """
import rclpy
rclpy.init()
node = rclpy.create_node("roboalign_doctor")
node.destroy_node()
rclpy.shutdown()
print("a node starts, " + rclpy.get_rmw_implementation_identifier())
"""
_INTERFACES = """
import roboalign_interfaces.msg
found = [name for name in dir(roboalign_interfaces.msg) if name[0].isupper() and not name.startswith("Metaclass")]
print(", ".join(found))
"""


@dataclass
class DoctorConfig:
    """Configuration of `roboalign doctor`.

    Attributes:
        render: try off-screen drawing.
        timeout_s: limit for each check that starts a process, seconds.
        out: folder for results.json, if any.
    """

    render: bool = True
    timeout_s: float = 60.0
    out: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the table.

    Attributes:
        name: key in the results.
        ok: it is there and works.
        found: what was found.
        fix: the line that brings it, shown when it is not there.
    """

    name: str
    ok: bool
    found: str
    fix: str = ""


def examine(config: DoctorConfig) -> list[Check]:
    """All checks, in the order of the table. Never raises because of something that is missing."""
    checks = [_python(), _torch(), _cuda(), _bfloat16()]
    checks += [_package(module, extra) for module, extra in _OPTIONAL.items()]
    if config.render:
        checks.append(
            _program("render", _RENDER, f'{_APT_LIBRARIES} && pip install "roboalign[sim]"', config.timeout_s)
        )
    checks.append(_program("rclpy", _RCLPY, _ROS_LINE, config.timeout_s))
    checks.append(_program("roboalign_interfaces", _INTERFACES, "make venv", config.timeout_s))
    checks.append(_distribution("roboalign_nodes", "make venv"))
    checks.append(_weights())
    return checks


def run(config: DoctorConfig) -> Mapping[str, Any]:
    """Print the table and return 1 (there) or 0 (missing) per check, with what was found under ``detail``."""
    if config.timeout_s <= 0:
        raise RoboAlignError(f"doctor: expected timeout_s above 0, found {config.timeout_s}")
    checks = examine(config)
    _show(checks)
    return {
        **{check.name: int(check.ok) for check in checks},
        "detail": {check.name: check.found for check in checks},
    }


VERB = Verb("doctor", "what of GPU, rendering, ROS 2, weights and optional packages is there", DoctorConfig, run)


def _python() -> Check:
    text = ".".join(map(str, sys.version_info[:3]))
    return Check("python", sys.version_info >= (3, 10), text, "install Python 3.10 or newer")


def _torch() -> Check:
    numbers = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    return Check("torch", numbers >= _OLDEST_TORCH, torch.__version__, "pip install torch==2.13.0")


def _cuda() -> Check:
    if not torch.cuda.is_available():
        built = torch.version.cuda
        reason = f"built for CUDA {built}, no usable GPU" if built else "torch is a CPU build"
        return Check("cuda", False, reason, "optional: everything runs on the CPU, slower")
    free, total = torch.cuda.mem_get_info()
    memory = f"{free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
    return Check("cuda", True, f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, {memory}")


def _bfloat16() -> Check:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    native = native_dtype(device) is torch.bfloat16
    found = f"{device.type}: {'native' if native else 'emulated only'}"
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # newer than the oldest supported torch
        found += ", with AMX" if torch.cpu.get_capabilities().get("amx_bf16") else ", without AMX"
    return Check("bfloat16", native, found, "optional: training runs in float32")


def _package(module: str, extra: str) -> Check:
    line = f'pip install "roboalign[{extra}]"'
    if module == "robosuite" and sys.version_info >= (3, 13):
        separately = "requirements/robosuite_python313.txt"  # says why
        line = f"pip install --no-deps mink==0.0.5 robosuite==1.5.2 && pip install -r {separately}"
    if importlib.util.find_spec(module) is None:
        return Check(module, False, "not installed", line)
    return _distribution(module, line)


def _distribution(name: str, fix: str) -> Check:
    try:
        return Check(name, True, version(name))
    except PackageNotFoundError:
        return Check(name, False, "not installed", fix)


def _program(name: str, program: str, fix: str, timeout_s: float) -> Check:
    environment = {"MUJOCO_GL": "egl", **os.environ}
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Check(name, False, f"no answer within {timeout_s:g} s", fix)
    if done.returncode == 0:
        return Check(name, True, _last_line(done.stdout))
    return Check(name, False, _last_line(done.stderr) or f"ended with status {done.returncode}", fix)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _weights() -> Check:
    fix = "make train-tabletop"
    names = bundled_models()
    if not names:
        return Check("weights", False, f"none in {MODELS}", fix)
    try:
        for path in sorted(MODELS.glob("*/*.safetensors")):
            load_tensors(path)
    except RoboAlignError as error:
        return Check("weights", False, str(error), fix)
    return Check("weights", True, ", ".join(names))


def _show(checks: Sequence[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title="what is there")
    for column in ("", "what", "found", "to get it"):
        table.add_column(column, overflow="fold")
    for check in checks:
        mark = Text("yes", style="green") if check.ok else Text("no", style="yellow")
        table.add_row(mark, Text(check.name), Text(check.found), Text("" if check.ok else check.fix))
    Console().print(table)
