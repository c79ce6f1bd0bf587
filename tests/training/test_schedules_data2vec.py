"""The momentum of data2vec is `momentum_at`, against recorded numbers."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hf_jepa.training.schedules import momentum_at


GOLDEN = Path(__file__).parents[1] / "fixtures/golden/data2vec/tau_schedule"
RECIPES = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("modality", RECIPES)
def test_momentum(modality):
    golden, recipe = load_file(GOLDEN / "io.safetensors"), RECIPES[modality]
    for step, tau in zip(golden[f"{modality}.step"].tolist(), golden[f"{modality}.tau"].tolist(), strict=True):
        found = momentum_at(step, recipe["anneal_end_step"], recipe["start"], recipe["end"])
        assert found == pytest.approx(tau, rel=0, abs=1e-12), step
