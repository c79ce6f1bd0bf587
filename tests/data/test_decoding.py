import io
import zipfile

import numpy as np
import pytest
from pictures import picture
from PIL import Image

from hf_jepa.data.decoding import DECODE_ERRORS, decode_image


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_every_way_of_storing_gives_the_same_picture(tmp_path):
    image = picture(0)
    image.save(tmp_path / "a.png")
    stored = (tmp_path / "a.png").read_bytes()
    ways = [image, np.asarray(image), stored, tmp_path / "a.png", str(tmp_path / "a.png")]
    ways += [{"bytes": stored, "path": None}, {"bytes": None, "path": str(tmp_path / "a.png")}]
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "a.png")
    ways += [{"bytes": None, "path": f"zip://a.png::{tmp_path / 'photos.zip'}"}]  # as a stream names its files
    for way in ways:
        result = decode_image(way)
        assert result.mode == "RGB" and np.array_equal(result, image)


def test_grey_palette_and_binary_images():
    image = picture(1).convert("L")
    grey = np.asarray(decode_image(encoded(image, "PNG")))
    assert np.array_equal(grey[..., 0], image) and np.array_equal(grey[..., 0], grey[..., 2])
    palette = picture(1).quantize(16)
    assert np.array_equal(decode_image(encoded(palette, "PNG")), palette.convert("RGB"))
    binary = np.asarray(decode_image(encoded(image.convert("1"), "PNG")))
    assert set(np.unique(binary)) == {0, 255}


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode):
    image = Image.new("RGBA", (2, 1))
    image.putpixel((0, 0), (100, 100, 100, 255))
    image.putpixel((1, 0), (100, 100, 100, 0))
    assert np.asarray(decode_image(encoded(image.convert(mode), "PNG")))[0, :, 0].tolist() == [100, 255]


def test_transparent_palette_entry_is_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    stored = encoded(image, "PNG", transparency=1)
    assert np.asarray(decode_image(stored))[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_sixteen_bits_keep_their_shades():
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        result = np.asarray(decode_image(encoded(Image.fromarray(ramp), kind)))[..., 0]
        assert np.array_equal(result.ravel(), np.arange(256))
    wide = Image.fromarray(np.array([[0, 200]], np.int32))  # 8-bit values in 32-bit integers
    assert np.asarray(decode_image(wide))[0, :, 0].tolist() == [0, 200]


def test_cmyk_jpeg():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    r, g, b = decode_image(encoded(image, "JPEG")).getpixel((5, 5))
    assert r > 240 and g < 15 and b < 15


def test_exif_orientation_is_applied():
    image = picture(2, 20, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    upright = decode_image(encoded(image, "PNG", exif=exif))
    assert upright.size == (20, 40)
    assert np.array_equal(upright, np.rot90(np.asarray(image), k=-1))


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    stored = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(stored).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "empty"),
        (b"no picture at all", "not that of an image"),
        (None, "no image"),
        ({"bytes": None, "path": None}, "no image"),
        ({"bytes": None, "path": "missing/file.jpg"}, "missing/file.jpg"),
        (3.5, "float"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4, 7), np.uint8), r"\(4, 4, 7\)"),
        (Image.fromarray(np.zeros((2, 2), np.float32)), "floating-point"),
        (Image.fromarray(np.full((2, 2), 1 << 20, np.int32)), "1048576"),
    ],
)
def test_what_cannot_be_read_says_why(value, reason):
    with pytest.raises(DECODE_ERRORS, match=reason):
        decode_image(value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
def test_files_cut_anywhere_give_a_known_error(kind):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)  # so that no byte is spare
    stored = encoded(Image.fromarray(noise), kind)
    for part in np.linspace(1, len(stored) * 0.9, 25).astype(int):
        with pytest.raises(DECODE_ERRORS):
            decode_image(stored[:part])


def test_damaged_bytes_never_raise_anything_unknown():
    rng = np.random.default_rng(0)
    failed = 0
    for kind in ("PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP"):
        stored = np.frombuffer(encoded(picture(4), kind), np.uint8)
        for _ in range(60):
            damaged = stored.copy()
            damaged[rng.integers(0, len(damaged), 8)] = rng.integers(0, 256, 8)
            damaged[: rng.integers(0, 12)] ^= 1
            try:
                decode_image(damaged.tobytes())
            except DECODE_ERRORS:
                failed += 1
    assert failed > 100


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb_is_an_error_not_a_crash(monkeypatch):
    stored = encoded(picture(0), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DECODE_ERRORS, match="decompression bomb"):
        decode_image(stored)
