"""The program behind the pretraining scripts: recipes in, trained checkpoints out, also over several processes."""

import io
import json
import re
import shutil
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from scripts import launch

from hf_jepa.data.augmentations import RandomColorDistortion, RandomGaussianBlur, RandomHorizontalFlip
from hf_jepa.hub.inspect import inspect_checkpoint
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.image_processing_ijepa import IJepaImageProcessor
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.registry import VARIANTS
from hf_jepa.training.arguments import JepaTrainingArguments
from hf_jepa.training.pretrain_image import (
    MaskArguments,
    PretrainingArguments,
    add_knn_probe,
    build_dataset,
    build_model,
    pretrain,
)
from hf_jepa.training.program import resume_point
from hf_jepa.training.recipe import parse_recipe
from hf_jepa.training.trainer import JepaTrainer


ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "training_scripts/pretrain_image.py"
OBLONG = VARIANTS["ijepa"].tiny | {"image_size": [48, 96], "patch_size": 8}
RECIPES = sorted((ROOT / "training_scripts/configs/ijepa").glob("*.yaml"))
PRETRAINING = [path for path in RECIPES if not path.name.startswith("finetune")]


def test_continued_pretraining_normalises_as_the_processor_of_the_checkpoint(photos, config_fields):
    config = IJepaConfig(**config_fields)
    recipe = PretrainingArguments(dataset=str(photos))
    plain, shifted = (
        build_dataset(
            recipe, config, IJepaImageProcessor.from_config(config, image_mean=[mean] * 3, image_std=[2.0] * 3), 0
        )[0]["pixel_values"]
        for mean in (0.0, 1.0)
    )
    torch.testing.assert_close(shifted, plain - 0.5)


@pytest.mark.slow
def test_two_processes_stream_past_a_corrupt_image(photos, tmp_path):
    recipe = ROOT / "training_scripts/configs/ijepa/tiny.yaml"
    options = ["--dataset", photos, "--streaming", "true", "--per_device_train_batch_size", 4, "--max_steps", 6]
    options += ["--use_cpu", "true", "--logging_steps", 3, "--output_dir", tmp_path / "out"]
    done = launch(SCRIPT, "ijepa", recipe, *options, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"skipped images +1\n", done.stdout), done.stdout[-2000:]


def test_a_probe_whose_splits_number_classes_differently_is_refused(make_trainer, config_fields, tmp_path):
    picture = {"bytes": b"", "path": None}
    for split, labels in (("train", ["cat", "dog", "cow"]), ("test", ["dog", "cow"])):
        rows = datasets.Dataset.from_dict({"image": [picture] * len(labels), "label": labels})
        rows.to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    trainer = make_trainer()
    trainer.processing_class = IJepaImageProcessor.from_config(IJepaConfig(**config_fields))
    with pytest.raises(ValueError, match="'train' and 'test' number their classes differently"):
        add_knn_probe(trainer, PretrainingArguments(dataset="embedded", knn_dataset=str(tmp_path)))


@pytest.mark.parametrize("path", PRETRAINING, ids=lambda path: path.stem)
def test_recipes_parse_and_build(path, tmp_path):
    values = yaml.safe_load(path.read_text())
    mine = {key for cls in (PretrainingArguments, MaskArguments) for key in cls.__dataclass_fields__} & set(values)
    recipe = tmp_path / "part.yaml"
    recipe.write_text(yaml.safe_dump({key: values[key] for key in mine}))
    arguments, masks = parse_recipe((PretrainingArguments, MaskArguments), [str(recipe)])
    with torch.device("meta"):
        model = build_model(VARIANTS["ijepa"], arguments)
    assert masks.sampler(model.config.grid_size, seed=0)(torch.arange(2), step=0, epoch=0).target_mask


