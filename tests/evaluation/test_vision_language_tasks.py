"""Tasks without heads, on a small model of the same methods in which everything can be worked out by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import normalize

from hf_jepa.evaluation.vision_language import VisionLanguageTasks


WIDTH = 6


class SmallModel(nn.Module):
    """Mean colour of a clip and mean embedding of the letters of a text, in one space; counts what it is asked."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.vision_model = nn.Linear(3, WIDTH)
        self.letters = nn.Embedding(128, WIDTH)
        self.dropout = nn.Dropout(0.5)
        self.encoded_clips, self.encoded_texts, self.predicted = 0, [], []

    def get_vision_tokens(self, pixel_values_videos):
        assert not self.training and not torch.is_grad_enabled()
        self.encoded_clips += len(pixel_values_videos)
        return self.vision_model(pixel_values_videos.flatten(3).mean(dim=3))  # (B, T, WIDTH)

    def predict(self, vision_tokens=None, query_ids=None, query_mask=None):
        assert not torch.is_grad_enabled()
        self.predicted.append(len(vision_tokens))
        found = self.dropout(vision_tokens).mean(dim=1)
        return found if query_ids is None else found + 2 * self._mean(query_ids, query_mask)

    def encode_text(self, target_ids, target_mask):
        self.encoded_texts.append(len(target_ids))
        return 3 * self.dropout(self._mean(target_ids, target_mask))

    def _mean(self, ids, mask):
        return (self.letters(ids) * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


class SmallDecoder(nn.Module):
    """Says which dimension of an embedding is largest."""

    def __init__(self):
        super().__init__()
        self.base_model = SmallModel()
        self.options = []

    def generate(self, embeddings, **options):
        assert not self.training and not torch.is_grad_enabled()
        self.options.append((len(embeddings), options))
        return embeddings.argmax(dim=1, keepdim=True)


class SmallProcessor:
    def __call__(self, videos=None, images=None, queries=None, targets=None, return_tensors=None):
        assert return_tensors == "pt"
        found = {}
        if images is not None:
            videos = [np.asarray(image, dtype=np.float32).transpose(2, 0, 1)[None] / 255 for image in images]
        if videos is not None:
            found["pixel_values_videos"] = torch.stack([torch.as_tensor(video) for video in videos])
        for name, texts in (("query", queries), ("target", targets)):
            if texts is not None:
                length = max(map(len, texts))
                ids = torch.tensor([[*map(ord, text), *[0] * (length - len(text))] for text in texts])
                found |= {f"{name}_ids": ids, f"{name}_mask": (ids > 0).long()}
        return found

    def batch_decode(self, ids, skip_special_tokens):
        assert skip_special_tokens
        return [f" dimension {row[0]} " for row in ids.tolist()]


@pytest.fixture
def model():
    return SmallModel()


def test_a_model_without_a_scale_has_no_probabilities(tasks):
    with pytest.raises(TypeError, match="SmallModel has no logit_scale for probabilities"):
        tasks([torch.zeros(1, 3, 4, 4)], ["red", "green"])


@pytest.fixture
def tasks(model):
    return VisionLanguageTasks(model, SmallProcessor(), batch_size=2)


@pytest.fixture(scope="module")
def clips():
    return list(torch.rand(5, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1)))


def by_hand(model, clip=None, text=None, query=None):
    """The unit row of one video or text, computed alone."""
    letters = [None if t is None else model.letters(torch.tensor([*map(ord, t)])).mean(dim=0) for t in (text, query)]
    if clip is None:
        return normalize(letters[0], dim=0).detach()
    row = model.vision_model(clip.flatten(2).mean(dim=2)).mean(dim=0)
    return normalize(row if query is None else row + 2 * letters[1], dim=0).detach()


def test_embeddings_are_those_of_each_alone(model, tasks, clips):
    queries = ["what", "is this", "a", "b", "which colour"]
    for query in (None, "what is this", queries):
        asked = query if isinstance(query, list) else [query] * 5
        wanted = torch.stack([by_hand(model, clip, query=one) for clip, one in zip(clips, asked, strict=True)])
        torch.testing.assert_close(tasks.embed_videos(clips, query), wanted, rtol=0, atol=1e-6)
    texts = ["cat", "a much longer text", "dog"]
    wanted = torch.stack([by_hand(model, text=text) for text in texts])
    torch.testing.assert_close(tasks.embed_texts(texts), wanted, rtol=0, atol=1e-6)
    assert max(model.predicted) == max(model.encoded_texts) == 2  # in batches


