"""The trainer: exact resume, schedules where they belong, the target encoder once per step, readable reports."""

import dataclasses
import re

import pytest
import torch
from accelerate import Accelerator
from tiny_training import noise_images
from transformers import TrainerCallback

from hf_jepa.core.ema import Average
from hf_jepa.data.embedded import EmbeddedCrops
from hf_jepa.data.images import ImageDataset, IterableImageDataset
from hf_jepa.data.sources import load_images
from hf_jepa.data.transforms import evaluation_transform, pretraining_transform
from hf_jepa.evaluation.features import extract_features
from hf_jepa.evaluation.knn import knn_classify
from hf_jepa.layers.onednn import OneDnnLinear
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.training.collapse import CollapseSignals
from hf_jepa.training.knn_probe import OnlineKnnProbe
from hf_jepa.training.schedules import learning_rate_at, momentum_at, weight_decay_at
from hf_jepa.training.trainer import JepaTrainer


def weights(trainer: JepaTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def losses(trainer: JepaTrainer) -> dict[int, float]:
    return {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}


@pytest.mark.parametrize("mode", ["corrected", "official"])
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_in_the_middle_of_an_epoch_is_exact(make_trainer, tmp_path, mode, workers):
    options = {"save_strategy": "steps", "save_steps": 11, "dataloader_num_workers": workers, "logging_steps": 1}
    whole = make_trainer("whole", mode, **options)
    whole.train()
    resumed = make_trainer("resumed", mode, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-11"))
    assert losses(resumed) == losses(whole)
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(resumed).items())


@pytest.mark.parametrize(("scale", "warmup"), [(1.0, 3), (1.25, 3 / 8)])  # a warm-up below 1 is a share of the run
def test_schedules_and_average_act_once_per_optimizer_step(make_trainer, monkeypatch, scale, warmup):
    seen = []
    original = Average.__call__
    options = {"schedule_scale": scale, "warmup_steps": warmup, "final_weight_decay": 0.4}
    trainer = make_trainer(gradient_accumulation_steps=2, max_steps=8, logging_steps=1, **options)

    def record(average, momentum, skip=None):
        model = trainer.model
        pairs = zip(model.target_encoder.parameters(), model.context_encoder.parameters(), strict=True)
        expected = [target.lerp(context, 1.0 - momentum) for target, context in pairs]
        original(average, momentum, skip)
        assert all(torch.equal(e, p) for e, p in zip(expected, model.target_encoder.parameters(), strict=True))
        groups = trainer.optimizer.param_groups
        seen.append((momentum, groups[0]["weight_decay"], groups[-1]["weight_decay"]))

    monkeypatch.setattr(Average, "__call__", record)
    trainer.train()
    end = int(8 * scale)
    assert seen == [(momentum_at(i, end, 0.996, 1.0), weight_decay_at(i, end, 0.04, 0.4), 0.0) for i in range(8)]
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    rates = [entry["learning_rate"] for entry in logged]
    assert rates == pytest.approx([learning_rate_at(i, end, 3, 2e-4, 1e-3, 1e-6) for i in range(8)])
    assert [entry["momentum"] for entry in logged] == [momentum for momentum, *_ in seen]


def test_the_target_encoder_waits_where_the_optimizer_skips_a_step(make_trainer, monkeypatch):
    monkeypatch.setattr(Accelerator, "optimizer_step_was_skipped", True)  # as gradients that overflow in float16 do
    trainer = make_trainer(max_steps=2)
    before = [p.clone() for p in trainer.model.target_encoder.parameters()]
    trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.target_encoder.parameters(), strict=True))


def test_optimizer_and_clipping_are_those_of_the_recipe_unless_chosen(make_trainer):
    trainer = make_trainer()
    optimizer = trainer.create_optimizer()
    assert (optimizer.defaults["betas"], optimizer.defaults["eps"]) == ((0.9, 0.999), 1e-8)
    assert trainer.args.max_grad_norm == 0.0
    chosen = make_trainer(adam_beta1=0.8, adam_beta2=0.97, adam_epsilon=1e-6).create_optimizer()
    assert (chosen.defaults["betas"], chosen.defaults["eps"]) == ((0.8, 0.97), 1e-6)


