"""How oracles are found, and what their tolerance may be."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from roboalign_core.benchmark import oracles
from roboalign_core.benchmark.oracles import EXACT, GROUP, READ, Tolerance, load_oracle
from roboalign_core.errors import RoboAlignError


def test_a_source_that_nobody_knows_has_no_oracle():
    assert load_oracle("bridge") is None
    assert load_oracle("") is None


@pytest.mark.parametrize("source", ["tabletop", "robosuite_lift"])
def test_the_simulators_bring_theirs(source):
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    oracle = load_oracle(source)
    assert oracle is not None
    assert oracle.source == source
    assert oracle.instructions
    assert oracle.columns


def test_an_oracle_that_cannot_be_loaded_is_an_error(monkeypatch):
    broken = EntryPoint("kitchen", "roboalign_core.no_such_module:ORACLE", GROUP)
    monkeypatch.setattr(oracles, "entry_points", lambda group: (broken,) if group == GROUP else ())
    with pytest.raises(RoboAlignError, match=r"oracle 'kitchen'.*no_such_module"):
        load_oracle("kitchen")
    assert load_oracle("tabletop") is None


@pytest.mark.parametrize("noise", [-0.001, float("nan"), float("inf")])
def test_a_tolerance_is_a_number_of_metres(noise):
    with pytest.raises(RoboAlignError, match="noise"):
        Tolerance(noise)


def test_read_states_are_less_sure_than_recorded_ones():
    assert EXACT.noise == 0
    assert 0.003 < READ.noise < 0.015
