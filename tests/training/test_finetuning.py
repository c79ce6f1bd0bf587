"""Fine-tuning: any checkpoint in, the parts that the mode names trained, an ordinary classifier out."""

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
import transformers
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from hf_jepa.data.augmentations import RandomHorizontalFlip
from hf_jepa.data.embedded import LabelledCrops
from hf_jepa.data.images import ImageCollator
from hf_jepa.data.transforms import RandomResizedCrop
from hf_jepa.hub.processors import ProcessorTransform
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.image_processing_ijepa import IJepaImageProcessor
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForImageClassification, IJepaForPreTraining, IJepaModel
from hf_jepa.registry import VARIANTS
from hf_jepa.training.classification import build_datasets
from hf_jepa.training.finetune_image import ClassificationArguments, finetune, open_split
from hf_jepa.training.finetuning import (
    ClassificationTrainer,
    FineTuningArguments,
    load_classifier,
    prepare_mode,
)
from hf_jepa.training.optimizer import layerwise_groups
from hf_jepa.training.recipe import given_fields, parse_recipe


ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "training_scripts/configs/ijepa").glob("finetune_*.yaml"))
NAMES = [f"class {i}" for i in range(18)]
PROCESSOR = IJepaImageProcessor.from_config(IJepaConfig(image_size=48))


@pytest.fixture
def pretrained(config_fields, tmp_path):
    """A pretraining checkpoint whose two encoders differ."""
    torch.manual_seed(0)
    model = IJepaForPreTraining(IJepaConfig(**config_fields))
    with torch.no_grad():
        for parameter in model.target_encoder.parameters():
            parameter.add_(0.01)
    model.save_pretrained(tmp_path / "pretrained")
    return tmp_path / "pretrained"


