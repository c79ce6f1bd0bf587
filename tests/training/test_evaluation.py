"""Evaluation during a run: every image that can be read counts once, whatever the batches."""

import os
import runpy
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image

from hf_jepa.data.images import ImageCollator, ImageDataset
from hf_jepa.data.transforms import evaluation_transform
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForImageClassification
from hf_jepa.training.finetuning import ClassificationTrainer, FineTuningArguments
from hf_jepa.training.trainer import JepaTrainer


TRANSFORM = evaluation_transform(48)


def rows(count: int, unreadable: int = 0) -> ImageDataset:
    """Images of noise with two labels, and after them what is no image."""
    generator = torch.Generator().manual_seed(0)
    files = []
    for pixels in torch.randint(256, (count, 50, 52, 3), generator=generator, dtype=torch.uint8).numpy():
        files.append(BytesIO())
        Image.fromarray(pixels).save(files[-1], "png")
    contents = [file.getvalue() for file in files] + [b"no image"] * unreadable
    table = {"image": [{"bytes": content, "path": None} for content in contents]}
    table["label"] = [i % 2 for i in range(len(contents))]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    return ImageDataset(datasets.Dataset.from_dict(table, features=features), TRANSFORM)


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
    data = rows(10)
    with torch.no_grad():
        logits = trainer.model(torch.stack([data[i]["pixel_values"] for i in range(10)])).logits
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(data.labels)).item()
    found = trainer.evaluate(rows(10, unreadable))
    assert found["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert sum(map(sum, trainer.classification.confusion)) == 10
    assert trainer.predict(rows(10, unreadable)).metrics["test_loss"] == pytest.approx(expected, rel=1e-5)


def test_label_smoothing_is_part_of_the_loss_of_evaluation(classification):
    plain, smoothed = (classification(4, label_smoothing_factor=s).evaluate(rows(10))["eval_loss"] for s in (0.0, 0.3))
    logits = classification(10).predict(rows(10)).predictions
    labels = torch.tensor(rows(10).labels)
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits), labels, label_smoothing=0.3).item()
    assert smoothed == pytest.approx(expected, rel=1e-5) and smoothed != pytest.approx(plain, rel=1e-3)


def test_evaluation_on_nothing_readable_is_refused(classification, make_trainer):
    for trainer in (classification(2), make_trainer(per_device_eval_batch_size=2)):
        with pytest.raises(ValueError, match="none of the evaluation (images|files) can be read"):
            trainer.evaluate(rows(0, unreadable=4))


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_loss_of_pretraining_does_not_depend_on_the_batches(make_trainer, batch):
    expected = make_trainer(per_device_eval_batch_size=10).evaluate(rows(10))["eval_loss"]
    for unreadable in (0, 3):
        trainer = make_trainer(per_device_eval_batch_size=batch)
        assert trainer.evaluate(rows(10, unreadable))["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_best_model_is_found_where_the_data_is_less_than_a_batch(make_trainer):
    options = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    options |= {"load_best_model_at_end": True, "per_device_eval_batch_size": 16}
    trainer = make_trainer(eval_dataset=rows(5), **options)
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


EVALUATE = """
import sys
sys.path[:0] = sys.argv[1:]
from tiny_training import CONFIG
from hf_jepa import ImageCollator, IJepaConfig, IJepaForPreTraining, JepaTrainer, JepaTrainingArguments
from hf_jepa import MultiBlockMaskSampler
from test_evaluation import rows
import torch
torch.manual_seed(0)
model = IJepaForPreTraining(IJepaConfig(**CONFIG))
args = JepaTrainingArguments("unused", per_device_eval_batch_size=4, use_cpu=True, report_to="none", disable_tqdm=True)
sampler = MultiBlockMaskSampler(model.config.grid_size, min_keep=3)
trainer = JepaTrainer(model, args, sampler, data_collator=ImageCollator())
loss = [trainer.evaluate(rows(10, unreadable))["eval_loss"] for unreadable in (0, 3)]
if args.process_index == 0:
    print(args.world_size, *loss)
if torch.distributed.is_initialized():
    import os
    sys.stdout.flush()
    torch.distributed.barrier()
    os._exit(0)  # past the destructor of the group, which sometimes aborts the process or does not return
"""


def test_two_processes_measure_what_one_does(tmp_path, monkeypatch):
    """Ten images in batches of four leave the second process nothing but filling in its last one."""
    (tmp_path / "evaluate.py").write_text(EVALUATE)
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "evaluate.py"]
    options = {"capture_output": True, "text": True, "cwd": tmp_path, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    done = subprocess.run([*command, *folders], **options)
    assert done.returncode == 0, done.stderr[-3000:]
    processes, *found = map(float, done.stdout.split()[-3:])
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *folders])
    monkeypatch.setattr(sys, "path", list(sys.path))
    alone = runpy.run_path(str(tmp_path / "evaluate.py"))["loss"]
    assert processes == 2 and found == pytest.approx(alone, rel=1e-6) and alone[0] == pytest.approx(alone[1], rel=1e-6)
