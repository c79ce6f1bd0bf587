"""Official layouts, as the tests of all converters use them."""

import re
from pathlib import Path

import torch
import yaml
from transformers import PreTrainedConfig

from hf_jepa.core.configuration import model_fields
from hf_jepa.hub.conversion import convert_checkpoint, revert_checkpoint
from hf_jepa.registry import Variant


def there_and_back(variant: Variant, fields: dict, folder: Path) -> tuple[PreTrainedConfig, dict]:
    """A tiny model in official layout and back, by no other fields than those that the way there prints.

    Returns its config and these fields, once config and weights have come back as they were.
    """
    config = variant.config_class()(**(variant.tiny | fields))
    model = variant.model_class()(config)
    model.save_pretrained(folder / "ours")
    report = revert_checkpoint(variant, folder / "ours", folder / "official.pt")
    printed = re.search(r"again by --config.*?(\{.*\})", report)
    given = yaml.safe_load(printed[1]) if printed else {}
    convert_checkpoint(variant, folder / "official.pt", folder / "back", **given)
    found = variant.model_class().from_pretrained(folder / "back")
    lost = {name for name in model_fields(type(config)) if getattr(found.config, name) != getattr(config, name)}
    assert not lost
    state = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in found.state_dict().items())
    return config, given
