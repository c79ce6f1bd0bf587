"""Batches of every kind of inputs, for models of the size of `Variant.tiny`."""

import math

import torch

from hf_jepa.layers.patch_embedding import pair


def token_orders(config, generator) -> torch.Tensor:
    """The tokens of two samples in random order."""
    tokens = math.prod(config.grid_size)
    assert tokens >= 17, f"tiny has {tokens} tokens, the masks of this batch take 17"
    return torch.stack([torch.randperm(tokens, generator=generator) for _ in range(2)])


def image_batch(config) -> dict:
    """Two images with one context and two target masks."""
    generator = torch.Generator().manual_seed(0)
    order = token_orders(config, generator)
    return {
        "pixel_values": torch.randn(2, config.num_channels, *pair(config.image_size), generator=generator),
        "context_mask": [order[:, :9].sort().values],
        "target_mask": [order[:, 9:13].sort().values, order[:, 13:17].sort().values],
    }


def video_batch(config) -> dict:
    """Two clips with two pairs of masks, all of different lengths."""
    generator = torch.Generator().manual_seed(0)
    order = token_orders(config, generator)
    size = (2, config.frames_per_clip, config.num_channels, *pair(config.image_size))
    return {
        "pixel_values_videos": torch.randn(size, generator=generator),
        "context_mask": [order[:, :9].sort().values, order[:, 11:17].sort().values],
        "target_mask": [order[:, 9:13].sort().values, order[:, :7].sort().values],
    }


def view_batch(config) -> dict:
    """Four images of two views each."""
    size = (4, 2, config.num_channels, *pair(config.image_size))
    return {"pixel_values": torch.randn(size, generator=torch.Generator().manual_seed(0)), "step": 0}


def hidden_in_place(tokens: int) -> torch.Tensor:
    """Which tokens of two samples are hidden, bool (2, tokens)."""
    return torch.rand(2, tokens, generator=torch.Generator().manual_seed(1)) < 0.5


def hidden_patches(config) -> dict:
    pixels = plain_images(config)["pixel_values"]
    return {"pixel_values": pixels, "bool_masked_pos": hidden_in_place(math.prod(config.grid_size))}


def hidden_frames(config) -> dict:
    frames, samples = 20, 20
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    waves = torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    return {"input_values": waves, "mask_time_indices": hidden_in_place(frames)}


def hidden_words(config) -> dict:
    words = torch.randint(3, config.vocab_size - 1, (2, 20), generator=torch.Generator().manual_seed(0))
    return {"input_ids": words, "bool_masked_pos": hidden_in_place(20)}


def plain_images(config) -> dict:
    size = (2, config.num_channels, *pair(config.image_size))
    return {"pixel_values": torch.randn(size, generator=torch.Generator().manual_seed(0))}


def clips_and_texts(config) -> dict:
    """Three clips with queries, one of which is empty, and texts."""
    generator = torch.Generator().manual_seed(0)
    size = (3, config.frames_per_clip, config.num_channels, *pair(config.image_size))
    clips = torch.randn(size, generator=generator)
    words = torch.randint(3, 60, (2, 3, 5), generator=generator)
    lengths = torch.tensor([[5, 0, 2], [3, 5, 1]])
    masks = (torch.arange(5) < lengths.unsqueeze(-1)).long()
    return {
        "pixel_values_videos": clips,
        "query_ids": words[0] * masks[0],
        "query_mask": masks[0],
        "target_ids": words[1] * masks[1],
        "target_mask": masks[1],
        "step": 0,
    }


def trajectories(config) -> dict:
    """Three clips with the actions between their frames, and the states of the agent where the model is told them."""
    generator = torch.Generator().manual_seed(0)
    frames = (3, config.frames_per_clip)
    clips = torch.randn(*frames, config.num_channels, *pair(config.image_size), generator=generator)
    actions = torch.randn(3, config.frames_per_clip - 1, config.action_dim, generator=generator)
    states = {"states": torch.rand(*frames, config.state_dim, generator=generator)} if config.state_dim else {}
    return {"pixel_values_videos": clips, "actions": actions, **states, "step": 0}


# A modality or a kind of inputs, not a variant, adds a line here.
BATCHES = {
    ("image", "masks"): image_batch,
    ("video", "masks"): video_batch,
    ("image", "views"): view_batch,
    ("image", "in_place_masks"): hidden_patches,
    ("audio", "in_place_masks"): hidden_frames,
    ("text", "in_place_masks"): hidden_words,
    ("image", "plain"): plain_images,
    ("vision_text", "vision_text"): clips_and_texts,
    ("trajectory", "trajectory"): trajectories,
}
