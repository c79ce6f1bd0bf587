"""One small interface to every stored video: how many frames there are, how fast they run, and any of them exactly.

Files are read with PyAV, or with torchcodec where that is chosen. Folders and lists of frame images, arrays, tensors
and single images have the same face. What cannot be read raises `VideoError`, which says why.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hf_jepa.data.decoding import DECODE_ERRORS, decode_image
from hf_jepa.data.shard_reads import ShardError


VIDEO_SUFFIXES = (
    ".mp4",
    ".mkv",
    ".webm",
    ".avi",
    ".mov",
    ".m4v",
    ".mpg",
    ".mpeg",
    ".ts",
    ".wmv",
    ".flv",
    ".3gp",
    ".ogv",
)


class VideoError(ValueError):
    """A video that cannot be read, or not in the way that was asked for.

    Example:
        >>> try:
        ...     open_video(b"")
        ... except VideoError as error:
        ...     print(error)
        the file is empty (0 bytes)
    """


# What reading a video may raise on damaged input; anything else is a bug and stays one.
VIDEO_ERRORS = (VideoError, *DECODE_ERRORS)


class VideoReader:
    """The frames of one video. Sub-classes implement `_read`.

    Attributes:
        num_frames: number of frames that can be read.
        fps: average frames per second; None where nobody knows (a folder of images).
        timestamps: float64 (num_frames,), when each frame is shown, in seconds from the first one; None where all
            frames are shown equally long.
        is_still: whether this is a single image rather than a video.

    Example:
        >>> import numpy as np
        >>> with open_video(np.zeros((20, 4, 6, 3), np.uint8), fps=10) as video:
        ...     video.num_frames, video.fps, video.read([19, 0, 0]).shape
        (20, 10, (3, 4, 6, 3))
    """

    num_frames: int
    fps: float | None = None
    timestamps: np.ndarray | None = None
    is_still: bool = False

    def read(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The frames at `indices`, in that order; only what is needed for them is decoded.

        Args:
            indices: of frames, from 0, in any order, also repeated.

        Returns:
            uint8 array (T, H, W, 3), RGB, upright.

        Raises:
            IndexError: an index outside 0..num_frames - 1.
            VideoError: damaged frames.
        """
        indices = np.asarray(indices)
        if indices.ndim != 1 or not indices.size or indices.dtype.kind not in "iu":
            raise ValueError(f"indices must be a list of integers, got {indices.dtype} of shape {indices.shape}")
        if indices.min() < 0 or indices.max() >= self.num_frames:
            wrong = indices[(indices < 0) | (indices >= self.num_frames)][0]
            raise IndexError(f"frame {wrong} is out of range for a video of {self.num_frames} frames")
        wanted, place = np.unique(indices, return_inverse=True)
        frames = self._read(wanted.tolist())
        if len({frame.shape for frame in frames}) > 1:
            raise VideoError(f"the frames have different sizes: {sorted({frame.shape[:2] for frame in frames})}")
        return np.stack([frames[i] for i in place])

    def _read(self, wanted: list[int]) -> Sequence[np.ndarray]:
        """The frames (H, W, 3) at ascending, distinct indices."""
        raise NotImplementedError

    def frames_at_rate(self, indices: np.ndarray) -> np.ndarray:
        """Numbers of frames as if all were shown equally long, turned into the frames shown at those moments.

        Files of phones and screen recordings have a variable frame rate; there frame 30 of a video of 30 frames per
        second need not be the one shown after a second.

        Args:
            indices: integer array of nominal frame numbers, 0..num_frames - 1.

        Returns:
            integer array of the same shape; the same numbers where `timestamps` is None.
        """
        if self.timestamps is None:
            return indices
        # The middle of the nominal frame, so that timestamps rounded by the container do not matter.
        moments = (np.asarray(indices) + 0.5) / self.fps
        shown = np.searchsorted(self.timestamps, moments, side="right") - 1
        return np.clip(shown, 0, self.num_frames - 1)

    def close(self) -> None:
        """Close the file."""

    def __len__(self) -> int:
        return self.num_frames

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


