"""Pictures of two rooms: what is drawn lies where it is, GIFs hold all frames, wrong input is named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_jepa.visualization import two_rooms
from hf_jepa.visualization.two_rooms import draw_room_energy, draw_room_paths, save_episodes


WALLS = np.zeros((2, 33, 33), np.uint8)
WALLS[:, 8:, 16] = 255  # a wall at x = 32 from y = 16 on
STEPS = np.stack([np.linspace((8, 8), (56, 40), 9)] * 2)
Y, X = np.mgrid[4:60:29j, 4:60:29j]
DISTANCE = np.hypot(X - 40, Y - 20)[None].repeat(2, axis=0)
TARGETS = np.array([[40.0, 20.0]] * 2)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, to look at what is in them."""
    kept, save = [], two_rooms.save_figure

    def keep(figure, path):
        kept.append(figure)
        return save(figure, path)

    monkeypatch.setattr(two_rooms, "save_figure", keep)
    return kept


def test_paths_are_drawn_in_coordinates_of_the_world(drawn, tmp_path):
    path = draw_room_paths(WALLS, {"CEM": STEPS, "random": STEPS - 4}, tmp_path / "new" / "paths.png", targets=TARGETS)
    assert Image.open(path).format == "PNG" and list(path.parent.iterdir()) == [path]
    (figure,) = drawn
    panel = figure.axes[1]
    np.testing.assert_allclose(panel.lines[0].get_xydata(), STEPS[1])
    np.testing.assert_allclose(panel.lines[1].get_xydata(), STEPS[1, :1])  # where it starts
    np.testing.assert_allclose(panel.lines[-1].get_xydata(), TARGETS[1:])
    assert panel.get_ylim()[0] > panel.get_ylim()[1]  # y downwards, as in the frames
    left, right, bottom, top = panel.images[0].get_extent()
    pixel = (32 - left) / (right - left) * 33, (40 - top) / (bottom - top) * 33
    assert panel.images[0].get_array()[int(pixel[1]), int(pixel[0])] == 1  # the wall at (32, 40)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["CEM", "random"]


def test_energies_lie_where_they_were_measured(drawn, tmp_path):
    draw_room_energy({"a": DISTANCE, "b": 2 * DISTANCE}, WALLS, tmp_path / "e.png", targets=TARGETS, titles=["1", "2"])
    panels = drawn[0].axes
    assert len(panels) == 4 and panels[2].get_ylabel() == "b"
    mesh = panels[2].collections[0]
    corners, values = mesh.get_coordinates(), mesh.get_array()
    row, column = np.unravel_index(values.argmin(), values.shape)
    middle = corners[row : row + 2, column : column + 2].mean(axis=(0, 1))
    np.testing.assert_allclose(middle, TARGETS[0])
    assert values.max() == pytest.approx(2 * DISTANCE.max())


def test_episodes_move(tmp_path):
    frames = [np.full((3, 9, 9, 3), 255, np.uint8) for _ in range(5)]
    for t, frame in enumerate(frames):
        frame[1, t, 2] = 0  # in the second room a point walks down
    path = save_episodes(frames, tmp_path / "e.gif", columns=2, scale=3, frames_per_second=25)
    assert list(tmp_path.iterdir()) == [path]
    with Image.open(path) as film:
        assert film.n_frames == 5 and film.size == (3 * 20, 3 * 20) and film.info["loop"] == 0
        for t in range(5):
            film.seek(t)
            assert film.info["duration"] == 40
            dark = np.argwhere(np.asarray(film.convert("L")) < 128) // 3
            assert {tuple(each) for each in dark} == {(t, 11 + 2)}


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda path: draw_room_paths(WALLS[0], {}, path), r"walls of shape \(33, 33\)"),
        (lambda path: draw_room_paths(WALLS, {"CEM": STEPS[:1]}, path), r"'CEM' has shape \(1, 9, 2\)"),
        (lambda path: draw_room_paths(WALLS, {}, path, targets=TARGETS[0]), r"targets of shape \(2,\)"),
        (lambda path: draw_room_energy({}, WALLS, path, targets=TARGETS), "nothing to draw"),
        (lambda path: draw_room_energy({"a": DISTANCE[:1]}, WALLS, path, targets=TARGETS), "energies 'a' of shape"),
        (lambda path: draw_room_energy({"a": DISTANCE * np.nan}, WALLS, path, targets=TARGETS), "finite numbers"),
        (lambda path: save_episodes([], path), "expected at least one"),
        (lambda path: save_episodes([np.zeros((1, 9, 9, 3))], path), "uint8"),
        (lambda path: save_episodes([np.zeros((1, 9, 9, 3), np.uint8)], path, frames_per_second=60), "=60"),
    ],
)
def test_wrong_input_is_named_and_leaves_nothing(draw, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "picture")
    assert not list(tmp_path.iterdir())


def test_an_animation_that_cannot_be_written_leaves_nothing(monkeypatch, tmp_path):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_episodes([np.zeros((1, 9, 9, 3), np.uint8)], tmp_path / "e.gif")
    assert not list(tmp_path.iterdir())
