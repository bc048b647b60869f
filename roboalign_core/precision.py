"""Which number format a device computes natively."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from roboalign_core.errors import RoboAlignError


def find_device(name: str | torch.device) -> torch.device:
    """The device by that name.

    Raises:
        RoboAlignError: no such device here.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise RoboAlignError(f"device: expected one that torch can use here, found {str(name)!r} ({reason})") from error
    return device


def native_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device has instructions for it (GPU; CPU with AVX512-BF16 or AMX), else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and _cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Mixed precision for training where :func:`native_dtype` allows it, else full precision."""
    dtype = native_dtype(device)
    if dtype is torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)


def _cpu_has_bfloat16() -> bool:
    return "avx512_bf16" in _cpu_flags() or "amx_bf16" in _cpu_flags()


def _cpu_flags() -> frozenset[str]:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as handle:
            for line in handle:
                if line.startswith("flags"):
                    return frozenset(line.split())
    except OSError:
        pass
    return frozenset()
