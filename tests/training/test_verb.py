"""The yaml nodes of the stages, against the dataclasses that read them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from roboalign_core.cli import compose
from roboalign_core.errors import RoboAlignError
from roboalign_core.training.verb import STAGES, VERB, TrainConfig, _settings, train


def names(value: Any) -> Any:
    """The fields of a dataclass, with those of the dataclasses in it."""
    if not dataclasses.is_dataclass(value):
        return None
    return {each.name: names(getattr(value, each.name)) for each in dataclasses.fields(value)}


def keys(node: Any, known: Any) -> Any:
    """The keys of a yaml node, with those of the nodes in it that dataclasses read."""
    return {key: keys(value, known.get(key)) for key, value in node.items()} if known else None


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_s_yaml_node_mirrors_its_dataclass(name: str) -> None:
    node = compose(VERB, [f"stage={name}", "data=[d]", "out=o"]).stage
    defaults = STAGES[name][1]()
    assert _settings(node) == (name, defaults)
    del node["name"]
    known = names(defaults)
    assert keys(node, known) == known


@pytest.mark.parametrize("stage", [{"name": "cooking"}, {"clips": 6}, "tokenizer", None], ids=str)
def test_an_unknown_stage_is_refused(stage: Any) -> None:
    found = "'cooking'" if isinstance(stage, dict) and "name" in stage else "None"
    with pytest.raises(RoboAlignError, match=f"^stage: expected one of {', '.join(STAGES)}, found {found}$"):
        train(TrainConfig(data=["d"], out="o", stage=stage))