def test_labels_are_sorted_by_the_cosine(model, tasks, clips):
    labels = ["cat", "dog", "zebra crossing"]
    found = tasks.classify(clips, labels)
    for clip, ranking in zip(clips, found, strict=True):
        scores = {label: float(by_hand(model, clip) @ by_hand(model, text=label)) for label in labels}
        assert [entry["label"] for entry in ranking] == sorted(labels, key=lambda label: -scores[label])
        assert [entry["score"] for entry in ranking] == pytest.approx(sorted(scores.values(), reverse=True), abs=1e-6)
    assert tasks.classify(clips, labels, top_k=1) == [ranking[:1] for ranking in found]
    asked = tasks.classify(clips, labels, query="which animal?")
    wanted = float(by_hand(model, clips[2], query="which animal?") @ by_hand(model, text=asked[2][0]["label"]))
    assert asked[2][0]["score"] == pytest.approx(wanted, abs=1e-6)


def test_templates_are_averaged_as_directions(model, tasks, clips):
    labels, templates = ["cat", "dog"], ["a photo of a {}", "{}!", "the {} and the {}"]
    found = tasks.classify(clips[:1], labels, templates=templates)[0]
    rows = {x: torch.stack([by_hand(model, text=t.replace("{}", x)) for t in templates]).mean(dim=0) for x in labels}
    for entry in found:
        wanted = float(by_hand(model, clips[0]) @ normalize(rows[entry["label"]], dim=0))
        assert entry["score"] == pytest.approx(wanted, abs=1e-6)


def test_texts_are_encoded_once_until_the_weights_change(model, tasks, clips):
    labels = ["cat", "dog", "cow"]
    first = tasks.classify(clips, labels)
    assert sum(model.encoded_texts) == 3
    assert tasks.classify(clips, labels) == first and sum(model.encoded_texts) == 3
    tasks.embed_texts(["cat", "new", "new"])
    assert sum(model.encoded_texts) == 4
    optimizer = torch.optim.SGD([model.letters.weight], lr=1.0)
    model.letters.weight.sum().backward()
    optimizer.step()
    torch.testing.assert_close(tasks.embed_texts(["cat"])[0], by_hand(model, text="cat"), rtol=0, atol=1e-6)
    for new in [nn.Parameter(torch.rand(128, WIDTH)) for _ in range(2)]:  # both as yet unchanged
        model.letters.weight = new
        torch.testing.assert_close(tasks.embed_texts(["cat"])[0], by_hand(model, text="cat"), rtol=0, atol=1e-6)


def test_no_more_texts_are_kept_than_allowed(model):
    tasks = VisionLanguageTasks(model, SmallProcessor(), cached_texts=2)
    tasks.embed_texts(["a", "b", "c"])
    tasks.embed_texts(["b", "c"])
    assert sum(model.encoded_texts) == 3
    assert tasks.embed_texts(["a", "b", "c"]).shape == (3, WIDTH) and sum(model.encoded_texts) == 4


def test_a_video_is_encoded_once_for_all_its_questions(model, tasks, clips):
    first, second = clips[:2]
    videos = [first, second, first, first, second, first, first]
    questions = [f"question {i}" for i in range(7)]
    candidates = ["yes", "no", "blue"]
    found = tasks.answer(videos, questions, candidates)
    assert model.encoded_clips == 2 and sum(model.predicted) == 7 and max(model.predicted) == 2
    for video, question, ranking in zip(videos, questions, found, strict=True):
        scores = {x: float(by_hand(model, video, query=question) @ by_hand(model, text=x)) for x in candidates}
        assert ranking[0]["label"] == max(scores, key=scores.get)
        assert ranking[0]["score"] == pytest.approx(max(scores.values()), abs=1e-6)
    own = [["yes", "no"], ["red"], *[["two", "three"]] * 5]
    for ranking, allowed in zip(tasks.answer(videos, questions, own), own, strict=True):
        assert sorted(entry["label"] for entry in ranking) == sorted(allowed)


