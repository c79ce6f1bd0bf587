"""The video processor: the numbers of the native class, without torchvision, and files that each can read."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate
from transformers import Trainer, TrainingArguments, VJEPA2Config, image_processing_backends
from transformers.image_utils import ChannelDimension

from hf_jepa.models.vjepa2.video_processing_vjepa2 import VJepa2VideoProcessor


MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

# What a repository facebook/vjepa2-* holds, with fields of older versions of transformers.
HUB_FILE = {
    "_valid_kwargs_names": ["do_convert_rgb", "do_resize", "size", "crop_size"],
    "crop_size": {"height": 384, "width": 384},
    "data_format": "channels_first",
    "default_to_square": True,
    "device": None,
    "do_center_crop": True,
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_pad": None,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "input_data_format": None,
    "model_valid_processing_keys": ["do_convert_rgb", "do_resize"],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 438},
    "size_divisor": None,
    "video_processor_type": "VJEPA2VideoProcessor",
}


def video(frames=4, height=40, width=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (frames, 3, height, width), generator=generator, dtype=torch.uint8)


def expected(frames, short_side, crop, dtype=torch.uint8):
    """torch's own resize, a crop, a normalisation."""
    height, width = frames.shape[-2:]
    long = int(short_side * max(height, width) / min(height, width))
    size = (long, short_side) if height > width else (short_side, long)
    pixels = interpolate(frames.to(dtype), size, mode="bilinear", align_corners=False, antialias=True)
    top, left = (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2
    return (pixels[..., top : top + crop[0], left : left + crop[1]].float() / 255 - MEAN) / STD


def native(processor, folder, monkeypatch):
    """The stock class that the saved file names, with torchvision's three functions restated in torch."""
    processor.save_pretrained(folder)
    name = json.loads((folder / "video_preprocessor_config.json").read_text())["video_processor_type"]

    def resize(pixels, size, interpolation, antialias):
        assert interpolation == "bilinear"
        flat = interpolate(pixels.flatten(0, 1), size, mode="bilinear", align_corners=False, antialias=antialias)
        return flat.view(*pixels.shape[:2], *flat.shape[1:])

    functions = SimpleNamespace(
        resize=resize,
        crop=lambda pixels, top, left, height, width: pixels[..., top : top + height, left : left + width],
        normalize=lambda pixels, mean, std, inplace: (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1),
        InterpolationMode=SimpleNamespace(BILINEAR="bilinear", LANCZOS="lanczos"),
    )
    monkeypatch.setattr(image_processing_backends, "tvF", functions, raising=False)
    monkeypatch.setattr(image_processing_backends, "pil_torch_interpolation_mapping", {2: "bilinear"})
    module = {"VJEPA2VideoProcessor": "vjepa2", "VideoLlavaVideoProcessor": "video_llava"}[name]
    module = import_module(f"transformers.models.{module}.video_processing_{module}")
    return getattr(module, name).from_pretrained(folder)


def test_defaults():
    processor = VJepa2VideoProcessor()
    assert processor.size["shortest_edge"] == int(256 * 256 / 224) == 292
    assert dict(processor.crop_size) == {"height": 256, "width": 256}
    assert tuple(processor.image_mean) == (0.485, 0.456, 0.406) and tuple(processor.image_std) == (0.229, 0.224, 0.225)
    assert VJepa2VideoProcessor(crop_size=384).size["shortest_edge"] == 438
    assert processor.model_input_names == ["pixel_values_videos"]


@pytest.mark.parametrize("shape", [(40, 60), (61, 40), (33, 33), (300, 90)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_numbers_are_those_of_torch(shape, dtype):
    frames = video(3, *shape).to(dtype)
    result = VJepa2VideoProcessor(crop_size=32)(frames).pixel_values_videos
    assert result.shape == (1, 3, 3, 32, 32) and result.dtype == torch.float32
    assert torch.allclose(result[0], expected(frames, 36, (32, 32), dtype), atol=1e-6)


@pytest.mark.parametrize(("crop", "crop_pct"), [(32, 0.875), (32, 1.0), ((24, 40), 0.875), ((40, 24), 0.9)])
def test_the_native_class_computes_the_same(tmp_path, monkeypatch, crop, crop_pct):
    config = SimpleNamespace(crop_size=crop, in_chans=3)  # the native config knows squares only
    ours = VJepa2VideoProcessor.from_config(config, crop_pct=crop_pct)
    stock = native(ours, tmp_path, monkeypatch)
    for frames in (video(4, 50, 70), video(4, 71, 50).float()):
        reference = stock(frames, return_tensors="pt").pixel_values_videos
        assert torch.equal(ours(frames).pixel_values_videos, reference)
    name = "VJEPA2VideoProcessor" if (crop, crop_pct) == (32, 0.875) else "VideoLlavaVideoProcessor"
    assert type(stock).__name__ == name


def test_from_config():
    config = VJEPA2Config(crop_size=64)
    processor = VJepa2VideoProcessor.from_config(config)
    assert processor.size["shortest_edge"] == 73 and dict(processor.crop_size) == {"height": 64, "width": 64}
    assert VJepa2VideoProcessor.from_config(config, crop_pct=1.0).size["shortest_edge"] == 64
    grey = VJEPA2Config(crop_size=64, in_chans=1)
    with pytest.raises(ValueError, match="the model wants 1 channels, image_mean has 3"):
        VJepa2VideoProcessor.from_config(grey)
    processor = VJepa2VideoProcessor.from_config(grey, crop_pct=1.0, image_mean=[0.1], image_std=[0.2])
    ones = torch.full((2, 1, 64, 64), 255, dtype=torch.uint8)
    assert torch.allclose(processor(ones).pixel_values_videos, torch.tensor((1 - 0.1) / 0.2))
    with pytest.raises(ValueError, match="got 1.2"):
        VJepa2VideoProcessor.from_config(config, crop_pct=1.2)
    config.crop_size = 0
    with pytest.raises(ValueError, match="positive, got 0"):
        VJepa2VideoProcessor.from_config(config)


@pytest.mark.parametrize("name", ["video_preprocessor_config.json", "preprocessor_config.json"])
def test_files_of_the_hub_are_read(tmp_path, name):
    (tmp_path / name).write_text(json.dumps(HUB_FILE))
    processor = VJepa2VideoProcessor.from_pretrained(tmp_path)
    assert type(processor) is VJepa2VideoProcessor and dict(processor.crop_size) == {"height": 384, "width": 384}
    frames = video(2, 100, 120)
    assert torch.allclose(processor(frames).pixel_values_videos[0], expected(frames, 438, (384, 384)), atol=1e-6)
    nested = {"video_processor": HUB_FILE | {"image_std": [1.0, 1.0, 1.0]}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert tuple(VJepa2VideoProcessor.from_pretrained(tmp_path).image_std) == (1.0, 1.0, 1.0)


def test_round_trip(tmp_path):
    processor = VJepa2VideoProcessor(
        crop_size={"height": 24, "width": 32}, image_mean=[0.1, 0.2, 0.3], do_rescale=False
    )
    processor.save_pretrained(tmp_path)
    loaded = VJepa2VideoProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict() and loaded.do_rescale is False
    changed = VJepa2VideoProcessor.from_pretrained(tmp_path, image_mean=[0.5, 0.5, 0.5])
    assert tuple(changed.image_mean) == (0.5, 0.5, 0.5)


def test_kinds_of_input_agree():
    processor = VJepa2VideoProcessor(crop_size=32)
    frames = video()
    last = frames.permute(0, 2, 3, 1)
    reference = processor(frames).pixel_values_videos
    reader = SimpleNamespace(num_frames=4, read=lambda indices: last.numpy()[indices])
    ways = [frames.numpy(), last, last.numpy(), frames[None], last.numpy()[None], [frames], [last.numpy()]]
    ways += [list(frames), list(last.numpy()), [Image.fromarray(frame) for frame in last.numpy()], reader, [reader]]
    ways += [[[Image.fromarray(frame) for frame in last.numpy()]], frames.float(), frames.to(torch.float64).numpy()]
    for way in ways:
        result = processor(way).pixel_values_videos
        # 8-bit frames are rounded to 8 bits twice, after each direction of the resize.
        tolerance = 1.01 / 255 / 0.224 if str(getattr(way, "dtype", "")).endswith(("32", "64")) else 0
        assert result.dtype == torch.float32 and torch.allclose(result, reference, rtol=0, atol=tolerance + 1e-7)
    batch = processor([frames, video(seed=1), video(4, 50, 33)])
    assert batch.pixel_values_videos.shape == (3, 4, 3, 32, 32)
    assert torch.equal(batch.pixel_values_videos[0], reference[0])
    assert processor(frames, return_tensors="np").pixel_values_videos.dtype == np.float32
    as_list = processor([frames, video(6)], return_tensors=None).pixel_values_videos
    assert [len(clip) for clip in as_list] == [4, 6]


def test_the_input_is_not_changed():
    for frames in (video().float(), video()):
        before = frames.clone()
        VJepa2VideoProcessor(crop_size=32, do_resize=False)(frames)
        VJepa2VideoProcessor(size={"shortest_edge": 40}, crop_size=40, do_center_crop=False)(frames)
        assert torch.equal(frames, before)


def test_steps_can_be_left_out():
    frames = video(2, 32, 32)
    plain = VJepa2VideoProcessor(crop_size=32, do_resize=False, do_normalize=False)
    assert torch.allclose(plain(frames).pixel_values_videos[0], frames / 255)
    assert torch.equal(plain(frames, do_rescale=False).pixel_values_videos[0], frames.float())
    unit = plain(frames / 255, do_rescale=False, do_normalize=True).pixel_values_videos[0]
    assert torch.allclose(unit, (frames / 255 - MEAN) / STD, atol=1e-6)
    assert plain.do_rescale is True  # for that call only


def test_frames_can_be_sampled():
    frames = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 32, 32)
    processor = VJepa2VideoProcessor(crop_size=32, do_resize=False, do_normalize=False, do_rescale=False)
    taken = processor(frames, do_sample_frames=True, num_frames=4).pixel_values_videos
    assert taken[0, :, 0, 0, 0].tolist() == [0, 2, 5, 7]  # as the native class: every 2.5 frames, rounded down
    assert processor(list(frames), do_sample_frames=True, num_frames=4).pixel_values_videos.equal(taken)
    with pytest.raises(ValueError, match="the video has 10 frames, 12 are wanted"):
        processor(frames, do_sample_frames=True, num_frames=12)
    with pytest.raises(ValueError, match="needs num_frames"):
        processor(frames, do_sample_frames=True)


@pytest.mark.parametrize(
    ("videos", "error", "message"),
    [
        (torch.zeros(4, 5, 40, 60), ValueError, r"video 0 has shape \(4, 5, 40, 60\): expected \(T, 3, H, W\)"),
        (torch.zeros(4, 3, 40, 3), ValueError, "pass input_data_format"),
        (torch.zeros(40, 60), ValueError, r"4 axes \(one video\) or 5"),
        (torch.zeros(0, 3, 40, 60), ValueError, "video 0 is empty"),
        (torch.full((2, 3, 40, 60), float("nan")), ValueError, "not finite"),
        (torch.full((2, 3, 40, 60), float("inf")), ValueError, "not finite"),
        (torch.full((2, 3, 40, 60), -0.5), ValueError, "values from -0.5 to -0.5, expected 0..255"),
        (torch.full((2, 3, 40, 60), 256.0), ValueError, "goes to the model as it is"),
        (torch.rand(2, 3, 40, 60), ValueError, "pass do_rescale=False for values in 0..1"),
        (torch.zeros(2, 3, 40, 60, dtype=torch.int64), TypeError, "int64"),
        ([video(4), video(6)], ValueError, r"one shape \(T, C, H, W\), got .*\(4, 3, 32, 32\), \(6, 3, 32, 32\)"),
        ([video(4), torch.zeros(4, 40, 60)[0]], ValueError, "video 1 must be"),
        ([torch.zeros(3, 40, 60), torch.zeros(3, 40, 50)], ValueError, "differ in shape"),
        ([], TypeError, "expected a video"),
        (None, TypeError, "expected a video"),
        ("a/b.mp4", TypeError, r"pass hf_jepa.open_video\('a/b.mp4'\)"),
        (["a/b.mp4"], TypeError, r"open_video\('a/b.mp4'\)"),
    ],
)
def test_wrong_videos_are_named(videos, error, message):
    with pytest.raises(error, match=message):
        VJepa2VideoProcessor(crop_size=32)(videos)


def test_the_layout_can_be_said():
    frames = video(4, 40, 3)
    processor = VJepa2VideoProcessor(crop_size=2, size={"shortest_edge": 3})
    for layout in ("channels_first", ChannelDimension.FIRST):
        assert processor(frames, input_data_format=layout).pixel_values_videos.shape == (1, 4, 3, 2, 2)
    with pytest.raises(ValueError, match="expected"):
        processor(video(), input_data_format="channels_last")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resample": 3}, "resample 3 is not bilinear"),
        ({"size": {"height": 32, "width": 32}}, "size must be"),
    ],
)
def test_wrong_settings_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        VJepa2VideoProcessor(crop_size=32, **fields)
    with pytest.raises(ValueError, match="smaller than the crop of 64x64"):
        VJepa2VideoProcessor(crop_size=64, do_resize=False)(video())
    with pytest.raises(TypeError, match="unknown fields of a video processor: .'croop_size'."):
        VJepa2VideoProcessor()(video(), croop_size=3)


def test_tensors_need_neither_torchvision_nor_pillow_nor_pyav():
    code = """
import sys
for name in ("torchvision", "PIL", "av", "torchcodec"):
    sys.modules[name] = None
import torch
from hf_jepa.models.vjepa2.video_processing_vjepa2 import VJepa2VideoProcessor
print(VJepa2VideoProcessor(crop_size=32)(torch.zeros(2, 3, 40, 60, dtype=torch.uint8)).pixel_values_videos.shape)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "torch.Size([1, 2, 3, 32, 32])", result.stderr[-2000:]


def test_a_trainer_saves_it_beside_the_weights(tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path / "run"), report_to=[], use_cpu=True)
    processor = VJepa2VideoProcessor(crop_size=32)
    Trainer(torch.nn.Linear(2, 2), arguments, processing_class=processor).save_model(str(tmp_path / "saved"))
    assert VJepa2VideoProcessor.from_pretrained(tmp_path / "saved").to_dict() == processor.to_dict()


def test_push_to_hub(tmp_path, monkeypatch):
    uploaded, hub = {}, "transformers.utils.hub"

    def upload(self, working_dir, repo_id, files_timestamps, **options):
        uploaded[repo_id] = [path.name for path in Path(working_dir).iterdir()]

    card = SimpleNamespace(save=lambda path: None)
    monkeypatch.setattr(f"{hub}.create_and_tag_model_card", lambda *args, **options: card)
    monkeypatch.setattr(VJepa2VideoProcessor, "_upload_modified_files", upload)
    monkeypatch.setattr(
        f"{hub}.hf_api",
        lambda: SimpleNamespace(create_repo=lambda name, **options: SimpleNamespace(repo_id=name)),
    )
    VJepa2VideoProcessor(crop_size=32).push_to_hub("someone/videos")
    assert uploaded == {"someone/videos": ["video_preprocessor_config.json"]}
