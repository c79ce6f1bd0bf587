"""Fine-tuning of video classifiers: what each mode trains, segments and views, files that cannot be read."""

import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from hf_jepa.registry import VARIANTS
from hf_jepa.training.finetune_video import SegmentCollator, VideoClassificationArguments, finetune, open_split
from hf_jepa.training.finetuning import load_classifier, prepare_mode
from hf_jepa.training.optimizer import layerwise_groups


ROOT = Path(__file__).resolve().parents[2]
VIDEO = [name for name, variant in VARIANTS.items() if variant.modality == "video"]
RECIPE = str(ROOT / "training_scripts/configs/vjepa2/finetune_tiny.yaml")


def pretrained(name: str, folder: Path) -> Path:
    variant = VARIANTS[name]
    torch.manual_seed(0)
    fields = variant.tiny | {"crop_size": 64, "patch_size": 16, "frames_per_clip": 4}
    fields.pop("teacher_config", None)  # of SALT: an encoder needs none
    variant.model_class()(variant.config_class()(**fields)).save_pretrained(folder)
    variant.processor(variant.config_class()(**fields)).save_pretrained(folder)
    return folder


def run(checkpoint: Path, output: Path, *options: str):
    quiet = ["--use_cpu", "true", "--save_strategy", "no", "--eval_strategy", "no", "--disable_tqdm", "true"]
    short = ["--max_steps", "3", "--generated_length", "64", "--per_device_train_batch_size", "4"]
    start = ["--model_name_or_path", str(checkpoint), "--output_dir", str(output)]
    return finetune([RECIPE, *start, *quiet, *short, *options])


@pytest.mark.parametrize("name", VIDEO)
@pytest.mark.parametrize("mode", ["probe", "lora", "full"])
def test_each_mode_trains_its_part(name, mode, tmp_path):
    checkpoint = pretrained(name, tmp_path / "pretrained")
    trainer = run(checkpoint, tmp_path / "out", "--mode", mode)
    variant = VARIANTS[name]
    head = variant.model_class(variant.heads["AutoModelForVideoClassification"])
    found, info = head.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]  # adapters are merged
    before = variant.model_class(variant.base_model).from_pretrained(checkpoint).state_dict()
    changed = {key for key, value in found.base_model.state_dict().items() if not torch.equal(value, before[key])}
    if mode == "probe":
        assert not changed
    elif mode == "lora":
        assert changed and all(re.search(r"layer\.\d+\.attention\.(query|value)\.weight", key) for key in changed)
    else:
        assert any("mlp.fc1" in key for key in changed)
    assert not any("predictor" in key for key in changed)
    assert 0 <= trainer.state.log_history[-1]["eval_top1"] <= 1
    assert (tmp_path / "out/confusion.csv").is_file() and "video-classification" in (
        tmp_path / "out/README.md"
    ).read_text()


def test_the_predictor_beside_the_encoder_takes_no_part(tmp_path):
    checkpoint = pretrained("vjepa2", tmp_path)
    model = load_classifier(VARIANTS["vjepa2"], str(checkpoint), ["a", "b"], "full", pred_num_hidden_layers=2)
    prepare_mode(model, "full")
    assert not any(p.requires_grad for p in model.vjepa2.predictor.parameters())
    rates = {group["lr"] for group in layerwise_groups(model, 1.0, 0.0, 0.5)}
    assert rates == {1.0, 0.5, 0.25, 0.125}  # head and final norm, two layers, embeddings
    assert all(p.requires_grad for p in model.pooler.parameters())


def write_video(path: Path, level: int, frames: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(frames):
            picture = np.full((64, 96, 3), level, np.uint8)
            picture[:, : 4 * i] //= 2
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def videos(tmp_path) -> Path:
    for split, count in (("train", 4), ("test", 2)):
        for label, level in (("dark", 60), ("light", 200)):
            for i in range(count):
                write_video(tmp_path / "videos" / split / label / f"{i}.mp4", level)
        (tmp_path / "videos" / split / "dark/broken.mp4").write_bytes(b"not a video")
        write_video(tmp_path / "videos" / split / "light/short.mp4", 200, frames=3)
    return tmp_path / "videos"


def test_segments_and_views_of_real_files(videos, tmp_path, capsys):
    checkpoint = pretrained("vjepa2", tmp_path / "pretrained")
    options = ["--dataset", str(videos), "--frame_step", "2", "--num_segments", "2", "--num_views", "3"]
    trainer = run(
        checkpoint, tmp_path / "out", *options, "--mode", "probe", "--max_steps", "12", "--learning_rate", "0.003"
    )
    shown = capsys.readouterr().out
    assert re.search(r"skipped clips +2\n", shown) and "image" not in shown
    assert re.search(r"samples measured +4\b", shown)  # four of six: one broken, one too short
    assert any("broken.mp4" in file for file in trainer.skipped) and any(
        "short.mp4" in file for file in trainer.skipped
    )
    assert json.loads((tmp_path / "out/config.json").read_text())["id2label"] == {"0": "dark", "1": "light"}


def test_batches_tell_segments_and_views_apart(videos, tmp_path):
    checkpoint = pretrained("vjepa2", tmp_path / "pretrained")
    variant = VARIANTS["vjepa2"]
    config = variant.config_class().from_pretrained(checkpoint)
    processor = variant.processor_class.from_pretrained(checkpoint)
    arguments = VideoClassificationArguments(
        model_name_or_path="unused", dataset=str(videos), frame_step=2, num_segments=2, num_views=3
    )
    collator = SegmentCollator(2)
    train = open_split(arguments, "train", processor, config, 0, train=True)
    test = open_split(arguments, "test", processor, config, 0, train=False)
    assert collator([train[1], train[2]])["pixel_values_videos"].shape == (2, 2, 1, 4, 3, 64, 64)
    batch = collator([test[1], test[0]])["pixel_values_videos"]
    assert batch.shape == (2, 2, 3, 4, 3, 64, 64)
    # The left view of the first segment lies beside the middle one, and segments follow each other in time.
    assert not torch.equal(batch[0, 0, 0], batch[0, 0, 2])
    left_dark = (batch[0, :, 1, :, 0, 32] < batch[0, :, 1, :, 0, 32].amax() - 0.3).float().mean((-1, -2))
    assert left_dark[1] > left_dark[0]  # the dark part grows with time


def test_layers_that_the_classifier_reads_are_saved(tmp_path):
    checkpoint = pretrained("vjepa2", tmp_path / "pretrained")
    run(checkpoint, tmp_path / "out", "--classifier_layers", "0", "1", "--mode", "probe")
    assert json.loads((tmp_path / "out/config.json").read_text())["classifier_layers"] == [0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_segments": 0}, "num_segments must be at least 1"),
        ({"num_views": 3}, "num_segments and num_views are 1"),
        ({"train_fraction": 0.1, "train_per_class": 2}, "two ways to choose"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VideoClassificationArguments(model_name_or_path="x", dataset="moving_digits", **options)


def test_a_split_without_labels_is_refused(tmp_path):
    write_video(tmp_path / "videos/0.mp4", 100)
    arguments = VideoClassificationArguments(model_name_or_path="x", dataset=str(tmp_path / "videos"), frame_step=1)
    variant = VARIANTS["vjepa2"]
    config = variant.config_class()(**variant.tiny)
    with pytest.raises(ValueError, match="has no labels"):
        open_split(arguments, "train", variant.processor(config), config, 0, train=True)
