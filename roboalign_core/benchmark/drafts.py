"""Which pairs are to be made: drawn one by one, each from a generator of its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from roboalign_core.benchmark.degradations import MEANING, reason_not
from roboalign_core.benchmark.pairs import Applied, Origin
from roboalign_core.benchmark.recipe import BuildConfig
from roboalign_core.benchmark.sources import Source
from roboalign_core.episodes import Episode
from roboalign_core.errors import RoboAlignError

_TRIES = 50  # draws after which a pair that cannot be had is given up
_KEPT_BYTES = 1 << 30  # of decoded episodes: recordings are asked for again and again


@dataclass(frozen=True)
class Draft:
    """What one pair is to be made of.

    Attributes:
        source: place among the sources.
        index: of the recorded episode in its store.
        episode: the recording, with the instruction that it was given.
        origin: recorded, degraded or generated.
        applied: degradations, in their order.
        model: which world model imagines; None where none does.
    """

    source: int
    index: int
    episode: Episode
    origin: Origin
    applied: tuple[Applied, ...] = ()
    model: str | None = None


class SourcePool:
    """What degradations may draw from besides their episode (see ``degradations.Pool``)."""

    def __init__(self, drafter: Drafter, source: int, index: int) -> None:
        self._drafter, self._source, self._index = drafter, source, index

    def donor(self, episode: Episode, rng: np.random.Generator) -> Episode:
        """Another episode of the same store."""
        others = self._drafter.usable[self._source]
        others = others[others != self._index]
        return self._drafter.read(self._source, int(rng.choice(others)))

    def instruction(self, episode: Episode, rng: np.random.Generator) -> str:
        """Another instruction that is known for the source."""
        others = [text for text in self._drafter.instructions[self._source] if text != episode.instruction]
        return str(rng.choice(others))


class Drafter:
    """Draws drafts. Draft ``number`` depends on the settings, the stores and on which recorded pairs there are already.

    Args:
        config: the settings.
        sources: where recordings come from.
        weights: how much comes from each source.
        models: for each source, the world models that can imagine its episodes.

    Raises:
        RoboAlignError: a source has no recording with an instruction.
    """

    def __init__(
        self, config: BuildConfig, sources: Sequence[Source], weights: Sequence[float], models: Sequence[Sequence[str]]
    ) -> None:
        self.config, self.sources, self._models = config, sources, models
        self._weights = np.array(weights) / sum(weights)
        self.usable = [self._with_instruction(source) for source in sources]
        self.instructions = [self._instructions(source) for source in sources]
        self._kept: OrderedDict[tuple[int, int], Episode] = OrderedDict()

    def draw(self, number: int, recorded: set[tuple[str, str]]) -> Draft:
        """The draft of a pair.

        Args:
            number: of the pair.
            recorded: (store, parent) of the recorded pairs there are; a recording is not taken twice as it is.

        Raises:
            RoboAlignError: after many draws none can be had, e.g. because no degradation applies to any recording.
        """
        rng = np.random.default_rng((self.config.seed, number))
        reasons = ""
        for _ in range(_TRIES):
            place = int(rng.choice(len(self.sources), p=self._weights))
            source, index = self.sources[place], int(rng.choice(self.usable[place]))
            origin = Origin(_choice(rng, self.config.origins))
            if origin is Origin.RECORDED and (source.name, source.parents[index]) not in recorded:
                return Draft(place, index, self.read(place, index), origin)
            if origin is Origin.GENERATED and self._models[place]:
                return Draft(place, index, self.read(place, index), origin, model=str(rng.choice(self._models[place])))
            if origin is Origin.DEGRADED:
                episode = self.read(place, index)
                applied, reasons = self._applied(rng, place, index, episode)
                if applied:
                    return Draft(place, index, episode, origin, applied)
        raise RoboAlignError(
            f"pair {number}: expected one more that these stores and settings allow, found none in {_TRIES} draws"
            + (f" ({reasons})" if reasons else "")
        )

    def _applied(
        self, rng: np.random.Generator, source: int, index: int, episode: Episode
    ) -> tuple[tuple[Applied, ...], str]:
        """Degradations for an episode, or none and the reason."""
        low, high = self.config.strength
        applied: list[Applied] = []
        for _ in range(2 if rng.random() < self.config.combined else 1):
            name = _choice(rng, self.config.weights())
            strength, seed = float(rng.uniform(low, high)), int(rng.integers(2**31))
            if reason := self._lacks(name, source):
                return (), f"{name}: {reason}"
            if name not in [earlier.name for earlier in applied]:
                applied.append(Applied(name, strength, seed))
        reason = reason_not(episode, applied, SourcePool(self, source, index))
        return ((), reason) if reason else (tuple(applied), "")

    def _lacks(self, name: str, source: int) -> str | None:
        """What a degradation would draw from and the source does not have."""
        if name in MEANING and len(self.instructions[source]) < 2:
            return "its source knows no other instruction"
        if name == "foreign_segment" and len(self.usable[source]) < 2:
            return "its store holds no other episode"
        return None

    def _with_instruction(self, source: Source) -> np.ndarray:
        default = (self.config.instructions or {}).get(source.store.spec.source)
        found = [index for index, text in enumerate(source.store.instructions) if text or default]
        if not found:
            kind = source.store.spec.source
            raise RoboAlignError(
                f"{source.store.path}: expected recordings with an instruction, found none; give them one: "
                f"instructions={{{kind}: ...}}"
            )
        return np.array(found)

    def _instructions(self, source: Source) -> tuple[str, ...]:
        default = (self.config.instructions or {}).get(source.store.spec.source)
        return source.instructions or ((default,) if default else ())

    def read(self, source: int, index: int) -> Episode:
        """A recording with its instruction, or with the one that its source is given."""
        key = (source, index)
        if key not in self._kept:
            episode = self.sources[source].store[index]
            default = (self.config.instructions or {}).get(episode.source, "")
            self._kept[key] = episode if episode.instruction else replace(episode, instruction=default)
            while len(self._kept) > 1 and sum(kept.frames.nbytes for kept in self._kept.values()) > _KEPT_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def _choice(rng: np.random.Generator, shares: Mapping[str, float]) -> str:
    names, weights = list(shares), np.array(list(shares.values()))
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]
