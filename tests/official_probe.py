"""Official probes of V-JEPA 1 and 2, golden and random ones, and tiny encoders that they belong to."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import IJepaConfig

from hf_jepa.core.key_map import require_same_keys
from hf_jepa.core.probe_conversion import FIRST_PROBE, PREFIX, PROBE, UNUSED_PROJECTION
from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.layers.attentive_pooler import AttentivePooler
from hf_jepa.registry import VARIANTS


GOLDEN = Path(__file__).parent / "fixtures/golden"
UNUSED = f"{UNUSED_PROJECTION}."  # in checkpoints of V-JEPA 1
FIRST, SECOND = (GOLDEN / case / "checkpoint.pt" for case in ("vjepa/attentive_probe", "vjepa2/attentive_classifier"))
EK100 = GOLDEN / "vjepa2/action_anticipation/checkpoint.pt"
PROBES = {"vjepa": FIRST, "vjepa2": SECOND, "vjepa2_1": SECOND}


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


def encoder(name: str, folder: Path, **fields) -> Path:
    """A tiny pretraining checkpoint, of the width of the golden probes."""
    torch.manual_seed(0)
    variant = VARIANTS[name]
    config = variant.config_class()(**(variant.tiny | fields))
    config.official_target_key = "target_encoder"
    variant.model_class()(config).save_pretrained(folder)
    return folder


def saved(official: dict, folder: Path, name: str = "probe.pt") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    torch.save(official, folder / name)
    return folder / name


def wide(classes: int, width: int = 32, queries: int = 1, depth: int = 1) -> dict:
    """A probe in the layout of V-JEPA 2 with random weights."""
    torch.manual_seed(1)
    state = {"pooler.query_tokens": torch.randn(1, queries, width)}
    blocks = [f"pooler.blocks.{i}" for i in range(depth - 1)]
    for block in (*blocks, "pooler.cross_attention_block"):
        for norm in ("norm1", "norm2"):
            state |= {f"{block}.{norm}.weight": 1 + torch.randn(width) / 5, f"{block}.{norm}.bias": torch.randn(width)}
        layers = [("mlp.fc1", 4 * width, width), ("mlp.fc2", width, 4 * width)]
        inner = (
            [("attn.qkv", 3, 1), ("attn.proj", 1, 1)] if block in blocks else [("xattn.q", 1, 1), ("xattn.kv", 2, 1)]
        )
        layers += [(name, out * width, width) for name, out, _ in inner]
        for name, out, into in layers:
            state |= {
                f"{block}.{name}.weight": torch.randn(out, into) / into**0.5,
                f"{block}.{name}.bias": torch.randn(out),
            }
    state |= {"linear.weight": torch.randn(classes, width), "linear.bias": torch.randn(classes)}
    return {"classifiers": [{f"module.{key}": value for key, value in state.items()}], "epoch": 20}
