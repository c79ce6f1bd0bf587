"""Any stored picture to an upright 8-bit RGB image, and the record of one that cannot be read."""

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hf_jepa.data.shard_reads import ShardError


# What Pillow's readers raise on damaged input, by format; MemoryError and anything else stays fatal.
DECODE_ERRORS = (
    OSError,  # truncated or unidentified file, missing path
    Image.DecompressionBombError,
    SyntaxError,  # broken PNG chunks
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    NotImplementedError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class UndecodableImage:
    """Takes the place of a sample whose image cannot be read; `str()` of it is "path: reason".

    Args:
        sample_index: position in the data set.
        source: path of the file, or its row where the file has no name.
        reason: what the decoder said.
        shape: (C, H, W) of the pixels it would have had.

    Example:
        >>> str(UndecodableImage(7, "photos/7.jpg", "the file is empty", (3, 8, 8)))
        'photos/7.jpg: the file is empty'
    """

    sample_index: int
    source: str
    reason: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, error: Exception, sample_index: int, source: str, shape: tuple[int, ...], **more: Any) -> Self:
        """What takes the place of the sample that could not be read because of an error."""
        return cls(sample_index, source, str(error) or type(error).__name__, tuple(shape), **more)

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


def decode_image(value: Any) -> Image.Image:
    """Decode one picture as `datasets` stores it.

    Args:
        value: a mapping with `bytes` or `path` (from `datasets.Image(decode=False)`), encoded bytes, a path, a PIL
            image, a uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), or the `ShardError` that kept it from
            being read.

    Returns:
        an RGB image, fully loaded, with the EXIF orientation applied.

    Raises:
        one of `DECODE_ERRORS` where the picture cannot be read.

    Example:
        >>> import numpy as np
        >>> decode_image(np.zeros((4, 6), np.uint8)).size, decode_image(np.zeros((4, 6), np.uint8)).mode
        ((6, 4), 'RGB')
    """
    if isinstance(value, ShardError):
        raise OSError(value.reason) from value
    if isinstance(value, Image.Image):
        return to_rgb(value)
    if isinstance(value, np.ndarray):
        return to_rgb(_from_array(value))
    data, path = _bytes_and_path(value)
    if data is not None:
        if not data:
            raise ValueError("the file is empty (0 bytes)")
        return _open(io.BytesIO(data))
    if path is None:
        raise ValueError("the row holds no image: neither bytes nor a path")
    if "://" in path:  # a streamed file; datasets knows how to open hub, zip and web addresses
        import datasets

        return to_rgb(datasets.Image().decode_example({"path": path, "bytes": None}))
    if not Path(path).stat().st_size:
        raise ValueError("the file is empty (0 bytes)")
    return _open(path)


def _open(file: io.BytesIO | str) -> Image.Image:
    try:
        image = Image.open(file)
    except UnidentifiedImageError as error:  # its own message names a memory address
        raise ValueError("the content is not that of an image file") from error
    with image:
        return to_rgb(image)


def _bytes_and_path(value: Any) -> tuple[bytes | None, str | None]:
    if value is None:
        return None, None
    if isinstance(value, bytes):
        return value, None
    if isinstance(value, (str, Path)):
        return None, str(value)
    if isinstance(value, dict) and ("bytes" in value or "path" in value):
        return value.get("bytes"), value.get("path")
    raise TypeError(f"cannot read an image from {type(value).__name__}")


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8:
        raise ValueError(f"an array image must be uint8, got {array.dtype}: scale it to 0..255 first")
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 2 and (array.ndim != 3 or array.shape[-1] not in (3, 4)):
        raise ValueError(f"an array image must be (H, W) or (H, W, 1|3|4), got shape {array.shape}")
    return Image.fromarray(array)


def describe_source(value: Any, index: int) -> str:
    """Name a stored picture for a message: its path if it has one, else its row; of a shard its own path.

    Example:
        >>> describe_source({"bytes": b"", "path": None}, 12), describe_source("a/b.png", 12)
        ('row 12', 'a/b.png')
    """
    if isinstance(value, ShardError):
        return value.path
    if isinstance(value, dict):
        path, embedded = value.get("path"), value.get("bytes") is not None
    else:
        path, embedded = (str(value), False) if isinstance(value, (str, Path)) else (None, False)
    if path is None:
        return f"row {index}"
    return f"{path} (row {index})" if embedded else path  # an embedded file's name alone would not find it


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a PIL image of any mode to upright 8-bit RGB.

    Transparency is laid on white, as image processors of transformers do. 16-bit grey is scaled to 8 bits (Pillow's
    own conversion clips it to white).

    Args:
        image: of any mode; the first frame is taken.

    Returns:
        an RGB image that no longer depends on the file.

    Raises:
        ValueError: floating-point pixels or 32-bit integers beyond 16 bits, whose white level is unknown.

    Example:
        >>> from PIL import Image
        >>> to_rgb(Image.new("RGBA", (1, 1), (0, 0, 0, 0))).getpixel((0, 0))
        (255, 255, 255)
    """
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known white level: convert the file to 8 or 16 bit")
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = _sixteen_bit_to_grey(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _sixteen_bit_to_grey(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(
            f"32-bit integer pixels from {pixels.min()} to {pixels.max()} have no known white level: convert the file "
            "to 8 or 16 bit"
        )
    # Mode "I" may hold 8-bit values in wide integers; a 16-bit picture this dark would be black anyway.
    scale = 1 if image.mode == "I" and pixels.max() <= 255 else 257  # 65535 / 255
    return Image.fromarray(np.round(pixels / scale).astype(np.uint8))


__all__ = ["DECODE_ERRORS", "UndecodableImage", "decode_image", "describe_source", "to_rgb"]
