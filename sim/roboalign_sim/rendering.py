"""The one place that imports MuJoCo, after choosing how it renders, and the camera that our environments share.

Without a display MuJoCo needs EGL. The variables are set only where the user has not set them, before the first import.
"""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from roboalign_core.errors import require

os.environ.setdefault("MUJOCO_GL", "egl")
if os.environ["MUJOCO_GL"] in ("egl", "osmesa"):
    os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])

mujoco: Any = require("mujoco", "sim")


class Camera:
    """Square images of one model from one camera; the rendering context is opened with the first image.

    Args:
        model: the ``mujoco.MjModel``.
        camera: a camera of the model by name, or a ``mujoco.MjvCamera``.
        size: height and width in pixels.
        hidden_groups: groups of geoms that are not drawn.
    """

    def __init__(self, model: Any, camera: Any, size: int, hidden_groups: tuple[int, ...] = ()) -> None:
        self._model, self._camera, self._size = model, camera, size
        self._options = mujoco.MjvOption()
        for group in hidden_groups:
            self._options.geomgroup[group] = 0
        self._renderer: Any = None

    def image(self, data: Any) -> npt.NDArray[np.uint8]:
        """What the camera sees of ``data``: (size, size, 3) uint8."""
        return np.array(self._draw(data), np.uint8)

    def geom_ids(self, data: Any) -> npt.NDArray[np.int32]:
        """The geom that each pixel shows: (size, size) int32, -1 for none."""
        renderer = self._open()
        renderer.enable_segmentation_rendering()
        try:
            drawn = self._draw(data)
            return np.where(drawn[..., 1] == mujoco.mjtObj.mjOBJ_GEOM, drawn[..., 0], -1).astype(np.int32)
        finally:
            renderer.disable_segmentation_rendering()

    def close(self) -> None:
        """Free the rendering context; a later image opens a new one."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _draw(self, data: Any) -> npt.NDArray[Any]:
        renderer = self._open()
        renderer.update_scene(data, self._camera, self._options)
        drawn: npt.NDArray[Any] = renderer.render()
        return drawn

    def _open(self) -> Any:
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self._model, self._size, self._size)
            _close_at_exit(self)
        return self._renderer


_open_cameras: weakref.WeakSet[Camera] = weakref.WeakSet()


def _close_at_exit(camera: Camera) -> None:
    """Have a camera closed before MuJoCo shuts EGL down, which its own ``__del__`` would come too late for.

    Exit handlers run last in, first out, and MuJoCo registers its own with the first context: ours has to follow that.
    """
    if not _open_cameras:
        atexit.unregister(_close_all)
        atexit.register(_close_all)
    _open_cameras.add(camera)


def _close_all() -> None:
    for camera in list(_open_cameras):
        camera.close()
