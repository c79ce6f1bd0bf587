"""Fine-tuning: any checkpoint in, the parts that the mode names trained, an ordinary classifier out."""

import re

import pytest
import torch
import transformers
from tiny_classifiers import NAMES, PROCESSOR, arguments, classifier, make_trainer, splits_of

from hf_jepa.data.embedded import LabelledCrops
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForImageClassification, IJepaForPreTraining, IJepaModel
from hf_jepa.training.finetuning import (
    prepare_mode,
)
from hf_jepa.training.optimizer import layerwise_groups


# --- what goes in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pretraining", "encoder", "native", "old hub keys", "other classes"])
def test_any_checkpoint_starts_a_classifier_with_its_target_encoder(pretrained, tmp_path, kind):
    expected = IJepaModel.from_pretrained(pretrained)
    source = pretrained if kind == "pretraining" else tmp_path / "source"
    if kind == "encoder":
        expected.save_pretrained(source)
    elif kind in ("native", "old hub keys"):
        native = transformers.IJepaModel.from_pretrained(pretrained)
        native.save_pretrained(source, save_original_format=kind == "old hub keys")
    elif kind == "other classes":
        IJepaForImageClassification.from_pretrained(pretrained, num_labels=5).save_pretrained(source)
    model = classifier(source)
    found = model.ijepa.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.state_dict().items())
    assert model.config.num_labels == 18 and model.config.id2label[3] == "class 3"


def test_a_finished_classifier_keeps_its_head(pretrained, tmp_path, caplog):
    model = classifier(pretrained)
    model.save_pretrained(tmp_path / "done")
    caplog.clear()
    again = classifier(tmp_path / "done")
    assert torch.equal(again.classifier.weight, model.classifier.weight) and not caplog.records
    other = classifier(tmp_path / "done", names=NAMES[::-1])  # as many classes, but others
    assert "the classifier of 18 classes starts from a fresh initialisation" in caplog.text
    assert not torch.equal(other.classifier.weight, model.classifier.weight)
    assert other.classifier.weight.std() < 2 * model.classifier.weight.std() and not other.classifier.bias.any()
    model.config.id2label = {i: f"LABEL_{i}" for i in range(18)}
    model.save_pretrained(tmp_path / "unnamed")
    assert torch.equal(classifier(tmp_path / "unnamed").classifier.weight, model.classifier.weight)


def test_a_damaged_encoder_is_refused(pretrained, tmp_path):
    model = IJepaModel.from_pretrained(pretrained)
    state = model.state_dict()
    del state["layers.1.mlp.fc1.weight"]
    model.save_pretrained(tmp_path / "damaged", state_dict=state)
    with pytest.raises(ValueError, match="lacks 1 weights of the encoder.*fc1"):
        classifier(tmp_path / "damaged")


# --- what is trained ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "moves"),
    [
        ("probe", r"^classifier\."),
        ("lora", r"^ijepa\.layers\.\d\.attention\.[qv]_proj\.weight|^classifier\."),
        ("full", r"^(?!.*position_embeddings).*"),
    ],
)
def test_a_mode_moves_the_weights_it_names_and_no_others(pretrained, tmp_path, mode, moves):
    torch.manual_seed(0)
    base = classifier(pretrained, mode)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    trainer = make_trainer(prepare_mode(base, mode), tmp_path / "run")
    trainer.train()
    batch = torch.stack([LabelledCrops("test", 1)[i]["pixel_values"] for i in range(4)])
    trainer.model.eval()
    logits = trainer.model(pixel_values=batch).logits
    trainer.merge_adapters()
    torch.testing.assert_close(trainer.model(pixel_values=batch).logits, logits, rtol=0, atol=1e-5)
    after = trainer.model.state_dict()
    assert after.keys() == before.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if re.match(moves, name)}


def test_unknown_mode_is_refused(pretrained):
    with pytest.raises(ValueError, match="mode='all' is not one of probe, lora, full"):
        prepare_mode(classifier(pretrained), "all")


def test_adapters_are_as_large_and_as_strong_as_asked(pretrained):
    adapters = prepare_mode(classifier(pretrained), "lora", rank=4, alpha=12.0, dropout=0.1).peft_config["default"]
    assert (adapters.r, adapters.lora_alpha, adapters.lora_dropout) == (4, 12.0, 0.1)