@pytest.fixture
def photos(tmp_path):
    """Two classes that brightness tells apart, and one file in each split that is no image."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 12), ("test", 5)):
        for label, level in (("dark", 60), ("light", 180)):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = (torch.randn(56, 60, 3, generator=generator) * 25 + level).clamp(0, 255).byte().numpy()
                Image.fromarray(pixels).save(folder / f"{i}.png")
        (tmp_path / "photos" / split / "dark/broken.jpg").write_bytes(b"not an image")
    return tmp_path / "photos"


def arguments(dataset, **options) -> ClassificationArguments:
    return ClassificationArguments(model_name_or_path="unused", dataset=str(dataset), **options)


def splits_of(arguments, processor, size, seed):
    """Training and evaluation data, and the names of the classes."""
    return build_datasets(
        arguments, lambda split, train: open_split(arguments, split, processor, size, seed, train), seed
    )


def classifier(checkpoint, mode="full", names=NAMES):
    return load_classifier(VARIANTS["ijepa"], str(checkpoint), names, mode)


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


def make_trainer(model, output, train=None, **options):
    defaults = {
        "output_dir": str(output),
        "per_device_train_batch_size": 16,
        "max_steps": 6,
        "logging_steps": 1,
        "save_strategy": "no",
        "eval_strategy": "no",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    }
    return ClassificationTrainer(
        model,
        FineTuningArguments(**(defaults | options)),
        train_dataset=train or LabelledCrops("train", per_picture=4),
        eval_dataset=LabelledCrops("test", per_picture=2),
        data_collator=ImageCollator(keep_unreadable=True),
    )


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


def test_what_fails_after_the_training_does_not_take_the_weights_with_it(pretrained, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("no pictures today")

    monkeypatch.setattr("hf_jepa.training.classification.write_confusion", fail)
    options = ["--model_name_or_path", pretrained, "--dataset", "embedded", "--embedded_per_picture", 2]
    options += ["--max_steps", 1, "--use_cpu", "true", "--report_to", "none", "--output_dir", tmp_path / "out"]
    with pytest.raises(OSError, match="no pictures"):
        finetune([str(option) for option in options])
    assert IJepaForImageClassification.from_pretrained(tmp_path / "out").config.num_labels == 18


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


def test_images_are_normalised_as_the_processor_says(photos):
    datasets = {
        mean: splits_of(
            arguments(photos),
            IJepaImageProcessor.from_config(IJepaConfig(image_size=48), image_mean=[mean] * 3, image_std=[2.0] * 3),
            48,
            seed=0,
        )[:2]
        for mean in (0.0, 1.0)
    }
    for plain, shifted in zip(datasets[0.0], datasets[1.0], strict=True):  # training, evaluation
        torch.testing.assert_close(shifted[0]["pixel_values"], plain[0]["pixel_values"] - 0.5)
        assert plain[0]["pixel_values"].min() >= 0 and plain[0]["pixel_values"].max() <= 0.5


def test_other_sizes_in_training_and_evaluation_are_told(pretrained, photos, tmp_path, caplog):
    IJepaImageProcessor.from_config(IJepaConfig(image_size=32)).save_pretrained(pretrained)
    options = [
        "--model_name_or_path",
        str(pretrained),
        "--dataset",
        str(photos),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    options += ["--max_steps", "1", "--use_cpu", "true", "--report_to", "none", "--eval_strategy", "no"]
    trainer = finetune(options)
    assert "training crops have 48 pixels, but images for evaluation (32, 32)" in caplog.text
    assert trainer.processing_class.crop_size["height"] == 32


@pytest.mark.parametrize("mode", ["probe", "lora", "full"])
def test_resume_is_exact(pretrained, photos, tmp_path, mode):
    """In the middle of an epoch of random crops."""

    def run(name, **options):
        torch.manual_seed(0)
        model = prepare_mode(classifier(pretrained, mode, ["dark", "light"]), mode, dropout=0.1)
        train, _, _ = splits_of(arguments(photos), PROCESSOR, 48, seed=0)
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


# --- data -----------------------------------------------------------------------------------------------------------


def test_low_shot_and_held_out_rows(photos):
    train, test, names = splits_of(arguments(photos, eval_fraction=0.25, train_per_class=4), PROCESSOR, 48, seed=0)
    assert names == ["dark", "light"] and len(train) == 8 and len(test) == 6
    assert not set(train.indices) & set(test.indices)
    labels = [train.dataset.labels[row] for row in train.indices]
    assert sorted(labels) == [0] * 4 + [1] * 4
    first, again = train[0]["pixel_values"], train[0]["pixel_values"]
    train.set_epoch(1)
    assert torch.equal(first, again) and not torch.equal(first, train[0]["pixel_values"])  # a new crop in a new epoch


def test_the_seed_chooses_the_few_rows(photos):
    few = [splits_of(arguments(photos, train_per_class=4), PROCESSOR, 48, seed)[0].indices for seed in (0, 1)]
    assert few[0] != few[1]


@pytest.mark.parametrize("fraction", [None, 0.25])
def test_only_training_images_are_cropped_at_random(photos, fraction):
    train, test, _ = splits_of(arguments(photos, eval_fraction=fraction), PROCESSOR, 48, seed=0)
    train, test = (data if fraction is None else data.dataset for data in (train, test))
    assert isinstance(train.transform.steps[0], RandomResizedCrop)
    assert isinstance(test.transform, ProcessorTransform)


@pytest.mark.parametrize("flip", [True, False])
def test_training_images_are_mirrored_where_it_is_asked_for(photos, flip):
    chosen = arguments(photos, horizontal_flip=flip)
    transform = open_split(chosen, "train", PROCESSOR, 48, seed=0, train=True).transform
    assert any(isinstance(step, RandomHorizontalFlip) for step in transform.steps) == flip


def test_a_class_without_training_images_is_refused(photos):
    (photos / "test/light").rename(photos / "test/bright")
    with pytest.raises(ValueError, match=r"classes \['bright'\] of 'test' do not occur in 'train'"):
        splits_of(arguments(photos), PROCESSOR, 48, seed=0)


def test_crops_change_from_epoch_to_epoch(pretrained, photos, tmp_path, monkeypatch):
    train, _, names = splits_of(arguments(photos, train_per_class=4), PROCESSOR, 48, seed=0)
    trainer = make_trainer(
        classifier(pretrained, names=names), tmp_path / "run", train, per_device_train_batch_size=8, max_steps=3
    )
    seen = []
    original = trainer.training_step
    monkeypatch.setattr(
        trainer, "training_step", lambda m, x, n=None: seen.append(x["pixel_values"]) or original(m, x, n)
    )
    trainer.train()
    sums = [sorted(batch.sum(dim=(1, 2, 3)).tolist()) for batch in seen]
    assert len(sums) == 3 and sums[0] != sums[1] != sums[2] != sums[0]


def test_splits_that_number_classes_differently_are_refused(tmp_path):
    picture = {"bytes": b"", "path": None}
    for split, labels in (("train", ["cat", "dog", "cow"]), ("test", ["dog", "cow"])):
        rows = datasets.Dataset.from_dict({"image": [picture] * len(labels), "label": labels})
        rows.to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="'train' and 'test' number their classes differently .only one has cat"):
        splits_of(arguments(tmp_path), PROCESSOR, 48, seed=0)


@pytest.mark.parametrize(
    ("fraction", "message"), [(0.5, r"holds out all samples of \['1'\]"), (1.0, "eval_fraction=1.0 is not between")]
)
def test_nothing_to_learn_from_is_refused(tmp_path, fraction, message):
    rows = {"image": [{"bytes": b"", "path": None}] * 5, "label": [0, 0, 0, 0, 1]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=message):
        splits_of(arguments(tmp_path, eval_fraction=fraction), PROCESSOR, 48, seed=0)


def test_data_without_labels_is_refused(tmp_path):
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (50, 50)).save(tmp_path / "flat/1.png")
    with pytest.raises(ValueError, match="has no labels: name their column by label_column"):
        splits_of(arguments(tmp_path / "flat", eval_fraction=0.5), PROCESSOR, 48, seed=0)


@pytest.mark.parametrize("missing", [None, -1])
def test_rows_without_a_label_are_refused(tmp_path, missing):
    rows = {"image": [{"bytes": b"", "path": None}] * 3, "label": [0, 1, missing]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="1 rows of split 'train' have no label, the first is row 2"):
        splits_of(arguments(tmp_path, eval_fraction=0.5), PROCESSOR, 48, seed=0)


def test_one_class_is_refused(tmp_path):
    rows = datasets.Dataset.from_dict({"image": [{"bytes": b"", "path": None}] * 3, "label": ["cat"] * 3})
    rows.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="'train' holds one class only"):
        splits_of(arguments(tmp_path), PROCESSOR, 48, seed=0)


def test_two_ways_to_choose_few_are_refused(photos):
    with pytest.raises(ValueError, match="train_fraction and train_per_class"):
        arguments(photos, train_fraction=0.1, train_per_class=2)


# --- the program ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_parse(path, tmp_path):
    values = yaml.safe_load(path.read_text()) | {"bf16": False, "use_cpu": True}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    types = (ClassificationArguments, FineTuningArguments)
    argv = [str(tmp_path / "recipe.yaml"), "--model_name_or_path", "someone/model"]
    found, training = parse_recipe(types, argv)
    assert (found.model_name_or_path, training.layer_decay) == ("someone/model", 0.75)
    given = given_fields(types, argv)
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(given))
    assert given_fields(types, [str(again)]) == given and given["learning_rate"] == values["learning_rate"]


def test_help_names_every_field(capsys):
    with pytest.raises(SystemExit, match="0"):
        finetune(["--help"], "what it does")
    shown = capsys.readouterr().out
    assert all(f"--{name}" in shown for name in (*ClassificationArguments.__dataclass_fields__, "layer_decay"))


def launch(*options, processes: int = 1) -> subprocess.CompletedProcess:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    if processes == 1:
        start = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes=1", "--cpu"]
    script = ROOT / "training_scripts/finetune_image_classification.py"
    recipe = ROOT / "training_scripts/configs/ijepa/finetune_tiny.yaml"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [*start, str(script), str(recipe), "--use_cpu", "true", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


STOCK = """
import sys
sys.modules["hf_jepa"] = None
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, pipeline
from PIL import Image
folder, pixels, output = sys.argv[1:]
model = AutoModelForImageClassification.from_pretrained(folder).eval()
with torch.inference_mode():
    save_file({"logits": model(load_file(pixels)["pixels"]).logits}, output)
