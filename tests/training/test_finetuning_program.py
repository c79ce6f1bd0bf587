"""The program that fine-tunes image classifiers: recipes, runs, resume, adapters, cards."""

import csv
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from scripts import launch

from hf_jepa.data.embedded import LabelledCrops
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.image_processing_ijepa import IJepaImageProcessor
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForImageClassification
from hf_jepa.training.finetune_image import ClassificationArguments, finetune
from hf_jepa.training.finetuning import ClassificationTrainer, FineTuningArguments
from hf_jepa.training.recipe import given_fields, parse_recipe


ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "training_scripts/configs/ijepa").glob("finetune_*.yaml"))
SCRIPT = ROOT / "training_scripts/finetune_image_classification.py"
RECIPE = ROOT / "training_scripts/configs/ijepa/finetune_tiny.yaml"
EMBEDDED = ("embedded", "--embedded_per_picture", 2)


def run(checkpoint: Path | str, output: Path, dataset: tuple | Path, *options: object) -> ClassificationTrainer:
    """The program in this process: one step, unless the options say otherwise."""
    dataset = dataset if isinstance(dataset, tuple) else (dataset,)
    common = ["--model_name_or_path", checkpoint, "--output_dir", output, "--dataset", *dataset]
    common += ["--use_cpu", "true", "--report_to", "none", "--max_steps", 1]
    return finetune([str(option) for option in (*common, *options)])


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
    output = tmp_path / "result"
    options = ["--model_name_or_path", pretrained, "--mode", mode, "--num_train_epochs", 2, "--use_cpu", "true"]
    done = launch(SCRIPT, RECIPE, *options, "--output_dir", output)
    assert done.returncode == 0, done.stderr[-3000:]
    crops = LabelledCrops("test", per_picture=60)
    save_file({"pixels": crops.pixels.contiguous()}, tmp_path / "pixels.safetensors")
    files = [str(tmp_path / f"{name}.safetensors") for name in ("pixels", "logits")]
    stock = subprocess.run([sys.executable, "-c", STOCK, str(output), *files], capture_output=True, text=True)
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
    options = ["--mode", "lora", "--push_to_hub", "true", "--hub_strategy", "every_save"]
    with pytest.raises(ValueError, match="hub_strategy=every_save would upload adapters"):
        run("me/model", tmp_path, EMBEDDED, *options)


@pytest.mark.parametrize("batch", [8, 1])  # of one image, the broken ones have batches to themselves
def test_unreadable_images_are_counted_and_not_scored(pretrained, labelled_photos, tmp_path, capsys, batch):
    options = ["--max_steps", -1, "--num_train_epochs", 3, "--learning_rate", "1e-2", "--save_strategy", "no"]
    options += ["--per_device_train_batch_size", batch, "--per_device_eval_batch_size", batch]
    trainer = run(pretrained, tmp_path / "out", labelled_photos, *options)
    assert sorted(Path(line.split(":")[0]).parts[-3] for line in trainer.skipped) == ["test", "train"]
    assert sum(map(sum, trainer.classification.confusion)) == 10  # 11 files
    assert all(math.isfinite(entry.get("eval_loss", 0.0)) for entry in trainer.state.log_history)
    assert "**Images that could not be read**: 2" in (tmp_path / "out/README.md").read_text()
    out = capsys.readouterr().out
    assert re.search(r"top1 +1\n", out), out[-500:]


def test_the_licence_of_the_weights_is_inherited_unless_chosen(pretrained, tmp_path):
    (pretrained / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# weights\n")
    for name, choice in (("inherited", []), ("chosen", ["--license", "mit"])):
        run(pretrained, tmp_path / name, EMBEDDED, "--mode", "probe", *choice)
    found = [ModelCard.load(tmp_path / name / "README.md").data.license for name in ("inherited", "chosen")]
    assert found == ["cc-by-nc-4.0", "mit"]


def test_the_program_resumes_and_its_card_says_what_was_done(pretrained, tmp_path, monkeypatch):
    options = ["--eval_fraction", 0.25, "--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2]
    options += ["--max_steps", 2, "--save_strategy", "steps", "--save_steps", 1, "--eval_strategy", "no"]
    run(pretrained, tmp_path / "out", EMBEDDED, *options)
    card = (tmp_path / "out/README.md").read_text()
    assert "**Accuracy on embedded, held out**: top1" in card and "2 of 8 images, 1 process(es)" in card
    shutil.rmtree(tmp_path / "out/checkpoint-2")
    steps, original = [], ClassificationTrainer.training_step
    monkeypatch.setattr(ClassificationTrainer, "training_step", lambda *args: steps.append(1) or original(*args))
    trainer = run(pretrained, tmp_path / "out", EMBEDDED, *options, "--resume_from_checkpoint", "true")
    assert len(steps) == 2 and trainer.state.global_step == 2  # two batches make the second step


@pytest.mark.slow
def test_two_processes_measure_every_image_once(pretrained, labelled_photos, tmp_path):
    options = ["--model_name_or_path", pretrained, "--dataset", labelled_photos, "--mode", "lora"]
    options += ["--num_train_epochs", 1, "--use_cpu", "true"]
    options += ["--per_device_train_batch_size", 4, "--per_device_eval_batch_size", 3, "--save_strategy", "no"]
    done = launch(SCRIPT, RECIPE, *options, "--output_dir", tmp_path / "two", processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = list(csv.reader((tmp_path / "two/confusion.csv").open()))
    assert sum(int(cell) for row in rows[1:] for cell in row[1:]) == 10
    IJepaForImageClassification.from_pretrained(tmp_path / "two")


def test_a_lora_run_saves_an_ordinary_classifier(pretrained, tmp_path):
    trainer = run(pretrained, tmp_path / "out", EMBEDDED, "--mode", "lora")
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
        run(pretrained, tmp_path / "out", EMBEDDED, "--mode", "lora", *fields)
    assert [(config.r, config.lora_alpha, config.lora_dropout) for config in made] == [(3, 7.0, 0.25)]


def test_what_fails_after_the_training_does_not_take_the_weights_with_it(pretrained, tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("no pictures today")

    monkeypatch.setattr("hf_jepa.training.classification.write_confusion", fail)
    with pytest.raises(OSError, match="no pictures"):
        run(pretrained, tmp_path / "out", EMBEDDED)
    assert IJepaForImageClassification.from_pretrained(tmp_path / "out").config.num_labels == 18


def test_other_sizes_in_training_and_evaluation_are_told(pretrained, labelled_photos, tmp_path, caplog):
    IJepaImageProcessor.from_config(IJepaConfig(image_size=32)).save_pretrained(pretrained)
    trainer = run(pretrained, tmp_path / "out", labelled_photos, "--eval_strategy", "no")
    assert "training crops have 48 pixels, but images for evaluation (32, 32)" in caplog.text
    assert trainer.processing_class.crop_size["height"] == 32
