"""What the planning package offers has examples, which the doctests of the suite run."""

import re

import pytest

import hf_jepa.planning


NO_CLASS = {"DISTANCES", "PLANNERS", "Cost"}  # tables and a type


@pytest.mark.parametrize("name", sorted(set(hf_jepa.planning.__all__) - NO_CLASS))
def test_public_names_have_an_example(name):
    assert re.search(r"Example:\n +>>> ", getattr(hf_jepa.planning, name).__doc__), name


def test_names_are_complete_and_sorted():
    found = {name for name in vars(hf_jepa.planning) if name[0].isupper() or name.endswith("_planner")}
    assert found <= set(hf_jepa.planning.__all__)
    assert all(hasattr(hf_jepa.planning, name) for name in NO_CLASS)
