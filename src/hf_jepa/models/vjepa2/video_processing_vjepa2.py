"""Video processor of V-JEPA, V-JEPA 2 and V-JEPA 2.1: short side, centre crop, ImageNet statistics, with torch alone.

The native `VJEPA2VideoProcessor` needs torchvision, ours neither torchvision nor Pillow unless frames are PIL images.
It computes the same numbers, reads the files of `facebook/vjepa2-*`, and its own files load in stock transformers.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.video_processing_utils import VideoProcessorMixin

from hf_jepa.layers.patch_embedding import pair


BILINEAR = 2  # as files of transformers number it
DEFAULT_CROP = 256


class VJepa2VideoProcessor(VideoProcessorMixin):
    """Turn videos of any size into `pixel_values_videos` (B, T, C, H, W).

    A saved processor loads in stock transformers (`AutoVideoProcessor`, where torchvision is installed). The native
    V-JEPA 2 class always resizes the short side to int(crop height * 256 / 224); where this processor has another
    size, its file names the native Video-LLaVA class instead, which takes all values as they are saved.

    Args:
        size: {"shortest_edge": pixels} of the resized frames; int(crop height * 256 / 224) unless given.
        crop_size: {"height", "width"} of the centre crop, or one number.
        kwargs: all other fields of a native video processor, such as `image_mean`, `do_resize` or `num_frames`.

    Raises:
        ValueError: another interpolation than bilinear, or another kind of size.

    Example:
        >>> import numpy as np
        >>> from hf_jepa.models.vjepa2.video_processing_vjepa2 import VJepa2VideoProcessor
        >>> processor = VJepa2VideoProcessor(crop_size=32)
        >>> processor(np.zeros((8, 40, 60, 3), np.uint8)).pixel_values_videos.shape
        torch.Size([1, 8, 3, 32, 32])
    """

    crop_size = DEFAULT_CROP
    resample = BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = False  # said explicitly, because native classes differ in what they do without
    do_sample_frames = False

    def __init__(self, **kwargs: Any):
        if kwargs.get("crop_size") is None:
            kwargs["crop_size"] = DEFAULT_CROP
        if kwargs.get("size") is None:
            kwargs["size"] = {"shortest_edge": _native_short_side(kwargs["crop_size"])}
        super().__init__(**kwargs)
        self._set_attributes(**kwargs)
        if self.resample != BILINEAR:
            raise ValueError(f"resample {self.resample!r} is not bilinear ({BILINEAR}), the only one of V-JEPA")
        if not self.size.shortest_edge:
            raise ValueError(f'size must be {{"shortest_edge": pixels}}, got {dict(self.size)}')

    @classmethod
    def from_config(cls, config: Any, crop_pct: float = 224 / 256, **kwargs: Any) -> "VJepa2VideoProcessor":
        """The processor for a model's frame size.

        Args:
            config: of any V-JEPA; `crop_size` may be an int or (height, width).
            crop_pct: longer side of the crop over short side of the resized frames; 0.875 resizes to 292 for 256. Use
                1 for videos that already have the model's size.
            kwargs: further fields of the processor.

        Returns:
            the processor.

        Raises:
            ValueError: crop_pct outside (0, 1], a size that is not positive, other than three channels without
                `image_mean` and `image_std` for them.

        Example:
            >>> from transformers import VJEPA2Config
            >>> VJepa2VideoProcessor.from_config(VJEPA2Config(crop_size=384)).size["shortest_edge"]
            438
        """
        height, width = pair(config.crop_size)
        if min(height, width) < 1:
            raise ValueError(f"crop_size must be positive, got {config.crop_size!r}")
        if not 0 < crop_pct <= 1:
            raise ValueError(f"crop_pct must be in (0, 1], got {crop_pct}")
        size = {"shortest_edge": int(max(height, width) / crop_pct)}
        processor = cls(**({"size": size, "crop_size": {"height": height, "width": width}} | kwargs))
        if processor.num_channels != config.in_chans:
            raise ValueError(
                f"the model wants {config.in_chans} channels, image_mean has {processor.num_channels}: pass "
                "image_mean and image_std for the model's channels"
            )
        return processor

    @property
    def num_channels(self) -> int:
        """Channels of the videos: as many as `image_mean` has values."""
        return len(self.image_mean) if isinstance(self.image_mean, Sequence) else 1

    def to_dict(self) -> dict[str, Any]:
        """The saved form, which names a native class that computes the same."""
        fields = super().to_dict()
        native = fields["size"] == {"shortest_edge": _native_short_side(fields["crop_size"])}
        return fields | {"video_processor_type": "VJEPA2VideoProcessor" if native else "VideoLlavaVideoProcessor"}

    def preprocess(self, videos: Any, return_tensors: str | None = "pt", **kwargs: Any) -> BatchFeature:
        """Prepare one video or a batch.

        Args:
            videos: one video or a list of videos. A video is an array or tensor (T, C, H, W) or (T, H, W, C), uint8 or
                floating point (0..255, or 0..1 with `do_rescale=False`); a list of frames (H, W, C), (C, H, W) or PIL
                images; or an open reader (`hf_jepa.open_video(path)`). An array (B, T, ...) is a batch.
            return_tensors: "pt" or "np" stack the batch; None leaves a list of tensors, which may differ in length.
            kwargs: fields of the processor for this call, such as `num_frames` with `do_sample_frames=True`, which
                takes so many equally spaced frames, or `input_data_format`.

        Returns:
            `pixel_values_videos`, float32 (B, T, C, H, W).

        Raises:
            TypeError: not a video.
            ValueError: a wrong number of channels, axes or frames, values that are not finite or not 0..255, frames
                smaller than the crop, videos of different lengths.
        """
        unknown = set(kwargs) - set(self.valid_kwargs.__annotations__)
        if unknown:
            raise TypeError(f"unknown fields of a video processor: {sorted(unknown)}")
        settings = self if not kwargs else type(self)(**(self._own_fields() | kwargs))
        clips = [settings._prepare(video, i) for i, video in enumerate(_as_batch(videos))]
        if return_tensors is None:
            return BatchFeature({"pixel_values_videos": clips})
        shapes = [tuple(clip.shape) for clip in clips]
        if len(set(shapes)) > 1:
            raise ValueError(
                f"videos of a batch must have one shape (T, C, H, W), got {shapes}: pass clips of one length, or "
                "return_tensors=None for a list"
            )
        batch = torch.stack(clips)
        return BatchFeature({"pixel_values_videos": batch}, tensor_type=return_tensors)

    def _own_fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.valid_kwargs.__annotations__ if hasattr(self, name)}

    def _prepare(self, video: Any, position: int) -> torch.Tensor:
        """One video to float32 (T, C, H, W)."""
        frames = self._channels_first(_to_tensor(self._sample(video), position), position)
        self._check_values(frames, position)
        if self.device is not None:
            frames = frames.to(self.device)
        if self.do_resize:
            frames = _resize(frames, self.size.shortest_edge)
        if self.do_center_crop:
            frames = self._center_crop(frames, position)
        return self._normalize(frames)

    def _sample(self, video: Any) -> Any:
        reader = hasattr(video, "num_frames") and hasattr(video, "read")
        length = video.num_frames if reader else len(video)
        indices = np.arange(length)
        if self.do_sample_frames:
            if self.num_frames is None:
                raise ValueError("do_sample_frames=True needs num_frames")
            if length < self.num_frames:
                raise ValueError(f"the video has {length} frames, {self.num_frames} are wanted")
            indices = (np.arange(self.num_frames) * (length / self.num_frames)).astype(np.int64)
        if reader:
            return video.read(indices)
        if not self.do_sample_frames:
            return video
        return [video[i] for i in indices] if isinstance(video, (list, tuple)) else video[indices]

    def _channels_first(self, frames: torch.Tensor, position: int) -> torch.Tensor:
        shape, channels = tuple(frames.shape), self.num_channels
        first, last = shape[1] == channels, shape[3] == channels
        if self.input_data_format is not None:
            wanted = str(getattr(self.input_data_format, "value", self.input_data_format))
            first, last = first and wanted == "channels_first", last and wanted == "channels_last"
        if not (first or last):
            raise ValueError(
                f"video {position} has shape {shape}: expected (T, {channels}, H, W) or (T, H, W, {channels})"
            )
        if first and last:
            raise ValueError(
                f"video {position} has shape {shape}, whose channels may be second or last: pass input_data_format="
                '"channels_first" or "channels_last"'
            )
        return frames if first else frames.permute(0, 3, 1, 2)

    def _check_values(self, frames: torch.Tensor, position: int) -> None:
        if not frames.numel():
            raise ValueError(f"video {position} is empty: shape {tuple(frames.shape)}")
        if frames.dtype == torch.uint8:
            return
        if not frames.is_floating_point():
            raise TypeError(f"video {position} is {frames.dtype}: expected uint8 or floating point")
        low, high = (value.item() for value in frames.aminmax())
        if not np.isfinite([low, high]).all():
            raise ValueError(f"video {position} has values that are not finite")
        if self.do_rescale and (low < 0 or high > 255):
            raise ValueError(
                f"video {position} has values from {low:.3g} to {high:.3g}, expected 0..255: what a processor has "
                "prepared goes to the model as it is, as pixel_values_videos"
            )
        if self.do_rescale and low >= 0 and 0 < high <= 1:
            raise ValueError(
                f"video {position} has floating-point values up to {high:.3g}, which would be divided by 255 again: "
                "pass do_rescale=False for values in 0..1"
            )

    def _center_crop(self, frames: torch.Tensor, position: int) -> torch.Tensor:
        height, width = frames.shape[-2:]
        want_height, want_width = self.crop_size.height, self.crop_size.width
        if height < want_height or width < want_width:
            raise ValueError(
                f"video {position} is {height}x{width} pixels here, smaller than the crop of "
                f"{want_height}x{want_width}: enlarge size"
            )
        top, left = (height - want_height) // 2, (width - want_width) // 2
        return frames[..., top : top + want_height, left : left + want_width]

    def _normalize(self, frames: torch.Tensor) -> torch.Tensor:
        scale = self.rescale_factor if self.do_rescale else 1.0
        frames = frames.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        if not self.do_normalize:
            return frames.mul_(scale)
        # Rescaled once here rather than all pixels, and in this order: bit for bit the native class.
        mean, std = (
            _per_channel(values, frames.device) * (1.0 / scale) for values in (self.image_mean, self.image_std)
        )
        return frames.sub_(mean).div_(std)


def _per_channel(values: float | Sequence[float], device: torch.device) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)


def _native_short_side(crop_size: Any) -> int:
    height = crop_size if isinstance(crop_size, int) else crop_size["height"]
    return int(height * 256 / 224)


def _as_batch(videos: Any) -> list:
    """One video or many, as a list of videos."""
    if isinstance(videos, (str, bytes)) or hasattr(videos, "__fspath__"):
        raise TypeError(f"a processor does not open files: pass hf_jepa.open_video({str(videos)!r}) instead")
    if isinstance(videos, (np.ndarray, torch.Tensor)):
        if videos.ndim not in (4, 5):
            raise ValueError(f"videos must have 4 axes (one video) or 5 (a batch), got shape {tuple(videos.shape)}")
        return [videos] if videos.ndim == 4 else list(videos)
    if hasattr(videos, "read") and hasattr(videos, "num_frames"):
        return [videos]
    if not isinstance(videos, (list, tuple)) or not len(videos):
        raise TypeError(f"expected a video or a list of videos, got {type(videos).__name__} {videos!r:.40}")
    if isinstance(videos[0], (str, bytes)) or hasattr(videos[0], "__fspath__"):
        raise TypeError(f"a processor does not open files: pass hf_jepa.open_video({str(videos[0])!r}) instead")
    return [videos] if _is_frame(videos[0]) else list(videos)


def _is_frame(value: Any) -> bool:
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return value.ndim == 3
    return hasattr(value, "convert")  # a PIL image


def _to_tensor(video: Any, position: int) -> torch.Tensor:
    """An array, a tensor or a list of frames as a tensor of four axes."""
    if isinstance(video, (list, tuple)):
        if not video:
            raise ValueError(f"video {position} has no frames")
        frames = [torch.as_tensor(np.array(f.convert("RGB")) if hasattr(f, "convert") else f) for f in video]
        shapes = {tuple(frame.shape) for frame in frames}
        if len(shapes) > 1:
            raise ValueError(f"the frames of video {position} differ in shape: {sorted(shapes)}")
        video = torch.stack(frames)
    if not isinstance(video, (np.ndarray, torch.Tensor)):
        raise TypeError(f"video {position} is {type(video).__name__}: expected an array, a tensor or a list of frames")
    video = torch.as_tensor(video)
    if video.ndim != 4:
        raise ValueError(f"video {position} must be (T, C, H, W) or (T, H, W, C), got shape {tuple(video.shape)}")
    return video


def _resize(frames: torch.Tensor, short_side: int) -> torch.Tensor:
    """Bilinear with antialiasing; 8-bit frames stay 8-bit, as in the native class."""
    height, width = frames.shape[-2:]
    long = int(short_side * max(height, width) / min(height, width))
    size = (long, short_side) if height > width else (short_side, long)
    if size == (height, width):
        return frames
    options = {"size": size, "mode": "bilinear", "align_corners": False, "antialias": True}
    if frames.dtype == torch.uint8 and frames.device.type != "cpu":
        return interpolate(frames.float(), **options).round_().clamp_(0, 255)  # no 8-bit kernel there
    return interpolate(frames if frames.dtype == torch.uint8 else frames.float(), **options)


__all__ = ["VJepa2VideoProcessor"]
