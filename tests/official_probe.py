"""Official probes of V-JEPA 1 and 2 (golden cases) as our modules."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import IJepaConfig

from hf_jepa.core.key_map import KeyMap, Rename, Split, require_same_keys
from hf_jepa.hub.files import read_torch_checkpoint
from hf_jepa.layers.attentive_pooler import AttentivePooler


GOLDEN = Path(__file__).parent / "fixtures/golden"
PREFIX = "module.pooler."
CROSS, OUR_CROSS = "cross_attention_block", "cross_attention_layer"
BLOCK, OUR_BLOCK = "blocks.{i}", "self_attention_layers.{i}"
POOLER = KeyMap(
    (
        Rename("query_tokens", "query_tokens"),
        *(Rename(f"{CROSS}.norm{n}.*", f"{OUR_CROSS}.layer_norm{n}.*") for n in (1, 2)),
        Rename(f"{CROSS}.xattn.q.*", f"{OUR_CROSS}.cross_attn.q_proj.*"),
        Split(f"{CROSS}.xattn.kv.*", tuple(f"{OUR_CROSS}.cross_attn.{x}_proj.*" for x in "kv")),
        Rename(f"{CROSS}.mlp.*", f"{OUR_CROSS}.mlp.*"),
        *(Rename(f"{BLOCK}.norm{n}.*", f"{OUR_BLOCK}.layer_norm{n}.*") for n in (1, 2)),
        Split(f"{BLOCK}.attn.qkv.*", tuple(f"{OUR_BLOCK}.self_attn.{x}_proj.*" for x in "qkv")),
        Rename(f"{BLOCK}.attn.proj.*", f"{OUR_BLOCK}.self_attn.out_proj.*"),
        Rename(f"{BLOCK}.mlp.*", f"{OUR_BLOCK}.mlp.*"),
    )
)
UNUSED = f"{CROSS}.xattn.proj."  # in checkpoints of V-JEPA 1


def read(case: str) -> tuple[dict, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The config, the recorded tensors and the probe's official state of a golden case."""
    folder = GOLDEN / case
    checkpoint = read_torch_checkpoint(folder / "checkpoint.pt")
    state = checkpoint["classifier"] if "classifier" in checkpoint else checkpoint["classifiers"][0]
    return json.loads((folder / "config.json").read_text()), load_file(folder / "io.safetensors"), state


def load(state: dict[str, torch.Tensor], num_heads: int, **options) -> AttentivePooler:
    """The pooler of an official probe."""
    official = {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}
    official = {key: value for key, value in official.items() if not key.startswith(UNUSED)}
    _, queries, dim = official["query_tokens"].shape
    depth = len({key.split(".")[1] for key in official if key.startswith("blocks.")})
    config = IJepaConfig(attn_implementation="sdpa")
    pooler = AttentivePooler(config, dim, num_heads, depth, num_queries=queries, **options)
    ours = POOLER.to_ours(official)
    require_same_keys(ours, pooler.state_dict(), "pooler")
    assert POOLER.to_official(ours).keys() == official.keys()
    pooler.load_state_dict(ours)
    return pooler.eval()


def head(state: dict[str, torch.Tensor], pooled: torch.Tensor, name: str = "linear") -> torch.Tensor:
    """Logits of one of the probe's linear layers."""
    return torch.nn.functional.linear(pooled, state[f"module.{name}.weight"], state[f"module.{name}.bias"])
