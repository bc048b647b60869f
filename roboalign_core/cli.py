"""The command ``roboalign``: finds the verb, composes its configuration, runs it, shows and keeps its results."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from roboalign_core.configs import config_dir
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import write_json
from roboalign_core.verb import Verb

GROUP = "roboalign.verbs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point. Returns 0, or 2 after one clear line for a problem that the user can act on."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    try:
        name, rest = split_command(arguments)
        verb = load_verb(name)
        if any(argument in ("-h", "--help") for argument in rest):
            print(f"roboalign {verb.name}: {verb.help}\n\n{(config_dir() / verb.yaml).read_text()}")
            return 0
        config = compose(verb, rest)
        results = {**verb.run(config), **provenance(arguments, config)}
        out = getattr(config, "out", None)
        if out:
            write_json(Path(out) / "results.json", results)
        _show(verb, results)
    except (RoboAlignError, OSError) as error:
        print(f"roboalign: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("roboalign: interrupted", file=sys.stderr)
        return 130
    return 0


def split_command(arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The name of the command, of one or two words, and what follows it."""
    groups = {point.name.split(".")[0] for point in entry_points(group=GROUP) if "." in point.name}
    words = 2 if arguments[0] in groups and len(arguments) > 1 else 1
    return ".".join(arguments[:words]), arguments[words:]


def load_verb(name: str) -> Verb:
    """The verb by that name, from whichever installed package brings it.

    Raises:
        RoboAlignError: no package brings it, or the package's own needs are absent.
    """
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        hint = "; it comes with the ROS 2 nodes: run `make venv`" if name == "demo" else ""
        known = ", ".join(sorted(found)).replace(".", " ")
        raise RoboAlignError(f"command {name.replace('.', ' ')!r}: expected one of {known}{hint}")
    try:
        verb: Verb = found[name].load()
    except ImportError as error:
        raise RoboAlignError(f"command {name!r}: could not be loaded: {error}; see `roboalign doctor`") from error
    return verb


def compose(verb: Verb, arguments: Sequence[str]) -> Any:
    """``configs/<verb>.yaml`` with the overrides, as an instance of the verb's dataclass.

    Raises:
        RoboAlignError: an unknown key, a value of the wrong type, or a required value left out.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    kinds = get_type_hints(verb.config)
    arguments = list(_without_dashes(arguments, kinds))
    overrides = [argument for argument in arguments if "=" in argument or argument.startswith("~")]
    plain = [argument for argument in arguments if argument not in overrides]
    # A mapping may bring keys of its own, which hydra takes only so; where they make no sense, the dataclass says so.
    overrides = [f"++{each}" if re.match(r"[\w.]+=\{", each) else each for each in overrides]
    several = verb.positional is not None and get_origin(kinds[verb.positional]) is list
    if plain and (verb.positional is None or (len(plain) > 1 and not several)):
        raise RoboAlignError(f"roboalign {verb.name}: expected key=value arguments, found {plain[-1]!r}")
    if plain and any(each.startswith(f"{verb.positional}=") for each in overrides):
        raise RoboAlignError(
            f"roboalign {verb.name}: expected {verb.positional} once, found {plain[0]!r} and {verb.positional}="
        )
    try:
        with initialize_config_dir(version_base=None, config_dir=str(config_dir())):
            composed = hydra_compose(config_name=verb.yaml.removesuffix(".yaml"), overrides=overrides)
        merged = OmegaConf.merge(OmegaConf.structured(verb.config), composed)
        if plain and verb.positional:
            OmegaConf.update(merged, verb.positional, plain if several else plain[0])
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise RoboAlignError(f"roboalign {verb.name}: expected a value for {', '.join(missing)}, found none")
        return OmegaConf.to_object(merged)
    except (HydraException, OmegaConfBaseException) as error:
        raise RoboAlignError(f"roboalign {verb.name}: configuration: {_reason(error)}") from error


def _without_dashes(arguments: Sequence[str], kinds: Mapping[str, Any]) -> Iterator[str]:
    """``--key value`` and ``--key=value`` as ``key=value``, others as they are; what is to be text is not parsed."""
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("--"):
            yield argument
            continue
        key, given, value = argument[2:].partition("=")
        if key.split(".")[0] not in kinds:
            raise RoboAlignError(f"roboalign: expected key=value arguments, found {argument!r}")
        found = value if given else next(rest, "--")
        if not given and found.startswith("--"):
            raise RoboAlignError(f"{argument}: expected --key and a value after it, found none")
        yield f"{key}={_quoted(found) if kinds.get(key) is str else found}"


def _quoted(text: str) -> str:
    """As hydra takes any text: a backslash counts only before a quote, where it is doubled."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text) + "'"


def _reason(error: Exception) -> str:
    """Which setting is wrong and why, without what only developers of OmegaConf and hydra need."""
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    found = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    setting = getattr(found, "full_key", None) or getattr(found, "override", None)
    text = re.split(r"\n\s*(?:full_key|Config search path|See https)", str(found))[0]
    if isinstance(found, (ConfigAttributeError, ConfigKeyError)):
        text = "there is no such setting"
    elif "is not a ListConfig" in text:
        text = "expected a list, such as [a,b], found one value"
    return f"{setting}: {text}" if setting else text


def provenance(arguments: Sequence[str], config: Any) -> dict[str, Any]:
    """What a reader needs to get the same figures again."""
    return {
        "command": shlex.join(["roboalign", *arguments]),
        "seed": _seed(config),
        "git": _git(),
        "machine": _machine(),
        "versions": _versions(),
    }


def _seed(config: Any) -> int | None:
    """Of the command itself, else of its training loop, else of its study."""
    loop, study = getattr(config, "loop", None), getattr(config, "study", None)
    of_study = study.get("seed") if isinstance(study, Mapping) else getattr(study, "seed", None)
    return getattr(config, "seed", getattr(loop, "seed", of_study))


def _git() -> str:
    import subprocess

    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return "not a checkout"
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(describe, capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return "unknown"
    return done.stdout.strip() or "unknown"


def _machine() -> str:
    import platform

    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{platform.machine()}, {os.cpu_count()} cores, {gpu}"


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in ("roboalign", "torch", "numpy", "mujoco", "robosuite", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _show(verb: Verb, results: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"roboalign {verb.name}", show_header=False)
    for key, value in results.items():
        if key == "detail" or isinstance(value, (dict, list)):
            continue
        table.add_row(key, Text(f"{value:.4g}" if isinstance(value, float) else str(value)))
    Console().print(table)


def _usage() -> str:
    lines = ["usage: roboalign VERB [key=value ...]   (roboalign VERB --help shows its settings)", ""]
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        name = point.name.replace(".", " ")
        try:
            lines.append(f"  {name:18} {point.load().help}")
        except ImportError as error:
            lines.append(f"  {name:18} not available: {error}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
