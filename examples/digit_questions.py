"""What is asked about moving digits, of a VL-JEPA and of a language model, and what they say of a long video."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from generative_baseline import GenerativeBaseline

from hf_jepa.data.digit_stories import DigitStories, digit_stream
from hf_jepa.data.digit_texts import story_captions
from hf_jepa.evaluation.decode_savings import annotation_score, compare_with_uniform, decode_curves
from hf_jepa.evaluation.retrieval import retrieval_recalls
from hf_jepa.evaluation.segments import uniform_segments, ward_segments
from hf_jepa.evaluation.selective_decoding import window_variance
from hf_jepa.evaluation.vision_language import VisionLanguageTasks
from hf_jepa.visualization.streams import draw_stream


FRAMES, CAPTION_QUERY = 4, "describe the clip"
FPS, STRIDE = 8, 2  # of the long video, and frames between its windows
EVENT_FRAMES = (16, 80)  # of what happens in it
DECODES = (0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8)  # for each event
WRITTEN = {"max_new_tokens": 24, "do_sample": False}
Pixels = Callable[[np.ndarray], torch.Tensor]  # frames (B, T, H, W, 3) to (B, T, C, H, W)


def stories(length: int, split: str, combinations: str, seed: int, **options: str | int) -> DigitStories:
    options = {"caption_query": CAPTION_QUERY} | options
    return DigitStories(length, split, combinations, num_frames=FRAMES, seed=seed, **options)


def tests(count: int, pixels: Pixels) -> dict[str, dict]:
    """Clips of digit images that training does not have: of all moves, of unseen ones, and with questions."""
    found = {}
    for seed, (name, combinations) in enumerate((("all", "all"), ("unseen", "unseen"), ("questions", "all"))):
        batch = stories(count, "test", combinations, 1000 + seed).batch(range(count))
        frames = np.repeat(batch.frames[..., None], 3, axis=-1)
        found[name] = {"frames": list(frames), "pixels": pixels(frames)}  # for the processor, and from it
        found[name] |= {"captions": batch.captions, "questions": batch.questions}
    return found


def share(found: Sequence[str], wanted: Sequence[str]) -> float:
    return float(np.mean([a == b for a, b in zip(found, wanted, strict=True)]))


def clauses_right(said: str, caption: str) -> float:
    """The share of a caption's clauses ("a two moves up") that is among those said."""
    wanted = caption.split(" and ")
    return len(set(wanted) & set(said.split(" and "))) / len(wanted)


def written_right(found: Sequence[str], captions: Sequence[str]) -> dict[str, float]:
    """Captions right to the letter, and clauses right."""
    return {
        "written": share(found, captions),
        "clauses": float(np.mean([clauses_right(*each) for each in zip(found, captions, strict=True)])),
    }


def questions_right(found: Sequence[str], questions: Sequence) -> dict[str, float]:
    """Right answers by the first word of the question."""
    kinds: dict[str, list[bool]] = {}
    for answer, question in zip(found, questions, strict=True):
        kinds.setdefault(question.question.split()[0], []).append(answer == question.answer)
    return {kind: float(np.mean(right)) for kind, right in kinds.items()}


def ask_vl_jepa(tasks: VisionLanguageTasks, tests: dict[str, dict]) -> dict[str, float]:
    clips, unseen = tests["all"], tests["unseen"]
    asked = tests["questions"]
    names = story_captions("unseen")
    first = [ranking[0]["label"] for ranking in tasks.classify(unseen["frames"], names, CAPTION_QUERY, top_k=1)]
    answers = tasks.answer(
        asked["frames"],
        [question.question for question in asked["questions"]],
        [question.candidates for question in asked["questions"]],
        top_k=1,
    )
    captions = sorted(set(clips["captions"]))
    group = torch.tensor([captions.index(caption) for caption in clips["captions"]])
    similarities = tasks.retrieve(clips["frames"], captions, CAPTION_QUERY, top_k=1).similarities
    recalls = retrieval_recalls(similarities, group, torch.arange(len(captions)))
    return {
        "unseen": share(first, unseen["captions"]),
        **{way: found["R@1"] for way, found in recalls.items()},
        **questions_right([ranking[0]["label"] for ranking in answers], asked["questions"]),
        **written_right(tasks.describe(clips["frames"], CAPTION_QUERY, **WRITTEN), clips["captions"]),
    }


