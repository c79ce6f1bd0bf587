"""Digit stories: whatever is said is true of the clip, and what is kept for testing never occurs in training."""

import numpy as np
import pytest
from torch.utils.data import DataLoader

from hf_jepa.data.digit_stories import DigitStories, digit_stream
from hf_jepa.data.digit_texts import (
    DIGITS,
    DIRECTIONS,
    choose_question,
    digit_scenes,
    is_unseen,
    story_caption,
    story_captions,
    story_questions,
)
from hf_jepa.data.moving_digits import GLYPH, REACH, digit_images, glyph_numbers


WORDS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}


def said(caption):
    """{digit: (rows, columns) as signs} that a caption claims."""
    claims = {}
    for part in caption.split(" and "):
        article, word, verb, *where = part.split()
        assert verb == "moves" and article == ("an" if word[0] == "e" else "a")
        claims[DIGITS.index(word)] = tuple(np.sum([WORDS[one] for one in where], axis=0).tolist())
    assert len(claims) == len(caption.split(" and "))
    return claims


def shown(digits, velocity):
    """{digit: signs of its velocity}, which must be the same in all frames."""
    signs = np.sign(np.round(velocity, 6)).astype(int)  # (T, 2, 2)
    assert (signs == signs[0]).all()
    return dict(zip(digits.tolist(), map(tuple, signs[0].tolist()), strict=True))


@pytest.mark.parametrize("frames", [2, 16, 64])
@pytest.mark.parametrize("directions", [4, 8])
@pytest.mark.parametrize("digits", [1, 2])
def test_captions_and_answers_are_true_of_the_velocities(digits, directions, frames):
    options = {"num_frames": frames, "num_directions": directions, "num_digits": digits}
    stories = DigitStories(300, combinations="all", seed=3, **options)
    batch = stories.batch(range(100))
    asked = set()
    for row in range(100):
        moves = shown(batch.digits[row], batch.velocity[row])
        assert said(batch.captions[row]) == moves and len(moves) == digits
        for question in story_questions(batch.digits[row], batch.directions[row], directions):
            assert is_true(question, moves) and question.answer in question.candidates
            assert len(set(question.candidates)) == len(question.candidates)
            wrong = [answer for answer in question.candidates if answer != question.answer]
            assert not any(is_true(question._replace(answer=answer), moves) for answer in wrong)
        assert batch.questions[row] in story_questions(batch.digits[row], batch.directions[row], directions)
        asked.add(batch.questions[row].question.split()[0])
    assert asked == {"which", "what", "is"}
    assert len({way for row in batch.directions for way in row.tolist()}) == directions


def is_true(question, moves):
    kind, *words = question.question.rstrip("?").split()
    if kind == "is":
        return (DIGITS.index(words[-1]) in moves) == (question.answer == "yes")
    way = words[2:] if kind == "which" else question.answer.split()[1:]
    digit = question.answer if kind == "which" else words[2]
    return moves.get(DIGITS.index(digit)) == tuple(np.sum([WORDS[one] for one in way], axis=0).tolist())


@pytest.mark.parametrize("frames", [2, 16, 64])
def test_flights_are_straight_and_touch_no_border(frames):
    batch = DigitStories(200, combinations="all", num_frames=frames, num_directions=8).batch(range(200))
    assert batch.position.min() >= 0 and batch.position.max() <= REACH
    assert np.allclose(np.diff(batch.position, axis=1), batch.velocity[:, 1:], atol=1e-4)
    speed = np.linalg.norm(batch.velocity, axis=-1)
    fastest = min(4, REACH / (frames - 1))
    assert speed.min() > fastest / 2 - 1e-4 and speed.max() < fastest + 1e-4 and speed.std() > fastest / 20
    assert (batch.digits[:, 0] < batch.digits[:, 1]).all() and (batch.directions[:, 0] != batch.directions[:, 1]).all()


