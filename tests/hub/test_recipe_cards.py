"""`model_cards/recipes` has one file for every recipe that trains from scratch, and it says what the recipe says."""

from pathlib import Path

import pytest
import yaml

from hf_jepa.hub.recipe_cards import CARDS, RECIPES, from_scratch, main, recipe_facts, sources
from hf_jepa.registry import VARIANTS


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def written():
    return sources(ROOT)


def test_every_recipe_from_scratch_has_one_source_file(written):
    assert sorted(written) == sorted(path.relative_to(ROOT) for path in (ROOT / CARDS).glob("*"))
    left_out = {
        path.relative_to(ROOT / RECIPES).with_suffix("").as_posix()
        for path in (ROOT / RECIPES).glob("*/*.yaml")
        if CARDS / f"{path.parent.name}_{path.name}" not in written
    }
    goes_on = {
        name for name in left_out if not name.split("/")[1].startswith(("tiny", "finetune_", "anticipate_", "decoder"))
    }
    for name in goes_on:
        assert "model_name_or_path:" in (ROOT / RECIPES / f"{name}.yaml").read_text(), name
    assert {name.split("/")[0] for name in left_out} >= {name.split("_", 1)[0] for name in ("ijepa", "vjepa2")}


def test_the_files_are_what_the_recipes_say(written):
    stale = [str(path) for path, text in written.items() if (ROOT / path).read_text(encoding="utf-8") != text]
    assert not stale, f"run `python -m hf_jepa.hub.recipe_cards .`: {stale}"


def test_facts_are_those_of_the_recipe():
    facts = recipe_facts(VARIANTS["ijepa"], ROOT / RECIPES / "ijepa/vith14_in1k.yaml")
    released = yaml.safe_load((ROOT / "model_cards/ijepa_vith14_1k.yaml").read_text(encoding="utf-8"))
    for part in ("encoder", "predictor"):
        assert facts["trainable_parameters"][part] == released["trainable_parameters"][part]
    told = facts["training"]
    assert (told["mask_mode"], told["num_train_epochs"], told["precision"]) == ("corrected", 300, "bfloat16 autocast")
    assert told["world_size"]["value"] is None and facts["weights_license"]["value"] is None
    assert facts["verified"] is False and facts["not_verified"]


def test_a_model_of_unknown_vocabulary_is_not_counted():
    facts = recipe_facts(VARIANTS["llm_jepa"], ROOT / RECIPES / "llm_jepa/llama3_2_1b_synth_scratch.yaml")
    assert "trainable_parameters" not in facts and "the number of parameters" in facts["not_verified"]


@pytest.mark.parametrize("name", ["ijepa/tiny", "ijepa/finetune_vith14_in1k", "vjepa2/cooldown_256"])
def test_what_goes_on_from_a_checkpoint_has_no_file(name):
    assert not from_scratch(ROOT / RECIPES / f"{name}.yaml")


def test_another_folder_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["recipe_cards", str(tmp_path)])
    assert main() == 2 and "name a source checkout" in capsys.readouterr().err
