"""`hf-jepa embed` and `hf-jepa probe` on a folder of pictures and a tiny checkpoint."""

import io

import datasets
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from test_main import refused

from hf_jepa.cli.checkpoints import variant_of
from hf_jepa.cli.main import main
from hf_jepa.layers.onednn import use_onednn
from hf_jepa.models.ijepa.image_processing_ijepa import IJepaImageProcessor
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining
from hf_jepa.registry import VARIANTS


@pytest.fixture(scope="module")
def embedded(checkpoint, photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedded") / "deep" / "features"
    assert main(["embed", str(checkpoint), str(photos), "--output", str(folder), "--batch-size", "5"]) == 0
    return folder


def test_rows_are_those_of_the_target_encoder(embedded, checkpoint, photos):
    rows = datasets.load_from_disk(str(embedded))
    assert rows.column_names == ["file", "label", "features"] and len(rows) == 15  # 16 less the one that is no image
    assert rows.features["label"].names == ["bright", "dark"]
    assert not any("3.png" in file and "bright" in file for file in rows["file"])
    model = IJepaForPreTraining.from_pretrained(checkpoint)
    processor = IJepaImageProcessor.from_config(model.config)
    for row in (rows[0], rows[-1]):
        with Image.open(row["file"]) as image:
            pixels = processor(images=image.convert("RGB"), return_tensors="pt").pixel_values
        expected = model.target_encoder(pixels).last_hidden_state.mean(dim=1)[0]
        torch.testing.assert_close(torch.tensor(row["features"]), expected, rtol=1e-5, atol=1e-5)


def test_all_formats_hold_the_same(embedded, checkpoint, photos, tmp_path):
    rows = datasets.load_from_disk(str(embedded)).with_format("torch")
    for name in ("f.parquet", "f.safetensors"):
        assert main(["embed", str(checkpoint), str(photos), "--output", str(tmp_path / name)]) == 0
    parquet = datasets.Dataset.from_parquet(str(tmp_path / "f.parquet"), cache_dir=str(tmp_path)).with_format("torch")
    tensors = load_file(tmp_path / "f.safetensors")
    # Batches of another size add up in another order.
    torch.testing.assert_close(parquet["features"][:], rows["features"][:], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tensors["features"], rows["features"][:], rtol=1e-5, atol=1e-5)
    assert tensors["labels"].tolist() == rows["label"][:].tolist() == parquet["label"][:].tolist()
    assert 3 not in tensors["sample_index"].tolist() and len(tensors["sample_index"]) == 15
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch is built without oneDNN")
def test_onednn_gives_the_same_features(embedded, checkpoint, photos, tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr("hf_jepa.cli.checkpoints.use_onednn", lambda model: used.append(model) or use_onednn(model))
    output = tmp_path / "f.safetensors"
    assert main(["embed", str(checkpoint), str(photos), "--output", str(output), "--onednn"]) == 0
    rows = datasets.load_from_disk(str(embedded)).with_format("torch")
    torch.testing.assert_close(load_file(output)["features"], rows["features"][:], rtol=1e-4, atol=1e-5)
    assert len(used) == 1


def test_skipped_images_are_named(checkpoint, photos, tmp_path, capsys):
    assert main(["embed", str(checkpoint), str(photos), "--output", str(tmp_path / "f.safetensors")]) == 0
    captured = capsys.readouterr()
    assert "1 images skipped" in captured.out
    assert [line for line in captured.err.splitlines() if line.startswith("skipped")][0].count("bright/3.png") == 1


def test_embed_refuses(embedded, checkpoint, photos, tmp_path, capsys):
    assert "already exists" in refused(["embed", checkpoint, photos, "--output", embedded], capsys)
    assert "features.csv" in refused(["embed", checkpoint, photos, "--output", tmp_path / "features.csv"], capsys)
    missing = refused(["embed", checkpoint, tmp_path / "none" / "at" / "all", "--output", tmp_path / "f"], capsys)
    assert "no such file or folder" in missing
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refused(
        ["embed", tmp_path / "empty", photos, "--output", tmp_path / "f"], capsys
    )
    assert "no split 'validation'" in refused(
        ["embed", checkpoint, photos, "--split", "validation", "--output", tmp_path / "f"], capsys
    )
    assert not (tmp_path / "f").exists()


def test_a_truncated_checkpoint_is_refused(checkpoint, photos, tmp_path, capsys):
    for file in checkpoint.iterdir():
        data = file.read_bytes()
        (tmp_path / file.name).write_bytes(data[: len(data) // 2] if file.suffix == ".safetensors" else data)
    assert "error:" in refused(["embed", tmp_path, photos, "--output", tmp_path / "f"], capsys)


def test_adapters_alone_are_refused(photos, tmp_path, capsys):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "holds adapters only" in refused(["probe", tmp_path, photos], capsys)


def test_another_kind_of_model_is_refused(photos, tmp_path, capsys):
    from transformers import ViTConfig

    ViTConfig().save_pretrained(tmp_path)
    known = sorted(variant.config_class().model_type for variant in VARIANTS.values())
    assert f"type 'vit', expected one of {', '.join(known)}" in refused(["probe", tmp_path, photos], capsys)


def test_probe_tells_dark_from_bright(checkpoint, photos, capsys):
    assert main(["probe", str(checkpoint), str(photos)]) == 0
    text = capsys.readouterr().out
    assert "15 training and 8 test images" in text
    lines = [line.split() for line in text.splitlines() if "%" in line]
    assert [line[0] for line in lines] == ["k-NN", "linear"] and "(k=15)" in lines[0]
    assert float(lines[1][-3]) == 100.0


def test_probe_with_few_labels(checkpoint, photos, capsys):
    assert main(["probe", str(checkpoint), str(photos), "--per-class", "3", "--k", "2"]) == 0
    text = capsys.readouterr().out
    assert "6 training and 8 test images" in text and "k-NN (k=2)" in text and "too few" not in text
    assert main(["probe", str(checkpoint), str(photos), "--per-class", "1"]) == 0
    text = capsys.readouterr().out
    assert "0.01 is taken (--weight-decay)" in text and "linear (weight decay 0.01)" in text
    assert main(["probe", str(checkpoint), str(photos), "--per-class", "1", "--weight-decay", "0.5"]) == 0
    assert "linear (weight decay 0.5)" in capsys.readouterr().out


@pytest.fixture
def parquet(tmp_path):
    """The splits of a data set with these labels, all of the same picture."""

    def write(kind="string", **splits):
        (tmp_path / "data").mkdir()
        image = {"bytes": picture_bytes(), "path": None}
        for split, labels in splits.items():
            features = datasets.Features({"image": datasets.Image(), "label": datasets.Value(kind)})
            rows = datasets.Dataset.from_dict({"image": [image] * len(labels), "label": labels}, features=features)
            rows.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
        return tmp_path / "data"

    return write


def picture_bytes() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(buffer, "png")
    return buffer.getvalue()


def test_probe_refuses_splits_that_number_their_classes_differently(checkpoint, parquet, capsys):
    data = parquet(train=["ant", "bee", "cat"] * 3, test=["bee", "cat"])
    line = refused_last(["probe", checkpoint, data], capsys)
    assert "splits 'train' and 'test' number their classes differently (only one has ant)" in line


def test_nothing_readable_is_said(checkpoint, tmp_path, capsys):
    (tmp_path / "bad").mkdir()
    for i in range(3):
        (tmp_path / "bad" / f"{i}.png").write_bytes(b"no image")
    assert main(["embed", str(checkpoint), str(tmp_path / "bad"), "--output", str(tmp_path / "f")]) == 2
    text = capsys.readouterr().err
    assert "error: none of the 3 images can be read" in text and text.count("skipped") == 3


def test_rows_without_label(checkpoint, parquet, tmp_path, capsys):
    data = parquet("int64", train=[0, None, 1, 1], test=[0, 1])
    assert "row 1 of split 'train'" in refused_last(["probe", checkpoint, data], capsys)
    assert main(["embed", str(checkpoint), str(data), "--output", str(tmp_path / "f.parquet")]) == 0
    assert datasets.Dataset.from_parquet(str(tmp_path / "f.parquet"))["label"][:] == [0, None, 1, 1]
    assert main(["embed", str(checkpoint), str(data), "--output", str(tmp_path / "f.safetensors")]) == 0
    assert load_file(tmp_path / "f.safetensors")["labels"].tolist() == [0, -1, 1, 1]


def test_labels_may_be_true_and_false(checkpoint, parquet, capsys):
    data = parquet("bool", train=[True, False] * 4, test=[True, False])
    assert main(["probe", str(checkpoint), str(data), "--k", "1"]) == 0


def test_probe_refuses(checkpoint, photos, capsys):
    assert "k is 99" in refused_last(["probe", checkpoint, photos, "--k", "99"], capsys)
    both = ["--fraction", "1", "--per-class", "2"]
    assert "not allowed with" in refused(["probe", checkpoint, photos, *both], capsys)
    assert "has only 7 rows" in refused_last(["probe", checkpoint, photos, "--per-class", "8"], capsys)
    assert "no split 'validation'" in refused(["probe", checkpoint, photos, "--test-split", "validation"], capsys)


def refused_last(argv, capsys) -> str:
    """The last line on stderr, where before it are progress bars and the images that cannot be read."""
    assert main([str(arg) for arg in argv]) == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text and text.count("error:") == 1
    return text.splitlines()[-1]


def test_a_folder_that_is_not_there_is_told_from_a_hub_that_does_not_answer(tmp_path, monkeypatch):
    def silent(checkpoint):
        raise OSError("no connection")

    monkeypatch.setattr("hf_jepa.cli.checkpoints.AutoConfig.from_pretrained", silent)
    with pytest.raises(OSError, match="runs/clip is no folder here, and the Hub has not given it: no connection"):
        variant_of("runs/clip")
    with pytest.raises(FileNotFoundError, match="no such folder: /nowhere/clip"):  # never asked for
        variant_of("/nowhere/clip")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OSError, match="^no connection$"):  # a folder that cannot be read is another matter
        variant_of(str(tmp_path))
