"""The card of a run is complete by itself, also where no recipe started it."""

import re

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from torch.utils.data import default_collate

from hf_jepa.hub.card_check import check_card
from hf_jepa.masking import build_mask_sampler
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.registry import VARIANTS
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.run_cards import chosen_fields
from hf_jepa.training.trainer import JepaTrainer


@pytest.mark.parametrize("mode", ["corrected", "official"])
def test_the_card_of_a_run_has_no_fault(mode, tmp_path):
    torch.manual_seed(0)
    model = IJepaForPreTraining(IJepaConfig(**VARIANTS["ijepa"].tiny))
    rows = [{"pixel_values": torch.randn(3, 32, 32), "sample_index": i} for i in range(4)]
    options = {"max_steps": 2, "per_device_train_batch_size": 4, "logging_steps": 1, "save_strategy": "no", "seed": 7}
    options |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "learning_rate": 2e-4}
    trainer = JepaTrainer(
        model,
        JepaTrainingArguments(str(tmp_path / "run"), hub_token="hf_" + "x" * 30, **options),
        mask_sampler=build_mask_sampler(mode, grid_size=model.config.grid_size, min_keep=2),
        train_dataset=rows,
        data_collator=default_collate,
    )
    trainer.train()
    trainer.save_model()
    trainer.create_model_card(license="mit", dataset="noise")
    assert check_card(tmp_path / "run") == []
    card = ModelCard.load(tmp_path / "run/README.md")
    assert f"**Mask mode**: {mode}" in card.text and "1 process(es)" in card.text and "rankme" in card.text
    (fields,) = re.findall(r"```yaml\n(.*?)```", card.text, flags=re.DOTALL)
    recipe = yaml.safe_load(fields)
    assert {name: recipe[name] for name in ("max_steps", "seed", "learning_rate")} == {
        "max_steps": 2,
        "seed": 7,
        "learning_rate": 2e-4,
    }
    assert not {"output_dir", "hub_token", "weight_decay"} & set(recipe) and "hf_x" not in str(card)


def test_what_was_not_chosen_is_not_in_the_recipe():
    plain = JepaTrainingArguments("run", use_cpu=True, report_to="none")
    chosen = JepaTrainingArguments("run", use_cpu=True, report_to="none", gradient_checkpointing=True, seed=3)
    added = chosen_fields(chosen).items() - chosen_fields(plain).items()
    assert {"seed": 3, "gradient_checkpointing": True}.items() <= added
    assert not {"seed", "gradient_checkpointing", "learning_rate"} & set(chosen_fields(plain))
