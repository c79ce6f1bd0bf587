"""Training checkpoints of the official library (facebookresearch/eb_jepa) <-> ours; none are published.

A file holds `model_state_dict` beside the state of the optimizer. Modules that are shared there appear twice: the norm
of encoder and predictor, the projector of regulariser and prediction loss, and in models without actions the encoder,
which also stands where others have an action encoder.
"""

from collections.abc import Mapping

import torch

from hf_jepa.core.key_map import ConversionError, KeyMap, Rename, require_same_keys, some
from hf_jepa.models.eb_jepa.configuration_eb_jepa import EbJepaConfig
from hf_jepa.models.eb_jepa.modeling_eb_jepa import EbJepaForPreTraining


def _renamed(official: str, ours: str) -> tuple[Rename, ...]:
    return (Rename(f"{official}.*", f"{ours}.*"),)


def _block(official: str, ours: str) -> tuple[Rename, ...]:
    """A residual block."""
    names = {"conv1": "conv1", "bn1": "norm1", "conv2": "conv2", "bn2": "norm2", "shortcut": "shortcut"}
    return tuple(Rename(f"{official}.{old}.*", f"{ours}.{new}.*") for old, new in names.items())


_ENCODER, _UNET, _OURS = "eb_jepa.encoder", "eb_jepa.predictor.unet", "predictor.predictor"
REGULARIZER = KeyMap(
    _renamed("regularizer.proj.net", "regularizer.projector")
    + _renamed("regularizer.idm_loss_fn.idm.model", "regularizer.inverse_dynamics")
)
VECTORS = KeyMap(
    (
        Rename("encoder.stack_blocks.{i}.initial_conv.*", f"{_ENCODER}.stacks.{{i}}.conv.*"),
        Rename("encoder.stack_blocks.{i}.blocks.*", f"{_ENCODER}.stacks.{{i}}.blocks.*"),
        *_renamed("encoder.mlp", f"{_ENCODER}.projection"),
        *_renamed("encoder.final_ln", f"{_ENCODER}.layernorm"),
        *(
            Rename(f"predictor.rnn.{name}_l0", f"eb_jepa.predictor.rnn.{name}")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ),
    )
    + REGULARIZER.rules
)
MAPS = KeyMap(
    _renamed("encoder.conv1", f"{_ENCODER}.conv")
    + _renamed("encoder.bn1", f"{_ENCODER}.norm")
    + sum((_block(f"encoder.layer{i + 1}", f"{_ENCODER}.blocks.{i}") for i in range(3)), ())
    + _renamed(f"{_OURS}.conv1", f"{_UNET}.conv")
    + _renamed(f"{_OURS}.bn1", f"{_UNET}.norm")
    + sum((_block(f"{_OURS}.{n}", f"{_UNET}.down.{i}") for i, n in enumerate(("enc1", "enc2", "enc3", "bott"))), ())
    + sum((_renamed(f"{_OURS}.up{3 - i}", f"{_UNET}.up.{i}") for i in range(3)), ())
    + sum((_block(f"{_OURS}.dec{3 - i}", f"{_UNET}.merge.{i}") for i in range(3)), ())
    + _renamed(f"{_OURS}.head", f"{_UNET}.head")
    + REGULARIZER.rules
)


def _layout(config: EbJepaConfig) -> tuple[KeyMap, dict[str, str]]:
    """The keys of a model, and which keys of the file repeat others, by prefix.

    Raises:
        ConversionError: a model that the official library does not have.
    """
    if config.encoder_type == "impala" and config.predictor_type == "gru" and config.action_encoder_type == "identity":
        table, copies = VECTORS, {"predictor.final_ln.": "encoder.final_ln."}
    elif config.encoder_type == "resnet5" and config.context_frames == 2 and config.action_dim == 0:
        table, copies = MAPS, {"action_encoder.": "encoder."}
    else:
        raise ConversionError(
            f"encoder_type={config.encoder_type!r}, predictor_type={config.predictor_type!r}, action_encoder_type="
            f"{config.action_encoder_type!r}, action_dim={config.action_dim}, context_frames={config.context_frames}: "
            "the official library has an 'impala' with a 'gru' and 'identity', and a 'resnet5' with a 'conv' that "
            "reads two frames and no actions"
        )
    if config.project_predictions:
        copies["predcost.proj."] = "regularizer.proj."
    return table, copies


def from_official(checkpoint: object, config: EbJepaConfig) -> EbJepaForPreTraining:
    """The model of an official training checkpoint.

    Args:
        checkpoint: what `torch.load(..., weights_only=True)` gives of `latest.pth.tar` or `epoch_{n}.pth.tar`.
        config: of the model: the file does not say what it was made with.

    Raises:
        ConversionError: another kind of file, keys that are missing or too many, shapes that differ from those of the
            config, or a repeated tensor that is not equal to the one it repeats.
    """
    if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get("model_state_dict"), Mapping):
        found = sorted(map(str, checkpoint)) if isinstance(checkpoint, Mapping) else type(checkpoint).__name__
        raise ConversionError(f"not a training checkpoint of eb_jepa: expected model_state_dict, found {found}")
    state = {}
    for key, value in checkpoint["model_state_dict"].items():
        name = str(key).replace("_orig_mod.", "")
        if not isinstance(value, torch.Tensor) or name in state:
            raise ConversionError(f"{key} of model_state_dict is no tensor, or is there with and without '_orig_mod.'")
        state[name] = value
    table, copies = _layout(config)
    for prefix, source in copies.items():
        _drop_copies(state, prefix, source)
    ours = table.to_ours(state)
    with torch.device("meta"):
        expected = _once(EbJepaForPreTraining(config))
    require_same_keys(ours, expected, "EB-JEPA checkpoint")
    model = EbJepaForPreTraining(config).eval()
    model.load_state_dict(ours | _repeated(model, ours))
    return model


def to_official(model: EbJepaForPreTraining) -> dict[str, dict[str, torch.Tensor]]:
    """What the official library resumes from, without optimizer and epoch.

    Args:
        model: of one of the two official kinds.

    Raises:
        ConversionError: another model.
    """
    table, copies = _layout(model.config)
    state = table.to_official(_once(model))
    for prefix, source in copies.items():
        state |= {prefix + key.removeprefix(source): value for key, value in state.items() if key.startswith(source)}
    return {"model_state_dict": state}


def _drop_copies(state: dict[str, torch.Tensor], prefix: str, source: str) -> None:
    copied = {key: value for key, value in state.items() if key.startswith(prefix)}
    sources = {key: value for key, value in state.items() if key.startswith(source)}
    expected = {prefix + key.removeprefix(source): value for key, value in sources.items()}
    if copied.keys() != expected.keys():
        odd = sorted(copied.keys() ^ expected.keys())
        raise ConversionError(f"{prefix}* should repeat {source}*, but these have no counterpart: {some(odd)}")
    if different := [key for key, value in copied.items() if not torch.equal(value, expected[key])]:
        raise ConversionError(f"{prefix}* should repeat {source}*, but differs in {some(different)}")
    for key in copied:
        del state[key]


def _once(model: EbJepaForPreTraining) -> dict[str, torch.Tensor]:
    """The state of a model, tied tensors under one name."""
    return {key: value for key, value in model.state_dict().items() if key not in model.all_tied_weights_keys}


def _repeated(model: EbJepaForPreTraining, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: state[source] for key, source in model.all_tied_weights_keys.items()}


__all__ = ["from_official", "to_official"]