def test_a_checkpoint_brings_its_own_size(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.save_model(tmp_path / "start")
    arguments = PretrainingArguments(
        dataset="embedded", model_name_or_path=str(tmp_path / "start"), model_config={"hidden_size": 96}
    )
    model = build_model(VARIANTS["ijepa"], arguments)
    expected = trainer.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_of_bfloat16_is_continued_in_float32(make_trainer, tmp_path):
    make_trainer().model.to(torch.bfloat16).save_pretrained(tmp_path / "start")
    arguments = PretrainingArguments(dataset="embedded", model_name_or_path=str(tmp_path / "start"))
    model = build_model(VARIANTS["ijepa"], arguments)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_card_of_bfloat16_weights_has_the_fingerprint_that_inspection_finds(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.model.to(torch.bfloat16)
    trainer.save_model()
    trainer.create_model_card()
    report, agrees = inspect_checkpoint(tmp_path / "run")
    assert agrees and "fingerprint agrees" in report


def test_data_and_masks_are_those_of_the_recipe(photos, config_fields):
    config = IJepaConfig(**config_fields)
    embedded, images, stream = (
        build_dataset(PretrainingArguments(**options), config, IJepaImageProcessor.from_config(config), seed=3)
        for options in (
            {"dataset": "embedded"},
            {
                "dataset": str(photos),
                "crop_scale": [0.9, 1.0],
                "horizontal_flip": True,
                "color_distortion": 0.5,
                "gaussian_blur": True,
            },
            {"dataset": str(photos), "streaming": True, "shuffle_buffer": 7},
        )
    )
    assert embedded.seed == images.seed == stream.seed == 3
    crop, *chosen, _, _ = images.transform.steps  # and, always, to_tensor and Normalize
    assert crop.scale == (0.9, 1.0)
    assert [type(step) for step in chosen] == [RandomHorizontalFlip, RandomColorDistortion, RandomGaussianBlur]
    assert chosen[1].strength == 0.5
    assert (stream.shuffle_buffer, stream.endless) == (7, True)
    assert MaskArguments(min_keep=3).sampler(config.grid_size, seed=3).seed == 3


def test_labels_of_pretraining_data_may_be_missing(config_fields, tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (50, 50)).save(picture, "png")
    rows = {"image": [{"bytes": picture.getvalue(), "path": None}] * 2, "label": [None, 1]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    config = IJepaConfig(**config_fields)
    arguments = PretrainingArguments(dataset=str(tmp_path))
    dataset = build_dataset(arguments, config, IJepaImageProcessor.from_config(config), seed=0)
    assert set(dataset[0]) == set(dataset[1]) == {"pixel_values", "sample_index"}


@pytest.fixture
def run_program(config_fields, tmp_path):
    """`pretrain` on embedded crops, 4 an optimizer step."""

    def run(name, **options):
        common = {
            "dataset": "embedded",
            "generated_length": 32,
            "model_config": json.dumps(config_fields),
            "min_keep": 3,
            "per_device_train_batch_size": 4,
            "output_dir": tmp_path / name,
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
        }
        return pretrain("ijepa", [f"--{key}={value}" for key, value in (common | options).items()])

    return run


def test_the_program_resumes_where_it_is_asked_to(run_program, tmp_path, monkeypatch):
    run_program("run", max_steps=4, save_steps=2)
    shutil.rmtree(tmp_path / "run/checkpoint-4")
    steps, original = [], JepaTrainer.training_step
    monkeypatch.setattr(JepaTrainer, "training_step", lambda *args: steps.append(1) or original(*args))
    trainer = run_program("run", max_steps=4, save_steps=2, resume_from_checkpoint="true")
    assert len(steps) == 2 and trainer.state.global_step == 4


def test_the_seed_of_the_program_decides_its_weights(run_program):
    found = []
    for seed in (7, 7, 8):
        found.append(run_program("run", max_steps=1, save_strategy="no", seed=seed).model.state_dict())
        torch.rand(1)  # whatever else the process draws
    first, again, other = found
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("asked", "meant"),
    [("true", True), ("last", True), ("false", None), ("no", None), ("False", None), (None, None), ("a/b", "a/b")],
)
def test_a_run_resumes_from_what_was_asked_for(asked, meant):
    training = JepaTrainingArguments(output_dir="unused", use_cpu=True, resume_from_checkpoint=asked)
    assert resume_point(training) == meant


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (None, "recipe.yaml' does not exist"),
        ("dataset: [", "is not valid YAML"),
        ("- 1", "holds list, expected `field: value` lines"),
        ("datasett: embedded", "unknown fields: datasett"),
        ("streaming: true", "required: --dataset"),
        ("learning_rate: fast", ": invalid float value: 'fast'"),
        ("num_train_epochs: [3]", "num_train_epochs: [3], a list where one value is expected"),
        ("learning_rate: {a: 1}", "learning_rate: {'a': 1}, which learning_rate cannot be"),
        ("min_keep: null", "min_keep: null, which min_keep cannot be"),
        ("save_strategy: sometimes", "sometimes"),
    ],
)
def test_wrong_recipes_exit_with_status_2_and_one_line(recipe, message, tmp_path, capsys):
    path = tmp_path / "recipe.yaml"
    if recipe is not None:
        required = "" if "dataset" in message or recipe[0] in "d-" else "dataset: embedded\n"
        path.write_text(required + recipe)
    with pytest.raises(SystemExit, match="2"):
        parse_recipe((PretrainingArguments, MaskArguments, JepaTrainingArguments), [str(path)])
    text = capsys.readouterr().err
    assert message in text and text.count("\n") == 1


