"""What the planning package offers has examples, which the doctests of the suite run."""

import re

import pytest

import hf_jepa.planning


NO_CLASS = {"DISTANCES", "PLANNERS", "Cost"}  # tables and a type
ONE_FOR_ALL = "hf_jepa.planning.hierarchical"  # whose names are all in the example of `HierarchicalAgent`


@pytest.mark.parametrize("name", sorted(set(hf_jepa.planning.__all__) - NO_CLASS))
def test_public_names_have_an_example(name):
    thing = getattr(hf_jepa.planning, name)
    assert thing.__module__ == ONE_FOR_ALL or re.search(r"Example:\n +>>> ", thing.__doc__), name


def test_every_planner_has_a_name_and_every_name_is_there():
    named = set(hf_jepa.planning.__all__)
    assert {planner.__name__ for planner in hf_jepa.planning.PLANNERS.values()} <= named
    assert all(hasattr(hf_jepa.planning, name) for name in named)
