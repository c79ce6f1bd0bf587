"""Pipelines of transformers with our models and processors."""

import numpy as np
import pytest
import torch
from clips import write_video
from code_cache import code_cache  # noqa: F401
from PIL import Image
from tiny_models import tiny_model
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

from hf_jepa.data.video_readers import open_video
from hf_jepa.hub.export import export_remote_code
from hf_jepa.registry import VARIANTS


pytestmark = pytest.mark.hub


IMAGES = [name for name, variant in VARIANTS.items() if variant.modality == "image"]
VIDEOS = [name for name, variant in VARIANTS.items() if "AutoModelForVideoClassification" in variant.heads]
CLASSIFIERS = [name for name in IMAGES if VARIANTS[name].heads]


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(256, size=(40, 50, 3), dtype=np.uint8))


def saved(model, variant, folder):
    model.save_pretrained(folder)
    variant.processor(model.config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", IMAGES)
def test_features_of_images(name, tmp_path):
    """From the folder of a pretraining model, as the encoder that users want."""
    variant = VARIANTS[name]
    model = tiny_model(variant.name).eval()
    folder = saved(model, variant, tmp_path)
    extract = pipeline("image-feature-extraction", model=str(folder), device="cpu")
    pixels = variant.processor(model.config)(images=picture(), return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = variant.base_class().from_pretrained(folder).eval()(pixels).last_hidden_state
    torch.testing.assert_close(torch.tensor(extract(picture())), expected, rtol=1e-4, atol=1e-5)
    assert len(extract([picture(0), picture(1)], batch_size=2)) == 2


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classes_of_images(name, tmp_path):
    variant = VARIANTS[name]
    labels = {0: "cat", 1: "dog", 2: "bird"}
    head = variant.heads["AutoModelForImageClassification"]
    model = tiny_model(variant.name, head, id2label=labels, label2id={label: i for i, label in labels.items()}).eval()
    folder = saved(model, variant, tmp_path)
    classify = pipeline("image-classification", model=str(folder), device="cpu")
    pixels = AutoImageProcessor.from_pretrained(folder)(images=picture(), return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = classify.model(pixels).logits[0].softmax(-1)
    found = {each["label"]: each["score"] for each in classify(picture(), top_k=3)}
    for i, label in labels.items():
        assert found[label] == pytest.approx(expected[i].item(), abs=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).logits[0].softmax(-1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", VIDEOS)
def test_classes_of_videos(name, tmp_path):
    """Of frames and of open files, as many as the model was trained on; torchvision is not needed."""
    variant = VARIANTS[name]
    labels = {0: "jump", 1: "run", 2: "sit"}
    head = variant.heads["AutoModelForVideoClassification"]
    model = tiny_model(variant.name, head, id2label=labels, label2id={label: i for i, label in labels.items()}).eval()
    processor = variant.processor(model.config)
    classify = pipeline("video-classification", model=model, video_processor=processor, device="cpu")
    reader = open_video(write_video(tmp_path / "video.mp4", frames=8))
    for video, frames in ((reader.read(np.arange(8)), None), (reader, None), (reader, 2)):
        options = {} if frames is None else {"num_frames": frames}
        found = {each["label"]: each["score"] for each in classify(video, top_k=3, **options)}
        taken = reader.read(np.arange(0, 8, 8 // (frames or model.config.frames_per_clip)))
        with torch.no_grad():
            expected = model(processor(taken).pixel_values_videos).logits[0].softmax(-1)
        assert found == pytest.approx({label: expected[i].item() for i, label in labels.items()}, abs=1e-5)


def test_pipelines_of_a_folder_with_code(tmp_path):
    """The model is the copy; it is asked for by hand, because the package in this process serves its own types."""
    variant = VARIANTS["ijepa"]
    head = variant.heads["AutoModelForImageClassification"]
    folder = saved(tiny_model(variant.name, head).eval(), variant, tmp_path / "package")
    export_remote_code(folder, tmp_path / "out")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules.")
    classify = pipeline("image-classification", model=str(tmp_path / "out"), trust_remote_code=True, device="cpu")
    assert type(classify.model) is type(model)
    own = pipeline("image-classification", model=str(folder), device="cpu")
    assert [each["label"] for each in classify(picture())] == [each["label"] for each in own(picture())]
    encoder = AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True)
    extract = pipeline("image-feature-extraction", model=str(tmp_path / "out"), trust_remote_code=True, device="cpu")
    assert type(extract.model) is type(encoder)
