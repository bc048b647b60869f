"""Sizes of the student reward model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from roboalign_core.errors import RoboAlignError


@dataclass
class TextConfig:
    """Encoder of instructions (RoboAlign-R1, A3).

    Attributes:
        width: of the hidden states and of the instruction embedding.
        layers, heads: pre-norm transformer layers and their attention heads.
        expansion: width of a layer's feed-forward network, in widths.
        dropout: in all layers.
        words: longest instruction; a punctuation mark counts as a word.
        buckets: rows of the table that words and their letter n-grams are hashed into.
    """

    width: int = 256
    layers: int = 4
    heads: int = 4
    expansion: int = 4
    dropout: float = 0.2
    words: int = 64
    buckets: int = 4096

    def __post_init__(self) -> None:
        _at_least_one("text", self, "width", "layers", "heads", "expansion", "words", "buckets")
        _divides("text", self.width, self.heads)
        _is_share("text", self.dropout)


@dataclass
class VisionConfig:
    """Encoder of videos.

    Attributes:
        patch: pixels a side of the first patches; the cells that follow are twice as long.
        patch_width, cell_width: channels of patches and of cells.
        blocks: of the cells of a frame, each under the instruction.
        slots: places of a frame that the instruction picks to read from.
        width: of a frame's hidden state.
        layers, heads: pre-norm transformer layers over time and their attention heads.
        expansion: width of the feed-forward networks, in widths.
        dropout: in the layers over time.
    """

    patch: int = 4
    patch_width: int = 48
    cell_width: int = 128
    blocks: int = 2
    slots: int = 16
    width: int = 192
    layers: int = 3
    heads: int = 4
    expansion: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        _at_least_one(
            "vision",
            self,
            *("patch", "patch_width", "cell_width", "blocks", "slots", "width", "layers", "heads", "expansion"),
        )
        _divides("vision", self.width, self.heads)
        _is_share("vision", self.dropout)


@dataclass
class RewardModelConfig:
    """The student.

    Attributes:
        height, width: pixels that frames are resized to.
        frames: that are looked at, evenly over a video; of a shorter one all.
        heads: linear heads of six outputs; they are averaged, and how far they disagree says how sure they are.
        positions: names of the numbers that every frame is read as, on the way to the scores: where things are,
            standardised; none: nothing is read so.
        text, vision: the two encoders.
    """

    height: int = 64
    width: int = 64
    frames: int = 16
    heads: int = 8
    positions: list[str] = field(default_factory=list)
    text: TextConfig = field(default_factory=TextConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise RoboAlignError(f"reward model frames: expected at least 2, found {self.frames}")
        if self.heads < 2:
            raise RoboAlignError(f"reward model heads: expected at least 2, found {self.heads}")
        cell = 2 * self.vision.patch
        for name in ("height", "width"):
            size = getattr(self, name)
            if size < cell or size % cell:
                raise RoboAlignError(f"reward model {name}: expected a multiple of {cell}, two patches, found {size}")

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.height, self.width

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of cells."""
        return self.height // (2 * self.vision.patch), self.width // (2 * self.vision.patch)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as config.json holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> RewardModelConfig:
        """Inverse of :meth:`to_dict`; unknown or missing keys raise RoboAlignError."""
        try:
            for kind, found in ((cls, value), (TextConfig, value["text"]), (VisionConfig, value["vision"])):
                missing = {each.name for each in fields(kind)} - found.keys()
                if missing:
                    raise TypeError(f"{', '.join(sorted(missing))} missing; was it made by another version?")
            rest = {key: item for key, item in value.items() if key not in ("text", "vision")}
            return cls(text=TextConfig(**value["text"]), vision=VisionConfig(**value["vision"]), **rest)
        except (TypeError, KeyError, AttributeError) as error:
            raise RoboAlignError(
                f"reward model config: expected the keys of RewardModelConfig, found a problem: {error}"
            ) from error


def _at_least_one(part: str, config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise RoboAlignError(f"reward model {part}.{name}: expected at least 1, found {getattr(config, name)}")


def _divides(part: str, width: int, heads: int) -> None:
    if width % heads:
        raise RoboAlignError(f"reward model {part}.width: expected a multiple of {heads} heads, found {width}")


def _is_share(part: str, dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise RoboAlignError(f"reward model {part}.dropout: expected a number in [0, 1), found {dropout}")
