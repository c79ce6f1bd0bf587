"""What logs say of the speed of a run: work counted from shapes, time without evaluation and saving."""

import itertools
import time

import pytest
import torch
from tiny_pairs import draw_pairs, make_text_trainer
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

from hf_jepa.data.embedded import EmbeddedCrops, LabelledCrops
from hf_jepa.data.images import ImageCollator
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForImageClassification
from hf_jepa.training import throughput
from hf_jepa.training.costs import counted
from hf_jepa.training.finetuning import ClassificationTrainer, FineTuningArguments
from hf_jepa.training.throughput import Meter, Work, peak_tflops


TOKENS = 36  # of a tiny image


def speeds(trainer) -> list[dict]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def test_logs_have_the_work_of_all_batches_since_the_last(make_trainer, capsys):
    trainer = make_trainer(max_steps=6, logging_steps=3, gradient_accumulation_steps=2)
    trainer.train()
    context = trainer.mask_sampler.context_length
    for work in trainer._intervals:
        assert (work.samples, work.steps, work.tokens) == (3 * 2 * 8, 3, 3 * 2 * 8 * (TOKENS + context))
        assert 0 < work.waited + work.average < work.seconds
    for entry, work in zip(speeds(trainer), trainer._intervals, strict=True):
        assert entry["images_per_second"] == pytest.approx(work.samples / work.seconds, rel=1e-3)
        assert entry["tokens_per_second"] == pytest.approx(work.tokens / work.seconds, rel=1e-3)
        assert entry["tflops"] == pytest.approx(work.flops / work.seconds / 1e12, rel=1e-3)
        assert entry["ema_ms"] == pytest.approx(1000 * work.average / 3, rel=1e-3)
        assert 0 < entry["data_wait"] < 1 and 0.1 < entry["memory_gib"] < 64 and "mfu" not in entry
    shown = capsys.readouterr().out.split("first loss")[1]
    assert all(name in shown for name in ("images_per_second", "tokens_per_second", "tflops", "ema_ms"))
    assert trainer.throughput()["images_per_second"] == pytest.approx(
        speeds(trainer)[1]["images_per_second"], rel=1e-3
    )


def test_operations_of_a_run_are_those_of_its_batches(make_trainer):
    expected = []
    trainer = make_trainer(max_steps=5, logging_steps=5)
    step = trainer.training_step

    def measured(*args, **kwargs):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            loss = step(*args, **kwargs)
        expected.append(counter.get_total_flops())
        return loss

    trainer.training_step = measured
    trainer.collapse_monitor = None  # it passes images through the encoders, which is no training
    trainer.args.onednn = False  # its products are unknown to PyTorch's counter
    trainer.train()
    assert trainer._intervals[0].flops == pytest.approx(sum(expected), rel=0.01) and len(set(expected)) > 1


def test_shapes_beyond_the_first_cost_what_similar_ones_do(make_trainer, monkeypatch):
    exact = make_trainer("exact", "official", max_steps=8, logging_steps=8)
    exact.train()
    monkeypatch.setattr(throughput, "_MAX_SHAPES", 2)
    nearly = make_trainer("nearly", "official", max_steps=8, logging_steps=8)
    nearly.train()
    assert len(nearly._counted) == 2 < len(exact._counted)
    for name in ("flops", "tokens"):
        assert getattr(nearly._intervals[0], name) == pytest.approx(getattr(exact._intervals[0], name), rel=0.1)


def test_recomputed_activations_are_no_model_operations(make_trainer):
    options = {"max_steps": 1, "logging_steps": 1}
    plain, checkpointed = (
        make_trainer("plain", **options),
        make_trainer("again", gradient_checkpointing=True, **options),
    )
    plain.train(), checkpointed.train()
    assert checkpointed._intervals[0].flops == plain._intervals[0].flops


