"""A LeWorldModel in the official layout: plain functions on its state dict, and a state dict to call them with.

Written from the description of the architecture alone, without the modules of the package, so that the two can be
compared.
"""

import math

import torch
from torch.nn import functional as F


VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "layer_norm_eps": 1e-12,
}
FIELDS = {
    "backbone_config": VIT,
    "hidden_size": 24,
    "proj_hidden_size": 40,
    "action_dim": 6,
    "frame_skip": 3,
    "pred_num_hidden_layers": 2,
    "pred_num_attention_heads": 4,
    "pred_head_dim": 8,
    "pred_intermediate_size": 48,
    "pred_dropout": 0.0,
    "sigreg_num_slices": 64,
}


def official_state(seed: int = 0, action_dim: int = 6, window: int = 3) -> dict[str, torch.Tensor]:
    """Random weights, none of them 0 or 1, under the official keys."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def add(name: str, *shape: int, near: float = 0.0, spread: float | None = None) -> None:
        spread = spread or 1.0 / math.sqrt(max(shape[-1], 1))
        state[name] = near + spread * torch.randn(*shape, generator=generator)

    def linear(name: str, rows: int, columns: int, bias: bool = True) -> None:
        add(f"{name}.weight", rows, columns)
        if bias:
            add(f"{name}.bias", rows, spread=0.1)

    def norm(name: str, width: int) -> None:
        add(f"{name}.weight", width, near=1.0, spread=0.2)
        add(f"{name}.bias", width, spread=0.2)

    def projector(name: str, first: int, hidden: int, last: int) -> None:
        linear(f"{name}.net.0", hidden, first)
        norm(f"{name}.net.1", hidden)
        add(f"{name}.net.1.running_mean", hidden, spread=0.3)
        state[f"{name}.net.1.running_var"] = 0.5 + torch.rand(hidden, generator=generator)
        state[f"{name}.net.1.num_batches_tracked"] = torch.tensor(17)
        linear(f"{name}.net.3", last, hidden)

    width, mlp = VIT["hidden_size"], VIT["intermediate_size"]
    add("encoder.embeddings.cls_token", 1, 1, width)
    add("encoder.embeddings.position_embeddings", 1, 17, width)
    add("encoder.embeddings.patch_embeddings.projection.weight", width, 3, 8, 8, spread=0.05)
    add("encoder.embeddings.patch_embeddings.projection.bias", width, spread=0.1)
    for i in range(VIT["num_hidden_layers"]):
        block = f"encoder.encoder.layer.{i}"
        for name in ("query", "key", "value"):
            linear(f"{block}.attention.attention.{name}", width, width)
        linear(f"{block}.attention.output.dense", width, width)
        linear(f"{block}.intermediate.dense", mlp, width)
        linear(f"{block}.output.dense", width, mlp)
        norm(f"{block}.layernorm_before", width)
        norm(f"{block}.layernorm_after", width)
    norm("encoder.layernorm", width)
    size, inner = FIELDS["hidden_size"], FIELDS["pred_num_attention_heads"] * FIELDS["pred_head_dim"]
    add("predictor.pos_embedding", 1, window, size)
    for i in range(FIELDS["pred_num_hidden_layers"]):
        block = f"predictor.transformer.layers.{i}"
        norm(f"{block}.attn.norm", size)
        linear(f"{block}.attn.to_qkv", 3 * inner, size, bias=False)
        linear(f"{block}.attn.to_out.0", size, inner)
        norm(f"{block}.mlp.net.0", size)
        linear(f"{block}.mlp.net.1", FIELDS["pred_intermediate_size"], size)
        linear(f"{block}.mlp.net.4", size, FIELDS["pred_intermediate_size"])
        linear(f"{block}.adaLN_modulation.1", 6 * size, size)
    norm("predictor.transformer.norm", size)
    add("action_encoder.patch_embed.weight", 10, action_dim, 1, spread=0.4)
    add("action_encoder.patch_embed.bias", 10, spread=0.1)
    linear("action_encoder.embed.0", 4 * size, 10)
    linear("action_encoder.embed.2", size, 4 * size)
    projector("projector", width, FIELDS["proj_hidden_size"], size)
    projector("pred_proj", size, FIELDS["proj_hidden_size"], size)
    return state


def attend(x, query, key, value, heads: int, causal: bool) -> torch.Tensor:
    """Softmax attention of (B, N, D) tensors, head by head."""
    outs = []
    for q, k, v in zip(query.chunk(heads, -1), key.chunk(heads, -1), value.chunk(heads, -1), strict=True):
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
        if causal:
            later = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
            scores = scores.masked_fill(later, float("-inf"))
        outs.append(scores.softmax(-1) @ v)
    return torch.cat(outs, -1)


def layer_norm(state, name: str, x, eps: float) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def linear(state, name: str, x) -> torch.Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def project(state, name: str, x, training: bool) -> torch.Tensor:
    """Linear, batch normalisation, GELU, linear of (R, D) rows."""
    x = linear(state, f"{name}.net.0", x)
    if training:
        mean, var = x.mean(0), x.var(0, unbiased=False)
    else:
        mean, var = state[f"{name}.net.1.running_mean"], state[f"{name}.net.1.running_var"]
    x = (x - mean) / torch.sqrt(var + 1e-5)
    x = x * state[f"{name}.net.1.weight"] + state[f"{name}.net.1.bias"]
    return linear(state, f"{name}.net.3", F.gelu(x))


def embed_frames(state, clips, training: bool) -> torch.Tensor:
    """(B, T, 3, 32, 32) -> (B, T, D): ViT, class token, projector."""
    images = clips.flatten(0, 1)
    patches = F.conv2d(
        images,
        state["encoder.embeddings.patch_embeddings.projection.weight"],
        state["encoder.embeddings.patch_embeddings.projection.bias"],
        stride=8,
    )
    x = patches.flatten(2).transpose(1, 2)
    x = torch.cat([state["encoder.embeddings.cls_token"].expand(len(x), -1, -1), x], 1)
    x = x + state["encoder.embeddings.position_embeddings"]
    eps, heads = VIT["layer_norm_eps"], VIT["num_attention_heads"]
    for i in range(VIT["num_hidden_layers"]):
        block = f"encoder.encoder.layer.{i}"
        y = layer_norm(state, f"{block}.layernorm_before", x, eps)
        names = (f"{block}.attention.attention.{name}" for name in ("query", "key", "value"))
        y = attend(y, *(linear(state, name, y) for name in names), heads, causal=False)
        x = x + linear(state, f"{block}.attention.output.dense", y)
        y = layer_norm(state, f"{block}.layernorm_after", x, eps)
        x = x + linear(state, f"{block}.output.dense", F.gelu(linear(state, f"{block}.intermediate.dense", y)))
    x = layer_norm(state, "encoder.layernorm", x, eps)[:, 0]
    return project(state, "projector", x, training).reshape(*clips.shape[:2], -1)


def embed_actions(state, actions) -> torch.Tensor:
    """(B, H, A) -> (B, H, D)."""
    weight, bias = state["action_encoder.patch_embed.weight"], state["action_encoder.patch_embed.bias"]
    x = F.conv1d(actions.transpose(1, 2), weight, bias).transpose(1, 2)
    return linear(state, "action_encoder.embed.2", F.silu(linear(state, "action_encoder.embed.0", x)))


def predict(state, embeddings, action_embeddings, training: bool) -> torch.Tensor:
    """(B, F, D) twice -> (B, F, D)."""
    x = embeddings + state["predictor.pos_embedding"][:, : embeddings.shape[1]]
    for i in range(FIELDS["pred_num_hidden_layers"]):
        block = f"predictor.transformer.layers.{i}"
        six = linear(state, f"{block}.adaLN_modulation.1", F.silu(action_embeddings)).split(x.shape[-1], -1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = six
        y = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        y = layer_norm(state, f"{block}.attn.norm", y, 1e-5)
        qkv = F.linear(y, state[f"{block}.attn.to_qkv.weight"]).chunk(3, -1)
        y = linear(state, f"{block}.attn.to_out.0", attend(y, *qkv, FIELDS["pred_num_attention_heads"], causal=True))
        x = x + gate * y
        y = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + mlp_scale) + mlp_shift
        y = layer_norm(state, f"{block}.mlp.net.0", y, 1e-5)
        x = x + mlp_gate * linear(state, f"{block}.mlp.net.4", F.gelu(linear(state, f"{block}.mlp.net.1", y)))
    x = layer_norm(state, "predictor.transformer.norm", x, 1e-5)
    return project(state, "pred_proj", x.flatten(0, 1), training).view_as(embeddings)


def sigreg_of(embeddings, directions: torch.Tensor) -> torch.Tensor:
    """SIGReg of (T, B, D): 17 knots on [0, 3], doubled trapezoid weights times a Gaussian window."""
    knots = torch.linspace(0, 3, 17)
    spacing = 3 / 16
    weights = torch.full((17,), 2 * spacing)
    weights[0] = weights[-1] = spacing
    window = torch.exp(-(knots**2) / 2)
    phases = (embeddings @ directions).unsqueeze(-1) * knots  # (T, B, S, 17)
    error = (phases.cos().mean(1) - window) ** 2 + phases.sin().mean(1) ** 2
    return ((error * weights * window).sum(-1) * embeddings.shape[1]).mean()


def loss(state, clips, actions, directions, weight: float = 0.09) -> tuple[torch.Tensor, torch.Tensor]:
    """Prediction loss and SIGReg, weighted, of a training batch."""
    embeddings = embed_frames(state, clips, training=True)
    predictions = predict(state, embeddings[:, :-1], embed_actions(state, actions), training=True)
    return (predictions - embeddings[:, 1:]).pow(2).mean(), weight * sigreg_of(embeddings.transpose(0, 1), directions)


def rollout(state, clips, actions, horizon_actions) -> torch.Tensor:
    """The frames after each action of (B, H, A), one plan per environment: windows of the last three frames."""
    embeddings = embed_frames(state, clips, training=False)
    frames = [embeddings[:, i] for i in range(embeddings.shape[1])]
    done = [] if actions is None else [actions[:, i] for i in range(actions.shape[1])]
    for action in horizon_actions.unbind(1):
        done.append(action)
        seen = torch.stack(frames[-3:], 1)
        predicted = predict(state, seen, embed_actions(state, torch.stack(done[-3:], 1)), training=False)
        frames.append(predicted[:, -1])
    return torch.stack(frames[-horizon_actions.shape[1] :], 1)
