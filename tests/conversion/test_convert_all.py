"""The table of released files is complete and agrees with the cards; its keys fit; conversions are taken up again."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from scripts import run_script

from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.files import load_weights
from hf_jepa.registry import VARIANTS


ROOT = Path(__file__).resolve().parents[2]
SCRIPT, GOLDEN = ROOT / "conversion" / "convert_all.py", ROOT / "tests/fixtures/golden"
_spec = importlib.util.spec_from_file_location("convert_all", SCRIPT)
convert_all = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(convert_all)
ROWS = convert_all.read_table(SCRIPT.with_name("official_files.yaml"))
QUICK = ("ijepa_vith14_1k", "vjepa_vitl16", "vjepa2_vitl_fpc64_256", "vjepa2_1_vitb_384", "vjepa_vitl16_k400",
         "vjepa2_vitl_ek100")  # fmt: skip


def test_the_table_has_all_files_that_the_converters_know():
    for name in ("ijepa", "vjepa", "vjepa2", "vjepa2_ac", "vjepa2_1"):
        variant = VARIANTS[name]
        models = [row.path for row in ROWS.values() if row.variant is variant and not row.probe]
        probes = [row.path for row in ROWS.values() if row.variant is variant and row.probe]
        assert sorted(path.rpartition("/")[2] for path in models) == sorted(variant.layout.released)
        known = variant.probes.released if variant.probes else ()
        assert sorted(path.removeprefix("evals/") for path in probes) == sorted(known)


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_rows_agree_with_their_cards(row):
    card = row.card
    assert card["name"] == row.name and card["variant"] == row.variant.name
    assert row.path.endswith(card["official_file"]["value"])
    assert row.family["licence"] == card["weights_license"]["value"] == row.variant.weights_license
    for name, published in row.parameters.items():
        assert convert_all._agree(card["trainable_parameters"][name], published)
    if row.probe:
        assert ROWS[row.encoder].path.endswith(card["encoder"]["value"])
        assert row.sizes.get("C") == card["probe"]["num_classes"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in ROWS]
)
def test_every_official_key_has_one_place(name):
    assert convert_all.prove(ROWS, ROWS[name])[:2] == [name, ROWS[name].path]


def changed(row, **keys):
    """A row whose file has other keys; None takes one out."""
    tables = {name: dict(table) for name, table in row.family["keys"].items()}
    for place, shape in keys.items():
        entry, _, key = place.partition("/")
        tables[entry][key] = shape
    return replace(row, family=row.family | {"keys": tables})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"encoder/blocks.{L}.mlp.fc3.bias": ["F"]}, "24 keys are unexpected|no place"),
        ({"encoder/cls_token": [1, 1, "D"]}, "1 keys have no place"),
        ({"encoder/patch_embed.proj.bias": None}, "1 keys are missing"),
        ({"encoder/norm.{weight,bias}": ["F"]}, "2 shapes differ"),
        ({"predictor/mask_tokens.{M}": [1, 1, "D"]}, "shapes differ"),
        ({"encoder/module.norm.bias": ["D"]}, "both with and without"),
    ],
    ids=["a layer more", "a stranger", "one is lost", "another shape", "other tokens", "twice"],
)
def test_a_key_that_does_not_fit_is_found(keys, message):
    with pytest.raises(ConversionError, match=message):
        convert_all.prove(ROWS, changed(ROWS["vjepa2_vitl_fpc64_256"], **keys))


def test_other_sizes_and_counts_are_found():
    row = ROWS["vjepa2_vitl_fpc64_256"]
    with pytest.raises(ConversionError, match="missing"):
        convert_all.prove(ROWS, replace(row, sizes=row.sizes | {"L": 23}))
    with pytest.raises(ConversionError, match="published are 303885313"):
        convert_all.prove(ROWS, replace(row, parameters={"encoder": 303885313}))
    with pytest.raises(ConversionError, match="width 1024"):
        convert_all.prove(ROWS, replace(ROWS["vjepa2_vitl_ssv2"], encoder="vjepa2_vitg_fpc64_384"))


@pytest.mark.parametrize(("count", "published", "agrees"), [
    (86_833_152, "86.8M", True), (86_849_000, "86.8M", True),
    (86_851_000, "86.8M", False), (5, 5, True), (5, 6, False),
])  # fmt: skip
def test_published_counts_may_be_rounded(count, published, agrees):
    assert convert_all._agree(count, published) is agrees


def test_keys_are_written_out():
    keys = dict(convert_all.official_keys({"b.{L}.{q,k}.w": ["3*D", 2], "gone": None}, {"L": 2, "D": 4}))
    assert keys == {f"b.{i}.{x}.w": (12, 2) for i in (0, 1) for x in "qk"}


# --- converting -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path) -> Path:
    """A table of two small files, the second of which is damaged, and the files."""
    (tmp_path / "files").mkdir()
    shutil.copy(GOLDEN / "data2vec/vision_step/checkpoint.pt", tmp_path / "files/good.pt")
    (tmp_path / "files/bad.pt").write_bytes((tmp_path / "files/good.pt").read_bytes()[:-100])
    family = {"variant": "data2vec_vision", "address": "https://example.org/", "licence": "mit", "prefix": ""}
    files = [{"card": name, "family": "small", "path": f"{name}.pt"} for name in ("bad", "good")]
    (tmp_path / "table.yaml").write_text(yaml.safe_dump({"families": {"small": family}, "files": files}))
    return tmp_path


def converted(small: Path, *more: str):
    return run_script(
        SCRIPT, "--table", small / "table.yaml", "--files", small / "files", "--output", small / "out", *more
    )


def test_conversions_are_taken_up_again(small):
    first = converted(small)
    assert first.returncode == 2 and "error: bad:" in first.stderr and "converted" in first.stdout
    assert {path.name for path in (small / "out").iterdir()} == {"good", "convert_all.json"}
    state = json.loads((small / "out/convert_all.json").read_text())
    assert list(state) == ["good"] and len(state["good"]["sha256"]) == 64
    weights = small / "out/good/model.safetensors"
    written = weights.stat().st_mtime_ns
    shutil.copy(small / "files/good.pt", small / "files/bad.pt")  # fetched again
    second = converted(small)
    assert second.returncode == 0 and "finished before" in second.stdout
    assert weights.stat().st_mtime_ns == written
    assert all(
        torch.equal(value, load_weights(small / "out/bad")[key]) for key, value in load_weights(weights.parent).items()
    )


def test_what_was_changed_since_is_not_called_finished(small):
    assert converted(small, "--only", "good").returncode == 0
    fingerprint = small / "out/good/fingerprint.json"
    numbers = json.loads(fingerprint.read_text())
    fingerprint.write_text(json.dumps(numbers | {"mean": 7.0}))
    again = converted(small, "--only", "good")
    assert again.returncode == 2 and "not as this program left it" in again.stderr


def test_wrong_options_are_one_line(small):
    for options, message in (((), "either --dry-run or --output"), (("--dry-run", "--only", "x*"), "names none")):
        done = run_script(SCRIPT, *options)
        assert done.returncode == 2 and message in done.stderr
