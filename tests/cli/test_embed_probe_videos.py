"""`hf-jepa embed` and `hf-jepa probe` on videos and tiny checkpoints of all video variants."""

import datasets
import numpy as np
import pytest
import torch
from clips import write_video
from perturbed import perturbed
from PIL import Image
from safetensors.torch import load_file, save_file
from test_embed_probe import refused_last
from test_main import refused

from hf_jepa.cli.main import main
from hf_jepa.data.video_readers import open_video
from hf_jepa.data.video_sampling import ClipSampling
from hf_jepa.data.videos import read_clips
from hf_jepa.registry import VARIANTS


VIDEO = [name for name, variant in VARIANTS.items() if variant.modality == "video"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A pretraining checkpoint of every video variant, two encoders that differ."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in VIDEO:
        torch.manual_seed(0)
        variant = VARIANTS[name]
        model = variant.model_class()(variant.config_class()(**variant.tiny))
        perturbed(model.feature_encoder)
        model.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Dark and bright videos of 20 frames; of the training split one file is no video and one is too short."""
    folder = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for label, level in (("bright", 200), ("dark", 50)):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                frames = rng.normal(level, 20, (20, 40, 48, 3)).clip(0, 255).astype(np.uint8)
                write_video(folder / split / label / f"{i}.mp4", list(frames))
    (folder / "train/bright/broken.mp4").write_bytes(b"not a video")
    write_video(folder / "train/dark/short.mp4", list(frames[:3]))
    return folder


STEP = ["--frame-step", "2"]


def embed(output, *arguments):
    assert main(["embed", *map(str, arguments), "--output", str(output)]) == 0
    return datasets.load_from_disk(str(output)).with_format("torch")


def expected(checkpoint, variant, path, **sampling) -> torch.Tensor:
    """(D,), the mean over tokens and clips of the encoder that users want."""
    model = variant.model_class().from_pretrained(checkpoint).eval()
    with open_video(path) as video:
        clips = read_clips(video, ClipSampling(**({"frames_per_clip": 4, "frame_step": 2} | sampling)))
    pixels = variant.processor(model.config)(list(clips)).pixel_values_videos
    with torch.no_grad():
        return model.feature_encoder(pixels).last_hidden_state.mean(dim=(0, 1))


@pytest.mark.parametrize("name", VIDEO)
def test_rows_are_those_of_the_encoder_that_users_want(name, checkpoints, videos, tmp_path, capsys, monkeypatch):
    variant, checkpoint = VARIANTS[name], checkpoints / name
    predictor = next(name for names in variant.parts.values() for name in names if "Predictor" in name)
    monkeypatch.setattr(variant.model_class(predictor), "forward", None)  # features predict nothing
    rows = embed(tmp_path / "f", checkpoint, videos, *STEP, "--clips", "2", "--batch-size", "3")
    said = capsys.readouterr()
    assert rows.column_names == ["file", "label", "features"] and len(rows) == 8
    assert rows.features["label"].names == ["bright", "dark"] and rows["label"][:].tolist() == [0] * 4 + [1] * 4
    for row in (rows[0], rows[7]):
        wanted = expected(checkpoint, variant, row["file"], num_clips=2)
        torch.testing.assert_close(row["features"], wanted, rtol=1e-5, atol=1e-5)
    assert "2 videos skipped" in said.out and "clips of 4 frames, 2 frames apart" in said.out
    skipped = [line for line in said.err.splitlines() if line.startswith("skipped")]
    assert len(skipped) == 2 and "bright/broken.mp4: " in skipped[0] and "dark/short.mp4: " in skipped[1]
    assert "has 3 frames" in skipped[1] and "image" not in said.out + said.err


def test_formats_hold_the_same(checkpoints, videos, tmp_path):
    rows = embed(tmp_path / "f", checkpoints / "vjepa2", videos, *STEP)
    for name in ("f.parquet", "f.safetensors"):
        arguments = [checkpoints / "vjepa2", videos, *STEP, "--workers", 1, "--output", tmp_path / name]
        assert main(["embed", *map(str, arguments)]) == 0
    parquet = datasets.Dataset.from_parquet(str(tmp_path / "f.parquet"), cache_dir=str(tmp_path)).with_format("torch")
    tensors = load_file(tmp_path / "f.safetensors")
    torch.testing.assert_close(parquet["features"][:], rows["features"][:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tensors["features"], rows["features"][:], rtol=1e-5, atol=1e-5)
    assert tensors["labels"].tolist() == rows["label"][:].tolist() == parquet["label"][:].tolist()
    assert tensors["sample_index"].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]


def test_every_source_of_a_video_gives_its_features(checkpoints, videos, tmp_path):
    checkpoint, video = checkpoints / "vjepa2", videos / "test/dark/0.mp4"
    wanted = expected(checkpoint, VARIANTS["vjepa2"], video)
    with open_video(video) as reader:
        (tmp_path / "frames").mkdir()
        for i, frame in enumerate(reader.read(range(20))):
            Image.fromarray(frame).save(tmp_path / "frames" / f"{i}.png")
    (tmp_path / "list.csv").write_text(f"{video} 3\n")
    features = datasets.Features({"video": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}})
    rows = {"video": [{"bytes": video.read_bytes(), "path": "0.mp4"}]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    for source in (video, tmp_path / "frames", tmp_path / "list.csv", tmp_path / "rows.parquet"):
        rows = embed(tmp_path / source.name.replace(".", "_") / "f", checkpoint, source, *STEP)
        assert len(rows) == 1 and ("label" in rows.column_names) == (source.name == "list.csv")
        torch.testing.assert_close(rows[0]["features"], wanted, rtol=1e-5, atol=1e-5)


def test_frames_and_their_distance_are_those_asked_for(checkpoints, videos, tmp_path):
    checkpoint, video, variant = checkpoints / "vjepa2", videos / "test/dark/0.mp4", VARIANTS["vjepa2"]
    for options, sampling in (
        (["--fps", "5", "--frames", "2"], {"frames_per_clip": 2, "frame_step": 5}),
        (["--duration", "0.48"], {"frame_step": 3}),
        (["--short-videos", "pad"], {"frame_step": 6, "short_videos": "pad"}),  # 4 frames per second of 25
        (["--frame-step", "9", "--short-videos", "pad"], {"frame_step": 9, "short_videos": "pad"}),
    ):
        row = embed(tmp_path / "_".join(options).replace(".", "_"), checkpoint, video, *options)[0]
        wanted = expected(checkpoint, variant, video, **sampling)
        torch.testing.assert_close(row["features"], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", VIDEO)
def test_layers_stand_side_by_side(name, checkpoints, videos, tmp_path):
    video = videos / "test/dark/0.mp4"
    rows = embed(tmp_path / "both", checkpoints / name, video, *STEP, "--layers", 0, -1)
    last = embed(tmp_path / "last", checkpoints / name, video, *STEP)
    assert rows["features"][:].shape == (1, 64)
    assert torch.equal(rows["features"][:][:, 32:], last["features"][:])
    assert not torch.equal(rows["features"][:][:, :32], last["features"][:])


def test_a_checkpoint_of_the_encoder_alone_is_enough(checkpoints, videos, tmp_path, capsys):
    folder = tmp_path / "encoder"
    folder.mkdir()
    for file in (checkpoints / "vjepa2").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    state = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in state.items() if key.startswith("vjepa2.encoder")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    video = videos / "test/dark/0.mp4"
    found, whole = (embed(tmp_path / path.name / "f", path, video, *STEP) for path in (folder, checkpoints / "vjepa2"))
    assert torch.equal(found["features"][:], whole["features"][:])
    del kept["vjepa2.encoder.layernorm.bias"]
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    line = refused(["embed", folder, video, "--output", tmp_path / "x"], capsys)
    assert "lacks 1 weights of the encoder, among them encoder.layernorm.bias" in line


@pytest.mark.parametrize("name", VIDEO)
def test_probe_tells_dark_from_bright(name, checkpoints, videos, capsys):
    assert main(["probe", str(checkpoints / name), str(videos), *STEP, "--k", "3"]) == 0
    text = capsys.readouterr().out
    assert "8 training and 4 test videos" in text and "image" not in text
    lines = [line.split() for line in text.splitlines() if "%" in line]
    assert [line[0] for line in lines] == ["k-NN", "linear"] and float(lines[1][-3]) == 100.0


def test_probe_on_two_lists(checkpoints, videos, tmp_path, capsys):
    for split in ("train", "test"):
        files = sorted((videos / split).glob("*/?.mp4"))
        (tmp_path / f"{split}.csv").write_text("".join(f"{file} {int('dark' in str(file))}\n" for file in files))
    lists = [checkpoints / "vjepa2", tmp_path / "train.csv", "--test-data", tmp_path / "test.csv"]
    assert main(["probe", *map(str, lists), *STEP]) == 0
    assert "8 training and 4 test videos" in capsys.readouterr().out
    line = refused(["probe", *lists[:2], *STEP], capsys)
    assert "no split 'test'" in line


def test_refusals(checkpoint, checkpoints, videos, photos, tmp_path, capsys):
    output = ["--output", tmp_path / "f"]
    line = refused(["embed", checkpoint, photos, "--frame-step", 2, *output], capsys)
    assert "--frame-step says nothing about images, which I-JEPA encodes" in line
    video, ours = videos / "test/dark/0.mp4", checkpoints / "vjepa2"
    assert "not allowed with" in refused(["embed", ours, video, "--fps", 2, "--duration", 3, *output], capsys)
    assert "num_clips must be positive" in refused(["embed", ours, video, "--clips", 0, *output], capsys)
    line = refused_last(["embed", ours, video, "--fps", 0.5, *output], capsys)
    assert "none of the 1 videos can be read as clips of 4 frames, 0.5 per second" in line and "pad" in line
    line = refused_last(["embed", ours, video, *STEP, "--layers", 5, *output], capsys)
    assert "layers [5] do not exist" in line
    assert "no such file" in refused(["embed", ours, tmp_path / "none.mp4", *output], capsys)
    assert "single clip and has no split 'test'" in refused(["embed", ours, video, "--split", "test", *output], capsys)
    assert "has no labels" in refused(["probe", ours, video, "--test-data", video], capsys)
    assert not (tmp_path / "f").exists()


def test_folders_of_frames_need_a_rate_for_seconds(checkpoints, tmp_path, capsys):
    (tmp_path / "frames").mkdir()
    for i in range(20):
        Image.new("RGB", (40, 40), (10 * i, 0, 0)).save(tmp_path / "frames" / f"{i}.png")
    arguments = ["embed", checkpoints / "vjepa2", tmp_path / "frames"]
    assert main([*map(str, arguments), "--output", str(tmp_path / "x")]) == 2
    told = capsys.readouterr().err
    assert "the frame rate is not known" in told and "folder_fps" in told
    assert "1 of 1 videos in" in told and "folders of images, read as the frames of one video each" in told
    assert main([*map(str, arguments), "--folder-fps", "10", "--output", str(tmp_path / "f")]) == 0