def test_vision_tokens_stand_in_for_videos(model, tasks, clips):
    tokens = tasks.encode_videos(clips)
    assert model.encoded_clips == 5 and tokens[0].shape == (4, WIDTH)
    for task in (
        lambda videos: tasks.classify(videos, ["cat", "dog"]),
        lambda videos: tasks.answer(videos, "what?", ["cat", "dog"]),
    ):
        assert task(tokens) == task(clips)
    assert model.encoded_clips == 15
    torch.testing.assert_close(tasks.embed_videos(torch.stack(tokens)), tasks.embed_videos(clips))
    with pytest.raises(ValueError, match=r"vision tokens of shapes \[\(2, 6\), \(4, 6\)\]"):
        tasks.embed_videos([tokens[0], tokens[1][:2]])


def test_pictures_are_clips_of_one_frame(model, tasks):
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    clip = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    found = tasks.embed_videos([Image.fromarray(pixels)])[0]
    torch.testing.assert_close(found, by_hand(model, clip), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="images and videos in one call"):
        tasks.embed_videos([Image.fromarray(pixels), clip])


def test_retrieval_in_both_directions(model, tasks, clips):
    texts = ["cat", "dog", "a house by the sea", "dog"]
    found = tasks.retrieve(clips, texts, query="caption", top_k=3)
    wanted = (
        torch.stack([by_hand(model, clip, query="caption") for clip in clips])
        @ torch.stack([by_hand(model, text=text) for text in texts]).T
    )
    torch.testing.assert_close(found.similarities, wanted, rtol=0, atol=1e-6)
    for row, ranking in zip(found.similarities, found.video_to_text, strict=True):
        assert [entry["index"] for entry in ranking] == row.argsort(descending=True, stable=True)[:3].tolist()
        assert all(entry["label"] == texts[entry["index"]] for entry in ranking)
    for row, ranking in zip(found.similarities.T, found.text_to_video, strict=True):
        assert [entry["index"] for entry in ranking] == row.argsort(descending=True, stable=True)[:3].tolist()
        assert [entry["score"] for entry in ranking] == row[[entry["index"] for entry in ranking]].tolist()
    assert len(tasks.retrieve(clips, texts, top_k=None).text_to_video[0]) == 5


