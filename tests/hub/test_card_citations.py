"""Cards cite the papers that the READMEs of the variants name."""

import re
from pathlib import Path

import pytest

import hf_jepa
from hf_jepa.hub.citations import PAPERS, citation
from hf_jepa.registry import VARIANTS


MODELS = Path(hf_jepa.__file__).parent / "models"


@pytest.mark.parametrize("name", VARIANTS)
def test_the_paper_is_that_of_the_readme(name):
    variant = VARIANTS[name]
    line = (MODELS / name / "README.md").read_text(encoding="utf-8").splitlines()[2]
    authors, year, title, paper = re.match(r"(.+?) (\d{4}),(?: \*(.+?)\*,)? arXiv \[([\d.]+)\]", line).groups()
    assert paper == variant.paper
    assert PAPERS[paper] == (authors, int(year), title)


def test_no_paper_is_of_no_variant():
    assert set(PAPERS) == {variant.paper for variant in VARIANTS.values()}


def test_names_are_joined_as_bibtex_splits_them():
    assert "author = {Bardes and Ponce and LeCun}," in citation(VARIANTS["vicreg"])
    assert "author = {Mur-Labadia and others}," in citation(VARIANTS["vjepa2_1"])
    assert "title = {V-JEPA 2.1}," in citation(VARIANTS["vjepa2_1"])  # the title is not known here
