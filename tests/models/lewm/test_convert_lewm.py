"""Released folders of LeWorldModel: both ways, strictly, and without running what `config.json` names."""

import json
import runpy
from pathlib import Path

import pytest
import tiny_lewm as official
import torch
from safetensors.torch import load_file
from transformers import AutoModelForPreTraining

from hf_jepa.core.key_map import ConversionError
from hf_jepa.hub.conversion import convert_checkpoint, revert_checkpoint
from hf_jepa.hub.inspect import variant_of_file
from hf_jepa.models.lewm.config_tree_lewm import check_tree, config_tree, fields_of_tree
from hf_jepa.models.lewm.configuration_lewm import LeWorldModelConfig
from hf_jepa.models.lewm.convert_lewm import KEYS, LAYOUT, VIT_NAMES
from hf_jepa.models.lewm.modeling_lewm import LeWorldModelForPreTraining
from hf_jepa.registry import VARIANTS


ROOT = Path(__file__).parents[3]
FIELDS = {name: official.FIELDS[name] for name in ("pred_num_attention_heads", "pred_head_dim", "pred_dropout")}
FIELDS |= {"backbone_config": {"model_type": "vit", **official.VIT}, "frame_skip": 3}


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def state():
    return official.official_state()


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "conversion/convert_lewm.py"))


def released(folder: Path, state, **changes) -> Path:
    """A folder as it is released; `changes` are parts of its config.json."""
    folder.mkdir()
    torch.save(state, folder / "weights.pt")
    tree = config_tree(LeWorldModelConfig(**official.FIELDS))
    for part, fields in changes.items():
        tree[part] = tree[part] | fields
    (folder / "config.json").write_text(json.dumps(tree))
    return folder


def test_the_file_of_the_tests_is_in_the_layout(state):
    """`tests/fixtures/golden/lewm/layout/checkpoint.pt`: made by the second implementation, of no official model."""
    file = ROOT / "tests/fixtures/golden/lewm/layout/checkpoint.pt"
    assert same(torch.load(file, weights_only=True), state)
    assert variant_of_file(file).name == "lewm"


def test_the_layout_goes_both_ways(state):
    config = LAYOUT.infer_config(state, **FIELDS)
    wanted = LeWorldModelConfig(**official.FIELDS)
    assert config.to_dict() | {"sigreg_num_slices": 64} == wanted.to_dict() | {"sigreg_num_slices": 64}
    ours = LAYOUT.convert(state, config)
    assert ours.keys() == LeWorldModelForPreTraining(config).state_dict().keys()
    assert same(LAYOUT.revert(ours, config), state)


def test_an_encoder_saved_by_a_later_transformers_is_read(state):
    later = {}
    for key, value in state.items():
        for old, new in VIT_NAMES.items():
            if key.startswith("encoder.encoder.layer.") and f".{old}." in key:
                key = key.replace("encoder.encoder.layer.", "encoder.layers.").replace(old, new)
                break
        later[key] = value
    assert sum(key.startswith("encoder.layers.") for key in later) == 32
    config = LAYOUT.infer_config(later, **FIELDS)
    assert same(LAYOUT.convert(later, config), LAYOUT.convert(state, config))
    with pytest.raises(ConversionError, match="names of two versions"):
        LAYOUT.infer_config(state | later, **FIELDS)


def test_a_released_folder_becomes_a_checkpoint_and_comes_back(script, state, tmp_path):
    source = released(tmp_path / "lewm-toy", state)
    script["convert"](source, tmp_path / "ours", frame_skip=3)
    model, info = AutoModelForPreTraining.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert type(model) is LeWorldModelForPreTraining and model.config.frame_skip == 3
    assert same(model.state_dict(), LAYOUT.convert(state, model.config))
    assert model.lewm.projector[1].num_batches_tracked == 17
    generator = torch.Generator().manual_seed(3)
    clips, actions = torch.randn(2, 4, 3, 32, 32, generator=generator), torch.randn(2, 3, 6, generator=generator)
    embeddings = official.embed_frames(state, clips, training=False)
    wanted = official.predict(state, embeddings[:, :-1], official.embed_actions(state, actions), training=False)
    torch.testing.assert_close(model.eval()(clips, actions).predictions, wanted, rtol=1e-5, atol=1e-5)
    script["revert"](tmp_path / "ours", tmp_path / "back")
    assert same(torch.load(tmp_path / "back/weights.pt", weights_only=True), state)
    assert json.loads((tmp_path / "back/config.json").read_text()) == json.loads((source / "config.json").read_text())


