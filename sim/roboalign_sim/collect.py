"""``roboalign collect``: run policies in an environment, write episodes.

Episode i of a collection is decided by (seed, i) alone, whatever the number of workers. Collections of different seeds
share no episode: that is how training and held-out data are kept apart.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from roboalign_core.episodes import Episode, EpisodeStore, StoreSpec
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json, write_json
from roboalign_core.verb import Verb
from roboalign_sim.looks import Looks
from roboalign_sim.recording import Recorder, recorder

_BATCH = 64  # episodes per write
_RECORD = "collect.json"  # beside the store's own files: what it was collected with


def default_policies() -> dict[str, dict[str, float]]:
    """Shares of the policies, by environment; failures are asked for by name."""
    shares = {
        "tabletop": {"expert": 0.1, "noisy": 0.35, "contact": 0.4, "random": 0.15},
        "robosuite_lift": {"expert": 0.8, "random": 0.2},
    }
    return {env: dict.fromkeys(recorder(env).policies, 0.0) | shares[env] for env in shares}


@dataclass
class CollectConfig:
    """What to collect.

    Attributes:
        env: ``tabletop`` or ``robosuite_lift``.
        out: the store's folder. A folder collected with the same settings is continued.
        episodes: how many episodes the store holds in the end.
        seed: the collection's seed; other seeds give other episodes.
        workers: processes that simulate.
        size: height and width of the frames.
        steps: frames per episode.
        stop_on_success: whether an episode ends early when its instruction is fulfilled.
        boxes: whether to record where in the image everything is seen (``observation.boxes``); a second rendering.
        looks: of the table-top, for trying out what was trained on the standard look; see its class.
        policies: for each environment how often each of its policies acts; shares are normalised.
    """

    out: str = MISSING
    env: str = "tabletop"
    episodes: int = 200
    seed: int = 0
    workers: int = 2
    size: int = 64
    steps: int = 30
    stop_on_success: bool = False
    boxes: bool = False
    looks: Looks = field(default_factory=Looks)
    policies: dict[str, dict[str, float]] = field(default_factory=default_policies)


def collect_episodes(config: CollectConfig, first: int = 0) -> Iterator[Episode]:
    """Episodes ``first`` .. ``config.episodes`` - 1, in order.

    Raises:
        RoboAlignError: a setting makes no sense.
    """
    _check(config)
    indices = range(first, config.episodes)
    if config.workers == 1 or len(indices) == 1:
        record = _recorder(config)
        try:
            for index in indices:
                yield record(config.seed, index)
        finally:
            record.close()
        return
    # Spawned, not forked: a rendering context does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(config.workers, max(len(indices), 1)), _start_worker, (config,)) as pool:
        for fields in pool.imap(_work, indices, chunksize=2):
            yield Episode(**fields)


def run(config: CollectConfig) -> Mapping[str, Any]:
    """Collect into ``config.out``; continues where an earlier run with the same settings stopped."""
    _check(config)
    store = _open_store(config)
    first = len(store)
    if first > config.episodes:
        raise RoboAlignError(f"{config.out}: expected at most episodes={config.episodes} in the store, found {first}")
    began, frames, successes, batch = time.monotonic(), 0, 0, list[Episode]()
    columns = (TextColumn("collect"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    with Progress(*columns, TimeRemainingColumn()) as bar:
        row = bar.add_task("collect", total=config.episodes, completed=first, speed="")
        for episode in collect_episodes(config, first):
            batch.append(episode)
            frames += len(episode.frames)
            successes += bool(episode.success)
            if len(batch) == _BATCH:
                store.append(batch)
                batch = []
            speed = f"{frames / (time.monotonic() - began):.0f} frames/s"
            bar.update(row, advance=1, speed=speed)
        if batch:
            store.append(batch)
    seconds = time.monotonic() - began
    new = config.episodes - first
    return {
        "episodes": config.episodes,
        "new_episodes": new,
        "new_frames": frames,
        "new_success_rate": successes / new if new else 0.0,
        "frames_per_s": frames / seconds if new else 0.0,
    }


VERB = Verb("collect", "run policies in an environment, write episodes", CollectConfig, run)


def _check(config: CollectConfig) -> None:
    for name, low in (("episodes", 1), ("workers", 1), ("steps", 2), ("size", 16), ("seed", 0)):
        if getattr(config, name) < low:
            raise RoboAlignError(f"collect {name}: expected at least {low}, found {getattr(config, name)}")
    recorder(config.env).options(config.looks)
    known, shares = recorder(config.env).policies, config.policies.get(config.env, {})
    if not known.keys() >= shares.keys():
        raise RoboAlignError(f"collect policies.{config.env}: expected some of {sorted(known)}, found {sorted(shares)}")
    if not shares or min(shares.values()) < 0 or sum(shares.values()) <= 0:
        raise RoboAlignError(f"collect policies.{config.env}: expected shares >= 0 with a positive sum, found {shares}")


def _shares(config: CollectConfig) -> dict[str, float]:
    """Of the policies that act at all: a collection does not change with a policy that it does not use."""
    return _used(config.policies.get(config.env, {}))


def _used(shares: Mapping[str, float]) -> dict[str, float]:
    return {name: share for name, share in shares.items() if share}


def _settings(config: CollectConfig) -> dict[str, Any]:
    """What decides the episodes: everything but where, how many and how fast."""
    settings = dataclasses.asdict(config) | {"policies": _shares(config)}
    return {name: settings[name] for name in settings if name not in ("out", "episodes", "workers")}


def _open_store(config: CollectConfig) -> EpisodeStore:
    record = Path(config.out) / _RECORD
    if record.exists():
        defaults = {"boxes": False, "looks": dataclasses.asdict(Looks())}  # of records from before there were any
        found, expected = {**defaults, **read_json(record)}, _settings(config)
        found["policies"] = _used(found.get("policies", {}))
        if found != expected:
            wrong = sorted(name for name in expected if found.get(name) != expected[name])
            raise RoboAlignError(f"{record}: expected the settings of this run to go on, found others for {wrong}")
        return EpisodeStore.open(config.out)
    store = _new_store(config)
    write_json(record, _settings(config))
    return store


def _new_store(config: CollectConfig) -> EpisodeStore:
    spec = _store_spec(config)
    if not (Path(config.out) / "meta" / "info.json").exists():
        return EpisodeStore.create(config.out, spec)
    # A run that was killed before it wrote its record leaves an empty store; anything else is not ours to go on with.
    store = EpisodeStore.open(config.out)
    if len(store) or store.spec != spec:
        raise RoboAlignError(f"{config.out}: expected a store that collect began, found one without {_RECORD}")
    return store


def _store_spec(config: CollectConfig) -> StoreSpec:
    kind = recorder(config.env)
    return StoreSpec(
        fps=kind.fps,
        height=config.size,
        width=config.size,
        action_names=kind.action_names,
        extras=kind.columns(config.boxes, config.looks),
        source=kind.source_of(config.looks),
        camera=kind.camera,
    )


def _recorder(config: CollectConfig) -> Recorder:
    kind = recorder(config.env)
    return kind(config.size, config.steps, config.stop_on_success, _shares(config), config.boxes, config.looks)


_worker_config: CollectConfig
_worker_recorder: Recorder


def _start_worker(config: CollectConfig) -> None:
    global _worker_config, _worker_recorder
    _worker_config, _worker_recorder = config, _recorder(config)


def _work(index: int) -> dict[str, Any]:
    """An episode's fields: the episode itself holds a read-only mapping, which does not travel between processes."""
    episode = _worker_recorder(_worker_config.seed, index)
    fields = {part.name: getattr(episode, part.name) for part in dataclasses.fields(episode)}
    return fields | {"extras": dict(episode.extras)}
