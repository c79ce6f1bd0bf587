"""Official probes of V-JEPA 1 and 2 (golden cases) as our modules."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import IJepaConfig

from hf_jepa.core.key_map import require_same_keys
from hf_jepa.core.probe_conversion import FIRST_PROBE, PREFIX, PROBE, UNUSED_PROJECTION
from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.layers.attentive_pooler import AttentivePooler


GOLDEN = Path(__file__).parent / "fixtures/golden"
UNUSED = f"{UNUSED_PROJECTION}."  # in checkpoints of V-JEPA 1


def read(case: str) -> tuple[dict, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The config, the recorded tensors and the probe's official state of a golden case."""
    folder = GOLDEN / case
    checkpoint = read_torch_checkpoint(folder / "checkpoint.pt")
    state = checkpoint["classifier"] if "classifier" in checkpoint else checkpoint["classifiers"][0]
    return json.loads((folder / "config.json").read_text()), load_file(folder / "io.safetensors"), state


def load(state: dict[str, torch.Tensor], num_heads: int, **options) -> AttentivePooler:
    """The pooler of an official probe."""
    official = {key.removeprefix(PREFIX): value for key, value in state.items()}
    first = any(key.startswith(UNUSED) for key in official)
    table = FIRST_PROBE if first else PROBE
    converted = table.to_ours(official)
    assert table.to_official(converted).keys() == {key for key in official if not key.startswith(UNUSED)}
    _, queries, dim = official["pooler.query_tokens"].shape
    depth = len({key.split(".")[2] for key in official if key.startswith("pooler.blocks.")})
    config = IJepaConfig(attn_implementation="sdpa")
    pooler = AttentivePooler(config, dim, num_heads, depth, num_queries=queries, **options)
    ours = {key.removeprefix("pooler."): v for key, v in converted.items() if key.startswith("pooler.")}
    require_same_keys(ours, pooler.state_dict(), "pooler")
    pooler.load_state_dict(ours)
    return pooler.eval()


def head(state: dict[str, torch.Tensor], pooled: torch.Tensor, name: str = "linear") -> torch.Tensor:
    """Logits of one of the probe's linear layers."""
    return torch.nn.functional.linear(pooled, state[f"module.{name}.weight"], state[f"module.{name}.bias"])
