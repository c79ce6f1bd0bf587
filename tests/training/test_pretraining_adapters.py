"""Continued pretraining with LoRA: what a recipe asks for, exact resumes, ordinary checkpoints, what is refused."""

import re

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file
from transformers import AutoModel

from hf_jepa.core.adapters import merge_adapters
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.training.adapters import adapt_context_encoder
from hf_jepa.training.optimizer import parameter_groups
from hf_jepa.training.pretrain_image import pretrain
from hf_jepa.training.pretrain_video import pretrain as pretrain_video
from hf_jepa.training.pretraining import ModelArguments
from hf_jepa.training.trainer import JepaTrainer


OPTIONS = {
    "dataset": "embedded",
    "generated_length": 64,
    "per_device_train_batch_size": 8,
    "max_steps": 6,
    "warmup_steps": 2,
    "learning_rate": 0.01,
    "min_keep": 3,
    "start_momentum": 0.8,
    "save_steps": 4,
    "logging_steps": 1,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "lora_rank": 4,
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A checkpoint to continue from; its encoders are equal, as of an encoder-only checkpoint."""
    from tiny_training import CONFIG

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("adapters") / "start"
    IJepaForPreTraining(IJepaConfig(**CONFIG)).save_pretrained(folder)
    return folder


def run(start, output, **options) -> JepaTrainer:
    fields = OPTIONS | {"model_name_or_path": str(start), "output_dir": str(output)} | options
    recipe = output.parent / f"{output.name}.yaml"
    recipe.write_text(yaml.safe_dump(fields))
    return pretrain("ijepa", [str(recipe)])


@pytest.fixture(scope="module")
def finished(start):
    """A run with adapters, with dropout in them, whose random numbers a resume has to continue."""
    return run(start, start.parent / "whole", lora_dropout=0.1)


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_the_result_is_an_ordinary_checkpoint(start, finished):
    folder = start.parent / "whole"
    before, after = weights(start), weights(folder)
    assert after.keys() == before.keys()
    adapted = {name for name in before if re.search(r"context_encoder.*(_proj|fc\d)\.weight$", name)}
    frozen = {name for name in before if name.startswith("context_encoder.")} - adapted
    assert len(adapted) == 12 and all(not torch.equal(before[name], after[name]) for name in adapted)
    assert frozen and all(torch.equal(before[name], after[name]) for name in frozen)
    predictor = [name for name in before if name.startswith("predictor.") and not name.endswith("k_proj.bias")]
    assert all(not torch.equal(before[name], after[name]) for name in predictor if "position" not in name)
    # Each update has rank 4, also that of the average of all of them, within what rank 4 grows to over 6 steps.
    change = after["context_encoder.layers.0.mlp.fc1.weight"] - before["context_encoder.layers.0.mlp.fc1.weight"]
    assert torch.linalg.matrix_rank(change, atol=1e-5) == 4
    for model in (AutoModel.from_pretrained(folder), IJepaForPreTraining.from_pretrained(folder).target_encoder):
        assert all(torch.equal(value, after[f"ijepa.{name}"]) for name, value in model.state_dict().items())
    assert all(not torch.equal(after[name.replace("context_encoder", "ijepa")], before[name]) for name in adapted)


def test_the_card_says_what_was_trained(start, finished):
    card = (start.parent / "whole/README.md").read_text()
    assert "**Adapters**: LoRA of rank 4 on 12 layers, merged at the end" in card
    model = IJepaForPreTraining.from_pretrained(start)
    linear = [part for part in model.context_encoder.modules() if isinstance(part, torch.nn.Linear)]
    matrices = sum(4 * (part.in_features + part.out_features) for part in linear)
    predictor = sum(p.numel() for p in model.predictor.parameters() if p.requires_grad)
    assert f"**Trained values**: {matrices + predictor:,} of {model.num_parameters() + matrices:,}\n" in card


def test_a_resume_is_exact(start, finished):
    again = start.parent / "again"
    run(start, again, lora_dropout=0.1, resume_from_checkpoint=str(start.parent / "whole/checkpoint-4"))
    expected, found = weights(start.parent / "whole"), weights(again)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_target_is_the_average_over_the_steps(start):
    """In float64, of base weights and adapters as they were after each step."""
    from transformers import TrainerCallback

    expected: dict[str, torch.Tensor] = {}

    class Reference(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model, **kwargs):
            momentum = trainers[0].momentum(state.global_step)
            target = {name: p.detach().double() for name, p in model.target_encoder.named_parameters()}
            for name, layer in model.context_encoder.named_modules():
                if hasattr(layer, "base_layer"):
                    a, b = (m["default"].weight.detach().double() for m in (layer.lora_A, layer.lora_B))
                    followed = layer.base_layer.weight.double() + layer.scaling["default"] * (b @ a)
                    key = f"{name}.weight"
                    expected[key] = momentum * expected.get(key, target[key]) + (1 - momentum) * followed

    trainers = []
    original = JepaTrainer.__init__

    def remembered(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.add_callback(Reference())
        trainers.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JepaTrainer, "__init__", remembered)
        run(start, start.parent / "followed", save_strategy="no", lora_alpha=16)
    found = dict(trainers[0].model.target_encoder.named_parameters())
    assert len(expected) == 12
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=0, atol=2e-7, msg=name)


def test_checkpoints_in_between_hold_everything(start, finished):
    found, start = weights(start.parent / "whole/checkpoint-4"), weights(start)
    key = "layers.0.attention.q_proj"
    assert torch.equal(found[f"context_encoder.{key}.base_layer.weight"], start[f"context_encoder.{key}.weight"])
    assert found[f"context_encoder.{key}.lora_B.default.weight"].abs().max() > 0
    assert not torch.equal(found[f"ijepa.{key}.weight"], start[f"ijepa.{key}.weight"])


def test_a_checkpoint_with_adapters_is_not_one_without(start, finished, make_trainer):
    checkpoint = start.parent / "whole/checkpoint-4"
    with pytest.raises(ValueError, match="has adapters, but the model none .*resume with the lora_"):
        run(start, start.parent / "other", lora_rank=0, resume_from_checkpoint=str(checkpoint))
    with pytest.raises(ValueError, match="24 keys are missing.*of a run with adapters take the one at its end"):
        IJepaForPreTraining.from_pretrained(checkpoint)
    run(start, start.parent / "plain", lora_rank=0, max_steps=1, save_steps=1)
    with pytest.raises(ValueError, match="lacks adapters of the model .*resume with the lora_"):
        run(start, start.parent / "other", resume_from_checkpoint=str(start.parent / "plain/checkpoint-1"))


def test_video_runs_have_adapters(tmp_path):
    from tiny_training import CLIPS

    from hf_jepa.registry import VARIANTS

    variant = VARIANTS["vjepa2"]
    torch.manual_seed(0)
    model = variant.model_class()(variant.config_class()(**(variant.tiny | CLIPS)))
    model.save_pretrained(tmp_path / "start")
    fields = {name: OPTIONS[name] for name in ("use_cpu", "report_to", "disable_tqdm", "lora_rank")}
    fields |= {
        "dataset": "moving_digits",
        "generated_length": 8,
        "per_device_train_batch_size": 2,
        "max_steps": 2,
        "save_strategy": "no",
    }
    fields |= {"model_name_or_path": str(tmp_path / "start"), "output_dir": str(tmp_path / "out")}
    fields |= {"gradient_checkpointing": True, "learning_rate": 0.1, "start_learning_rate": 0.1, "start_momentum": 0.5}
    trainer = pretrain_video("vjepa2", [f"--{name}={value}" for name, value in fields.items()])
    before, after = weights(tmp_path / "start"), weights(tmp_path / "out")
    assert after.keys() == before.keys() and "12 layers" in trainer.adapter_facts()["Adapters"]
    moved = [name for name in before if "encoder" in name and not torch.equal(before[name], after[name])]
    assert len([name for name in moved if "context_encoder" in name]) == 12 and len(moved) == 24


def test_rank_alpha_and_dropout_are_those_asked_for(config_fields):
    model = IJepaForPreTraining(IJepaConfig(**config_fields))
    adapt_context_encoder(model, 4, alpha=12.0, dropout=0.1)
    layer = model.context_encoder.layers[0].mlp.fc1
    assert (layer.r["default"], layer.scaling["default"], layer.lora_dropout["default"].p) == (4, 3.0, 0.1)
    merge_adapters(model)
    adapt_context_encoder(model, 8)
    assert model.context_encoder.layers[0].mlp.fc1.scaling["default"] == 2.0
    with pytest.raises(ValueError, match="has adapters already, such as at layers.0"):
        adapt_context_encoder(model, 8)


def test_matrices_that_zero_3_has_partitioned_are_decayed(config_fields):
    """As `from_pretrained` leaves them there: without elements, their shape beside them."""
    model = IJepaForPreTraining(IJepaConfig(**config_fields))
    adapt_context_encoder(model, 4)
    whole = [len(group["params"]) for group in parameter_groups(model, 0.1)]
    for parameter in model.parameters():
        parameter.ds_shape, parameter.data = parameter.shape, torch.empty(0)
    found = parameter_groups(model, 0.1)
    assert [len(group["params"]) for group in found] == whole and found[0]["weight_decay"] == 0.1
    assert [group["decays"] for group in found] == [True, True, False]  # no adapter has a bias


def test_adapters_stay_in_float32_under_autocast(make_trainer):
    trainer = make_trainer(bf16=True, max_steps=1)
    adapt_context_encoder(trainer.model, 4)
    trainer.train()
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_name_or_path": None}, "lora_rank adapts a checkpoint: say which by model_name_or_path"),
        ({"push_to_hub": True}, "hub_strategy=every_save would upload adapters before they are merged"),
    ],
)
def test_what_a_recipe_may_not_ask_for(start, options, message):
    with pytest.raises(ValueError, match=message):
        run(start, start.parent / "refused", **options)
    assert ModelArguments().lora_rank == 0


def test_adapters_that_a_checkpoint_would_not_hold_or_average_are_refused(make_trainer, monkeypatch):
    trainer = make_trainer()
    model, rest = trainer.model, {"train_dataset": trainer.train_dataset, "mask_sampler": trainer.mask_sampler}
    lora = LoraConfig(target_modules=["q_proj"], r=2)
    inject_adapter_in_model(lora, model.target_encoder)
    model.target_encoder.requires_grad_(False)  # so that the average alone would not show it
    with pytest.raises(ValueError, match="the target encoder has adapters, at layers.0.attention.q_proj.weight"):
        JepaTrainer(model, trainer.args, **rest)
    with pytest.raises(ValueError, match="the module that follows has adapters itself"):
        model.update_target_encoder(0.9)
    merge_adapters(model)
    with pytest.raises(ValueError, match="peft would save adapters alone"):
        JepaTrainer(get_peft_model(model, lora), trainer.args, **rest)
    other = make_trainer().model
    other.add_adapter(lora)
    with pytest.raises(ValueError, match="peft would save adapters alone"):
        JepaTrainer(other, trainer.args, **rest)