def test_pixels_are_the_digits_at_their_positions():
    batch = DigitStories(50, split="test", num_frames=4).batch(range(20))
    glyphs, classes = digit_images()
    known = np.rint(glyphs * 255).astype(np.uint8)
    assert batch.frames.shape == (20, 4, 64, 64) and batch.frames.dtype == np.uint8
    for clip, digits, position in zip(batch.frames, batch.digits, batch.position, strict=True):
        outside = clip.copy()
        for number, digit in enumerate(digits):
            alike = known[[i for i in glyph_numbers("test") if classes[i] == digit]]
            found = np.ones(len(alike), bool)
            for frame, blank, (top, left) in zip(clip, outside, np.rint(position[:, number]).astype(int), strict=True):
                window = frame[top : top + GLYPH, left : left + GLYPH]
                found &= (window >= alike).all(axis=(1, 2))
                blank[top : top + GLYPH, left : left + GLYPH] = 0
            assert found.any()
        assert not outside.any()


def test_seen_and_unseen_combinations_share_nothing():
    unseen = {(digit, way) for digit in range(10) for way in range(4) if is_unseen(digit, way)}
    assert len(unseen) == 10 and {digit for digit, _ in unseen} == set(range(10)) and len({w for _, w in unseen}) == 4
    drawn = {}
    for kind in ("seen", "unseen"):
        batch = DigitStories(2000, combinations=kind, num_frames=2).batch(range(2000))
        drawn[kind] = set(zip(batch.digits.ravel().tolist(), batch.directions.ravel().tolist(), strict=True))
        assert set(batch.captions) == set(story_captions(kind))  # every one of them occurs
    assert drawn == {"seen": {(d, w) for d in range(10) for w in range(4)} - unseen, "unseen": unseen}
    assert not set(story_captions("seen")) & set(story_captions("unseen"))
    everything = story_captions("all")
    assert len(everything) == len(set(everything)) == 45 * 12 and len(digit_scenes("all", 8)) == 45 * 56
    assert story_caption((7, 2), (0, 2)) == story_caption((2, 7), (2, 0))


def test_questions_are_drawn_evenly():
    grid = np.stack(np.meshgrid(*[np.linspace(0.01, 0.99, 16)] * 3), -1).reshape(-1, 3)
    questions = [choose_question((2, 7), (2, 0), uniform) for uniform in grid]
    kinds = [
        question.question.split()[0] + (question.answer if len(question.candidates) == 2 else "")
        for question in questions
    ]
    assert {kind: kinds.count(kind) / len(kinds) for kind in set(kinds)} == {
        "which": 0.25,
        "what": 0.25,
        "isyes": 0.25,
        "isno": 0.25,
    }
    assert len({question.question for question in questions}) == 2 + 2 + 10


def test_clips_follow_from_seed_epoch_and_index():
    stories, again = DigitStories(50, seed=2, task="both"), DigitStories(50, seed=2, task="both")
    loader = DataLoader(stories, batch_size=5, collate_fn=list, num_workers=0)
    together = [sample for batch in loader for sample in batch]
    for index in (0, 7, 49):
        one = again[index]
        assert (one["video"] == together[index]["video"]).all() and one["sample_index"] == index
        assert (one["query"], one["target"]) == (together[index]["query"], together[index]["target"])
    stories.set_epoch(1)
    assert (stories[7]["video"] != again[7]["video"]).any() and stories.epoch == 1
    assert (DigitStories(50, seed=3)[7]["video"] != again[7]["video"]).any()
    # The texts do not change the clip, nor the digit images the texts.
    assert (DigitStories(50, seed=2, task="question")[7]["video"] == again[7]["video"]).all()
    captions = [DigitStories(50, split=split, seed=2).batch(range(50)).captions for split in ("train", "test")]
    assert captions[0] == captions[1]


