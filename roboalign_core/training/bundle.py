"""``roboalign bundle``: put the parts of a model into one folder, with a model card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from roboalign_core.errors import RoboAlignError
from roboalign_core.files import atomic_path, read_json, write_json, write_text
from roboalign_core.training.checkpoints import RUN
from roboalign_core.verb import Verb
from roboalign_core.world_model.model import CONFIG, load_config

CARD, MODEL = "README.md", "model"


@dataclass
class BundleConfig:
    """Settings.

    Attributes:
        runs: run folders of ``roboalign train``, finished. Later ones overwrite files of the earlier ones that they
            build on.
        studies: result files of ``roboalign evaluate`` whose figures go into the card.
        figures: names of those figures; none: all that have an interval.
        data: folder of the training episodes; its results name the command that collected them.
        benchmark: folder of the benchmark that a student among the runs was trained on; empty: none.
        title: what the model is, in a line.
        window: frames after which the model's long rollouts encode anew by default, as ``study=swr`` finds them to be
            best; 0: as trained.
        out: model folder; ``roboalign_core/models/NAME`` ships it with the package.
    """

    runs: list[str] = MISSING
    studies: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    data: str = MISSING
    benchmark: str = ""
    title: str = MISSING
    window: int = 0
    out: str = MISSING


def bundle(config: BundleConfig) -> Mapping[str, Any]:
    """Copy the parts and write the card.

    Raises:
        RoboAlignError: a run is not finished, or would undo what another one trained.
    """
    _check_names([Path(run) for run in config.runs])
    _check_order([Path(run) for run in config.runs])
    stages = {Path(run).name: _results(Path(run) / "results.json") for run in config.runs}
    data = _results(Path(config.data) / "results.json")
    if config.benchmark:
        data = {**data, "benchmark": _results(Path(config.benchmark) / "results.json")}
    studies = {Path(path).parent.name: _results(Path(path)) for path in config.studies}
    out = Path(config.out)
    settings = _with_window(config) if config.window else None
    for run in config.runs:
        for source in sorted((Path(run) / MODEL).rglob("*")):
            if source.is_file():
                with atomic_path(out / source.relative_to(Path(run) / MODEL)) as temporary:
                    shutil.copyfile(source, temporary)
    if settings is not None:
        write_json(out / CONFIG, settings)
    write_text(out / CARD, _card(config.title, data, stages, studies, config.figures))
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {"size_mb": size / 1e6, "parts": len(config.runs)}


def _check_names(runs: list[Path]) -> None:
    """The card tells stages by the names of their folders."""
    for run in runs:
        same = [str(other) for other in runs if other.name == run.name]
        if len(same) > 1:
            raise RoboAlignError(f"runs: expected folders with names of their own, found {', '.join(same)}")


def _check_order(runs: list[Path]) -> None:
    """Raise where a run overwrites files of an earlier one that it does not build on."""
    builds = {run.resolve(): _builds_on(run) for run in runs}
    writers: dict[Path, Path] = {}
    for run in runs:
        for source in sorted((run / MODEL).rglob("*")):
            name = source.relative_to(run / MODEL)
            before = writers.get(name)
            if source.is_file() and before is not None and before.resolve() not in _ancestors(run.resolve(), builds):
                raise RoboAlignError(
                    f"runs: expected {run} before {before} or built on it, because both hold {name}, found it after"
                )
            writers[name] = run


def _builds_on(run: Path) -> list[Path]:
    """Run folders that a run names as what it builds on."""
    if not (run / RUN).is_file():
        return []
    identity = read_json(run / RUN)["identity"]
    models = (identity.get("world_model", ""), identity["stage"].get("reward_model", ""))
    start = identity["stage"].get("start") or []  # one folder's name, in runs of before
    starts = [start] if isinstance(start, str) else start
    folders = [*starts, *(Path(model).parent for model in models if model)]
    return [Path(folder).resolve() for folder in folders]


def _ancestors(run: Path, builds: Mapping[Path, list[Path]]) -> set[Path]:
    found: set[Path] = set()
    waiting = list(builds.get(run, []))
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting += builds.get(each, [])
    return found


def _with_window(config: BundleConfig) -> dict[str, Any]:
    """config.json of the last run that has one, with the window that is asked for."""
    folders = [Path(run) / MODEL for run in config.runs if (Path(run) / MODEL / CONFIG).is_file()]
    if not folders:
        raise RoboAlignError(f"window: expected a world model among the runs {config.runs}, found none")
    return replace(load_config(folders[-1]), window=config.window).to_dict()


def _results(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict) or "command" not in value:
        raise RoboAlignError(f"{path}: expected results of a roboalign command, found no 'command' in it")
    return value


def _card(
    title: str, data: Mapping[str, Any], stages: Mapping[str, Any], studies: Mapping[str, Any], figures: list[str]
) -> str:
    lines = ["---", "license: apache-2.0", "library_name: roboalign", "---", f"# {title}", ""]
    lines += ["Trained by this repository's own commands, from random weights.", "", "## Data", ""]
    lines += [f"`{data['command']}`: {data.get('episodes', '?')} episodes, seed {data['seed']}.", ""]
    if benchmark := data.get("benchmark"):
        lines += [f"`{benchmark['command']}`: {benchmark['pairs']} pairs, seed {benchmark['seed']}.", ""]
    lines += ["## Training", ""]
    lines += [
        "| stage | command | seed | minutes | steps | parameters | last training loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in stages.items():
        lines.append(
            f"| {name} | `{result['command']}` | {result['seed']} | {result['train_minutes']:.1f} | "
            f"{result['steps']} | {result['parameters'] / 1e6:.2f} M | {result['loss']:.4g} |"
        )
    machines = sorted({result["machine"] for result in stages.values()})
    lines += ["", f"Machine: {'; '.join(machines)}.", ""]
    for name, study in studies.items():
        lines += [
            f"## Figures: {name}",
            "",
            f"`{study['command']}`, seed {study['seed']}, {study.get('episodes', '?')} episodes.",
            "",
        ]
        lines += ["| figure | value | 95 % interval |", "|---|---|---|"]
        for key, value in study.items():
            if f"{key}_ci_low" in study and (not figures or key in figures):
                lines.append(f"| {key} | {value:.4g} | {study[f'{key}_ci_low']:.4g} … {study[f'{key}_ci_high']:.4g} |")
        lines.append("")
    return "\n".join(lines)


VERB = Verb("bundle", "put the parts of a model into one folder, with a model card", BundleConfig, bundle)
