"""Data sets that give clips, and the collator that makes batches of them.

A file that cannot be read, or is too short, does not raise: its place is taken by an `UndecodableVideo`, which the
collator drops and names.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from hf_jepa.data.collating import no_rows, split_readable, stack_samples
from hf_jepa.data.columns import column_names
from hf_jepa.data.decoding import UndecodableImage, decode_image, describe_source
from hf_jepa.data.labelled_rows import LabelledRows, row_label
from hf_jepa.data.transforms import sample_rng
from hf_jepa.data.video_columns import standard_video_columns
from hf_jepa.data.video_readers import VIDEO_ERRORS, VideoReader, open_video
from hf_jepa.data.video_sampling import ClipSampling, clip_indices
from hf_jepa.data.video_sources import load_videos


class UndecodableVideo(UndecodableImage):
    """Takes the place of a sample whose video cannot be read; `str()` of it is "path: reason".

    Args:
        sample_index, source, reason: as in `UndecodableImage`.
        shape: of the pixels it would have had, (T, C, H, W) or (clips * views, T, C, H, W).

    Example:
        >>> str(UndecodableVideo(7, "a/7.mp4", "the video has 3 frames, a clip needs 16", (16, 3, 8, 8)))
        'a/7.mp4: the video has 3 frames, a clip needs 16'
    """


class VideoDataset(LabelledRows):
    """Map-style data set of transformed clips.

    The random numbers of a sample follow from (seed, epoch, index) alone: workers, ranks, order and resuming change
    neither the moment nor the crop. Whoever iterates tells it the epoch by `set_epoch`. Images among the videos become
    static clips.

    Args:
        dataset: a `datasets.Dataset` with a video column (from `load_videos`, or any other), or a sequence of rows
            {"video", optionally "label"} whose videos are anything that `open_video` takes (among them
            `ShardedRows`). Rows may have an "image"
            instead of a "video".
        transform: called as `transform(frames, rng)` with uint8 (T, H, W, 3), see `hf_jepa.data.video_transforms`.
        sampling: which frames make a clip.
        random_position: draw where clips begin (training); otherwise they are where `clip_indices` puts them.
        seed: of positions and transforms.
        image_frames: frames of the static clip of an image; `sampling.frames_per_clip` unless given. 1 is for the
            image tokenizer of V-JEPA 2.1.
        folder_fps: frames per second of folders of images.
        backend: of video files, see `open_video`.

    Raises:
        ValueError: no video column, or a negative seed.
        TypeError: a streamed data set.

    Example:
        >>> from hf_jepa.data.video_transforms import clip_pretraining_transform
        >>> rows = [{"video": np.zeros((40, 30, 50, 3), np.uint8), "label": 1}]
        >>> clips = VideoDataset(rows, clip_pretraining_transform(32), ClipSampling(16, frame_step=2))
        >>> clips[0]["pixel_values_videos"].shape, clips[0]["sample_index"], clips[0]["labels"]
        (torch.Size([16, 3, 32, 32]), 0, 1)
    """

    items = "videos"

    def __init__(
        self,
        dataset: Any,
        transform: Callable,
        sampling: ClipSampling,
        random_position: bool = True,
        seed: int = 0,
        image_frames: int | None = None,
        folder_fps: float | None = None,
        backend: str = "auto",
    ):
        if not hasattr(dataset, "__len__"):
            raise TypeError(f"{type(dataset).__name__} has no length: videos are read from map-style data sets")
        if hasattr(dataset, "features"):
            dataset = standard_video_columns(dataset)
        elif len(dataset) and not {"video", "image"} & set(columns := column_names(dataset)):
            raise ValueError(f"rows need a 'video' or an 'image', got the columns {columns}")
        if image_frames is not None and image_frames < 1:
            raise ValueError(f"image_frames must be 1 or more, got {image_frames}")
        super().__init__(seed)
        self.dataset, self.transform, self.sampling = dataset, transform, sampling
        self.random_position, self.image_frames = random_position, image_frames
        self.folder_fps, self.backend = folder_fps, backend

    def sample(self, index: int, rng: np.random.Generator) -> dict[str, Any] | UndecodableVideo:
        """The sample of a row with given random numbers, or why there is none.

        Returns:
            "pixel_values_videos" float32 (T, C, H, W); with several clips, or a transform that makes several views,
            (clips * views, T, C, H, W), the views of a clip beside each other. "sample_index", and "labels" if there
            are any.
        """
        row = self.dataset[index]
        value = row["video"] if "video" in row else row["image"]
        try:
            clips, static = self._read(value if "video" in row else decode_image(value), rng)
        except VIDEO_ERRORS as error:
            return UndecodableVideo.of(error, index, describe_source(value, index), self._shape())
        pixels = self._transformed(clips, rng)
        if static:
            pixels = pixels.repeat_interleave(static, dim=-4)
        return {"pixel_values_videos": pixels, "sample_index": index} | row_label(row, value, index)

    def _read(self, value: Any, rng: np.random.Generator) -> tuple[list[np.ndarray], int]:
        """Frames (T, H, W, 3) of every clip, and the number of frames that a single image stands for."""
        with open_video(value, self.backend, self.folder_fps) as video:
            if video.is_still:
                static = self.image_frames or self.sampling.frames_per_clip
                return [video.read([0])] * self.sampling.num_clips, static
            return list(read_clips(video, self.sampling, rng if self.random_position else None)), 0

    def _transformed(self, clips: list[np.ndarray], rng: np.random.Generator) -> torch.Tensor:
        pixels = [self.transform(clip, rng) for clip in clips]
        if len(pixels) == 1:
            return pixels[0]
        views = [clip if clip.ndim == 5 else clip[None] for clip in pixels]  # (views, T, C, H, W)
        return torch.cat(views)

    def _shape(self) -> tuple[int, ...]:
        """Shape of the pixels of a video."""
        blank = [np.zeros((1, 16, 16, 3), np.uint8)] * self.sampling.num_clips
        shape = self._transformed(blank, sample_rng(self.seed, 0, 0)).shape
        return (*shape[:-4], self.sampling.frames_per_clip, *shape[-3:])


def read_clips(video: VideoReader, sampling: ClipSampling, rng: np.random.Generator | None = None) -> np.ndarray:
    """The frames of the clips of an open video, each decoded once.

    Args:
        video: an open reader.
        sampling, rng: see `clip_indices`.

    Returns:
        uint8 (num_clips, T, H, W, 3).

    Raises:
        VideoError: a video that is too short or damaged.

    Example:
        >>> with open_video(np.zeros((40, 4, 6, 3), np.uint8)) as video:
        ...     read_clips(video, ClipSampling(8, frame_step=2, num_clips=2)).shape
        (2, 8, 4, 6, 3)
    """
    indices = clip_indices(video.num_frames, video.fps, sampling, rng)
    if sampling.frame_step is None:  # seconds were asked for, so moments count, not numbers
        indices = video.frames_at_rate(indices)
    frames = video.read(indices.ravel())
    return frames.reshape(*indices.shape, *frames.shape[1:])


class VideoCollator:
    """Stack samples to a batch, leaving out the videos that could not be read.

    The batch has `pixel_values_videos` (B, T, C, H, W) (or (B, clips * views, T, C, H, W)), `sample_index` (B,),
    `labels` (B,) if the samples have labels, and `skipped`, one "path: reason" per video left out. Where clips differ
    in length, the first three are lists with one tensor per length, shortest first. A batch of which nothing could be
    read has no row.

    Args:
        keep_unreadable: keep the row of a video that could not be read, with zeros as pixels and the label -100, which
            losses ignore: batches of all processes then keep one size, as gathering predictions needs.
        frame_counts: lengths in the order that the lists shall have, instead of the shortest first.

    Raises:
        ValueError: some samples with labels and some without, a length that is not in `frame_counts`, or clips of one
            length whose shapes differ.

    Example:
        >>> good = {"pixel_values_videos": torch.zeros(16, 3, 8, 8), "sample_index": 5}
        >>> batch = VideoCollator()([good, UndecodableVideo(6, "b.mp4", "the file is empty", (16, 3, 8, 8))])
        >>> batch["pixel_values_videos"].shape, batch["sample_index"], batch["skipped"]
        (torch.Size([1, 16, 3, 8, 8]), tensor([5]), ['b.mp4: the file is empty'])
        >>> image = {"pixel_values_videos": torch.zeros(1, 3, 8, 8), "sample_index": 6}
        >>> [tuple(clips.shape) for clips in VideoCollator()([good, image, good])["pixel_values_videos"]]
        [(1, 1, 3, 8, 8), (2, 16, 3, 8, 8)]
    """

    def __init__(self, keep_unreadable: bool = False, frame_counts: Sequence[int] | None = None):
        self.keep_unreadable, self.frame_counts = keep_unreadable, frame_counts

    def __call__(self, samples: Sequence[dict[str, Any] | UndecodableImage]) -> dict[str, Any]:
        found, skipped = split_readable(samples, "pixel_values_videos", self.keep_unreadable)
        if not found:
            return no_rows(samples[0], "pixel_values_videos") | {"skipped": skipped}
        parts = [stack_samples(group, "pixel_values_videos") for group in self._groups(found)]
        batch = parts[0] if len(parts) == 1 else {name: [part[name] for part in parts] for name in parts[0]}
        return batch | {"skipped": skipped}

    def _groups(self, samples: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        """Samples by number of frames."""
        groups = {}
        for sample in samples:
            groups.setdefault(sample["pixel_values_videos"].shape[-4], []).append(sample)
        order = sorted(groups) if self.frame_counts is None else [*dict.fromkeys(self.frame_counts)]
        if unknown := set(groups) - set(order):
            raise ValueError(f"a clip has {min(unknown)} frames, which is not one of frame_counts={self.frame_counts}")
        return [groups[count] for count in order if count in groups]


__all__ = ["UndecodableVideo", "VideoCollator", "VideoDataset", "load_videos", "read_clips"]