def test_tasks():
    captions = DigitStories(40, task="caption", caption_query="what happens?")
    assert {captions[index]["query"] for index in range(40)} == {"what happens?"}
    known = captions.batch(range(40))
    assert [captions[index]["target"] for index in range(40)] == known.captions
    questions = DigitStories(40, task="question")
    assert [questions[index]["query"] for index in range(40)] == [question.question for question in known.questions]
    assert [questions[index]["target"] for index in range(40)] == [question.answer for question in known.questions]
    both = DigitStories(400, task="both")
    share = np.mean([sample["query"] != "" for sample in both.__getitems__(list(range(400)))])
    assert 0.4 < share < 0.6
    sample = captions[3]
    assert sample["video"].shape == (16, 64, 64, 3) and sample["video"].dtype == np.uint8
    assert (sample["video"] == known.frames[3][..., None]).all()
    assert captions.frame_counts.tolist() == [16] * 40


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"length": 0}, "length=0"),
        ({"num_frames": 1}, "num_frames=1"),
        ({"task": "caption?"}, "task 'caption\\?' is not one of caption, question, both"),
        ({"split": "val"}, "split 'val'"),
        ({"num_digits": 3}, "num_digits must be 1 or 2, got 3"),
        ({"combinations": "new"}, "combinations 'new' is not one of seen, unseen, all"),
        ({"num_directions": 6}, "num_directions must be 4 or 8, got 6"),
    ],
)
def test_faults_are_named(arguments, match):
    with pytest.raises(ValueError, match=match):
        DigitStories(**({"length": 5} | arguments))


def test_index_out_of_range():
    with pytest.raises(IndexError, match="index 5 is out of range for 5 clips"):
        DigitStories(5)[5]


# --- streams ------------------------------------------------------------------------------------------------------


def test_a_stream_is_its_events():
    stream = digit_stream(num_events=9, event_frames=(20, 60), seed=1)
    events = stream.events
    assert len(events) == 9 and events[0].start == 0 and events[-1].stop == len(stream.frames)
    assert all(one.stop == next_one.start for one, next_one in zip(events[:-1], events[1:], strict=True))
    assert all(one.caption != next_one.caption for one, next_one in zip(events[:-1], events[1:], strict=True))
    lengths = [event.stop - event.start for event in events]
    assert min(lengths) >= 20 and max(lengths) <= 60 and len(set(lengths)) > 3
    assert stream.frames.shape[1:] == (64, 64, 3) and stream.frames.dtype == np.uint8
    for event in events:
        assert event.caption == story_caption(event.digits, event.directions)
    again = digit_stream(num_events=9, event_frames=(20, 60), seed=1)
    assert (again.frames == stream.frames).all() and again.events == events
    assert digit_stream(num_events=9, seed=2).events != events


def test_digits_of_a_stream_move_as_it_is_said():
    """What is seen after some frames is what was seen before, further on; on a torus, so also across the borders."""
    stream = digit_stream(num_events=6, event_frames=(90, 90), combinations="unseen", seed=0)
    for event in stream.events:
        assert all(is_unseen(*mover) for mover in zip(event.digits, event.directions, strict=True))
        frames = stream.frames[event.start : event.stop, ..., 0].astype(float)
        frames = np.pad(frames, ((0, 0), (0, GLYPH), (0, GLYPH)))  # the torus is as large as canvas and digit
        alike = {
            way: np.mean([overlap(frames[t - 4], frames[t], rows, columns) for t in range(4, 90, 4)])
            for way, (rows, columns) in WORDS.items()
        }
        best = sorted(alike, key=alike.get)[2:]
        assert set(best) == {DIRECTIONS[direction] for direction in event.directions}, (event, alike)


def overlap(before, after, rows, columns):
    """How much of a frame is the one four frames before, moved by 8 to 13 pixels."""
    return max((after * np.roll(before, (rows * pixels, columns * pixels), (0, 1))).sum() for pixels in range(8, 14))


def test_a_stream_never_stands_still():
    frames = digit_stream(num_events=4, event_frames=(100, 100), seed=5).frames[..., 0].astype(int)
    assert (np.abs(np.diff(frames, axis=0)).sum(axis=(1, 2)) > 0).mean() > 0.97
    assert (frames.reshape(len(frames), -1).max(axis=1) > 100).mean() > 0.9  # and is hardly ever empty


def test_faults_of_streams_are_named():
    with pytest.raises(ValueError, match="got 0 of"):
        digit_stream(num_events=0)
    with pytest.raises(ValueError, match=r"got 3 of \(9, 5\) frames"):
        digit_stream(num_events=3, event_frames=(9, 5))
    with pytest.raises(ValueError, match="clip_frames=1"):
        digit_stream(clip_frames=1)