def test_masks_follow_step_and_epoch_and_are_always_the_same_in_evaluation(make_trainer):
    trainer = make_trainer()
    seen, sampler = [], trainer.mask_sampler

    def spy(sample_index, step, epoch):
        seen.append((step, epoch))
        return sampler(sample_index, step=step, epoch=epoch)

    trainer.mask_sampler = spy
    trainer.train()
    assert seen == [(i, i // 8) for i in range(20)]
    seen.clear()
    trainer.evaluate(EmbeddedCrops(16))
    assert set(seen) == {(0, 0)}


def test_frozen_targets_stay(make_trainer):
    trainer = make_trainer(max_steps=3, model_fields={"target_source": "frozen"})
    before = [p.clone() for p in trainer.model.target_encoder.parameters()]
    trainer.train()
    after = list(trainer.model.target_encoder.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    moved = zip(after, trainer.model.context_encoder.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in moved)


class _SeesLinear(TrainerCallback):
    """Remembers the class of a linear layer in the middle of a run."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.kind = type(model.predictor.proj)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch is built without oneDNN")
@pytest.mark.parametrize("pays_off", [True, False])
def test_onednn_is_taken_where_it_pays_off(make_trainer, monkeypatch, pays_off):
    monkeypatch.setattr("hf_jepa.training.kernels.onednn_pays_off", lambda: pays_off)
    trainer = make_trainer(max_steps=1)
    while_training = _SeesLinear()
    trainer.add_callback(while_training)
    trainer.train()
    assert while_training.kind is (OneDnnLinear if pays_off else torch.nn.Linear)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch is built without oneDNN")
def test_onednn_trains_the_same(make_trainer):
    plain = make_trainer("plain", max_steps=3, onednn=False)
    plain.train()
    fast = make_trainer("fast", max_steps=3, onednn=True)
    while_training = _SeesLinear()
    fast.add_callback(while_training)
    fast.train()
    assert while_training.kind is OneDnnLinear
    assert not any(type(module) is OneDnnLinear for module in fast.model.modules())  # taken back
    expected = weights(plain)
    for name, value in weights(fast).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("unreadable", [0, 9])  # which leave batches of different sizes to one step
def test_accumulation_equals_a_larger_batch(make_trainer, unreadable):
    # Biases of keys have no gradient but rounding, of which AdamW with its usual epsilon makes steps.
    dataset = noise_images(32 - unreadable, unreadable) if unreadable else None
    options = {"max_steps": 3, "adam_epsilon": 1e-6, "dataset": dataset}
    once = make_trainer("once", **options)
    once.train()
    twice = make_trainer("twice", per_device_train_batch_size=4, gradient_accumulation_steps=2, **options)
    twice.train()
    expected = weights(once)
    for name, value in weights(twice).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)


def test_labels_in_the_data_change_nothing(make_trainer):
    """The Trainer scales losses by the number of labels where a model lets it."""
    plain = make_trainer("plain", max_steps=2, gradient_accumulation_steps=2)
    plain.train()
    labelled = EmbeddedCrops(64)
    labelled.__getitems__ = lambda indices: [s | {"labels": 1} for s in EmbeddedCrops.__getitems__(labelled, indices)]
    with_labels = make_trainer("labelled", dataset=labelled, max_steps=2, gradient_accumulation_steps=2)
    with_labels.train()
    expected = weights(plain)
    assert all(torch.equal(value, expected[name]) for name, value in weights(with_labels).items())


def test_healthy_run_is_called_healthy(make_trainer):
    trainer = make_trainer(max_steps=60, logging_steps=10)
    trainer.train()
    assert trainer.collapse_monitor.verdict == "healthy"
    logged = next(entry for entry in trainer.state.log_history if "loss" in entry)
    signals = {field.name for field in dataclasses.fields(CollapseSignals)}
    assert signals | {"momentum", "context_tokens", "target_tokens"} <= set(logged)
    assert trainer.summary()["verdict"] == "healthy" and "tell samples apart" in trainer.summary()["advice"]
    assert all(entry["verdict"] == "healthy" for entry in trainer.state.log_history if "loss" in entry)


def test_targets_that_only_say_where_are_called_collapsed(make_trainer):
    """Position codes drown the pixels, so no image differs from another."""
    fields = {"initializer_range": 0.002}
    trainer = make_trainer(max_steps=60, logging_steps=20, learning_rate=5e-4, model_fields=fields)
    trainer.train()
    assert trainer.collapse_monitor.verdict == "collapsed", trainer.summary()


def test_a_run_without_teacher_and_scale_is_not_called_healthy(make_trainer):
    trainer = make_trainer(
        max_steps=150,
        logging_steps=50,
        learning_rate=2e-2,
        start_momentum=0.0,
        final_momentum=0.0,
        model_fields={"target_normalization": "none", "loss_type": "mse"},
    )
    trainer.train()
    assert trainer.collapse_monitor.verdict in ("shrinking", "collapsed"), trainer.summary()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_monitor_remembers_what_was_before_it_resumed(make_trainer, tmp_path, accumulation):
    options = {"save_strategy": "steps", "save_steps": 4, "logging_steps": 2}
    options |= {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 8 // accumulation}
    whole = make_trainer("whole", max_steps=8, **options)
    whole.train()
    resumed = make_trainer("resumed", max_steps=8, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-4"))
    assert resumed.collapse_monitor.history == whole.collapse_monitor.history and len(whole.state.log_history) > 4


def test_the_monitor_takes_the_mean_over_the_processes(make_trainer, monkeypatch):
    def with_another(found):
        (own,) = found
        return [own, dataclasses.replace(own, rankme=own.rankme + 2.0), None]  # one process had nothing to compare

    trainer = make_trainer(max_steps=1, logging_steps=1)
    trainer.train()
    monkeypatch.setattr("hf_jepa.training.collapse.gather_object", with_another)
    both = make_trainer(max_steps=1, logging_steps=1)
    both.train()
    assert both.summary()["rankme"] == pytest.approx(trainer.summary()["rankme"] + 1.0)


def test_the_parts_of_a_regularised_loss_are_logged(make_trainer):
    class Regularised(IJepaForPreTraining):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.regularization_loss = output.predictions.square().mean()
            output.loss = output.prediction_loss + output.regularization_loss
            return output

    trainer = make_trainer(max_steps=2, logging_steps=1)
    trainer.model.__class__ = Regularised
    trainer.train()
    for entry in trainer.state.log_history[:2]:
        assert entry["prediction_loss"] + entry["regularization_loss"] == pytest.approx(entry["loss"], rel=1e-4)


def test_a_batch_of_one_image_trains_without_a_verdict(make_trainer):
    trainer = make_trainer(max_steps=2, per_device_train_batch_size=1)
    trainer.train()
    assert trainer.collapse_monitor.verdict == "unknown" and "last loss" in trainer.summary()


def test_batches_without_sample_index_are_refused(make_trainer):
    trainer = make_trainer()
    with pytest.raises(ValueError, match="sample_index"):
        trainer.training_step(trainer.model, {"pixel_values": torch.zeros(2, 3, 48, 48)})


@pytest.mark.parametrize("batch", [8, 1])  # of one image, the broken one has a batch to itself
def test_corrupt_image_is_named_counted_and_skipped(make_trainer, photos, capsys, caplog, batch):
    dataset = ImageDataset(load_images(photos), pretraining_transform(48))
    trainer = make_trainer(dataset=dataset, num_train_epochs=2, max_steps=-1, per_device_train_batch_size=batch)
    trainer.train()
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())
    assert len(trainer.skipped) == 1 and "broken.jpg" in next(iter(trainer.skipped))
    assert caplog.text.count("broken.jpg") == 1  # in two epochs
    assert re.search(r"skipped images +1\n", capsys.readouterr().out)


def test_images_that_other_processes_skipped_are_counted(make_trainer, monkeypatch, capsys):
    def gather(found: list) -> list:  # names of files, and counts
        return [*found, "other.jpg: broken"] if not found or isinstance(found[0], str) else found

    monkeypatch.setattr("hf_jepa.training.skipped.gather_object", gather)
    make_trainer(max_steps=1).train()
    assert re.search(r"skipped images +1\n", capsys.readouterr().out)


def test_masks_of_a_stream_change_with_the_pass(make_trainer, photos):
    rows = load_images(photos, streaming=True)
    stream = IterableImageDataset(rows, pretraining_transform(48), endless=True)
    trainer = make_trainer(dataset=stream, max_steps=6, per_device_train_batch_size=17)  # all 17 files
    seen, sampler = [], trainer.mask_sampler

    def spy(sample_index, **when):
        seen.append(sample_index)
        return sampler(sample_index, **when)

    trainer.mask_sampler = spy
    trainer.train()
    assert len(torch.cat(seen).unique()) == 6 * 16  # one file cannot be read


def test_a_stream_trains(make_trainer, photos):
    stream = IterableImageDataset(load_images(photos, streaming=True), pretraining_transform(48))
    trainer = make_trainer(dataset=stream, max_steps=6, per_device_train_batch_size=8)
    trainer.train()
    assert trainer.state.global_step == 6 and trainer.state.epoch > 1
    assert len(trainer.skipped) == 1 and "broken.jpg" in next(iter(trainer.skipped))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_resumes_exactly_after_its_first_pass(make_trainer, photos, tmp_path, workers):
    def trainer(name):
        rows = load_images(photos, streaming=True)  # 17 files, two batches
        stream = IterableImageDataset(rows, pretraining_transform(48), shuffle_buffer=9, endless=True)
        options = {"save_strategy": "steps", "save_steps": 5, "dataloader_num_workers": workers, "logging_steps": 1}
        return make_trainer(name, dataset=stream, max_steps=8, **options)

    whole = trainer("whole")
    whole.train()
    resumed = trainer("resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-5"))
    assert losses(resumed) == losses(whole) and len(losses(whole)) == 8
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(resumed).items())


def test_online_knn_probe_logs_an_accuracy(make_trainer, photos):
    trainer = make_trainer(max_steps=4)
    data = [ImageDataset(load_images(photos, split), evaluation_transform(48)) for split in ("train", "test")]
    trainer.add_callback(OnlineKnnProbe(trainer, *data, every=2, k=3))
    trainer.train()
    found = [entry["knn_accuracy"] for entry in trainer.state.log_history if "knn_accuracy" in entry]
    assert len(found) == 2 and all(0.5 <= value <= 1.0 for value in found)
    assert list(losses(trainer)) == [2, 4]  # the steps at which both are due


def test_online_knn_probe_asks_the_target_encoder_about_test_images(make_trainer, photos, monkeypatch):
    seen = {"encoders": []}

    def extract(encoder, *args, **kwargs):
        seen["encoders"].append(encoder)
        return extract_features(encoder, *args, **kwargs)

    def classify(train_x, train_y, test_x, test_y, **kwargs):
        seen["rows"] = [len(part) for part in (train_x, train_y, test_x, test_y)]
        return knn_classify(train_x, train_y, test_x, test_y, **kwargs)

    monkeypatch.setattr("hf_jepa.training.knn_probe.extract_features", extract)
    monkeypatch.setattr("hf_jepa.training.knn_probe.knn_classify", classify)
    trainer = make_trainer(max_steps=1)
    rows = load_images(photos), load_images(photos, "test").select(range(5))
    train, test = (ImageDataset(part, evaluation_transform(48)) for part in rows)
    trainer.add_callback(OnlineKnnProbe(trainer, train, test, every=1))
    trainer.train()
    assert all(encoder is trainer.model.target_encoder for encoder in seen["encoders"])
    assert seen["rows"] == [16, 16, 5, 5]
    with pytest.raises(ValueError, match="positive number of steps, got 0"):
        OnlineKnnProbe(trainer, train, test, every=0)


@pytest.mark.parametrize(("strategy", "steps"), [("epoch", [8, 16]), ("no", [])])
def test_signals_are_measured_where_they_are_logged(make_trainer, strategy, steps):
    trainer = make_trainer(max_steps=-1, num_train_epochs=2, logging_strategy=strategy)
    trainer.train()
    logged = [entry["step"] for entry in trainer.state.log_history if "rankme" in entry]
    assert logged == steps and len(trainer.collapse_monitor.history) == 2  # the summary shows the last


def test_signals_of_the_first_step_are_measured_where_it_is_logged(make_trainer):
    trainer = make_trainer(max_steps=6, logging_steps=5, logging_first_step=True)
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "rankme" in entry] == [1, 5]
