"""The environments by name."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from roboalign_core.errors import RoboAlignError, require

if TYPE_CHECKING:
    from gymnasium import Env

# The first module of the package that is imported: whoever lacks the extra is told so here.
gym = require("gymnasium", "sim")

ENVS = {"tabletop": "RoboAlign/Tabletop-v0", "robosuite_lift": "RoboAlign/Robosuite-Lift-v0"}

gym.register("RoboAlign/Tabletop-v0", entry_point="roboalign_sim.tabletop:TabletopEnv")
gym.register("RoboAlign/Robosuite-Lift-v0", entry_point="roboalign_sim.robosuite:RobosuiteLiftEnv")


def make_env(name: str, **options: Any) -> Env[Any, Any]:
    """An environment by its short name, ``tabletop`` or ``robosuite_lift``, without gymnasium's wrappers.

    Args:
        name: which.
        options: the arguments of :class:`~roboalign_sim.tabletop.TabletopEnv` or
            :class:`~roboalign_sim.robosuite.RobosuiteLiftEnv`.

    Raises:
        MissingExtraError: a package that the environment needs is not installed.
        RoboAlignError: the name or an option is unknown, or an option's value makes no sense.
    """
    if name not in ENVS:
        raise RoboAlignError(f"env: expected one of {sorted(ENVS)}, found {name!r}")
    spec = gym.spec(ENVS[name])
    kind = gym.envs.registration.load_env_creator(spec.entry_point)
    known = set(inspect.signature(kind).parameters)
    if not known.issuperset(options):
        raise RoboAlignError(f"env {name}: expected options of {sorted(known)}, found {sorted(set(options) - known)}")
    env: Env[Any, Any] = kind(**options)
    env.spec = spec
    return env
