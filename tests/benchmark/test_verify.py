"""Whether a benchmark is as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from roboalign_core.benchmark.verify import VerifyConfig, verify
from roboalign_core.errors import RoboAlignError


def test_a_whole_benchmark_and_a_whole_store_pass(folder: Path) -> None:
    assert verify(VerifyConfig(str(folder))) == {"pairs": 3, "stores": 1, "episodes": 3, "frames": 12}
    assert verify(VerifyConfig(str(folder / "stores" / "toy"))) == {"stores": 1, "episodes": 3, "frames": 12}


@pytest.mark.parametrize("kind", ["*.mp4", "data/*/*.parquet", "info.json", "pairs.parquet"])
def test_one_flipped_bit_is_found(folder: Path, kind: str) -> None:
    path = next(folder.rglob(kind))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(RoboAlignError):
        verify(VerifyConfig(str(folder)))


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RoboAlignError, match="expected"):
        verify(VerifyConfig(str(tmp_path / "absent")))
