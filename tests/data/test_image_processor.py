import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from pictures import picture
from transformers import AutoImageProcessor, IJepaConfig, IJepaForImageClassification, IJepaModel, pipeline

from hf_jepa.data.transforms import evaluation_transform
from hf_jepa.models.ijepa.image_processing_ijepa import IJepaImageProcessor


SHAPES = ((40, 60), (61, 40), (33, 33), (9, 80))


def config(**fields):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return IJepaConfig(**sizes, patch_size=8, **({"image_size": 32} | fields))


def test_defaults_are_those_of_the_training_data():
    processor = IJepaImageProcessor()
    assert tuple(processor.image_mean) == (0.485, 0.456, 0.406) and tuple(processor.image_std) == (0.229, 0.224, 0.225)
    assert processor.size["shortest_edge"] == 256
    assert (processor.crop_size["height"], processor.crop_size["width"]) == (224, 224)
    assert processor.from_config(config(image_size=224)).to_dict() == processor.to_dict()


@pytest.mark.parametrize("size", [32, (32, 64), (64, 24)])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_same_function_as_the_evaluation_transform(size, crop_pct):
    processor = IJepaImageProcessor.from_config(config(image_size=size), crop_pct=crop_pct)
    transform = evaluation_transform(size, crop_pct)
    # torchvision and Pillow round the resized pixels differently: one step of 8 bits, where torchvision is installed.
    tolerance = 1e-6 if processor.backend == "pil" else 1.001 / 255 / 0.224
    for i, shape in enumerate(SHAPES):
        image = picture(i, *shape)
        result = processor(image, return_tensors="pt").pixel_values
        assert torch.allclose(result[0], transform(image), atol=tolerance)


@pytest.mark.hub  # a process of its own
def test_stock_transformers_loads_it_bit_for_bit(tmp_path):
    processors = {str(size): IJepaImageProcessor.from_config(config(image_size=size)) for size in (32, (24, 40))}
    for name, processor in processors.items():
        processor.save_pretrained(tmp_path / name)
    images = np.stack([np.asarray(picture(i, *SHAPES[0])) for i in range(3)])
    np.save(tmp_path / "images.npy", images)
    code = f"""
import sys
sys.modules["hf_jepa"] = None
import numpy as np
from transformers import AutoImageProcessor
images = list(np.load({str(tmp_path / "images.npy")!r}))
for name in {[*processors]!r}:
    processor = AutoImageProcessor.from_pretrained({str(tmp_path)!r} + "/" + name)
    np.save({str(tmp_path)!r} + "/" + name + "/stock.npy", processor(images, return_tensors="np").pixel_values)
    print(type(processor).__module__)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    modules = result.stdout.split()
    assert len(modules) == 2 and all(module.startswith("transformers.models.bit.") for module in modules)
    for name, processor in processors.items():
        ours = processor(list(images), return_tensors="np").pixel_values
        assert ours.dtype == np.float32 and np.array_equal(ours, np.load(tmp_path / name / "stock.npy"))


def test_round_trip(tmp_path):
    processor = IJepaImageProcessor.from_config(config(image_size=(24, 40)), image_mean=[0.1, 0.2, 0.3])
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["image_processor_type"] == "BitImageProcessor" and "auto_map" not in saved
    loaded = IJepaImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is IJepaImageProcessor and loaded.to_dict() == processor.to_dict()
    auto = AutoImageProcessor.from_pretrained(tmp_path)
    image = picture(0)
    for other in (loaded, auto):
        assert np.array_equal(other(image).pixel_values[0], processor(image).pixel_values[0])


def test_kinds_of_input_agree():
    processor = IJepaImageProcessor.from_config(config())
    image = picture(0)
    array = np.asarray(image)
    reference = processor(image, return_tensors="pt").pixel_values
    assert reference.shape == (1, 3, 32, 32) and reference.dtype == torch.float32
    first = array.transpose(2, 0, 1).copy()
    for way in (array, first, torch.from_numpy(first), [image], [array], [torch.from_numpy(first)]):
        assert torch.equal(processor(way, return_tensors="pt").pixel_values, reference)
    batch = processor([picture(i, *shape) for i, shape in enumerate(SHAPES)], return_tensors="pt").pixel_values
    assert batch.shape == (4, 3, 32, 32)
    grey = processor(image.convert("L"), return_tensors="pt").pixel_values
    assert grey.shape == (1, 3, 32, 32)
    assert processor(image.convert("RGBA"), return_tensors="pt").pixel_values.equal(reference)


@pytest.mark.parametrize("size", [32, (16, 32)])
def test_pipelines(tmp_path, size):
    torch.manual_seed(0)
    processor = IJepaImageProcessor.from_config(config(image_size=size))
    path = tmp_path / "a.png"
    picture(0).save(path)
    pixels = processor(picture(0), return_tensors="pt")
    encoder = IJepaModel(config(image_size=size)).eval()
    features = pipeline("image-feature-extraction", model=encoder, image_processor=processor, device="cpu")
    with torch.no_grad():
        expected = encoder(**pixels).last_hidden_state
    assert torch.allclose(torch.tensor(features(str(path))), expected, atol=1e-6)

    classifier = IJepaForImageClassification(config(image_size=size, id2label={0: "cat", 1: "dog", 2: "bird"})).eval()
    classifier.save_pretrained(tmp_path / "model"), processor.save_pretrained(tmp_path / "model")
    answers = pipeline("image-classification", model=str(tmp_path / "model"), device="cpu")(str(path))
    with torch.no_grad():
        probabilities = classifier(**pixels).logits.softmax(-1)[0]
    assert {answer["label"] for answer in answers} == {"cat", "dog", "bird"}
    assert abs(answers[0]["score"] - probabilities.max().item()) < 1e-6


@pytest.mark.parametrize(
    ("fields", "options", "message"),
    [
        ({"num_channels": 1}, {}, "wants 1 channels"),
        ({"image_size": 0}, {}, "must be positive, got 0"),
        ({}, {"crop_pct": 1.2}, "got 1.2"),
    ],
)
def test_configs_it_cannot_serve(fields, options, message):
    with pytest.raises(ValueError, match=message):
        IJepaImageProcessor.from_config(config(**fields), **options)
