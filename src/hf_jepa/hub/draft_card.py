"""A model card for a checkpoint that has none: what its folder tells, and nothing else."""

from pathlib import Path

from hf_jepa.hub.card_check import CARD
from hf_jepa.hub.cards import build_card
from hf_jepa.hub.files import new_name, read_config, read_json
from hf_jepa.hub.fingerprint import FILE_NAME, differences, in_words, load_target_encoder, write_fingerprint
from hf_jepa.hub.inspect import variant_of_folder
from hf_jepa.registry import Variant


TASKS = {
    "AutoModelForImageClassification": "image-classification",
    "AutoModelForVideoClassification": "video-classification",
    "AutoModelForCausalLM": "text-generation",
}


def draft_card(folder: str | Path, license: str | None = None) -> Path:
    """Write `README.md`, and `fingerprint.json` where there is none, beside weights that `save_pretrained` wrote.

    Args:
        folder: of a checkpoint.
        license: identifier of the licence of the weights; without one the card says that none was chosen.

    Returns:
        the path of the card.

    Raises:
        FileExistsError: there is a card.
        FileNotFoundError: no checkpoint.
        ConversionError: weights that are damaged or are missing.
        ValueError: a fingerprint of other weights.

    Example:
        >>> import tempfile
        >>> from hf_jepa import IJepaConfig, IJepaForPreTraining
        >>> from hf_jepa.registry import VARIANTS
        >>> folder = tempfile.mkdtemp()
        >>> IJepaForPreTraining(IJepaConfig(**VARIANTS["ijepa"].tiny)).save_pretrained(folder)
        >>> "license: mit" in draft_card(folder, "mit").read_text()
        True
    """
    folder = Path(folder)
    if (folder / CARD).exists():
        raise FileExistsError(f"{folder / CARD} exists: change it by hand, and check it by hf-jepa card {folder}")
    variant = variant_of_folder(folder)
    config = read_config(variant.config_class(), folder)
    encoder = load_target_encoder(variant, folder)
    if (folder / FILE_NAME).is_file():
        if wrong := differences(encoder, folder):
            raise ValueError(f"{folder}: the fingerprint is of other weights: {wrong[0]}")
        found = read_json(folder / FILE_NAME, "a fingerprint")
    else:
        found = write_fingerprint(encoder, folder)
    facts = {
        "Parameters of the encoder": f"{encoder.num_parameters():,}",
        "Fingerprint": in_words(found),
    }
    name = folder.resolve().name
    unverified = "What it was trained on and how it scores is not known to the program that wrote this card."
    card = build_card(variant, config, name, facts, license, unverified, name, task=_task(variant, config))
    with new_name(folder / CARD) as path:
        card.save(path)
    return folder / CARD


def _task(variant: Variant, config) -> str | None:
    """What a checkpoint with a head is for; None for an encoder."""
    (saved,) = config.architectures or [None]
    if saved in variant.parts.get("anticipation", ()):
        return "action-anticipation"
    if variant.base_model is None:
        return "text-generation"
    return next((TASKS[auto] for auto, name in variant.heads.items() if name == saved), None)


__all__ = ["draft_card"]