def test_a_field_of_the_model_among_the_arguments_says_where_it_goes(tmp_path, capsys):
    given = ["--dataset", "embedded", "--output_dir", str(tmp_path), "--image_size", "48"]
    with pytest.raises(SystemExit, match="2"):
        parse_recipe((PretrainingArguments, MaskArguments, JepaTrainingArguments), given)
    text = capsys.readouterr().err
    assert "unknown arguments: --image_size 48; " in text and """--model_config '{"image_size": 48}'""" in text
    with pytest.raises(SystemExit, match="2"):
        parse_recipe((MaskArguments,), ["--image_size", "48"])
    assert "model_config" not in capsys.readouterr().err


def test_values_of_a_recipe_mean_what_they_do_on_the_command_line(tmp_path):
    values = {
        "dataset": "embedded",
        "output_dir": str(tmp_path),
        "use_cpu": True,
        "learning_rate": "1e-3",
        "context_length": None,
        "crop_scale": [0.5, 1],
        "model_config": {"hidden_size": 96},
        "allow_overlap": True,
        "save_strategy": False,  # how YAML reads `no`
        "eval_strategy": "no",
        "accelerator_config": {"split_batches": True},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    types = (PretrainingArguments, MaskArguments, JepaTrainingArguments)
    data, masks, training = parse_recipe(types, [str(tmp_path / "recipe.yaml"), "--min_keep", "3"])
    assert data.crop_scale == [0.5, 1.0] and data.model_config == {"hidden_size": 96}
    assert (masks.context_length, masks.min_keep, masks.allow_overlap) == (None, 3, True)
    assert (training.learning_rate, training.save_strategy) == (1e-3, "no")
    assert training.accelerator_config.split_batches


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model_config", '{"hiden_size": 32}'], r"IJepaConfig has no field hiden_size \(did you mean hidden_size"),
        (["--mask_mode", "official", "--context_length", "20"], "context_length=20: official masks choose the length"),
        (
            ["--mask_mode", "official", "--length_bucket", "8"],
            "length_bucket=8: official masks keep what",
        ),
        (["--optim", "sgd"], "optim='sgd' would change nothing: pretraining has its own optimizers"),
        (["--lr_scheduler_type", "constant"], "lr_scheduler_type=.* would change nothing"),
        (["--learning_rate", "0"], "learning_rate=0.0 must be above 0"),
        (["--schedule_scale", "0.5"], "schedule_scale=0.5 would end the schedules before the run"),
        (["--final_momentum", "1.5"], r"final_momentum=1.5 is outside \[0, 1\]"),
        (["--model_config", json.dumps(OBLONG)], "crops of the embedded pictures are square"),
    ],
)
def test_wrong_values_are_refused_before_the_training(options, message, tmp_path):
    common = ["--dataset", "embedded", "--output_dir", str(tmp_path), "--use_cpu", "true", "--max_steps", "1"]
    common += ["--model_config", json.dumps(VARIANTS["ijepa"].tiny)]
    with pytest.raises(ValueError, match=message):
        pretrain("ijepa", [*common, *options])


