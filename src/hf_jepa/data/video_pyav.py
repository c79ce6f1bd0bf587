"""Exact random access to the frames of a video file with PyAV.

Opening reads the headers of all packets, without decoding: the sorted presentation times number the frames, and the
key frames among them are where decoding can begin. Frames are then recognised by their time, never by counting, so
that B-frames, edit lists, variable frame rates and wrong headers change nothing. Files whose packets have no times are
decoded from the start and counted.
"""

import io
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from hf_jepa.data.video_readers import VideoError, VideoReader, at_least_one


SEEK_GAIN = 8  # frames that must be skipped for a seek to pay


class _KeyFrame(NamedTuple):
    """Where decoding can begin: number of the frame, and the times of its presentation and of its decoding.

    Containers find places by one or the other; where the wrong one is asked for, they go too far or not far enough.
    """

    index: int
    pts: int
    dts: int


class PyAvReader(VideoReader):
    """The frames of a video file, see `VideoReader`.

    Args:
        source: path or web address, or the bytes of a file.
        num_threads: decoding threads.

    Raises:
        VideoError: not a video, or damaged.
        ImportError: PyAV is not installed.
    """

    def __init__(self, source: str | bytes, num_threads: int = 1):
        self.source, self.num_threads = source, num_threads
        self._container = None
        try:
            self._open()
            with _errors():
                times = self._scan()
            if times is None:
                with _errors():
                    times = self._decode_all()
        except VideoError:
            self.close()
            raise
        self.num_frames = at_least_one(len(times))
        self._set_rate(times)

    def _open(self) -> None:
        self.close()
        with _errors() as av:
            self._container = av.open(io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source)
            if not self._container.streams.video:
                raise VideoError("the file has no video stream")
            self._stream = self._container.streams.video[0]
            if self._stream.codec_context is None:
                raise VideoError("the codec of the video stream is not known")
            self._stream.codec_context.thread_count = self.num_threads

    def _scan(self) -> list[int] | None:
        """Number the frames by the times of their packets; None where packets do not tell."""
        packets, total = [], 0
        for packet in self._container.demux(self._stream):
            if not packet.size:
                continue  # the end of the stream
            total += 1
            if packet.is_corrupt:
                raise VideoError(f"the file is damaged or cut off at frame {total - 1}")
            if packet.is_discard:
                continue  # hidden by an edit list
            if packet.pts is None:
                return None
            packets.append((packet.pts, packet.pts if packet.dts is None else packet.dts, packet.is_keyframe))
        expected = len(getattr(self._stream, "index_entries", ()))  # PyAV 14 does not have it
        if total < expected:
            raise VideoError(f"the file is cut off: {total} of {expected} frames are there")
        packets.sort()
        times = [pts for pts, _, _ in packets]
        if len(set(times)) < len(times):
            return None
        self._number = {pts: number for number, pts in enumerate(times)}
        self._keys = [_KeyFrame(number, pts, dts) for number, (pts, dts, key) in enumerate(packets) if key]
        return times

    def _decode_all(self) -> list[int]:
        """Number the frames by decoding the whole file."""
        self._number = None
        self._open()
        return [number for number, _ in enumerate(self._container.decode(self._stream))]

    def _set_rate(self, times: list[int]) -> None:
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.fps = float(rate) if rate else None
        if self._number is None or len(times) < 2:
            return
        seconds = (np.asarray(times) - times[0]) * float(self._stream.time_base)
        measured = (len(times) - 1) / seconds[-1]
        if self.fps is None or abs(self.fps - measured) > 0.01 * measured + measured / len(times):
            self.fps = measured  # the header does not know; where it does, it is not rounded to milliseconds
        if np.abs(seconds - np.arange(len(times)) / self.fps).max() > 0.5 / self.fps:
            self.timestamps = seconds

    def _read(self, wanted: list[int]) -> list[np.ndarray]:
        with _errors():
            return [frame for run in self._runs(wanted) for frame in self._read_run(*run)]

    def _runs(self, wanted: list[int]) -> Iterator[tuple[_KeyFrame | None, list[int]]]:
        """Split ascending frame numbers where a seek saves decoding: (key frame before them, frames)."""
        if self._number is None:
            yield None, wanted
            return
        starts = [key.index for key in self._keys]
        first, run = None, []
        for number in wanted:
            key = bisect_right(starts, number) - 1
            if run and (key < 0 or starts[key] - run[-1] < SEEK_GAIN):
                run.append(number)
                continue
            if run:
                yield first, run
            first, run = (self._keys[key] if key >= 0 else None), [number]
        yield first, run

    def _read_run(self, key: _KeyFrame | None, wanted: list[int]) -> list[np.ndarray]:
        # By presentation time, by decoding time, and where the container finds neither, from the start.
        for seek_time in (key.pts, key.dts, None) if key else (None,):
            found = self._collect(self._decode_from(key, seek_time), set(wanted))
            if len(found) == len(wanted):
                return [found[number] for number in wanted]
        missing = next(number for number in wanted if number not in found)
        raise VideoError(f"frame {missing} of {self.num_frames} cannot be decoded")

    def _collect(self, frames: Iterator[tuple[int, Any]], wanted: set[int]) -> dict[int, np.ndarray]:
        found, last = {}, max(wanted)
        for number, frame in frames:
            if number in wanted:
                found[number] = _upright(frame)
            if number >= last:
                break
        return found

    def _decode_from(self, key: _KeyFrame | None, seek_time: int | None) -> Iterator[tuple[int, Any]]:
        """Numbered frames from a key frame on, none if the seek went beyond it; without a time, from the start."""
        begun = seek_time is None
        if begun:
            self._open()
        else:
            self._container.seek(seek_time, stream=self._stream)
        for count, frame in enumerate(self._container.decode(self._stream)):
            number = count if self._number is None else self._number.get(frame.pts)
            if number is None:
                continue  # hidden by an edit list
            if not begun and number > key.index:
                return
            begun = begun or number == key.index  # frames before it may need others that were not decoded
            if begun:
                yield number, frame

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None


def _upright(frame: Any) -> np.ndarray:
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # counter-clockwise, as numpy turns
    return np.rot90(pixels, turns) if turns else pixels


@contextmanager
def _errors() -> Iterator[Any]:
    """PyAV, with its errors as `VideoError`."""
    try:
        import av
    except ImportError as error:
        raise ImportError('reading video files needs PyAV: run `pip install "hf_jepa[video]"`') from error
    try:
        yield av
    except av.FFmpegError as error:
        raise VideoError(error.strerror or str(error)) from error


__all__ = ["PyAvReader"]
