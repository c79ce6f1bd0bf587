"""Videos made for tests: every frame shows its own number."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


BITS = 8


def numbered(number: int, height: int = 32, width: int = 64) -> np.ndarray:
    """uint8 (H, W, 3): eight vertical bars are the binary digits of the number, white is 1; the top row is red."""
    bits = [(number >> bit) & 1 for bit in range(BITS)]
    frame = np.repeat(np.array(bits, np.uint8) * 200 + 20, width // BITS)
    frame = np.broadcast_to(frame[None, :, None], (height, width, 3)).copy()
    frame[: height // 8] = (220, 10, 10)
    return frame


def number_of(frame: np.ndarray) -> int:
    """The number that a frame shows, also after lossy coding."""
    bars = frame[len(frame) // 4 :].astype(float).mean(axis=(0, 2)).reshape(BITS, -1).mean(axis=1)
    return sum(1 << bit for bit, value in enumerate(bars) if value > 120)


def numbers_of(frames: np.ndarray) -> list[int]:
    return [number_of(frame) for frame in frames]


def write_video(
    path: Path,
    frames: int | list[np.ndarray] = 40,
    codec: str = "libx264",
    rate: int = 25,
    pix_fmt: str = "yuv420p",
    times: list[int] | None = None,
    rotation: int | None = None,
    file_format: str | None = None,
    container_options: dict | None = None,
    **options: str,
) -> Path:
    """Write numbered frames (or the given ones) at a constant rate, or at `times` in milliseconds."""
    frames = [numbered(i) for i in range(frames)] if isinstance(frames, int) else frames
    with av.open(str(path), "w", format=file_format, options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.options = pix_fmt, options
        if times is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
