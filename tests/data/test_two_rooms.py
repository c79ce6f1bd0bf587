"""Two rooms: the numbers of the official world, walks as they should be distributed, every clip reproducible."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from hf_jepa.data.two_rooms import SPLITS, TwoRooms, TwoRoomsCollator
from hf_jepa.data.two_rooms_dynamics import (
    BORDER,
    DOOR_HALF,
    DOOR_Y,
    WALL_HALF,
    WALL_X,
    Layouts,
    blocked,
    contact_moves,
    layouts_from,
    walk,
)
from hf_jepa.data.two_rooms_pixels import (
    normalise,
    normalise_positions,
    render_dots,
    render_walls,
    room_pixels,
)
from hf_jepa.data.two_rooms_walks import STEPS, UNIFORM, steps_of, truncated_normal, wander


IO = load_file(Path(__file__).parents[1] / "fixtures/golden/eb_jepa/two_rooms/io.safetensors")
LAYOUTS = Layouts(IO["wall_x"].numpy(), IO["door_y"].numpy())
ROOM = Layouts(np.array([32]), np.array([18]))


# --- the official numbers -------------------------------------------------------------------------------------------


def test_walks_are_the_official_ones():
    found = walk(IO["start"].double().numpy(), IO["actions"].double().numpy(), LAYOUTS)
    assert (found[:, 1:] == found[:, :-1]).all(-1).sum() > 20  # moves that met a wall
    torch.testing.assert_close(torch.from_numpy(found), IO["locations"].double(), rtol=0, atol=1e-4)


def test_pictures_are_the_official_ones():
    assert torch.equal(render_dots(IO["locations"][:2, :4]), IO["frames_first4_uint8"])
    assert torch.equal(render_walls(IO["wall_x"], IO["door_y"]), IO["walls_uint8"])


def test_what_a_model_sees_is_the_official_one():
    positions, walls = IO["locations"][:2, :3], (IO["wall_x"][:2], IO["door_y"][:2])
    wanted = IO["normalised_states_first3"].transpose(1, 2)  # (N, C, T, H, W) there
    torch.testing.assert_close(room_pixels(positions, *walls), wanted, rtol=0, atol=1e-5)
    pictures = torch.stack([render_dots(positions), render_walls(*walls)[:, None].expand(-1, 3, -1, -1)], dim=2)
    torch.testing.assert_close(normalise(pictures), wanted, rtol=0, atol=1e-5)
    located = normalise_positions(IO["locations"][:, :-1])
    torch.testing.assert_close(located.transpose(1, 2), IO["normalised_locations"], rtol=0, atol=1e-5)


def test_the_environment_moves_as_the_official_one():
    position, proposed, noise = (IO[f"env/{name}"].double().numpy() for name in ("position", "proposed", "noise"))
    rooms = Layouts(*(np.full(len(position), int(IO[f"env/{name}"])) for name in ("wall_x", "door_y")))
    found, met = contact_moves(position, proposed, rooms, noise)
    assert np.array_equal(met, IO["env/collides"].numpy() == 1) and 10 < met.sum() < len(met)
    torch.testing.assert_close(torch.from_numpy(found), IO["env/next_position"].double(), rtol=0, atol=1e-4)


# --- dynamics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("here", "there", "stays"),
    [
        ((30.5, 18.0), (33.5, 18.0), False),  # through the door
        ((33.5, 18.0), (30.5, 18.0), False),
        ((30.5, 30.0), (31.0, 30.0), True),  # touches the wall
        ((33.5, 30.0), (32.5, 30.0), True),  # from the other side
        ((32.0, 21.5), (32.0, 22.5), True),  # leaves the door by its lower edge, straight down
        ((32.0, 14.5), (32.0, 13.5), True),  # and by its upper one
        ((10.0, 30.0), (3.9, 30.0), True),  # borders
        ((10.0, 30.0), (10.0, 60.0), True),
        ((10.0, 30.0), (10.0, 30.0), False),  # no move at all
        ((10.0, 30.0), (10.0, 33.0), False),  # along a line: no division by zero
    ],
)
def test_which_moves_the_data_cancels(here, there, stays):
    with np.errstate(all="raise"):
        assert blocked(np.array([here]), np.array([there]), ROOM)[0] == stays
        reached = walk(np.array([here]), np.array([[there]]) - np.array(here), ROOM)[0, -1]
    np.testing.assert_allclose(reached, here if stays else there)


@pytest.mark.parametrize("step", [(0.0, 5.0), (5.0, 0.0), (0.0, 0.0), (-40.0, -40.0)])
def test_contacts_are_finite_and_within_the_room(step):
    rng = np.random.default_rng(0)
    position = rng.uniform(4.1, 30.9, (400, 2))
    rooms = Layouts(np.full(400, 32), np.full(400, 18))
    with np.errstate(all="raise"):
        found, met = contact_moves(position, position + np.array(step), rooms, rng.standard_normal((400, 2, 2)))
    assert np.isfinite(found).all() and (found > 4).all() and (found[met] < 60).all()
    far = np.abs(position[:, 1] - 18) > 12  # away from the door nobody gets through
    assert (found[far, 0] < 31).all()


def test_a_layout_out_of_range_is_named():
    with pytest.raises(ValueError, match="wall_x=19 is outside of 20..44"):
        layouts_from(np.zeros((1, 2)), wall_x=19)
    drawn = layouts_from(np.random.default_rng(0).random((20_000, 2)))
    for values, (low, high) in zip(drawn, (WALL_X, DOOR_Y), strict=True):
        counts = np.bincount(values - low)
        assert len(counts) == high - low + 1 and counts.min() > 0.7 * counts.mean()


# --- walks ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def walks():
    rng, count = np.random.default_rng(0), 4000
    layouts = layouts_from(rng.random((count, 2)))
    uniform, turns = rng.random((count, UNIFORM)), rng.vonmises(0, 5, (count, 2, STEPS - 1))
    return uniform, layouts, *wander(uniform, turns, layouts)


def test_steps_have_the_lengths_and_turns_of_the_paper(walks):
    uniform, _, start, actions = walks
    lengths = np.linalg.norm(actions, axis=-1)
    assert lengths.min() >= 0.2 and lengths.max() <= 1.8
    assert abs(lengths.mean() - 1) < 0.01 and abs(lengths.std() - 0.352) < 0.01  # of the truncated distribution
    free = uniform[:, 3] >= 0.35
    angle = np.arctan2(actions[free, :, 1], actions[free, :, 0])
    turn = np.mod(np.diff(angle, axis=1) + np.pi, 2 * np.pi) - np.pi
    assert abs(np.cos(turn).mean() - 0.8934) < 0.003 and abs(turn.mean()) < 0.01  # I1(5) / I0(5)
    assert np.histogram(angle[:, 0], 4, (-np.pi, np.pi))[0].min() > 0.8 * free.sum() / 4
    assert abs(start[free].mean() - 32) < 0.6 and (start >= 4).all() and (start <= 60).all()


def test_nobody_is_put_into_the_wall(walks):
    uniform, layouts, start, _ = walks
    free = uniform[:, 3] >= 0.35  # a walk that is laid through the door starts wherever it leads back to
    layouts, start = layouts.rows(free), start[free]
    inside = np.abs(start[:, 0] - layouts.wall_x) <= WALL_HALF
    assert (np.abs(start[inside, 1] - layouts.door_y[inside]) <= DOOR_HALF).all()


def test_a_third_of_the_walks_is_laid_through_the_door(walks):
    uniform, layouts, start, actions = walks
    crossing = uniform[:, 3] < 0.35
    path = start[:, None] + np.concatenate([np.zeros((len(start), 1, 2)), actions.cumsum(axis=1)], axis=1)
    unclamped = ((start > BORDER[0] + 0.01) & (start < BORDER[1] - 0.01)).all(axis=1)
    at_door = (np.abs(path[..., 0] - layouts.wall_x[:, None]) <= 1 + 1e-9) & (
        np.abs(path[..., 1] - layouts.door_y[:, None]) <= 4 + 1e-9
    )
    assert at_door.any(axis=1)[crossing & unclamped].all() and (crossing & unclamped).sum() > 700
    assert at_door.any(axis=1)[~crossing].mean() < 0.2
    walked = walk(start, actions, layouts)
    side = np.sign(walked[..., 0] - layouts.wall_x[:, None])
    passed = side.min(axis=1) != side.max(axis=1)
    assert passed[crossing].mean() > 0.6 > 0.15 > passed[~crossing].mean()
    right = walked[crossing & passed, 0, 0] > layouts.wall_x[crossing & passed]
    assert 0.4 < right.mean() < 0.6  # in both directions


def test_both_parts_of_a_walk_through_the_door_lead_away_from_it():
    """The first is taken backwards; the second starts with its second step, after its first turn."""
    layouts, turns = Layouts(np.full(2, 32), np.full(2, 30)), np.zeros((2, 2, STEPS - 1))
    turns[:, 1] = 0.01
    uniform = np.full((2, UNIFORM), 0.5)
    uniform[:, 3:10] = 0.0, 0.5, 0.0, 0.1, 0.9, 0.5, 0.5  # laid through the middle of the door after 10 steps
    uniform[1, 7] = 0.1  # the same, walked backwards
    start, actions = wander(uniform, turns, layouts)
    angle = 0.01 * np.clip(np.arange(STEPS) - 9, 0, None)
    wanted = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    np.testing.assert_allclose(actions[0], wanted, atol=1e-9)
    np.testing.assert_allclose(actions[1], -wanted[::-1], atol=1e-9)
    np.testing.assert_allclose(start[0], [22.0, 30.0], atol=1e-9)
    backwards = np.array([32.0, 30.0]) + wanted[10:].sum(axis=0)
    np.testing.assert_allclose(start[1], backwards.clip(4.01, 59.99), atol=1e-9)


def test_truncated_normals_stay_between_their_ends():
    drawn = truncated_normal(np.linspace(0, 1, 10_001), 0.0, 1.4, -4.0, 4.0)
    assert drawn[0] == -4 and drawn[-1] == 4 and (np.diff(drawn) > 0).all() and abs(drawn.std() - 1.3727) < 0.001
    assert steps_of(np.array([np.pi]), np.zeros((1, 0)), np.ones((1, 1))).round(9).tolist() == [[[-1.0, 0.0]]]


# --- the data set ---------------------------------------------------------------------------------------------------


def test_clips_obey_the_world():
    clips = TwoRooms(600).batch(range(600))
    assert clips.positions.shape == (600, 17, 2) and clips.actions.shape == (600, 16, 2)
    here, there = clips.positions[:, :-1].flatten(0, 1).double(), clips.positions[:, 1:].flatten(0, 1).double()
    aim = here + clips.actions.flatten(0, 1)
    moved = (there - here).norm(dim=-1) > 0
    torch.testing.assert_close(there[moved], aim[moved], rtol=0, atol=1e-5)
    layouts = Layouts(*(each.repeat_interleave(16).numpy() for each in clips[2:]))
    assert 0.1 < (~moved).float().mean() < 0.4
    assert (blocked(here.numpy(), aim.numpy(), layouts) == ~moved.numpy()).mean() > 0.999  # but for float32


def test_a_clip_follows_from_seed_split_epoch_and_index_alone():
    clips = TwoRooms(50)
    alone, within = clips.batch([7]), clips.batch([3, 7, 9])
    assert all(torch.equal(a[0], b[1]) for a, b in zip(alone, within, strict=True))
    others = [TwoRooms(50, seed=1), *(TwoRooms(50, split=split) for split in SPLITS[1:]), TwoRooms(50)]
    others[-1].set_epoch(1)
    drawn = [other.batch([7]).positions for other in others] + [clips.batch([8]).positions, alone.positions]
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
    loader = DataLoader(clips, 4, num_workers=1, persistent_workers=True, collate_fn=TwoRoomsCollator(17))
    first = [batch["actions"] for batch in loader]
    clips.set_epoch(1)
    second = [batch["actions"] for batch in loader]
    assert torch.equal(first[1], clips_of(0, range(4, 8))) and torch.equal(second[1], clips_of(1, range(4, 8)))


def clips_of(epoch, indices):
    clips = TwoRooms(50)
    clips.set_epoch(epoch)
    return clips.batch(indices).actions


def test_a_batch_holds_what_its_samples_show():
    clips = TwoRooms(50, num_frames=5, wall_x=32)
    batch = TwoRoomsCollator(with_states=True)([clips[4], clips[40]])
    known = clips.batch([4, 40])
    assert batch["sample_index"].tolist() == [4, 40] and set(known.wall_x.tolist()) == {32}
    assert batch["pixel_values_videos"].shape == (2, 5, 2, 65, 65)
    assert torch.equal(batch["states"], normalise_positions(known.positions))
    peak = batch["pixel_values_videos"][:, :, 0].flatten(2).argmax(-1)
    seen = torch.stack([peak % 65, peak // 65], dim=-1)
    assert (seen - known.positions).abs().max() <= 0.5 + 1e-4
    torch.testing.assert_close(batch["actions"], known.actions)
    assert "states" not in TwoRoomsCollator()([clips[4]])


@pytest.mark.parametrize("size", [9, 33])
def test_at_a_lower_resolution_walls_and_dot_are_still_there(size):
    step = 64 / (size - 1)
    walls = render_walls(torch.arange(20, 45), torch.full((25,), 30), size)
    middle = walls[:, size - 3]  # a row below the door, above the border
    assert (middle[:, 2:-2] > 0).any(dim=1).all()  # no wall falls between two columns
    assert (walls[:, round(30 / step), 2:-2] == 0).any(dim=1).all() and (walls[:, round(4 / step)] == 255).all()
    dot = render_dots(torch.tensor([[24.0, 40.0]]), size)[0]
    assert divmod(int(dot.argmax()), size) == (round(40 / step), round(24 / step))
    peak = render_dots(torch.tensor([[4 * 64 / (size - 1)] * 2]), size).amax()
    assert peak == 255


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length=0"),
        ({"length": 5, "split": "val"}, "split 'val' is not one of train, validation, test"),
        ({"length": 5, "num_frames": 91}, "num_frames=91"),
        ({"length": 5, "num_frames": 1}, "num_frames=1"),
        ({"length": 5, "door_y": 9}, "door_y=9 is outside of 10..54"),
        ({"length": 5, "seed": -1}, "seed must be 0 or more, got -1"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TwoRooms(**settings)


def test_wrong_indices_and_image_sizes_are_named():
    with pytest.raises(IndexError, match="index 5 is out of range for 5 clips"):
        TwoRooms(5)[5]
    with pytest.raises(ValueError, match="image_size=8"):
        TwoRoomsCollator(8)
