"""Features of clips: layers, several clips of a video, the predictor left alone, files that cannot be read."""

import numpy as np
import pytest
import torch
from tiny_models import tiny_model
from transformers import VJEPA2Config, VJEPA2Model

from hf_jepa.data.video_sampling import ClipSampling
from hf_jepa.data.video_transforms import clip_evaluation_transform
from hf_jepa.data.videos import VideoCollator, VideoDataset
from hf_jepa.evaluation.features import READOUTS, extract_features
from hf_jepa.registry import VARIANTS


VIDEO = [name for name, variant in VARIANTS.items() if variant.modality == "video"]


def model_of(name: str, **fields) -> torch.nn.Module:
    """A base model, with a final norm that is seen when it is forgotten or applied twice."""
    return tiny_model(name, VARIANTS[name].base_model, std=0.1, **fields)


@pytest.fixture(params=VIDEO)
def model(request):
    return model_of(request.param)


def clips(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def extract(model, pixels, *args, **kwargs) -> torch.Tensor:
    return extract_features(model, [{"pixel_values_videos": pixels}], *args, progress=False, **kwargs)[0]


@pytest.mark.parametrize("readout", [name for name in READOUTS if name != "last4_mean_concat"])
def test_readouts_pool_over_time_and_space(model, readout):
    pixels = clips(3)
    with torch.no_grad():
        tokens = model.eval()(pixels).last_hidden_state
    expected = {
        "mean": tokens.mean(1),
        "max": tokens.amax(1),
        "mean_std": torch.cat([tokens.mean(1), tokens.std(1, correction=0)], 1),
    }
    torch.testing.assert_close(extract(model, pixels, readout), expected[readout])


def test_layers_are_behind_the_norm_and_in_the_order_asked_for(model):
    pixels = clips(2)
    with torch.no_grad():
        grids = model.eval().get_video_features(pixels, layers=[0, 1]).layers
    expected = torch.cat([grids[1].mean(dim=(1, 2, 3)), grids[0].mean(dim=(1, 2, 3))], dim=-1)
    torch.testing.assert_close(extract(model, pixels, layers=[-1, 0]), expected)
    assert grids[0].shape == (2, 2, 4, 4, 32)
    with pytest.raises(ValueError, match=r"layers \[2\]"):
        extract(model, pixels, layers=[2])


def test_last_four_layers_of_clips():
    model, pixels = model_of("vjepa2", num_hidden_layers=5), clips(2)
    expected = extract(model, pixels, layers=[1, 2, 3, 4])
    assert torch.equal(extract(model, pixels, "last4_mean_concat"), expected) and expected.shape == (2, 128)
    with pytest.raises(ValueError, match="either it or layers"):
        extract(model, pixels, "last4_mean_concat", layers=[0])


def test_several_clips_of_a_video_are_averaged(model):
    pixels = clips(3, 2)
    found = extract(model, pixels, "max")
    each = torch.stack([extract(model, pixels[:, i], "max") for i in range(2)])
    torch.testing.assert_close(found, each.mean(dim=0))


def test_predictors_do_not_run(monkeypatch):
    ours, native = model_of("vjepa2"), VJEPA2Model(VJEPA2Config(**VARIANTS["vjepa2"].tiny))
    with torch.no_grad():
        expected = native.eval().encoder(clips(1)).last_hidden_state.mean(1)
    for model in (ours, native):
        monkeypatch.setattr(type(model.predictor), "forward", None)
        extract(model, clips(1))
    assert torch.equal(extract(native, clips(1)), expected)


def test_a_video_data_set_is_read_without_what_cannot_be_read(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    frames = np.random.default_rng(0).integers(0, 256, (9, 40, 40, 3), dtype=np.uint8)
    rows = [
        {"video": frames, "label": 4},
        {"video": tmp_path / "broken.mp4", "label": 5},
        {"video": frames, "label": 6},
    ]
    data = VideoDataset(rows, clip_evaluation_transform(32), ClipSampling(4, frame_step=2), random_position=False)
    model = model_of("vjepa2")
    with pytest.warns(match="left out, because it cannot be read: .*broken.mp4"):
        features, labels = extract_features(model, data, batch_size=2, progress=False)
    assert labels.tolist() == [4, 6] and torch.equal(features[0], features[1])
    torch.testing.assert_close(features[:1], extract(model, data[0]["pixel_values_videos"][None]))


def test_clips_of_several_lengths_are_refused():
    batch = VideoCollator()([{"pixel_values_videos": torch.zeros(t, 3, 32, 32), "sample_index": t} for t in (2, 4)])
    with pytest.raises(ValueError, match=r"clips of \[2, 4\] frames"):
        extract_features(model_of("vjepa2"), [batch], progress=False)