answer = pipeline("image-classification", model=folder)(Image.new("RGB", (100, 80), "gray"), top_k=3)
print(type(model).__module__, len(answer), answer[0]["label"])
"""


@pytest.mark.slow  # the README's command does one of them
@pytest.mark.parametrize("mode", ["lora", "probe", "full"])
def test_the_tiny_recipe_ends_in_a_stock_classifier(pretrained, tmp_path, mode):
    from safetensors.torch import load_file, save_file

    output = tmp_path / "result"
    done = launch("--model_name_or_path", pretrained, "--mode", mode, "--output_dir", output, "--num_train_epochs", 2)
    assert done.returncode == 0, done.stderr[-3000:]
    crops = LabelledCrops("test", per_picture=60)
    save_file({"pixels": crops.pixels.contiguous()}, tmp_path / "pixels.safetensors")
    command = [
        sys.executable,
        "-c",
        STOCK,
        str(output),
        *(str(tmp_path / f"{n}.safetensors") for n in ("pixels", "logits")),
    ]
    stock = subprocess.run(command, capture_output=True, text=True)
    assert stock.returncode == 0, stock.stderr[-3000:]
    assert stock.stdout.split()[:2] == ["transformers.models.ijepa.modeling_ijepa", "3"]
    assert stock.stdout.split()[2] in crops.class_names
    logits = load_file(tmp_path / "logits.safetensors")["logits"]
    with torch.inference_mode():
        own = IJepaForImageClassification.from_pretrained(output).eval()(crops.pixels).logits
    torch.testing.assert_close(logits, own, rtol=0, atol=1e-5)
    accuracy = (logits.argmax(1) == torch.tensor(crops.labels)).float().mean().item()
    metrics = json.loads((output / "eval_results.json").read_text())
    assert metrics["eval_top1"] == pytest.approx(accuracy, abs=2e-3) and metrics["eval_top5"] > metrics["eval_top1"]
    rows = list(csv.reader((output / "confusion.csv").open()))
    assert sum(int(rows[i][i]) for i in range(1, 19)) == pytest.approx(accuracy * len(crops), abs=2)
    assert Image.open(output / "confusion.png").size[0] > 300
    card = ModelCard.load(output / "README.md")
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.eval_results[0].metric_value == pytest.approx(accuracy, abs=2e-3)
    assert f"mode: {mode}" in str(card) or mode == "full"  # the default is not repeated
    (snippet,) = re.findall(r"```python\n(.*?)```", str(card), flags=re.DOTALL)
    assert str(tmp_path) not in str(card)
    exec(snippet.replace('model="result"', f'model="{output}"'), {})


def test_adapters_are_not_uploaded_before_they_are_merged(tmp_path):
    options = ["--model_name_or_path", "me/model", "--dataset", "embedded", "--mode", "lora", "--use_cpu", "true"]
    options += ["--push_to_hub", "true", "--hub_strategy", "every_save", "--output_dir", str(tmp_path)]
    with pytest.raises(ValueError, match="hub_strategy=every_save would upload adapters"):
        finetune(options)


@pytest.mark.parametrize("batch", [8, 1])  # of one image, the broken ones have batches to themselves
def test_unreadable_images_are_counted_and_not_scored(pretrained, photos, tmp_path, capsys, batch):
    options = ["--model_name_or_path", pretrained, "--dataset", photos, "--output_dir", tmp_path / "out"]
    options += ["--num_train_epochs", 3, "--per_device_train_batch_size", batch, "--per_device_eval_batch_size", batch]
    options += ["--learning_rate", "1e-2", "--save_strategy", "no", "--use_cpu", "true", "--report_to", "none"]
    trainer = finetune([str(option) for option in options])
    assert sorted(Path(line.split(":")[0]).parts[-3] for line in trainer.skipped) == ["test", "train"]
    assert sum(map(sum, trainer.classification.confusion)) == 10  # 11 files
    assert all(math.isfinite(entry.get("eval_loss", 0.0)) for entry in trainer.state.log_history)
    assert "**Images that could not be read**: 2" in (tmp_path / "out/README.md").read_text()
    out = capsys.readouterr().out
    assert re.search(r"top1 +1\n", out), out[-500:]


def test_the_licence_of_the_weights_is_inherited_unless_chosen(pretrained, tmp_path):
    (pretrained / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# weights\n")
    common = ["--model_name_or_path", str(pretrained), "--dataset", "embedded", "--embedded_per_picture", "2"]
    common += ["--mode", "probe", "--max_steps", "1", "--use_cpu", "true", "--report_to", "none"]
    for name, choice in (("inherited", []), ("chosen", ["--license", "mit"])):
        finetune([*common, *choice, "--output_dir", str(tmp_path / name)])
    found = [ModelCard.load(tmp_path / name / "README.md").data.license for name in ("inherited", "chosen")]
    assert found == ["cc-by-nc-4.0", "mit"]


def test_the_program_resumes_and_its_card_says_what_was_done(pretrained, tmp_path, monkeypatch):
    options = ["--model_name_or_path", pretrained, "--dataset", "embedded", "--embedded_per_picture", 2]
    options += ["--eval_fraction", 0.25, "--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2]
    options += ["--max_steps", 2, "--save_strategy", "steps", "--save_steps", 1, "--eval_strategy", "no"]
    options += ["--use_cpu", "true", "--report_to", "none", "--output_dir", tmp_path / "out"]
    options = [str(option) for option in options]
    finetune(options)
    card = (tmp_path / "out/README.md").read_text()
    assert "**Accuracy on embedded, held out**: top1" in card and "2 of 8 images, 1 process(es)" in card
    shutil.rmtree(tmp_path / "out/checkpoint-2")
    steps, original = [], ClassificationTrainer.training_step
    monkeypatch.setattr(ClassificationTrainer, "training_step", lambda *args: steps.append(1) or original(*args))
    trainer = finetune([*options, "--resume_from_checkpoint", "true"])
    assert len(steps) == 2 and trainer.state.global_step == 2  # two batches make the second step


@pytest.mark.slow
def test_two_processes_measure_every_image_once(pretrained, photos, tmp_path):
    options = ["--model_name_or_path", pretrained, "--dataset", photos, "--mode", "lora", "--num_train_epochs", 1]
    options += ["--per_device_train_batch_size", 4, "--per_device_eval_batch_size", 3, "--save_strategy", "no"]
    done = launch(*options, "--output_dir", tmp_path / "two", processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = list(csv.reader((tmp_path / "two/confusion.csv").open()))
    assert sum(int(cell) for row in rows[1:] for cell in row[1:]) == 10
    IJepaForImageClassification.from_pretrained(tmp_path / "two")


def tiny_lora_run(checkpoint, output, *options) -> list[str]:
    common = ["--model_name_or_path", checkpoint, "--dataset", "embedded", "--embedded_per_picture", 2]
    common += ["--mode", "lora", "--max_steps", 1, "--use_cpu", "true", "--report_to", "none", "--output_dir", output]
    return [str(option) for option in (*common, *options)]


def test_a_lora_run_saves_an_ordinary_classifier(pretrained, tmp_path):
    trainer = finetune(tiny_lora_run(pretrained, tmp_path / "out"))
    assert not (tmp_path / "out/adapter_config.json").exists()
    stock = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    pixels = torch.randn(2, 3, 48, 48)
    torch.testing.assert_close(stock(pixels).logits, trainer.model.eval()(pixels).logits, rtol=0, atol=1e-5)


def test_adapters_are_as_the_fields_of_the_run_say(pretrained, tmp_path, monkeypatch):
    made = []

    def stop(model, config):
        made.append(config)
        raise InterruptedError("before the training")

    monkeypatch.setattr("hf_jepa.training.finetuning.get_peft_model", stop)
    fields = ["--lora_rank", 3, "--lora_alpha", 7, "--lora_dropout", 0.25]
    with pytest.raises(InterruptedError):
        finetune(tiny_lora_run(pretrained, tmp_path / "out", *fields))
    assert [(config.r, config.lora_alpha, config.lora_dropout) for config in made] == [(3, 7.0, 0.25)]
