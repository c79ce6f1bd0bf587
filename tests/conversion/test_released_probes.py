"""What the names of released probes tell: task, classes, layers, frames and the encoder that they belong to."""

from dataclasses import replace

import pytest
from official_probe import encoder, saved, wide

from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.probes import convert_probe
from hf_jepa.models.vjepa2.configuration_vjepa2 import VJepa2Config
from hf_jepa.registry import VARIANTS


@pytest.fixture
def tiny_release(monkeypatch):
    """Makes the layout know a released file, and the evaluation of its task, for the tiny encoder."""
    variant = VARIANTS["vjepa2"]
    module = variant.module("convert")
    fields = {"hidden_size": 32, "num_hidden_layers": 2, "crop_size": 32}

    def make(task: str, **changes):
        (row, *_) = [row for row in module.PROBES.protocols if row.task == task]
        row = replace(row, encoder=fields, layers=row.layers and (0, 1), **changes)
        probes = replace(module.PROBES, protocols=(row,), released={f"{task}-tiny.pt": fields})
        monkeypatch.setattr(module, "PROBES", probes)

    return make


def test_a_released_name_fills_in_layers_and_frames(vjepa2, tmp_path, tiny_release):
    tiny_release("diving48")
    report = convert_probe(saved(wide(48), tmp_path, "diving48-tiny.pt"), vjepa2, tmp_path / "m")
    for line in ("released probe: diving48-tiny.pt", "inferred: --layers 0 1", "inferred: frames_per_clip 32"):
        assert line in report
    config = VJepa2Config.from_pretrained(tmp_path / "m")
    assert config.classifier_layers == [0, 1] and config.frames_per_clip == 32
    card = (tmp_path / "m/README.md").read_text()
    assert "license: mit" in card and "Not verified" in card and "layers 0, 1 of the encoder" in card
    assert "Diving48, clips of 32 frames (every 2nd of the video), 4 segments x 3 views, at 32 pixels" in card
    given = convert_probe(tmp_path / "diving48-tiny.pt", vjepa2, tmp_path / "n", layers=[1])
    assert "note: its probes read layers [0, 1], not [1]" in given
    assert VJepa2Config.from_pretrained(tmp_path / "n").classifier_layers == [1]


def test_a_name_with_other_classes_is_not_taken_for_the_released_file(vjepa2, tmp_path, tiny_release):
    tiny_release("ssv2")
    report = convert_probe(saved(wide(5), tmp_path, "ssv2-tiny.pt"), vjepa2, tmp_path / "m")
    assert "released probe: none" in report and "unknown; assumed: the last layer" in report
    assert "license:" not in (tmp_path / "m/README.md").read_text()


def test_tasks_of_several_layers_want_them_named_for_other_encoders(vjepa2, tmp_path):
    file = saved(wide(27), tmp_path, "jester-mine.pt")
    with pytest.raises(ConversionError, match=r"jester-mine.pt read several layers.*--layers 1 for the last"):
        convert_probe(file, vjepa2, tmp_path / "m")
    assert "reads: layers 0, 1 of the encoder" in convert_probe(file, vjepa2, tmp_path / "m", layers=[0, 1])
    assert VJepa2Config.from_pretrained(tmp_path / "m").classifier_layers == [0, 1]


def test_a_released_probe_of_another_encoder_is_refused(vjepa2, tmp_path, tiny_release):
    tiny_release("ssv2")
    file = saved(wide(174), tmp_path, "ssv2-tiny.pt")
    other = encoder("vjepa2", tmp_path / "e", crop_size=64)
    with pytest.raises(ConversionError, match=r"'crop_size': 32.*but this one has .*'crop_size': 64"):
        convert_probe(file, other, tmp_path / "m")
    assert "released probe: ssv2-tiny.pt" in convert_probe(file, vjepa2, tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "variant"), [(n, v) for v in ("vjepa", "vjepa2") for n in VARIANTS[v].probes.released]
)
def test_released_probes_meet_their_encoders(name, variant, tmp_path):
    variant = VARIANTS[variant]
    layout, encoders = variant.probes, set()
    config_class, sizes = variant.config_class(), variant.module("configuration").SIZES
    for size in ("vit_large", "vit_huge", "vit_giant"):
        for crop in (224, 256, 384):
            config = config_class(**sizes[size], crop_size=crop)
            rows = [row for row in layout.protocols if name.rpartition("/")[2].startswith(row.task)]
            probe = type("Probe", (), {"fields": {"num_labels": rows[0].num_classes}})
            try:
                known, protocol = layout.protocol(tmp_path / name, probe, config)
            except ConversionError:
                continue
            assert known == name and protocol in rows
            encoders.add((size, crop))
    assert len(encoders) == 1


def test_layers_and_frames_of_the_table():
    rows = {(row.task, row.encoder["num_hidden_layers"]): row for row in VARIANTS["vjepa2"].probes.protocols}
    assert rows["diving48", 24].layers == rows["jester", 24].layers == (17, 19, 21, 23)
    assert rows["diving48", 40].layers == rows["jester", 40].layers == (24, 29, 34, 39)
    assert [rows["ssv2", depth].frames for depth in (24, 40)] == [16, 64]
    newer = {(row.task, row.encoder["num_hidden_layers"]): row for row in VARIANTS["vjepa2_1"].probes.protocols}
    assert newer["jester", 48].layers == (11, 23, 37, 47) and newer["in1k", 12].frames == 16
    assert {row.encoder["crop_size"] for row in newer.values()} == {384}
