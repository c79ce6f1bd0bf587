"""What engines are told, and what a batch counts in a step, as far as one process shows it."""

from pathlib import Path

import pytest
import torch
from engine_processes import SpanCollator, Texts, fresh_model

from hf_jepa.core.modeling import JepaPreTrainingMixin
from hf_jepa.registry import VARIANTS
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.engines import sharded_modules
from hf_jepa.training.finetuning import FineTuningArguments, require_mergeable
from hf_jepa.training.optimizer import parameter_groups
from hf_jepa.training.pretrain_video import pretrain
from hf_jepa.training.trainer import JepaTrainer


RECIPES = Path(__file__).resolve().parents[2] / "training_scripts/configs"
ENCODERS = [name for name, variant in VARIANTS.items() if issubclass(variant.model_class(), JepaPreTrainingMixin)]


@pytest.mark.parametrize("name", ENCODERS)
def test_every_layer_is_sharded_by_itself(name):
    """Of both encoders, and of a predictor that has layers."""
    model = VARIANTS[name].model_class()(VARIANTS[name].config_class()(**VARIANTS[name].tiny))
    chosen = sharded_modules(model)
    for part in (model.context_encoder, model.target_encoder, getattr(model, "predictor", None)):
        modules = part.modules() if part else ()
        blocks = [module for module in modules if "attention" in dict(module.named_children())]
        blocks = [block for block in blocks if len(dict(block.named_children())) > 2]  # not attention with its output
        assert all(type(block).__name__ in chosen for block in blocks)
        assert blocks or part is getattr(model, "predictor", None)
    around = [m for m in model.modules() if type(m).__name__ in chosen]
    assert not any(each is model.get_input_embeddings() for m in around for each in m.modules())


def test_a_precision_that_the_recipe_does_not_have_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(ValueError, match="mixed_precision: bf16, but the recipe decides"):
        JepaTrainingArguments(str(tmp_path), use_cpu=True)
    assert JepaTrainingArguments(str(tmp_path), use_cpu=True, bf16=True).mixed_precision == "bf16"


def test_partitioned_matrices_are_decayed_all_the_same():
    """ZeRO-3 leaves flat pieces of them, with their shape beside."""
    model = fresh_model("ijepa")
    expected = [len(group["params"]) for group in parameter_groups(model, 0.1)]
    for parameter in model.parameters():
        parameter.ds_shape, parameter.data = parameter.shape, torch.empty(0)
    assert [len(group["params"]) for group in parameter_groups(model, 0.1)] == expected


def test_accumulated_batches_of_uneven_texts_are_one_larger_batch(tmp_path):
    found = []
    for batch, accumulated in ((4, 1), (2, 2)):
        options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated, "max_steps": 3}
        options |= {"adam_epsilon": 1e-5, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
        options |= {"use_cpu": True, "collapse_monitor": False, "logging_steps": 1}
        trainer = JepaTrainer(
            fresh_model("data2vec_text"),
            JepaTrainingArguments(str(tmp_path), **options),
            train_dataset=Texts(),
            data_collator=SpanCollator(),
        )
        trainer.train()
        losses = torch.tensor([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        found.append((losses, trainer.model.state_dict()))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-6)
    for name, tensor in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], tensor, rtol=0, atol=2e-7)


def test_zero_3_refuses_batches_that_call_other_modules_in_each_process(monkeypatch, tmp_path):
    monkeypatch.setattr("hf_jepa.training.pretrain_video.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match="take zero2.yaml or fsdp2.yaml"):
        pretrain("vjepa2_1", [str(RECIPES / "vjepa2_1/tiny.yaml"), f"--output_dir={tmp_path}", "--use_cpu=1"])


def test_adapters_are_merged_by_data_parallelism_alone(monkeypatch, tmp_path):
    training = FineTuningArguments(str(tmp_path), use_cpu=True)
    require_mergeable("lora", training)
    monkeypatch.setattr(FineTuningArguments, "uses_engine", True)
    require_mergeable("full", training)
    with pytest.raises(ValueError, match="mode=lora: adapters are merged"):
        require_mergeable("lora", training)
