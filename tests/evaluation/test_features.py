"""Feature extraction: what each readout is, what it leaves behind in the model, and the data set column."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import IJepaConfig, IJepaForImageClassification, IJepaModel, ViTImageProcessorPil

import hf_jepa
from hf_jepa.evaluation.features import READOUTS, add_features_column, extract_features


SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 16, "patch_size": 8}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = IJepaModel(IJepaConfig(num_hidden_layers=5, hidden_dropout_prob=0.3, layer_norm_eps=1e-6, **SIZES))
    with torch.no_grad():
        model.layernorm.weight.add_(torch.rand(16))  # a norm that is seen when it is forgotten or applied twice
        model.layernorm.bias.add_(torch.rand(16))
    return model


class Images(Dataset):
    """Seven images in memory, label = index."""

    def __init__(self):
        self.pixels = torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        return {"pixel_values": self.pixels[i], "labels": i}


def expected_readouts(model):
    model = model.eval()
    with torch.no_grad():
        tokens = model(Images().pixels, output_hidden_states=True)
    last, states = tokens.last_hidden_state, tokens.hidden_states
    return {
        "mean": last.mean(1),
        "max": last.max(1).values,
        "mean_std": torch.cat([last.mean(1), last.var(1, correction=0).sqrt()], 1),
        "last4_mean_concat": torch.cat([model.layernorm(states[i]).mean(1) for i in (2, 3, 4, 5)], 1),
    }


@pytest.mark.parametrize("readout", READOUTS)
def test_readouts(model, readout):
    expected = expected_readouts(model)[readout]
    model.train()  # dropout would change the features if it stayed on
    features, labels = extract_features(model, Images(), readout, batch_size=3, progress=False)
    assert features.dtype == torch.float32 and labels.tolist() == list(range(7))
    torch.testing.assert_close(features, expected)


def test_every_readout_has_an_expectation(model):
    assert set(expected_readouts(model)) == set(READOUTS)


def test_last_quarter_of_last4_is_mean(model):
    mean, _ = extract_features(model, Images(), progress=False)
    last4, _ = extract_features(model, Images(), "last4_mean_concat", progress=False)
    assert torch.equal(last4[:, -16:], mean)


def test_last4_of_a_model_whose_hidden_states_end_after_the_norm(model):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.layernorm = model, model.layernorm

        def forward(self, pixel_values, **kwargs):
            output = self.inner(pixel_values, **kwargs)
            output.hidden_states = (*output.hidden_states[:-1], output.last_hidden_state)
            return output

    plain, _ = extract_features(model, Images(), "last4_mean_concat", progress=False)
    tied, _ = extract_features(Tied(), Images(), "last4_mean_concat", progress=False)
    assert torch.equal(plain, tied)


def test_loader_dataset_and_list_of_batches_agree(model):
    loader = DataLoader(Images(), batch_size=4)
    by_loader, _ = extract_features(model, loader, progress=False)
    by_dataset, _ = extract_features(model, Images(), progress=False)
    empty = {"pixel_values": torch.empty(0, 3, 16, 16), "labels": torch.empty(0, dtype=torch.long)}
    by_list, labels = extract_features(model, [empty, *loader], progress=False)
    torch.testing.assert_close(by_loader, by_dataset)
    assert torch.equal(by_loader, by_list) and len(labels) == 7
    unlabelled = [{"pixel_values": batch["pixel_values"]} for batch in loader]
    features, labels = extract_features(model, unlabelled, progress=False)
    assert labels is None and torch.equal(features, by_loader)


def test_collate_fn_is_used(model):
    def collate(samples):
        return {"pixel_values": torch.stack([s["pixel_values"] for s in samples]), "label": torch.tensor([5])}

    _, labels = extract_features(model, Images(), batch_size=1, collate_fn=collate, progress=False)
    assert labels.tolist() == [5] * 7


def test_modes_return_as_they_were_also_after_an_error(model):
    model.train()
    model.layers[1].eval()  # a frozen part of a model that trains
    before = [module.training for module in model.modules()]
    extract_features(model, Images(), progress=False)
    assert [module.training for module in model.modules()] == before
    with pytest.raises(ValueError, match="no 'pixel_values'"):
        extract_features(model, [{"images": torch.zeros(1)}], progress=False)
    assert [module.training for module in model.modules()] == before


def test_a_head_can_be_trained_on_the_result(model):
    features, labels = extract_features(model, [next(iter(DataLoader(Images(), 7)))], progress=False)
    head = nn.Linear(16, 7)
    nn.functional.cross_entropy(head(features), labels).backward()  # fails on tensors made in inference mode
    assert head.weight.grad.abs().sum() > 0
    assert not features.requires_grad and all(p.grad is None for p in model.parameters())


def test_bfloat16_autocast_and_bfloat16_model(model):
    full, _ = extract_features(model, Images(), progress=False)
    autocast, _ = extract_features(model, Images(), dtype=torch.bfloat16, progress=False)
    assert autocast.dtype == torch.float32
    assert not torch.equal(autocast, full)
    torch.testing.assert_close(autocast, full, atol=0.05, rtol=0.05)
    half, _ = extract_features(model.bfloat16(), Images(), progress=False)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=0.05, rtol=0.05)


def test_progress_bar(model, capsys):
    extract_features(model, DataLoader(Images(), 2))
    assert "features: 100%" in capsys.readouterr().err
    extract_features(model, DataLoader(Images(), 2), progress=False)
    assert not capsys.readouterr().err


def test_refusals(model):
    with pytest.raises(ValueError, match="'cls' is not one of mean, last4_mean_concat"):
        extract_features(model, Images(), "cls")
    with pytest.raises(ValueError, match="no sample"):
        extract_features(model, [], progress=False)
    shallow = IJepaModel(IJepaConfig(num_hidden_layers=3, **SIZES))
    with pytest.raises(ValueError, match="at least 4 layers, the model has 3"):
        extract_features(shallow, Images(), "last4_mean_concat", progress=False)
    classifier = IJepaForImageClassification(IJepaConfig(num_hidden_layers=1, **SIZES))
    with pytest.raises(ValueError, match="IJepaForImageClassification returns no last_hidden_state"):
        extract_features(classifier, Images(), progress=False)
    small = {"pred_hidden_size": 8, "pred_num_hidden_layers": 1, "num_hidden_layers": 1}
    pretraining = hf_jepa.IJepaForPreTraining(hf_jepa.IJepaConfig(**small, **SIZES))
    with pytest.raises(ValueError, match="IJepaForPreTraining has two encoders: pass one"):
        extract_features(pretraining, Images(), progress=False)
    batches = list(DataLoader(Images(), batch_size=4))
    del batches[1]["labels"]
    with pytest.raises(ValueError, match="1 of 2 batches carry labels"):
        extract_features(model, batches, progress=False)


def image_dataset():
    g = np.random.default_rng(0)
    colour = [Image.fromarray(g.integers(0, 256, (20, 24, 3), dtype=np.uint8)) for _ in range(4)]
    images = [*colour, colour[0].convert("L"), colour[0].convert("RGBA"), colour[0].convert("P")]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    return datasets.Dataset.from_dict({"image": images, "label": list(range(7))}, features=features)


def test_column(model, tmp_path):
    dataset = image_dataset()
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    result = add_features_column(dataset, model, processor, batch_size=3, progress=False)
    pixels = processor([image.convert("RGB") for image in dataset["image"]], return_tensors="pt")
    expected, _ = extract_features(model, [pixels], progress=False)
    assert result.column_names == ["image", "label", "features"]
    assert result["label"][:] == list(range(7)) and result[4]["image"].mode == "L"
    torch.testing.assert_close(torch.tensor(result["features"][:]), expected)
    assert result.features["features"].length == 16
    result.save_to_disk(tmp_path / "saved")
    again = datasets.load_from_disk(tmp_path / "saved").with_format("torch")
    torch.testing.assert_close(again["features"][:], expected)


def test_column_of_deep_and_transparent_images_equals_that_of_their_plain_versions(model):
    grey = np.random.default_rng(0).integers(0, 256, (20, 24), dtype=np.uint8)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    clear = Image.fromarray(np.dstack([grey, grey, grey, np.zeros_like(grey)]))
    images = [deep, Image.fromarray(grey), clear, Image.new("RGB", (24, 20), "white")]
    rows = datasets.Dataset.from_dict({"image": images}, features=datasets.Features({"image": datasets.Image()}))
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    found = torch.tensor(add_features_column(rows, model, processor, progress=False)["features"][:])
    torch.testing.assert_close(found[0::2], found[1::2])
    assert not torch.allclose(found[0], found[2])


def test_column_of_a_shuffled_and_formatted_dataset_stays_with_its_rows(model):
    processor = ViTImageProcessorPil(size={"height": 16, "width": 16})
    options = {"column": "z", "readout": "mean_std", "progress": False}
    plain = add_features_column(image_dataset(), model, processor, **options)
    shuffled = image_dataset().shuffle(seed=1).with_format("numpy")
    mixed = add_features_column(shuffled, model, processor, **options)
    assert mixed["label"][:].tolist() != plain["label"][:]
    for row in mixed:
        np.testing.assert_allclose(row["z"], plain[int(row["label"])]["z"], atol=1e-5)
    assert isinstance(mixed[0]["z"], np.ndarray)
    chosen = add_features_column(image_dataset().with_format("torch", columns=["label"]), model, processor, **options)
    assert list(chosen[0]) == ["label", "z"] and isinstance(chosen[0]["z"], torch.Tensor)


def test_column_refusals(model):
    processor = ViTImageProcessorPil()
    with pytest.raises(ValueError, match=r"no column 'img' among \['image', 'label'\]"):
        add_features_column(image_dataset(), model, processor, image_column="img")
    with pytest.raises(ValueError, match="already has a column 'label'"):
        add_features_column(image_dataset(), model, processor, column="label")
    with pytest.raises(TypeError, match="got IterableDataset: load it with streaming=False"):
        add_features_column(image_dataset().to_iterable_dataset(), model, processor)
    with pytest.raises(ValueError, match="no row"):
        add_features_column(image_dataset().select([]), model, processor)


def test_encoders_that_pool_are_read_as_they_were_trained(model):
    from hf_jepa import LeJepaConfig, LeJepaModel
    from hf_jepa.registry import VARIANTS

    torch.manual_seed(0)
    backbones = {
        "vit": VARIANTS["lejepa"].tiny["backbone_config"],
        "resnet": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    }
    pixels = torch.randn(3, 3, 32, 32)
    for backbone in backbones.values():
        pooling = LeJepaModel(LeJepaConfig(backbone_config=backbone)).eval()
        pooled, mean = (
            extract_features(pooling, [{"pixel_values": pixels}], readout, progress=False)[0]
            for readout in (None, "mean")
        )
        output = pooling(pixels)
        torch.testing.assert_close(pooled, output.pooler_output.flatten(1))
        tokens = output.last_hidden_state
        torch.testing.assert_close(mean, tokens.mean(dim=1) if tokens.ndim == 3 else tokens.mean(dim=(2, 3)))
    with pytest.raises(ValueError, match="readout 'pooled': IJepaModel gives no pooler_output; take 'mean'"):
        extract_features(model, [{"pixel_values": pixels[..., :16, :16]}], "pooled", progress=False)
