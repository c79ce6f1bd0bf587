"""From a row with an image or a video and its texts to a sample."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_jepa.data.decoding import decode_image, describe_source
from hf_jepa.data.shard_reads import ShardError
from hf_jepa.data.video_readers import VIDEO_ERRORS, VideoError, VideoReader, open_video
from hf_jepa.data.video_sampling import uniform_indices
from hf_jepa.data.videos import UndecodableVideo


@dataclass(frozen=True)
class VisionTextReader:
    """How a row becomes a sample: frames spread evenly over its video, and its texts.

    Args:
        num_frames: T of videos. A single image in the place of a video is repeated to as many (2512.10942, section
            3.1).
        image_frames: T of images.
        short_videos: "refuse" videos of fewer frames (they are named and skipped), or "pad" them with the last frame.
        folder_fps: frames per second of folders of images, for records with a `start` or an `end`.
        backend: of video files, see `open_video`.
        read_media: False leaves out the frames, for what is trained on texts alone.

    Raises:
        ValueError: no frames, or another word for short videos.

    Example:
        >>> row = {"video": np.zeros((40, 6, 8, 3), np.uint8), "target": "a seven moves left"}
        >>> sample = VisionTextReader(num_frames=4)(row, 0, np.random.default_rng(0))
        >>> sample["video"].shape, sample["query"], sample["target"]
        ((4, 6, 8, 3), '', 'a seven moves left')
    """

    num_frames: int = 16
    image_frames: int = 1
    short_videos: str = "refuse"
    folder_fps: float | None = None
    backend: str = "auto"
    read_media: bool = True

    def __post_init__(self):
        if min(self.num_frames, self.image_frames) < 1:
            raise ValueError(
                f"num_frames and image_frames must be 1 or more, got {self.num_frames} and {self.image_frames}"
            )
        if self.short_videos not in ("refuse", "pad"):
            raise ValueError(f"short_videos {self.short_videos!r} is not one of refuse, pad")

    def __call__(
        self, row: Mapping[str, Any], index: int, rng: np.random.Generator
    ) -> dict[str, Any] | UndecodableVideo:
        """The sample of a row, or why there is none.

        Args:
            row: has a "video" or an "image", a "target", and perhaps a "query", a "start" and an "end" (in seconds).
            index: of the row, which becomes its `sample_index`.
            rng: chooses where a text is a list of several.

        Returns:
            "video" uint8 (T, H, W, 3) unless `read_media` is off, "query" ("" for none), "target", "sample_index".
        """
        is_image = "video" not in row
        value = row.get("image" if is_image else "video")
        broken = row["target"] if isinstance(row["target"], ShardError) else value
        try:
            if isinstance(broken, ShardError):
                raise VideoError(broken.reason)
            sample = {"query": _text(row.get("query"), "query", rng), "target": _text(row["target"], "target", rng)}
            if not sample["target"].strip():
                raise VideoError("the target is empty")
            if self.read_media:
                sample["video"] = self._image(value) if is_image else self._clip(value, row)
        except VIDEO_ERRORS as error:
            return UndecodableVideo.of(error, index, describe_source(broken, index), (self.frames_of(is_image),))
        return sample | {"sample_index": index}

    def frames_of(self, is_image: Any) -> Any:
        """Frames of an image or a video, of one row or an array of rows."""
        return np.where(is_image, self.image_frames, self.num_frames)[()]

    def _image(self, value: Any) -> np.ndarray:
        return np.repeat(np.asarray(decode_image(value))[None], self.image_frames, axis=0)

    def _clip(self, value: Any, row: Mapping[str, Any]) -> np.ndarray:
        with open_video(value, self.backend, self.folder_fps) as video:
            if video.is_still:
                return np.repeat(video.read([0]), self.num_frames, axis=0)
            first, stop = _part(video, row.get("start"), row.get("end"))
            frames = first + uniform_indices(stop - first, self.num_frames, self.short_videos)
            return video.read(video.frames_at_rate(frames))


def _part(video: VideoReader, start: float | None, end: float | None) -> tuple[int, int]:
    """First frame, and the one after the last, of the part of a video that a record is about."""
    if start is None and end is None:
        return 0, video.num_frames
    if video.fps is None:
        raise VideoError("a start and an end in seconds need frames per second: say folder_fps")
    first = round((start or 0) * video.fps)
    stop = video.num_frames if end is None else min(round(end * video.fps), video.num_frames)
    if not 0 <= first < stop:
        length = video.num_frames / video.fps
        raise VideoError(f"no frame lies between start={start} and end={end}, the video lasts {length:.3g} s")
    return first, stop


def _text(value: Any, name: str, rng: np.random.Generator) -> str:
    """A text, one of a list of texts, or "" for none."""
    if isinstance(value, (list, tuple)):
        value = value[int(rng.integers(len(value)))] if value else None
    if value is None:
        return ""
    if not isinstance(value, str):
        raise VideoError(f"the {name} must be text, got {value!r:.80}")
    return value


__all__ = ["VisionTextReader"]