def test_the_peak_gives_the_utilisation(make_trainer):
    trainer = make_trainer(max_steps=2, peak_tflops=0.5)
    trainer.train()
    (entry,), (work,) = speeds(trainer), trainer._intervals
    assert entry["mfu"] == pytest.approx(work.flops / work.seconds / 0.5e12, rel=1e-3) and "tflops" not in entry
    with pytest.raises(ValueError, match=r"peak_tflops=-1.0 must be above 0"):
        make_trainer(peak_tflops=-1.0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H200", (989.4, 494.7, 66.9)),
        ("NVIDIA H100 80GB HBM3", (989.4, 494.7, 66.9)),
        ("NVIDIA H100 NVL", (835.0, 417.5, 60.0)),
        ("NVIDIA A100-SXM4-40GB", (312.0, 156.0, 19.5)),
        ("NVIDIA A10G", (70.0, 35.0, 31.5)),
        ("NVIDIA L40S", (362.0, 183.0, 91.6)),
        ("NVIDIA L4", (121.0, 60.0, 30.3)),
        ("Tesla V100-SXM2-16GB", (125.0, 15.7, 15.7)),
        ("Tesla T4", (65.0, 8.1, 8.1)),
        ("NVIDIA GeForce RTX 4090", (165.2, 82.6, 82.6)),
        ("NVIDIA GeForce GTX 1080", (None, None, None)),
    ],
)
def test_a_device_is_found_by_its_name(name, expected):
    kinds = ({"sixteen_bit": True, "tf32": True}, {"sixteen_bit": False, "tf32": True})
    found = [peak_tflops(name, **kind) for kind in (*kinds, {"sixteen_bit": False, "tf32": False})]
    assert tuple(found) == expected


class _Slow(TrainerCallback):
    """Something that is no training, at every step, inside a pause or not."""

    def __init__(self, trainer, pause: bool):
        self.trainer, self.pause = trainer, pause

    def on_step_end(self, args, state, control, **kwargs):
        if self.pause:
            with self.trainer.meter.pause(), self.trainer.meter.pause():
                time.sleep(0.2)
        else:
            time.sleep(0.2)


def test_evaluation_and_saving_are_no_training(make_trainer, monkeypatch):
    options = {"max_steps": 3, "logging_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer(eval_dataset=EmbeddedCrops(8), eval_strategy="steps", eval_steps=1, **options)
    for name in ("evaluation_loop", "_save"):
        original = getattr(trainer, name)

        def slow(*args, original=original, **kwargs):
            time.sleep(0.3)
            return original(*args, **kwargs)

        monkeypatch.setattr(trainer, name, slow)
    trainer.add_callback(_Slow(trainer, pause=True))
    trainer.train()
    paused = [work.seconds for work in trainer._intervals[1:]]
    other = make_trainer("other", max_steps=3, logging_steps=1)
    other.add_callback(_Slow(other, pause=False))
    other.train()
    assert min(paused) < 0.2 < min(work.seconds for work in other._intervals)


class _SlowCrops(EmbeddedCrops):
    def __getitems__(self, indices):
        time.sleep(0.1)
        return super().__getitems__(indices)


def test_waiting_for_data_shows(make_trainer):
    fast, slow = make_trainer("fast", max_steps=4), make_trainer("slow", dataset=_SlowCrops(64), max_steps=4)
    fast.train(), slow.train()
    waits = [[work.waited / work.steps for work in trainer._intervals] for trainer in (fast, slow)]
    assert min(waits[1]) > 0.1 and speeds(slow)[-1]["data_wait"] > speeds(fast)[-1]["data_wait"]


def test_the_meter_counts_seconds_by_its_clock(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: float(next(ticks)))
    meter = Meter(torch.device("cpu"))  # 0
    list(meter.waiting_for("ab"))  # 1 to 6: two batches and the end
    with meter.pause(), meter.pause():  # 7
        pass
    with meter.averaging():  # began 8; 9, 10
        pass
    assert meter.take() == Work(seconds=7.0 + 3.0, waited=3.0, average=1.0)


def test_texts_and_labels_have_their_speed_too(tmp_path):
    trainer = make_text_trainer(tmp_path / "pairs", draw_pairs(8), max_steps=2, per_device_train_batch_size=4)
    trainer.train()
    assert {"pairs_per_second", "tokens_per_second", "tflops", "data_wait"} <= speeds(trainer)[-1].keys()
    batch = trainer.data_collator(trainer.train_dataset[:4])
    model = trainer.model.train()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as reference, counted(model) as counts:
        model(**batch).loss.backward()
    assert counts.flops == pytest.approx(reference.get_total_flops(), rel=0.01)
    assert counts.tokens == batch["input_ids"].numel()

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    classifier = IJepaForImageClassification(IJepaConfig(**sizes, num_labels=18, image_size=48, patch_size=8))
    options = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "max_steps": 2}
    args = FineTuningArguments(str(tmp_path / "labels"), logging_steps=1, eval_strategy="no", **options)
    args.per_device_train_batch_size = 4
    collator = ImageCollator(keep_unreadable=True)
    tuned = ClassificationTrainer(classifier, args, train_dataset=LabelledCrops("train", 2), data_collator=collator)
    tuned.train()
    assert {"images_per_second", "tokens_per_second", "tflops", "data_wait"} <= speeds(tuned)[-1].keys()
    assert tuned._intervals[0].tokens == 4 * TOKENS