class ArrayReader(VideoReader):
    """A video that is in memory: uint8 (T, H, W, 3), (T, 3, H, W), or grey (T, H, W), an array or a tensor."""

    def __init__(self, frames: np.ndarray | torch.Tensor, fps: float | None = None):
        frames = frames.numpy(force=True) if isinstance(frames, torch.Tensor) else frames
        if frames.dtype != np.uint8:
            raise VideoError(f"an array video must be uint8, got {frames.dtype}: scale it to 0..255 first")
        if frames.ndim == 3:
            frames = np.broadcast_to(frames[..., None], (*frames.shape, 3))
        if frames.ndim != 4 or 3 not in (frames.shape[1], frames.shape[3]):
            raise VideoError(f"an array video must be (T, H, W, 3), (T, 3, H, W) or (T, H, W), got {frames.shape}")
        self.frames = frames if frames.shape[3] == 3 else frames.transpose(0, 2, 3, 1)
        self.num_frames, self.fps = at_least_one(len(frames)), fps

    def _read(self, wanted: list[int]) -> np.ndarray:
        return self.frames[wanted]


class FramesReader(VideoReader):
    """A video as a list of images in the order of time: paths, bytes, PIL images or arrays."""

    def __init__(self, images: Sequence[Any], fps: float | None = None, is_still: bool = False):
        self.images, self.fps, self.is_still = images, fps, is_still
        self.num_frames = at_least_one(len(images))

    def _read(self, wanted: list[int]) -> list[np.ndarray]:
        return [np.asarray(decode_image(self.images[i])) for i in wanted]


class TorchCodecReader(VideoReader):
    """A video file read with torchcodec (also what `datasets.Video()` gives where that decodes by itself).

    Times of frames are not asked for: a variable frame rate is taken for its average. PyAV knows better.

    Args:
        source: a path, bytes, or a `torchcodec.decoders.VideoDecoder`.
        num_threads: decoding threads.
    """

    def __init__(self, source: Any, num_threads: int = 1):
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, RuntimeError, OSError) as error:  # it raises RuntimeError without ffmpeg's libraries
            raise ImportError(f"torchcodec is not usable here ({error}): choose backend='pyav'") from error
        if not isinstance(source, VideoDecoder):
            try:
                source = VideoDecoder(source, num_ffmpeg_threads=num_threads)
            except (RuntimeError, ValueError) as error:
                raise VideoError(str(error)) from error
        self.decoder = source
        self.num_frames = at_least_one(source.metadata.num_frames or 0)
        self.fps = source.metadata.average_fps

    def _read(self, wanted: list[int]) -> list[np.ndarray]:
        try:
            frames = self.decoder.get_frames_at(indices=wanted).data.cpu()
        except RuntimeError as error:
            raise VideoError(str(error)) from error
        if frames.shape[-1] != 3:  # a decoder of dimension order NCHW, its default
            frames = frames.permute(0, 2, 3, 1)
        return list(frames.numpy())


def at_least_one(num_frames: int) -> int:
    """The number, unless it is none.

    Raises:
        VideoError: no frames.
    """
    if not num_frames:
        raise VideoError("the video has no frames")
    return num_frames


def natural_order(path: Path) -> list:
    """Sort key that puts frame9.jpg before frame10.jpg.

    Example:
        >>> sorted([Path("f10.png"), Path("f9.png")], key=natural_order)[0].name
        'f9.png'
    """
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if part.isdigit() else part.lower() for part in parts]


def is_image_path(path: str | Path) -> bool:
    """Whether the name is that of an image file that is one picture (a GIF or WebP may be a video).

    Example:
        >>> is_image_path("a/b.JPG"), is_image_path("a/b.mp4")
        (True, False)
    """
    return Path(path).suffix.lower() in (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".ppm")


