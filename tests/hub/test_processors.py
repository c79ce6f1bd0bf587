"""The image processor of a checkpoint: what is beside the weights counts, unless it is a default that nobody chose."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessorPil

from hf_jepa.data.transforms import evaluation_transform
from hf_jepa.hub.processors import ProcessorTransform, load_processor, pixel_statistics
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.image_processing_ijepa import IJepaImageProcessor
from hf_jepa.models.nepa.configuration_nepa import NepaConfig
from hf_jepa.registry import VARIANTS


CONFIG = IJepaConfig(image_size=32)


def test_without_a_saved_processor_it_is_that_of_the_variant(tmp_path):
    CONFIG.save_pretrained(tmp_path)
    for checkpoint in (None, str(tmp_path)):
        assert load_processor(checkpoint, CONFIG).to_dict() == IJepaImageProcessor.from_config(CONFIG).to_dict()


def test_statistics_that_somebody_chose_are_kept(tmp_path, caplog):
    IJepaImageProcessor.from_config(CONFIG, image_mean=[0.1, 0.2, 0.3], image_std=[1.0, 1.0, 2.0]).save_pretrained(
        tmp_path
    )
    assert pixel_statistics(load_processor(str(tmp_path), CONFIG)) == ((0.1, 0.2, 0.3), (1.0, 1.0, 2.0))
    ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.4] * 3).save_pretrained(tmp_path)
    assert pixel_statistics(load_processor(str(tmp_path), CONFIG))[0] == (0.4, 0.4, 0.4)


def test_defaults_of_the_vit_processor_give_way_to_how_the_weights_were_trained(tmp_path, capsys):
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["image_mean"] == [0.5, 0.5, 0.5]
    processor = load_processor(str(tmp_path), CONFIG)
    assert isinstance(processor, IJepaImageProcessor) and processor.image_mean[0] == 0.485
    assert type(load_processor(str(tmp_path), CONFIG, as_saved=True)).__name__.startswith("ViTImageProcessor")


@pytest.mark.parametrize(
    ("config", "differs"),
    [(CONFIG, "I-JEPA normalises otherwise"), (NepaConfig(image_size=32, patch_size=8), "NEPA does not squeeze")],
)
def test_the_warning_says_what_differs_from_the_training(tmp_path, caplog, config, differs):
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    assert load_processor(str(tmp_path), config).do_center_crop
    assert differs in caplog.text


def test_a_processor_that_does_not_normalise_has_neutral_statistics():
    processor = IJepaImageProcessor.from_config(CONFIG, do_normalize=False)
    assert pixel_statistics(processor) == ((0.0,), (1.0,))


def test_a_model_of_one_channel_uses_what_is_saved(tmp_path):
    grey = IJepaConfig(image_size=32, num_channels=1)
    with pytest.raises(ValueError, match="the model wants 1 channels"):
        load_processor(None, grey)
    IJepaImageProcessor.from_config(CONFIG, image_mean=0.2, image_std=0.3).save_pretrained(tmp_path)
    assert pixel_statistics(load_processor(str(tmp_path), grey)) == ((0.2,), (0.3,))


def test_a_processor_nested_in_a_file_of_several_is_found(tmp_path):
    saved = IJepaImageProcessor.from_config(CONFIG, image_mean=[0.1] * 3).to_dict()
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": saved}))
    assert pixel_statistics(load_processor(str(tmp_path), CONFIG))[0] == (0.1, 0.1, 0.1)


@pytest.mark.parametrize("size", [(50, 40), (32, 32)])
def test_as_a_transform_it_is_the_transform_of_evaluation(size):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (*size[::-1], 3), generator=generator, dtype=torch.uint8)
    image = Image.fromarray(pixels.numpy())
    found = ProcessorTransform(load_processor(None, CONFIG))(image)
    torch.testing.assert_close(found, evaluation_transform(32)(image), rtol=0, atol=0.02)  # a step of 8 bits


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.modality == "video"])
def test_videos_are_prepared_by_the_class_of_the_variant_with_what_is_saved(name, tmp_path):
    config = VARIANTS[name].config_class()(crop_size=32)
    clip = torch.randint(256, (4, 3, 40, 50), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    fresh = load_processor(None, config)
    assert type(fresh).__name__ == "VJepa2VideoProcessor" and fresh.crop_size.height == 32
    config.save_pretrained(tmp_path)
    assert load_processor(str(tmp_path), config).to_dict() == fresh.to_dict()  # nothing is saved yet
    VARIANTS[name].processor_class.from_config(config, image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    saved = load_processor(str(tmp_path), config)
    assert pixel_statistics(saved)[0] == (0.1, 0.2, 0.3)
    found = saved(clip, return_tensors="pt").pixel_values_videos
    assert found.shape == (1, 4, 3, 32, 32)
    assert not torch.allclose(found, fresh(clip, return_tensors="pt").pixel_values_videos)


def test_a_variant_without_processor_says_how_to_add_one():
    lonely = replace(VARIANTS["vjepa2"], parts={})
    assert lonely.processor_class is None
    with pytest.raises(ValueError, match="V-JEPA 2 names no processor: add video_processing_vjepa2.py"):
        lonely.processor(None)