def test_hidden_states_that_the_config_asks_for_are_not_measured(pretrained, tmp_path):
    model = classifier(pretrained)
    model.config.output_hidden_states = True
    assert "eval_top1" in make_trainer(model, tmp_path / "run").evaluate()


def test_a_diverging_run_stops(pretrained, tmp_path):
    options = {"learning_rate": 1e30, "max_grad_norm": 0.0, "warmup_steps": 0}
    trainer = make_trainer(prepare_mode(classifier(pretrained), "full"), tmp_path / "run", **options)
    with pytest.raises(FloatingPointError, match="is NaN or infinite"):
        trainer.train()


def test_a_probe_sees_features_without_dropout(pretrained, tmp_path):
    IJepaForPreTraining.from_pretrained(pretrained, hidden_dropout_prob=0.5).save_pretrained(tmp_path / "dropout")
    pixels = torch.randn(2, 3, 48, 48)
    probe, full = (classifier(tmp_path / "dropout", mode).train() for mode in ("probe", "full"))
    assert torch.equal(probe.ijepa(pixels)[0], probe.ijepa(pixels)[0])
    assert not torch.equal(full.ijepa(pixels)[0], full.ijepa(pixels)[0])


def test_layers_learn_more_slowly_the_further_they_are_from_the_output(pretrained):
    model = classifier(pretrained)
    groups = layerwise_groups(model, 1.0, 0.05, 0.5)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert {name: found[id(p)] for name, p in model.named_parameters() if "mlp.fc1" in name or ".lay" not in name} == {
        "ijepa.embeddings.patch_embeddings.projection.weight": (0.125, 0.05),
        "ijepa.embeddings.patch_embeddings.projection.bias": (0.125, 0.0),
        "ijepa.layers.0.mlp.fc1.weight": (0.25, 0.05),
        "ijepa.layers.0.mlp.fc1.bias": (0.25, 0.0),
        "ijepa.layers.1.mlp.fc1.weight": (0.5, 0.05),
        "ijepa.layers.1.mlp.fc1.bias": (0.5, 0.0),
        "classifier.weight": (1.0, 0.05),
        "classifier.bias": (1.0, 0.0),
    }
    assert found[id(model.ijepa.layernorm.weight)] == (1.0, 0.0)
    assert len(found) == len(list(model.parameters()))
    with pytest.raises(ValueError, match="layer_decay is 0"):
        layerwise_groups(model, 1.0, 0.05, 0.0)


def test_the_trainer_gives_layers_the_rates_that_its_arguments_ask_for(pretrained, tmp_path):
    trainer = make_trainer(classifier(pretrained), tmp_path / "run", learning_rate=0.8, layer_decay=0.5)
    assert {group["lr"] for group in trainer.create_optimizer().param_groups} == {0.8, 0.4, 0.2, 0.1}


@pytest.mark.parametrize("mode", ["probe", "lora", "full"])
def test_resume_is_exact(pretrained, labelled_photos, tmp_path, mode):
    """In the middle of an epoch of random crops."""

    def run(name, **options):
        torch.manual_seed(0)
        model = prepare_mode(classifier(pretrained, mode, ["dark", "light"]), mode, dropout=0.1)
        train, _, _ = splits_of(arguments(labelled_photos), PROCESSOR, 48, seed=0)
        saving = {"save_strategy": "steps", "save_steps": 4, "per_device_train_batch_size": 9}  # 3 steps an epoch
        trainer = make_trainer(model, tmp_path / name, train, layer_decay=0.75, **saving)
        trainer.train(**options)
        return trainer

    whole = run("whole")
    resumed = run("resumed", resume_from_checkpoint=str(tmp_path / "whole/checkpoint-4"))
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


def test_accumulation_equals_a_larger_batch(pretrained, tmp_path):
    def weights(name, **options):
        torch.manual_seed(0)
        trainer = make_trainer(classifier(pretrained), tmp_path / name, max_steps=3, **options)
        trainer.train()
        return trainer.model.state_dict()

    whole = weights("whole")
    parts = weights("parts", per_device_train_batch_size=4, gradient_accumulation_steps=4)
    for name, value in parts.items():
        torch.testing.assert_close(value, whole[name], rtol=0, atol=1e-5)


def test_bf16_trains(pretrained, tmp_path):
    trainer = make_trainer(classifier(pretrained), tmp_path / "run", bf16=True, max_steps=20, learning_rate=1e-2)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] and next(trainer.model.parameters()).dtype == torch.float32
    assert trainer._run_facts()["Precision of training"] == "bfloat16 autocast"