def test_a_file_alone_is_converted_by_the_shared_program(state, tmp_path):
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(ConversionError, match="width 32 is no named size"):
        convert_checkpoint(VARIANTS["lewm"], tmp_path / "weights.pt", tmp_path / "ours")
    report = convert_checkpoint(VARIANTS["lewm"], tmp_path / "weights.pt", tmp_path / "ours", **FIELDS)
    assert "not in the tensors" in report
    assert "  91 tensors" in revert_checkpoint(VARIANTS["lewm"], tmp_path / "ours", tmp_path / "back.pt")
    assert len(state) == 91 and same(torch.load(tmp_path / "back.pt", weights_only=True), state)
    assert any(key.startswith("lewm.predictor.layers.1.") for key in load_file(tmp_path / "ours/model.safetensors"))


def test_the_published_sizes_are_known_without_being_told():
    with torch.device("meta"):
        model = LeWorldModelForPreTraining(LeWorldModelConfig())
    assert model.num_parameters() == 18_034_478
    state = {key: torch.empty(value.shape, dtype=value.dtype) for key, value in model.state_dict().items()}
    weights = LAYOUT.revert(state, model.config)
    config = LAYOUT.infer_config(weights)
    assert config.to_dict() == LeWorldModelConfig(pred_dropout=0.1).to_dict()
    assert weights["predictor.transformer.layers.5.attn.to_qkv.weight"].shape == (3072, 192)
    assert weights["action_encoder.patch_embed.weight"].shape == (10, 10, 1)
    tree = config_tree(config)
    assert tree["encoder"]["size"] == "tiny" and "hidden_size" not in tree["encoder"]
    told = fields_of_tree(tree)["backbone_config"]
    assert told == {name: getattr(config.backbone_config, name) for name in told}
    check_tree(tree, config)


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("predictor", {"_target_": "os.system"}, "predictor of class 'os.system', expected ARPredictor"),
        ("encoder", {"_target_": "builtins.exec"}, "encoder of class 'builtins.exec'"),
        ("predictor", {"depth": 3}, "says predictor.depth 3, the weights are of 2"),
        ("predictor", {"emb_dropout": 0.5}, "says predictor.emb_dropout 0.5"),
        ("predictor", {"heads": "all"}, "heads 'all', expected a number"),
        ("predictor", {"kernel": 3}, "predictor has an argument 'kernel'"),
        ("projector", {"norm_fn": {"_target_": "torch.nn.LayerNorm"}}, "expected torch.nn.BatchNorm1d"),
        ("encoder", {"size": "giant"}, "size 'giant', not one of tiny"),
        ("encoder", {"use_mask_token": True}, "use_mask_token"),
        ("encoder", {"hidden_act": "relu"}, "not known here: hidden_act"),
        ("encoder", {"image_size": 64}, "position_embeddings is"),
        ("action_encoder", {"input_dim": 7}, "says action_encoder.input_dim 7, the weights are of 6"),
    ],
)
def test_a_config_of_another_model_is_refused(script, state, tmp_path, part, fields, message):
    source = released(tmp_path / "toy", state, **{part: fields})
    with pytest.raises(ConversionError, match=message):
        script["convert"](source, tmp_path / "ours", frame_skip=3)
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"decoder.weight": torch.zeros(2)}, "expected one state dict with keys of encoder"),
        (lambda state: {k: v for k, v in state.items() if "norm.bias" not in k}, "keys are missing"),
        (lambda state: state | {"predictor.extra": torch.zeros(2)}, "1 keys have no place"),
        (lambda state: state | {"projector.net.3.bias": torch.zeros(5)}, r"is \(5,\) instead of \(24,\)"),
        (lambda state: state | {"projector.net.3.bias": torch.zeros(24).long()}, "not a dense tensor of floating"),
        (lambda state: {"target_encoder": {}}, "not an official LeWorldModel"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(state, tmp_path, change, message):
    torch.save(change(dict(state)), tmp_path / "weights.pt")
    with pytest.raises(ConversionError, match=message):
        convert_checkpoint(VARIANTS["lewm"], tmp_path / "weights.pt", tmp_path / "ours", **FIELDS)
    assert not (tmp_path / "ours").exists()


def test_an_encoder_without_official_names_is_not_written_back():
    config = LeWorldModelConfig(
        **official.FIELDS | {"backbone_config": {"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 1}}
    )
    with pytest.raises(ConversionError, match="type 'dinov2', official files have a 'vit'"):
        LAYOUT.revert({}, config)
    assert len(KEYS.rules) > 20