def open_video(source: Any, backend: str = "auto", fps: float | None = None, num_threads: int = 1) -> VideoReader:
    """Open a video, however it is stored.

    Args:
        source: a path of a video file, of an image, or of a folder of frame images (sorted 1, 2, ..., 10); bytes of a
            file; a mapping with `bytes` or `path` (from `datasets.Video(decode=False)`); an array or tensor uint8
            (T, H, W, 3) or (T, 3, H, W); a list of frame images; a PIL image; a torchcodec decoder; an open
            reader; the `ShardError` that kept it from being read.
        backend: of files: "pyav", "torchcodec", or "auto", which is PyAV where it is installed, else torchcodec.
        fps: frames per second of sources that do not know theirs: folders, lists and arrays.
        num_threads: decoding threads; one, because a data loader has its own processes.

    Returns:
        a reader, best used in a `with` statement.

    Raises:
        VideoError: nothing that can be read as a video.
        FileNotFoundError: a path that does not exist.
        ImportError: no backend is installed.

    Example:
        >>> from PIL import Image
        >>> with open_video([Image.new("RGB", (6, 4)) for _ in range(5)]) as video:
        ...     video.read([4, 2]).shape
        (2, 4, 6, 3)
    """
    if backend not in ("auto", "pyav", "torchcodec"):
        raise ValueError(f"backend {backend!r} is not one of auto, pyav, torchcodec")
    if isinstance(source, ShardError):
        raise VideoError(source.reason) from source
    if isinstance(source, VideoReader):
        return source
    if isinstance(source, dict):
        source = _bytes_or_path(source)
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return ArrayReader(source, fps)
    if isinstance(source, Image.Image):
        return FramesReader([source], fps, is_still=True)
    if isinstance(source, (list, tuple)):
        return FramesReader(source, fps)
    if hasattr(source, "get_frames_at"):
        return TorchCodecReader(source)
    if isinstance(source, bytes):
        if not source:
            raise VideoError("the file is empty (0 bytes)")
        return _open_file(source, backend, num_threads)
    if not isinstance(source, (str, Path)):
        raise TypeError(f"cannot read a video from {type(source).__name__}")
    return _open_path(source, backend, fps, num_threads)


def _bytes_or_path(value: dict[str, Any]) -> bytes | str | Image.Image:
    data, path = value.get("bytes"), value.get("path")
    if data is None and path is None:
        raise VideoError("the row holds no video: neither bytes nor a path")
    if data and path is not None and is_image_path(path):
        return decode_image(data)
    return path if data is None else data


def _open_path(source: str | Path, backend: str, fps: float | None, num_threads: int) -> VideoReader:
    if "://" in str(source):  # ffmpeg opens web addresses
        return _open_file(str(source), backend, num_threads)
    path = Path(source).expanduser()
    if path.is_dir():
        frames = sorted((file for file in path.iterdir() if is_image_path(file)), key=natural_order)
        if not frames:
            raise VideoError(f"the folder {path} holds no frame images")
        return FramesReader(frames, fps)
    if not path.stat().st_size:
        raise VideoError("the file is empty (0 bytes)")
    if is_image_path(path):
        return FramesReader([path], fps, is_still=True)
    return _open_file(str(path), backend, num_threads)


def _open_file(source: str | bytes, backend: str, num_threads: int) -> VideoReader:
    from importlib.util import find_spec

    if backend == "auto":
        backend = "torchcodec" if find_spec("av") is None and find_spec("torchcodec") is not None else "pyav"
    if backend == "torchcodec":
        return TorchCodecReader(source, num_threads)
    from hf_jepa.data.video_pyav import PyAvReader

    return PyAvReader(source, num_threads)


__all__ = [
    "VIDEO_ERRORS",
    "VIDEO_SUFFIXES",
    "ArrayReader",
    "FramesReader",
    "TorchCodecReader",
    "VideoError",
    "VideoReader",
    "at_least_one",
    "is_image_path",
    "natural_order",
    "open_video",
]
