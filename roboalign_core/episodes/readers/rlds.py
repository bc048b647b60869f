"""RLDS data sets as tensorflow-datasets prepares them, those of Open X-Embodiment among them; needs the extra ``rlds``.

A folder holds ``features.json``, ``dataset_info.json`` and records. A step has the action that was taken at its
observation, so ``actions[t]`` leads to frame t+1. No file says what an action's columns mean or how many steps there
are in a second: the rate must be given (``fps=``). Demonstrations have the reward 1 at their end whether they succeeded
or not; so it is kept as an extra, and ``success`` stays open.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboalign_core.episodes.episode import Episode
from roboalign_core.episodes.readers.base import MOST_BYTES, Recording
from roboalign_core.episodes.readers.folders import files_below
from roboalign_core.episodes.readers.rlds_layout import FEATURES, SPLITS, Keys, Layout, read_layout, read_splits
from roboalign_core.errors import RoboAlignError, require

Step = Mapping[str, Any]


@dataclass(frozen=True)
class RldsReader:
    """Reads prepared data sets, also in folders below; every camera of an episode is an episode of its own."""

    name: str = "rlds"

    def detect(self, path: Path) -> bool:
        """Whether there is a description of features beside one of splits."""
        return any(True for _ in _folders(path))

    def recordings(self, path: Path) -> Iterator[Recording]:
        """One recording for each episode and camera, split by split, in the order of the records."""
        for folder in sorted(_folders(path)):
            layout, splits = read_layout(folder), read_splits(folder)
            records, meaning = _Records(folder), layout.meaning
            for split, count in splits.items():
                for number in range(count):
                    for camera in layout.cameras:
                        name = f"{folder}: {split} {number}, {camera}"
                        load = partial(self._read, records, layout, split, number, camera, name)
                        yield Recording(name, camera, meaning, load, has_rate=False)

    def _read(self, records: _Records, layout: Layout, split: str, number: int, camera: str, name: str) -> Episode:
        return episode_of_steps(name, records.steps(split, number), layout, camera, self.name)


def episode_of_steps(where: str, steps: Sequence[Step], layout: Layout, camera: str, source: str) -> Episode:
    """An episode from the steps of a record, at one frame per second.

    Raises:
        RoboAlignError: steps lack something that the layout names, or hold it in another form.
    """
    frames = _stacked(where, steps, layout.cameras[camera], (None, None, 3), np.uint8)
    action = [_stacked(where, steps, keys, (width,), np.float32) for keys, width in layout.action.items()]
    return Episode(
        frames=frames,
        actions=np.concatenate(action, axis=1),
        instruction=_instruction(where, steps, layout.instruction),
        success=None,
        fps=1.0,
        source=source,
        camera=camera,
        extras={
            name: _stacked(where, steps, keys, (width,), np.float32) for name, (keys, width) in layout.extras.items()
        },
    )


class _Records:
    """The episodes of a folder. Opening it takes seconds, so one run through a split serves all that come in order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._at: tuple[str, int] | None = None
        self._steps: list[Step] = []
        self._rest: Iterator[Any] = iter(())

    def steps(self, split: str, number: int) -> list[Step]:
        """The steps of an episode as dictionaries of arrays.

        Raises:
            RoboAlignError: the records are absent or damaged, or there are fewer of them.
        """
        if self._at == (split, number):  # the next camera
            return self._steps
        tfds = require("tensorflow_datasets", "rlds")
        try:
            if number == 0 or self._at != (split, number - 1):
                self._rest = iter(self._opened(tfds, split, number))
            self._at = None
            self._steps = list(next(self._rest)["steps"])
        except StopIteration:
            raise RoboAlignError(
                f"{self._folder}: {split}: expected more than {number} episodes ({SPLITS}), found no more"
            ) from None
        except Exception as error:  # TensorFlow has errors of its own
            found = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RoboAlignError(
                f"{self._folder}: {split} {number}: expected a record that tensorflow-datasets reads, found: {found}"
            ) from error
        self._at = (split, number)
        return self._steps

    def _opened(self, tfds: Any, split: str, first: int) -> Iterable[Any]:
        order = tfds.ReadConfig(interleave_cycle_length=1)  # file after file, so that numbers are places
        data = tfds.builder_from_directory(str(self._folder)).as_dataset(
            split=f"{split}[{first}:]", shuffle_files=False, read_config=order
        )
        rows: Iterable[Any] = tfds.as_numpy(data)
        return rows


def _folders(path: Path) -> Iterator[Path]:
    return (file.parent for file in files_below(path, FEATURES) if (file.parent / SPLITS).is_file())


def _value(where: str, step: Step, keys: Keys) -> Any:
    value: Any = step
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            raise RoboAlignError(f"{where}: expected {'/'.join(keys)} in each step, found none")
        value = value[key]
    return value


def _stacked(where: str, steps: Sequence[Step], keys: Keys, shape: tuple[int | None, ...], kind: type) -> NDArray[Any]:
    """One array of all steps, (T, *shape); single numbers count as vectors of one."""
    arrays = [np.asarray(_value(where, step, keys)) for step in steps]
    if len(shape) == 1:
        arrays = [array.reshape(1) if array.ndim == 0 else array for array in arrays]
    expected = arrays[0].shape if arrays else ()
    fits = len(expected) == len(shape) and all(n in (None, m) for n, m in zip(shape, expected, strict=True))
    alike = all(array.shape == expected for array in arrays)
    is_number = all(array.dtype == kind if kind is np.uint8 else array.dtype.kind == "f" for array in arrays)
    if not fits or not alike or not is_number or sum(array.nbytes for array in arrays) > MOST_BYTES:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        found = ", ".join(sorted({f"{array.shape} {array.dtype}" for array in arrays})[:3]) or "no steps"
        raise RoboAlignError(
            f"{where}: {'/'.join(keys)}: expected ({wanted}) {kind.__name__} in each step, alike in all, found {found}"
        )
    with np.errstate(over="ignore"):  # what does not fit becomes infinite, which Episode refuses
        return np.stack(arrays).astype(kind)


def _instruction(where: str, steps: Sequence[Step], keys: Keys | None) -> str:
    """All instructions of an episode, in their order."""
    texts = [] if keys is None else [_value(where, step, keys) for step in steps]
    try:
        words = [text.decode("utf-8") if isinstance(text, bytes) else str(text) for text in texts]
    except UnicodeDecodeError as error:
        raise RoboAlignError(f"{where}: {'/'.join(keys or ())}: expected UTF-8 text, found: {error}") from error
    return "; ".join(word for word in dict.fromkeys(words) if word.strip())
