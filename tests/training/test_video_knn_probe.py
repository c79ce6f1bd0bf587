"""The online k-NN probe of video pretraining."""

import json

import pytest
import torch
from clips import write_video

from hf_jepa.data.moving_digits import DigitClasses
from hf_jepa.evaluation.features import extract_features
from hf_jepa.evaluation.knn import knn_classify
from hf_jepa.registry import VARIANTS
from hf_jepa.training.pretrain_video import pretrain


CLIPS = {"crop_size": 64, "patch_size": 8, "frames_per_clip": 4}  # of moving digits


@pytest.fixture
def run(tmp_path):
    def run(variant="vjepa2", **options):
        common = {
            "dataset": "moving_digits",
            "generated_length": 32,
            "model_config": json.dumps(VARIANTS[variant].tiny | CLIPS),
            "per_device_train_batch_size": 4,
            "max_steps": 2,
            "output_dir": tmp_path / "run",
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
        }
        return pretrain(variant, [f"--{name}={value}" for name, value in (common | options).items()])

    return run


def accuracies(trainer) -> dict[int, float]:
    return {e["step"]: e["knn_accuracy"] for e in trainer.state.log_history if "knn_accuracy" in e}


# By default one whose target encoder is asked, and one whose student is.
@pytest.mark.parametrize(
    "variant", ["vjepa2", "salt", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vjepa", "vjepa2_1"))]
)
def test_the_encoder_that_users_want_is_asked_about_labelled_clips(run, variant):
    trainer = run(variant, knn_dataset="moving_digits", knn_every=2)
    splits = (DigitClasses(320, split, 4) for split in ("train", "test"))
    encoder = trainer.model.feature_encoder
    (train, test) = (extract_features(encoder, split, batch_size=8, progress=False) for split in splits)
    assert accuracies(trainer) == {2: knn_classify(*train, *test, k=20).accuracy}


def test_clips_of_files_are_taken_as_the_run_says(run, tmp_path):
    generator = torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        for label, level in (("bright", 200), ("dark", 40)):
            (tmp_path / "videos" / split / label).mkdir(parents=True)
            for i in range(3):
                frames = (torch.randn(9, 72, 80, 3, generator=generator) * 10 + level).clamp(0, 255).byte().numpy()
                write_video(tmp_path / "videos" / split / label / f"{i}.mp4", list(frames))
    (tmp_path / "videos/train/dark/broken.mp4").write_bytes(b"no video")
    options = {"knn_dataset": tmp_path / "videos", "knn_every": 1, "max_steps": 1}
    with pytest.raises(ValueError, match="videos' needs one of fps, frame_step, duration"):
        run(**options)
    trainer = run(**options, frame_step=2)
    assert accuracies(trainer) == {1: 1.0}
    (probe,) = (c for c in trainer.callback_handler.callbacks if type(c).__name__ == "OnlineKnnProbe")
    assert (probe.train.sampling.frame_step, probe.train.sampling.frames_per_clip) == (2, 4)
    assert not probe.train.random_position and len(probe.train) == 7
