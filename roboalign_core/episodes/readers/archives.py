"""Arrays from ``.npz`` archives and ``.npy`` files, which may be damaged or hostile."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from roboalign_core.episodes.readers.base import MOST_BYTES
from roboalign_core.errors import RoboAlignError

_SUFFIX = ".npy"


@dataclass(frozen=True)
class ArrayForm:
    """What an array must look like.

    Attributes:
        shape: lengths of the axes; a letter stands for a length that all arrays with that letter share.
        dtype: numpy's name of the numbers; several that will do are joined by " or ".
    """

    shape: tuple[int | str, ...]
    dtype: str

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.shape))}) {self.dtype}"


def array_names(path: Path) -> frozenset[str]:
    """Names of the arrays in an archive; none where the file is no archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(name.removesuffix(_SUFFIX) for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return frozenset()


def read_arrays(path: Path, forms: Mapping[str, ArrayForm]) -> dict[str, NDArray[Any]]:
    """The arrays named in ``forms``; others are left alone. Nothing is unpacked before its header fits.

    Raises:
        RoboAlignError: no archive, an array is missing, damaged, pickled, of another form or too large.
    """
    lengths: dict[str, int] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            return {name: _read(path, archive, name, form, lengths) for name, form in forms.items()}
    except FileNotFoundError as error:
        raise RoboAlignError(f"{path}: expected an archive of arrays, found nothing there") from error
    except RoboAlignError:
        raise
    except Exception as error:  # of zipfile, zlib, lzma, struct, tokenize, …: what was damaged decides
        wanted = ", ".join(f"{name} {form}" for name, form in forms.items())
        raise RoboAlignError(f"{path}: expected an archive with {wanted}, found: {error}") from error


def read_array(path: Path, form: ArrayForm) -> NDArray[Any]:
    """The array of an ``.npy`` file; nothing is read before its header fits.

    Raises:
        RoboAlignError: the file is absent, damaged, pickled, of another form or too large.
    """
    try:
        with path.open("rb") as stream:
            _check_header(path, stream, path.stem, form, {}, path.stat().st_size)
            stream.seek(0)
            array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
            return array
    except FileNotFoundError as error:
        raise RoboAlignError(f"{path}: expected an array, found nothing there") from error
    except RoboAlignError:
        raise
    except Exception as error:  # as above
        raise RoboAlignError(f"{path}: expected an array {form}, found: {error}") from error


def _read(path: Path, archive: zipfile.ZipFile, name: str, form: ArrayForm, lengths: dict[str, int]) -> NDArray[Any]:
    entry = archive.getinfo(name + _SUFFIX)
    with archive.open(entry) as stream:
        _check_header(path, stream, name, form, lengths, entry.file_size)
    with archive.open(entry) as stream:
        array: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
    return array


def _check_header(
    path: Path, stream: IO[bytes], name: str, form: ArrayForm, lengths: dict[str, int], size: int
) -> None:
    """Refuse an array of another form, or too large; note the lengths that its letters stand for."""
    version = npy.read_magic(stream)
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = header(stream)
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which are not unpacked")
    expected = tuple(lengths.get(n, n) if isinstance(n, str) else n for n in form.shape)
    fits = len(shape) == len(expected) and all(
        isinstance(n, str) or n == found for n, found in zip(expected, shape, strict=True)
    )
    if not fits or dtype not in [np.dtype(each) for each in form.dtype.split(" or ")]:
        wanted = ArrayForm(expected, form.dtype)
        raise RoboAlignError(f"{path}: {name}: expected {wanted}, found {shape} {dtype}")
    if max(size, int(np.prod(shape, dtype=np.float64)) * dtype.itemsize) > MOST_BYTES:
        raise RoboAlignError(f"{path}: {name}: expected at most {MOST_BYTES} bytes, found {shape} {dtype}")
    lengths.update({n: found for n, found in zip(form.shape, shape, strict=True) if isinstance(n, str)})
