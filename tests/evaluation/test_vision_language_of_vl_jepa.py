"""Tasks and streams with a real VL-JEPA, tiny and untrained, on moving digits."""

import numpy as np
import pytest
import torch
from tiny_vl_jepa import TINY, spread, tiny_config
from torch.nn.functional import normalize

from hf_jepa.data.byte_tokenizer import byte_tokenizer
from hf_jepa.data.digit_stories import DigitStories, digit_stream
from hf_jepa.evaluation.decode_savings import annotation_score, compare_with_uniform
from hf_jepa.evaluation.segments import ward_segments
from hf_jepa.evaluation.selective_decoding import StreamMonitor, online_decode_indices
from hf_jepa.evaluation.vision_language import VisionLanguageTasks
from hf_jepa.models.vl_jepa.decoder_vl_jepa import VLJepaForConditionalGeneration
from hf_jepa.models.vl_jepa.modeling_vl_jepa import VLJepaForPreTraining
from hf_jepa.models.vl_jepa.processing_vl_jepa import VLJepaProcessor


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    parts = ("predictor_config", "text_config", "decoder_config")
    lengths = {"max_query_length": 64, "max_target_length": 64}
    words = {"vocab_size": len(byte_tokenizer())}
    return spread(
        VLJepaForConditionalGeneration(tiny_config(**{part: TINY[part] | words for part in parts}, **lengths))
    )


@pytest.fixture(scope="module")
def processor(model):
    return VLJepaProcessor.from_config(model.config, byte_tokenizer(), byte_tokenizer(), byte_tokenizer())


@pytest.fixture
def tasks(model, processor):
    return VisionLanguageTasks(model, processor, batch_size=3)


@pytest.fixture(scope="module")
def stories():
    return DigitStories(length=5, num_frames=4).batch(range(5))


@pytest.fixture(scope="module")
def clips(stories):
    return [np.repeat(frames[..., None], 3, axis=-1) for frames in stories.frames]


def alone(model, processor, clip=None, query=None, text=None):
    """The unit row of one video or text, in a batch of its own."""
    with torch.no_grad():
        if text is not None:
            return normalize(model.vl_jepa.encode_text(**processor(targets=[text])), dim=-1)[0]
        return normalize(model.vl_jepa.predict(**processor(videos=[clip], queries=query and [query])), dim=-1)[0]


def test_neither_batches_nor_padding_change_an_embedding(model, processor, tasks, clips, stories):
    model.eval()
    questions = [question.question for question in stories.questions]
    assert len({len(question) for question in questions}) > 1
    for asked in ([None] * 5, questions, [None, questions[1], "", *questions[3:]]):
        found = tasks.embed_videos(clips, asked if any(asked) else None)
        wanted = [alone(model, processor, clip, query) for clip, query in zip(clips, asked, strict=True)]
        torch.testing.assert_close(found, torch.stack(wanted), rtol=0, atol=2e-6)
    found = tasks.embed_texts(stories.captions)
    wanted = torch.stack([alone(model, processor, text=text) for text in stories.captions])
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)


def test_answers_and_labels(model, processor, tasks, clips, stories, monkeypatch):
    seen, encode = [], model.vl_jepa.get_vision_tokens
    monkeypatch.setattr(model.vl_jepa, "get_vision_tokens", lambda pixels: seen.append(len(pixels)) or encode(pixels))
    videos = [clip for clip in clips for _ in range(2)]
    questions = [question for q in stories.questions for question in (q.question, "which digit moves left?")]
    candidates = [list(q) for question in stories.questions for q in (question.candidates, ["one", "two"])]
    found = tasks.answer(videos, questions, candidates)
    assert seen == [3, 2]
    for video, question, choices, ranking in zip(videos, questions, candidates, found, strict=True):
        row = alone(model, processor, video, question)
        scores = {text: float(row @ alone(model, processor, text=text)) for text in choices}
        assert [entry["score"] for entry in ranking] == pytest.approx(sorted(scores.values(), reverse=True), abs=5e-6)
    other = VisionLanguageTasks(VLJepaForPreTraining(model.config), processor)
    assert len(other.classify(clips, stories.captions[:2])[0]) == 2  # any class around a VLJepaModel
    with pytest.raises(TypeError, match="VLJepaForPreTraining has no decoder"):
        other.describe(clips)


def test_it_is_called_as_a_zero_shot_pipeline(model, processor, tasks, clips):
    labels = ["up", "left", "down"]
    found = tasks(clips[:2], candidate_labels=labels, hypothesis_template="a two moves {}")
    rows = torch.stack([alone(model, processor, text=f"a two moves {label}") for label in labels])
    for clip, ranking in zip(clips[:2], found, strict=True):
        cosines = rows @ alone(model, processor, clip)
        shares = (cosines * model.vl_jepa.logit_scale.exp()).softmax(dim=0)
        best = shares.argsort(descending=True).tolist()
        assert [each["label"] for each in ranking] == [labels[i] for i in best]
        assert [each["score"] for each in ranking] == pytest.approx(shares[best].tolist(), abs=1e-4)
    assert tasks(clips[1], labels, "a two moves {}", top_k=2) == [
        {"label": each["label"], "score": pytest.approx(each["score"], abs=1e-4)} for each in found[1][:2]
    ]


def test_captions_are_those_of_generate(model, processor, tasks, clips):
    options = {"max_new_tokens": 5, "do_sample": False}
    found = tasks.describe(clips, "what happens?", **options)
    rows = tasks.embed_videos(clips, "what happens?")
    ids = torch.cat([model.generate(embeddings=part, **options) for part in rows.split(3)])
    assert found == [text.strip() for text in processor.batch_decode(ids)]


def test_a_long_video_is_decoded_where_it_changes(tasks):
    stream = digit_stream(num_events=4, event_frames=(6, 10), clip_frames=4)
    embeddings, last = tasks.embed_stream(stream.frames, clip_frames=4, stride=2)
    known = [event.caption for event in stream.events]
    middles = [(event.start + event.stop) / 2 for event in stream.events]

    def nearest_caption(rows):
        scores = torch.as_tensor(rows) @ tasks.embed_texts(known).T
        return [known[i] for i in scores.argmax(dim=1)]

    score = annotation_score(nearest_caption, known, middles, times=last)
    cut = ward_segments(embeddings, 4)
    found = compare_with_uniform(embeddings, score, cut.midpoints, cut.pooled)
    assert found.decodes == 4 and 0 <= found.score <= 1
    wanted = online_decode_indices(embeddings, window=2, threshold=1e-4)
    monitor = StreamMonitor(lambda row: tasks.decode(row[None], max_new_tokens=2)[0], window=2, threshold=1e-4)
    decodes = [decode for row in embeddings for decode in monitor.push(row)]
    assert [decode.index for decode in decodes] == wanted.tolist()
    assert all(isinstance(decode.output, str) for decode in decodes)