def test_help_names_every_field(capsys):
    with pytest.raises(SystemExit, match="0"):
        pretrain("ijepa", ["--help"], "what it does")
    shown = capsys.readouterr().out
    fields = (*PretrainingArguments.__dataclass_fields__, *MaskArguments.__dataclass_fields__, "start_momentum")
    assert all(f"--{name}" in shown for name in fields)


@pytest.mark.slow  # by default the commands of the documents launch it
def test_tiny_recipe_runs_under_accelerate_launch(tmp_path):
    recipe = ROOT / "training_scripts/configs/ijepa/tiny.yaml"
    options = ["--output_dir", tmp_path, "--max_steps", 20, "--generated_length", 1280, "--use_cpu", "true"]
    done = launch(SCRIPT, "ijepa", recipe, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"verdict +healthy", done.stdout), done.stdout[-2000:]
    assert IJepaForPreTraining.from_pretrained(tmp_path).config.hidden_size == 96
    assert (tmp_path / "preprocessor_config.json").exists()
    report, agrees = inspect_checkpoint(tmp_path)
    assert agrees and "fingerprint agrees" in report
    card = str(ModelCard.load(tmp_path / "README.md"))
    assert "verdict healthy" in card and "20 of 64 images" in card and "MultiBlockMaskSampler(grid_size=(6, 6)" in card
    assert str(tmp_path) not in card  # nobody else's business
    (snippet,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    names: dict = {}
    exec(snippet.replace(f'"{tmp_path.name}"', f'"{tmp_path}"'), names)
    assert names["feature"].shape == (1, 96)
    (fields,) = re.findall(r"```yaml\n(.*?)```", card, flags=re.DOTALL)
    (tmp_path / "again.yaml").write_text(fields)
    types = (PretrainingArguments, MaskArguments, JepaTrainingArguments)
    arguments, masks, training = parse_recipe(types, [str(tmp_path / "again.yaml"), "--output_dir", str(tmp_path)])
    assert (arguments.generated_length, masks.min_keep, training.max_steps) == (1280, 2, 20)


@pytest.mark.slow  # `make test-distributed` compares the trainer, and starts the program
def test_two_processes_equal_one_with_accumulation(tmp_path, photos):
    recipe = ROOT / "training_scripts/configs/ijepa/tiny.yaml"
    common = ["--max_steps", 4, "--generated_length", 512, "--use_cpu", "true", "--logging_steps", 1]
    each = ["--per_device_train_batch_size", 8, "--knn_dataset", photos, "--knn_every", 2]  # one of them measures
    two = launch(SCRIPT, "ijepa", recipe, "--output_dir", tmp_path / "two", *each, *common, processes=2)
    assert two.returncode == 0, two.stderr[-3000:]
    assert two.stdout.count("'knn_accuracy'") == 2 and two.stdout.count("'loss'") == 4, two.stdout
    one = launch(
        SCRIPT, "ijepa", recipe, "--output_dir", tmp_path / "one", "--per_device_train_batch_size", 16, *common
    )
    assert one.returncode == 0, one.stderr[-3000:]
    found, expected = (IJepaForPreTraining.from_pretrained(tmp_path / name).state_dict() for name in ("two", "one"))
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=2e-5)