def test_a_stream_has_the_clips_that_end_at_its_moments(model, tasks):
    frames = torch.rand(11, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    found, last = tasks.embed_stream(frames, clip_frames=4, stride=3, query="what?")
    assert last.tolist() == [3, 6, 9]
    wanted = torch.stack([by_hand(model, frames[i - 3 : i + 1], query="what?") for i in last.tolist()])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert tasks.embed_stream(frames, clip_frames=11)[1].tolist() == [10]
    with pytest.raises(ValueError, match="the video has 11 frames, but a clip 12"):
        tasks.embed_stream(frames, clip_frames=12)
    with pytest.raises(ValueError, match="stride is 0"):
        tasks.embed_stream(frames, clip_frames=4, stride=0)


def test_captions_come_from_the_decoder(clips):
    model = SmallDecoder()
    tasks = VisionLanguageTasks(model, SmallProcessor(), batch_size=3)
    found = tasks.describe(clips, max_new_tokens=7)
    rows = torch.stack([by_hand(model.base_model, clip) for clip in clips])
    assert found == [f"dimension {i}" for i in rows.argmax(dim=1).tolist()]
    assert model.options == [(3, {"max_new_tokens": 7}), (2, {"max_new_tokens": 7})]
    asked = tasks.embed_videos(clips, "why?")
    assert tasks.describe(clips, "why?") == tasks.decode(asked.numpy()) == tasks.decode(asked)


def test_every_part_returns_to_its_mode(model, tasks, clips):
    model.train()
    model.vision_model.eval()
    tasks.classify(clips, ["cat"])
    assert model.training and model.dropout.training and not model.vision_model.training


def test_the_precision_is_that_of_the_model(model, clips):
    tasks = VisionLanguageTasks(model.bfloat16(), SmallProcessor())
    found = tasks.embed_videos(clips, "what?")
    assert found.dtype == torch.float32
    tokens = [row.float() for row in tasks.encode_videos(clips)]
    torch.testing.assert_close(tasks.embed_videos(tokens, "what?"), found)


def test_inputs_go_where_the_model_is(model):
    tasks = VisionLanguageTasks(model.to("meta"), SmallProcessor())  # a device that every machine has
    inputs = tasks._inputs(videos=[torch.rand(4, 3, 8, 8)], queries=["what?"], targets=["cat"])
    assert {value.device.type for value in inputs.values()} == {"meta"} and len(inputs) == 5
    assert tasks._tokens([torch.rand(4, WIDTH)]).device.type == "meta"


def test_a_bar_is_shown_for_long_inputs(model, clips, capsys):
    for progress, count, shown in ((None, 19, False), (None, 20, True), (True, 1, True), (False, 40, False)):
        tasks = VisionLanguageTasks(model, SmallProcessor(), batch_size=2, progress=progress)
        tasks.embed_texts([f"text {i}" for i in range(count)])
        assert ("texts" in capsys.readouterr().err) == shown, (progress, count)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda t, v: t.classify([], ["a"]), ValueError, "there is no video"),
        (lambda t, v: t.classify(v[0], ["a"]), TypeError, r"expected a list of videos, got one \(Tensor\)"),
        (lambda t, v: t.classify("clip.mp4", ["a"]), TypeError, r"got one \(str\)"),
        (lambda t, v: t.classify(v, []), ValueError, "labels is empty"),
        (lambda t, v: t.classify(v, "cat"), TypeError, "labels is one text, 'cat'"),
        (lambda t, v: t.classify(v, ["a", 3]), TypeError, "labels must hold texts, got 3"),
        (lambda t, v: t.classify(v, ["a", "b", "a"]), ValueError, "labels hold 'a' more than once"),
        (lambda t, v: t.classify(v, ["a"], templates=["a photo"]), ValueError, "template 'a photo' has no {}"),
        (lambda t, v: t.classify(v, ["a"], templates=[]), ValueError, "templates is empty"),
        (lambda t, v: t.classify(v, ["a"], query=["what?"]), ValueError, "1 queries for 5 videos"),
        (lambda t, v: t.classify(v, ["a"], top_k=0), ValueError, "top_k is 0"),
        (lambda t, v: t.retrieve(v, []), ValueError, "texts is empty"),
        (lambda t, v: t.answer(v, ["what?"] * 4, ["a"]), ValueError, "4 queries for 5 videos"),
        (lambda t, v: t.answer(v, None, ["a"]), ValueError, "there is no question"),
        (lambda t, v: t.answer(v, "what?", []), ValueError, "candidates is empty"),
        (lambda t, v: t.answer(v, "what?", "yes"), TypeError, "candidates is one text"),
        (lambda t, v: t.answer(v, "what?", [["a"]]), ValueError, "1 lists of candidates for 5 videos"),
        (lambda t, v: t.answer(v, "what?", [["a"], []] * 2 + [["a"]]), ValueError, r"candidates\[1\] is empty"),
        (lambda t, v: t.answer(v[:1], "what?", [["a", "a"]]), ValueError, "candidates of question 0 hold 'a'"),
        (lambda t, v: t.describe(v), TypeError, "SmallModel has no decoder"),
        (lambda t, v: t.decode(torch.ones(1, 6)), TypeError, "SmallModel has no decoder"),
    ],
)
def test_what_makes_no_sense_is_refused(model, tasks, clips, call, error, words):
    with pytest.raises(error, match=words):
        call(tasks, clips)
    assert model.encoded_clips == 0 and not model.encoded_texts  # before anything is computed


def test_only_models_with_the_methods_are_taken():
    with pytest.raises(TypeError, match="Linear has no get_vision_tokens, predict, encode_text"):
        VisionLanguageTasks(nn.Linear(2, 2), SmallProcessor())
    with pytest.raises(ValueError, match="batch_size is 0"):
        VisionLanguageTasks(SmallModel(), SmallProcessor(), batch_size=0)
    with pytest.raises(ValueError, match=r"embeddings have shape \(6,\)"):
        VisionLanguageTasks(SmallDecoder(), SmallProcessor()).decode(torch.ones(6))
