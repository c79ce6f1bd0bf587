"""Evaluation during a run: every image that can be read counts once, whatever the batches."""

import pytest
import torch
from tiny_training import noise_images

from hf_jepa.data.images import ImageCollator
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForImageClassification
from hf_jepa.training.finetuning import ClassificationTrainer, FineTuningArguments
from hf_jepa.training.trainer import JepaTrainer


@pytest.fixture
def classification(config_fields, tmp_path):
    """A trainer of a classifier, by size of its batches."""

    def make(batch: int, **options):
        torch.manual_seed(0)
        model = IJepaForImageClassification(IJepaConfig(**config_fields, num_labels=2))
        options |= {"per_device_eval_batch_size": batch, "use_cpu": True, "report_to": "none", "eval_strategy": "no"}
        args = FineTuningArguments(str(tmp_path), disable_tqdm=True, **options)
        return ClassificationTrainer(model, args, data_collator=ImageCollator(keep_unreadable=True))

    return make


@pytest.mark.parametrize("batch", [1, 3, 8, 20])
@pytest.mark.parametrize("unreadable", [0, 4])
def test_loss_of_a_classifier_is_that_of_its_readable_images(classification, batch, unreadable):
    trainer = classification(batch, dataloader_drop_last=True)
    data = noise_images(10)
    with torch.no_grad():
        logits = trainer.model(torch.stack([data[i]["pixel_values"] for i in range(10)])).logits
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(data.labels)).item()
    found = trainer.evaluate(noise_images(10, unreadable))
    assert found["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert sum(map(sum, trainer.classification.confusion)) == 10
    assert trainer.predict(noise_images(10, unreadable)).metrics["test_loss"] == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_is_part_of_the_loss_of_evaluation(classification):
    plain, smoothed = (
        classification(4, label_smoothing_factor=s).evaluate(noise_images(10))["eval_loss"] for s in (0.0, 0.3)
    )
    logits = classification(10).predict(noise_images(10)).predictions
    labels = torch.tensor(noise_images(10).labels)
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits), labels, label_smoothing=0.3).item()
    assert smoothed == pytest.approx(expected, rel=1e-5) and smoothed != pytest.approx(plain, rel=1e-3)


def test_evaluation_on_nothing_readable_is_refused(classification, make_trainer):
    for trainer in (classification(2), make_trainer(per_device_eval_batch_size=2)):
        with pytest.raises(ValueError, match="none of the evaluation (images|files) can be read"):
            trainer.evaluate(noise_images(0, unreadable=4))


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_loss_of_pretraining_does_not_depend_on_the_batches(make_trainer, batch):
    expected = make_trainer(per_device_eval_batch_size=10).evaluate(noise_images(10))["eval_loss"]
    for unreadable in (0, 3):
        trainer = make_trainer(per_device_eval_batch_size=batch)
        assert trainer.evaluate(noise_images(10, unreadable))["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_best_model_is_found_where_the_data_is_less_than_a_batch(make_trainer):
    options = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    options |= {"load_best_model_at_end": True, "per_device_eval_batch_size": 16}
    trainer = make_trainer(eval_dataset=noise_images(5), **options)
    trainer.train()
    measured = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(measured) == 2 and trainer.state.best_metric == min(measured)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_eval_metrics": True}, "leave out batch_eval_metrics"), ({"eval_do_concat_batches": False}, "leave out")],
)
def test_options_that_evaluation_cannot_follow_are_refused(make_trainer, options, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(**options)


def test_metrics_of_pretraining_are_its_loss(make_trainer):
    trainer = make_trainer()
    with pytest.raises(ValueError, match="compute_metrics: pretraining measures its loss"):
        JepaTrainer(trainer.model, trainer.args, trainer.mask_sampler, compute_metrics=lambda measured: {})