def ask_baseline(model: GenerativeBaseline, tests: dict[str, dict]) -> dict[str, float]:
    clips, unseen = tests["all"], tests["unseen"]
    asked, names = tests["questions"], story_captions("unseen")

    def query(part: dict) -> list[str]:
        return [CAPTION_QUERY] * len(part["pixels"])

    first = model.rank(unseen["pixels"], query(unseen), [names] * len(unseen["pixels"]))
    texts = [question.question for question in asked["questions"]]
    answers = model.rank(asked["pixels"], texts, [question.candidates for question in asked["questions"]])
    return {
        "unseen": share(first, unseen["captions"]),
        **questions_right(answers, asked["questions"]),
        **written_right(model.write(clips["pixels"], query(clips)), clips["captions"]),
    }


def watch(
    tasks: VisionLanguageTasks, baseline: GenerativeBaseline, pixels: Pixels, events: int, seed: int, folder: Path
) -> dict:
    """What both say of a long video over the number of times that they are asked; draws stream.png.

    VL-JEPA embeds every window of the video and decodes segments of these embeddings; the language model writes what
    it sees in the windows in the middle of even segments. Of every event's caption the clauses count that the decode
    nearest to its middle has.
    """
    stream = digit_stream(events, EVENT_FRAMES, clip_frames=FRAMES, seed=seed)
    starts = np.arange(0, len(stream.frames) - FRAMES + 1, STRIDE)
    windows = [stream.frames[start : start + FRAMES] for start in starts]
    times = (starts + FRAMES / 2) / FPS
    captions = [event.caption for event in stream.events]
    middles = [(event.start + event.stop) / 2 / FPS for event in stream.events]
    embeddings = tasks.embed_videos(windows, CAPTION_QUERY).numpy()

    def decode(rows: np.ndarray) -> list[str]:
        return tasks.decode(rows, **WRITTEN)

    score = annotation_score(decode, captions, middles, times, clauses_right)
    counts = sorted({min(len(starts), max(1, round(share * events))) for share in DECODES})
    curves = decode_curves(embeddings, score, counts)
    cut = ward_segments(embeddings, events)
    beside = compare_with_uniform(embeddings, score, cut.midpoints, cut.pooled, [n for n in counts if n >= events])
    written: dict[int, str] = {}

    def write(indices: np.ndarray) -> list[str]:
        new = [int(i) for i in indices if int(i) not in written]
        if new:
            written.update(
                zip(
                    new,
                    baseline.write(pixels(np.stack([windows[i] for i in new])), [CAPTION_QUERY] * len(new)),
                    strict=True,
                )
            )
        return [written[int(i)] for i in indices]

    even = [uniform_segments(embeddings, count).midpoints for count in counts]
    curves["language model"] = [
        annotation_score(lambda _, at=at: write(at), captions, middles, times, clauses_right)(at, embeddings[at])
        for at in even
    ]
    titles = {"selective": "VL-JEPA, selective", "uniform": "VL-JEPA, evenly spaced"}
    draw_stream(
        times,
        window_variance(embeddings, window=FRAMES // STRIDE),
        {"selective": cut.midpoints, "evenly spaced": uniform_segments(embeddings, events).midpoints},
        folder / "stream.png",
        segments=cut.starts,
        events=[(event.start / FPS, event.stop / FPS, event.caption) for event in stream.events],
        curves={titles.get(name, name): (counts, scores) for name, scores in curves.items()},
        title=f"{events} events, decoded as often, and clauses of captions that are right over the number of decodes",
    )
    return {"events": events, "counts": counts, "curves": curves, "verdict": str(beside)} | beside._asdict()
