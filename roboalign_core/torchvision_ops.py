"""torchvision beside a torch of another build.

The default wheel of torchvision is built for CUDA. Beside a CPU-only torch its extension does not load, the operators
that it would define are missing, and `import torchvision` (also from within lpips and transformers) ends in "operator
torchvision::nms does not exist". Models and transforms do not use these operators: declaring their schemas is enough.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_declared: list[torch.library.Library] = []  # a Library takes its operators with it when it is collected


def declare_missing_ops() -> list[str]:
    """Declare the operators that torchvision's extension fails to bring; call it before torchvision is imported.

    Returns:
        The names that were declared now: empty where torchvision is absent, works, or has been helped before.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None or _extension_loads(Path(spec.origin).parent):
        return []
    missing = [name for name in _SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            library.define(_SCHEMAS[name])
        _declared.append(library)
    return missing


def _extension_loads(package: Path) -> bool:
    try:
        for path in package.glob("_C*.so"):
            torch.ops.load_library(str(path))
            return True
    except OSError:
        pass
    return False
