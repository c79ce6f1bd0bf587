"""timm's VisionTransformer with the weights of one of our encoders.

timm wants torchvision, whose wheels are built for CUDA: beside a CPU build of PyTorch they need two operator names.
`make bench` therefore puts both into a folder of their own, `benchmarks/.site`, away from the package's environment.
"""

import sys
from pathlib import Path

import torch


SITE = Path(__file__).parent / ".site"


def timm_encoder(ours) -> torch.nn.Module | None:
    """The same function as `ours` (an I-JEPA encoder of square images) from timm; None where timm is not there."""
    if not (SITE / "timm").is_dir():
        return None
    sys.path.append(str(SITE))
    if torch.version.cuda is None:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        timm_encoder.library = library  # operators live as long as the object that declared them
    from timm.models.vision_transformer import VisionTransformer

    config = ours.config
    model = VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        class_token=False,
        global_pool="avg",
        fc_norm=False,
        num_classes=0,
    ).eval()
    state = {"pos_embed": ours.embeddings.position_embeddings}
    for kind in ("weight", "bias"):
        state[f"patch_embed.proj.{kind}"] = getattr(ours.embeddings.patch_embeddings.projection, kind)
        state[f"norm.{kind}"] = getattr(ours.layernorm, kind)
        for i, layer in enumerate(ours.layers):
            parts = {
                "norm1": layer.layernorm_before,
                "attn.proj": layer.attention.o_proj,
                "norm2": layer.layernorm_after,
                "mlp.fc1": layer.mlp.fc1,
                "mlp.fc2": layer.mlp.fc2,
            }
            state |= {f"blocks.{i}.{name}.{kind}": getattr(part, kind) for name, part in parts.items()}
            fused = [getattr(getattr(layer.attention, f"{part}_proj"), kind) for part in "qkv"]
            state[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(fused)
    model.load_state_dict(state)
    return model
