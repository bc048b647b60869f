"""Geometry and sizes of a world model; every other number follows from these."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model.codes import CodeGroups
from roboalign_core.world_model.layout import TokenLayout

_LATER = {"code_channels", "context_frames"}  # keys that older models lack; the default is what these were trained with
NORM_GROUPS = 8  # of the convolutions' group norms: channel counts are multiples of it


@dataclass
class TokenizerConfig:
    """Dual-branch FSQ tokenizer (RoboAlign-R1, A4).

    Attributes:
        height, width: frame size in pixels.
        patch: pixels a side of the first patches.
        context_stride: pixels a side that one context token covers.
        dynamics_stride: pixels a side that one dynamics token covers.
        context_levels, dynamics_levels: FSQ levels of the two branches.
        fine_width, latent_width: channels at the patch grid and at the context grid.
        encoder_blocks, decoder_blocks: transformer blocks at the context grid, for each branch.
        heads: attention heads.
        composite: whether the dynamics branch sees the context frame's pixels and copies what stands still from them;
            otherwise it knows the context's codes alone.
        still_threshold: with ``composite``, a dynamics token says nothing where no pixel differs by more than this from
            the context frame, in [0, 1]. Fainter motion is not coded: raise it for noisy cameras, lower it where
            objects differ less from what is behind them.
        context_frames: newest frames that are the context, each coded by itself.
    """

    height: int = 64
    width: int = 64
    patch: int = 4
    context_stride: int = 8
    dynamics_stride: int = 16
    context_levels: list[int] = field(default_factory=lambda: [5, 5, 5, 5, 5])
    dynamics_levels: list[int] = field(default_factory=lambda: [8, 8, 6, 5])
    fine_width: int = 64
    latent_width: int = 192
    encoder_blocks: int = 1
    decoder_blocks: int = 2
    heads: int = 6
    composite: bool = True
    still_threshold: float = 0.05
    context_frames: int = 1

    def __post_init__(self) -> None:
        _at_least_one("tokenizer", self, ("patch", "heads", "fine_width", "latent_width", "context_frames"))
        for name, outer, inner in (
            ("context_stride", self.context_stride, self.patch),
            ("dynamics_stride", self.dynamics_stride, self.context_stride),
            ("height", self.height, self.dynamics_stride),
            ("width", self.width, self.dynamics_stride),
        ):
            if outer < inner or outer % inner:
                raise RoboAlignError(f"tokenizer {name}: expected a multiple of {inner}, found {outer}")
        if not 0 <= self.still_threshold < 1:
            raise RoboAlignError(
                f"tokenizer still_threshold: expected a number in [0, 1), found {self.still_threshold}"
            )
        if self.latent_width % self.heads:
            raise RoboAlignError(
                f"tokenizer latent_width: expected a multiple of {self.heads} heads, found {self.latent_width}"
            )
        for name in ("fine_width", "latent_width"):
            if getattr(self, name) % NORM_GROUPS:
                raise RoboAlignError(
                    f"tokenizer {name}: expected a multiple of {NORM_GROUPS}, the groups of its norms, "
                    f"found {getattr(self, name)}"
                )

    @property
    def context_grid(self) -> tuple[int, int]:
        """(rows, columns) of the tokens of one context frame."""
        return self.height // self.context_stride, self.width // self.context_stride

    @property
    def dynamics_grid(self) -> tuple[int, int]:
        """(rows, columns) of dynamics tokens."""
        return self.height // self.dynamics_stride, self.width // self.dynamics_stride


@dataclass
class DynamicsConfig:
    """Causal transformer in LLaMA's form.

    Attributes:
        layers, dim, heads, ffn: the usual sizes.
        max_frames: longest sequence in frames (the context not counted) that positions exist for.
        frame_head_layers: transformer layers of the head that predicts all tokens of a frame in one pass.
        rope_theta: base of the rotary position embedding.
        positions: whether a learned vector for each place in the sequence is added to the embeddings. Rotary positions
            alone are relative in one dimension, and where things are in an image has to be worked out from them.
        code_channels: FSQ channels of the dynamics codes that are scored together, a number a group; groups are scored
            apart (:class:`~roboalign_core.world_model.codes.CodeGroups`). None: all together.
    """

    layers: int = 4
    dim: int = 256
    heads: int = 4
    ffn: int = 768
    max_frames: int = 9
    frame_head_layers: int = 2
    rope_theta: float = 10000.0
    positions: bool = True
    code_channels: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        _at_least_one("dynamics", self, ("layers", "dim", "heads", "ffn"))
        if self.dim % (2 * self.heads):
            raise RoboAlignError(
                f"dynamics dim: expected a multiple of {2 * self.heads}, twice the heads, found {self.dim}"
            )
        if self.max_frames < 2:
            raise RoboAlignError(f"dynamics max_frames: expected at least 2, found {self.max_frames}")


@dataclass
class WorldModelConfig:
    """A world model: tokenizer, dynamics, and the robot's actions.

    Attributes:
        tokenizer, dynamics: sizes of the two networks.
        action_dim: A, width of an action.
        action_bins: tokens that a component of an action is binned to.
        action_low, action_high: A values each, range of the bins in the units of the actions.
        fps: frames (and actions) a second.
        window: frames after which long rollouts encode anew, where none is asked for.
    """

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    action_dim: int = 3
    action_bins: int = 256
    action_low: list[float] = field(default_factory=list)
    action_high: list[float] = field(default_factory=list)
    fps: float = 5.0
    window: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.window < self.dynamics.max_frames:
            raise RoboAlignError(
                f"world model window: expected 1 to {self.dynamics.max_frames - 1} frames (max_frames - 1), "
                f"found {self.window}"
            )
        CodeGroups.of(self.tokenizer.dynamics_levels, self.dynamics.code_channels)

    @property
    def code_groups(self) -> CodeGroups:
        """How the dynamics takes dynamics codes apart."""
        return CodeGroups.of(self.tokenizer.dynamics_levels, self.dynamics.code_channels)

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.tokenizer.height, self.tokenizer.width

    @property
    def layout(self) -> TokenLayout:
        """Where tokens stand and which numbers they have."""
        rows, columns = self.tokenizer.context_grid
        small_rows, small_columns = self.tokenizer.dynamics_grid
        return TokenLayout(
            dynamics_codes=_product(self.tokenizer.dynamics_levels),
            context_codes=_product(self.tokenizer.context_levels),
            action_bins=self.action_bins,
            context_tokens=self.tokenizer.context_frames * rows * columns,
            dynamics_tokens=small_rows * small_columns,
            action_tokens=self.action_dim,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as config.json holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> WorldModelConfig:
        """Inverse of :meth:`to_dict`; unknown or missing keys raise RoboAlignError."""
        try:
            for name, kind, found in (
                ("it", cls, value),
                ("tokenizer", TokenizerConfig, value["tokenizer"]),
                ("dynamics", DynamicsConfig, value["dynamics"]),
            ):
                missing = {each.name for each in fields(kind)} - found.keys() - _LATER
                if missing:
                    raise TypeError(f"{name} lacks {', '.join(sorted(missing))}; was it made by another version?")
            rest = {key: item for key, item in value.items() if key not in ("tokenizer", "dynamics")}
            return cls(
                tokenizer=TokenizerConfig(**value["tokenizer"]), dynamics=DynamicsConfig(**value["dynamics"]), **rest
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise RoboAlignError(
                f"world model config: expected the keys of WorldModelConfig, found a problem: {error}"
            ) from error


def _at_least_one(what: str, config: Any, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise RoboAlignError(f"{what} {name}: expected at least 1, found {getattr(config, name)}")


def _product(levels: list[int]) -> int:
    result = 1
    for level in levels:
        result *= level
    return result
