"""The processor of VL-JEPA: every text by its own tokenizer, rows on the right, masks that say what counts."""

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hub_client import connected
from hub_server import HubServer
from PIL import Image
from tokenizer_families import bert_like, llama_like, unigram_like
from transformers import AutoProcessor

from hf_jepa.data.video_readers import open_video
from hf_jepa.data.video_sampling import uniform_indices
from hf_jepa.models.vjepa2.video_processing_vjepa2 import VJepa2VideoProcessor
from hf_jepa.models.vl_jepa.processing_vl_jepa import VLJepaProcessor


QUERIES = ["what does the seven do?", "", None, "what?"]
TARGETS = ["a seven moves left", "an eight moves up and a two moves left", "left", "a two"]


def make(decoder=True, **lengths):
    frames = VJepa2VideoProcessor(crop_size=16, image_mean=[0.1, 0.2, 0.3])
    return VLJepaProcessor(frames, llama_like(), bert_like(), unigram_like() if decoder else None, **lengths)


def videos(count=4, frames=3):
    return list(np.random.default_rng(0).integers(0, 256, (count, frames, 20, 24, 3), dtype=np.uint8))


def everything(processor):
    return processor(videos=videos(), queries=QUERIES, targets=TARGETS, decoder_targets=TARGETS)


def texts_of(tokenizer, ids, mask):
    return [tokenizer.decode(row[kept.bool()], skip_special_tokens=True) for row, kept in zip(ids, mask, strict=True)]


def test_a_batch_of_everything():
    processor = make()
    batch = everything(processor)
    rows = {name: tuple(value.shape) for name, value in batch.items()}
    assert rows == {
        "pixel_values_videos": (4, 3, 3, 16, 16),
        "query_ids": (4, 24),
        "query_mask": (4, 24),
        "target_ids": (4, 11),
        "target_mask": (4, 11),
        "labels": (4, 10),
    }
    assert torch.equal(batch["pixel_values_videos"], processor.video_processor(videos()).pixel_values_videos)
    assert {value.dtype for name, value in batch.items() if name != "pixel_values_videos"} == {torch.int64}
    begin = processor.query_tokenizer.bos_token_id
    assert batch["query_ids"][0, 0] == begin  # its special tokens stay
    assert texts_of(processor.query_tokenizer, batch["query_ids"], batch["query_mask"]) == [
        query or "" for query in QUERIES
    ]
    assert texts_of(processor.target_tokenizer, batch["target_ids"], batch["target_mask"]) == TARGETS
    assert (
        batch["target_ids"][2].tolist() == [2, processor.target_tokenizer.convert_tokens_to_ids("left"), 3] + [0] * 8
    )


def test_rows_are_filled_on_the_right_whatever_the_side_of_the_tokenizer():
    processor = make()
    batch = processor(queries=QUERIES, targets=TARGETS)
    for mask in (batch["query_mask"], batch["target_mask"]):
        assert (mask[:, 1:] <= mask[:, :-1]).all()
    assert batch["query_mask"].sum(1).tolist() == [24, 0, 0, 6]  # a query that is empty has not even a begin token
    # No pad token, and none is given to the tokenizer: the end of text fills, and the mask alone tells.
    assert processor.query_tokenizer.pad_token is None and processor.query_tokenizer.padding_side == "left"
    filled = batch["query_ids"][batch["query_mask"] == 0]
    assert (filled == processor.query_tokenizer.eos_token_id).all()
    swapped = VLJepaProcessor(processor.video_processor, unigram_like(), unigram_like())  # pad is the end of text
    both = swapped(queries=["seven"], targets=["two"])
    assert both["query_mask"].tolist() == [[1]] and both["target_mask"].tolist() == [[1]]
    assert swapped(queries=["", None])["query_mask"].tolist() == [[0], [0]]  # no row of no columns


def test_texts_are_truncated_as_their_tokenizer_does_it():
    processor = make(max_query_length=5, max_target_length=4)
    batch = processor(queries=QUERIES, targets=TARGETS, decoder_targets=TARGETS)
    assert batch["query_mask"].sum(1).tolist() == [5, 0, 0, 5]
    assert texts_of(processor.query_tokenizer, batch["query_ids"], batch["query_mask"])[0] == "what"
    assert batch["target_ids"].shape == (4, 4) and batch["target_ids"][1, 0] == 2 and batch["target_ids"][1, -1] == 3
    assert texts_of(processor.target_tokenizer, batch["target_ids"], batch["target_mask"])[1] == "an eight"
    assert batch["labels"].shape == (4, 4)
    processor.target_tokenizer.truncation_side = "left"
    shown = processor(targets=TARGETS)
    assert texts_of(processor.target_tokenizer, shown["target_ids"], shown["target_mask"])[1] == "moves left"
    with pytest.raises(ValueError, match="max_target_length must be 1 or more, got 0"):
        make(max_target_length=0)


def test_labels_end_and_decode_to_what_was_said():
    processor = make()
    labels = processor(decoder_targets=TARGETS)["labels"]
    end = processor.decoder_tokenizer.eos_token_id
    for row, text in zip(labels, TARGETS, strict=True):
        said = row[row != -100]
        assert (row[len(said) :] == -100).all() and (said == end).nonzero().flatten().tolist() == [len(said) - 1]
        assert processor.decode(said) == text
    filled = torch.where(labels == -100, end, labels)
    assert processor.batch_decode(filled) == TARGETS
    assert "</s>" in processor.batch_decode(filled, skip_special_tokens=False)[0]
    begins = VLJepaProcessor(processor.video_processor, bert_like(), bert_like(), llama_like())
    tokens = begins(decoder_targets="a")["labels"][0].tolist()  # the prefix takes the place of a begin token
    assert begins.decoder_tokenizer.convert_ids_to_tokens(tokens) == ["a", "</s>"]
    alone = make(decoder=False)
    for call in (lambda: alone(decoder_targets=TARGETS), lambda: alone.batch_decode(labels)):
        with pytest.raises(ValueError, match="has no decoder_tokenizer"):
            call()


def test_images_become_clips_of_one_frame():
    processor = make()
    picture = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    expected = processor.video_processor(picture[None]).pixel_values_videos  # (1, 1, 3, 16, 16)
    forms = [picture, Image.fromarray(picture), [picture], picture[None], torch.from_numpy(picture).permute(2, 0, 1)]
    for images in forms:
        assert torch.equal(processor(images=images)["pixel_values_videos"], expected)
    two = processor(images=[Image.fromarray(picture).convert("L"), picture], targets=["a", "two"])
    assert two["pixel_values_videos"].shape == (2, 1, 3, 16, 16)
    with pytest.raises(ValueError, match="make a batch of each"):
        processor(images=picture, videos=videos())
    with pytest.raises(TypeError, match="expected an image or a list of images, got str 'a.png'"):
        processor(images="a.png")


def test_frames_are_those_of_the_data_set():
    """What a model was trained on is what `do_sample_frames` takes of the same video."""
    processor = make()
    for length in range(5, 80):
        for count in {1, 2, 5, min(length, 16), length}:
            numbers = np.zeros((length, 16, 16, 3), np.uint8) + np.arange(length, dtype=np.uint8)[:, None, None, None]
            frames = {"do_sample_frames": True, "num_frames": count, "do_resize": False, "do_normalize": False}
            shown = processor(videos=open_video(numbers), do_rescale=False, **frames)["pixel_values_videos"]
            assert shown[0, :, 0, 0, 0].long().tolist() == uniform_indices(length, count).tolist()


def test_faults_are_named():
    processor = make()
    with pytest.raises(ValueError, match="nothing to prepare"):
        processor()
    with pytest.raises(ValueError, match=r"targets\[1\] is empty: '  '"):
        processor(targets=["a", "  "])
    with pytest.raises(TypeError, match=r"queries\[1\] must be text, got 7"):
        processor(queries=["a", 7])
    with pytest.raises(TypeError, match=r"targets\[0\] must be text, got None"):
        processor(targets=[None])
    with pytest.raises(ValueError, match="queries is an empty list"):
        processor(queries=[])
    with pytest.raises(ValueError, match=r"as many of each, got rows \{'query_ids': 2, .*'target_ids': 1"):
        processor(queries=["a", "two"], targets="a")
    with pytest.raises(ValueError, match="videos of a batch must have one shape"):
        processor(videos=[*videos(1, 3), *videos(1, 4)])
    with pytest.raises(TypeError, match="query_tokenizer must be a PreTrainedTokenizerBase, got VJepa2Vid"):
        VLJepaProcessor(processor.video_processor, processor.video_processor, bert_like())
    with pytest.raises(TypeError, match="target_tokenizer must be a PreTrainedTokenizerBase, got NoneType"):
        VLJepaProcessor(processor.video_processor, bert_like(), None)
    with pytest.raises(TypeError, match="video_processor must be a VideoProcessorMixin, got TokenizersBackend"):
        VLJepaProcessor(bert_like(), bert_like(), bert_like())
    assert isinstance(processor(targets="a", return_tensors="np")["target_ids"], np.ndarray)


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("decoder", [True, False])
def test_a_folder_holds_all_of_it(tmp_path, decoder, caplog):
    processor = make(decoder, max_query_length=7, max_target_length=6)
    with caplog.at_level(logging.WARNING):
        processor.save_pretrained(tmp_path / "checkpoint")
        again = VLJepaProcessor.from_pretrained(tmp_path / "checkpoint")
    assert not caplog.records
    names = {file.name for file in (tmp_path / "checkpoint").iterdir()}
    assert names == {"processor_config.json", "query_tokenizer", "target_tokenizer"} | (
        {"decoder_tokenizer"} if decoder else set()
    )
    arguments = {"videos": videos(), "queries": QUERIES, "targets": TARGETS}
    arguments |= {"decoder_targets": TARGETS} if decoder else {}
    assert same(processor(**arguments), again(**arguments))
    assert (again.max_query_length, again.max_target_length) == (7, 6)
    assert (again.decoder_tokenizer is not None) == decoder
    saved = json.loads((tmp_path / "checkpoint/processor_config.json").read_text())
    assert saved["processor_class"] == "VLJepaProcessor" and saved["video_processor"]["image_mean"] == [0.1, 0.2, 0.3]
    longer = VLJepaProcessor.from_pretrained(tmp_path / "checkpoint", max_query_length=9)
    assert (longer.max_query_length, longer.max_target_length) == (9, 6)


def test_what_is_missing_is_not_replaced(tmp_path):
    """transformers itself would take a tokenizer from the root of the folder, with a warning."""
    make().save_pretrained(tmp_path)
    bert_like().save_pretrained(tmp_path)
    for file in (tmp_path / "query_tokenizer").iterdir():
        file.unlink()
    with pytest.raises(OSError, match="has no query_tokenizer in its folder query_tokenizer"):
        VLJepaProcessor.from_pretrained(tmp_path)
    (tmp_path / "processor_config.json").unlink()
    VJepa2VideoProcessor(crop_size=16).save_pretrained(tmp_path)
    with pytest.raises(OSError, match="holds no processor of VL-JEPA"):
        VLJepaProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "vision",
    [SimpleNamespace(crop_size=32, in_chans=3), SimpleNamespace(image_size=32, num_channels=3)],
    ids=["video", "image"],
)
def test_the_config_says_sizes_and_lengths(vision):
    config = SimpleNamespace(vision_config=vision, max_query_length=7, max_target_length=9)
    processor = VLJepaProcessor.from_config(config, llama_like(), bert_like(), crop_pct=1.0, image_mean=[0.0] * 3)
    assert dict(processor.video_processor.crop_size) == {"height": 32, "width": 32}
    assert processor.video_processor.size["shortest_edge"] == 32
    assert tuple(processor.video_processor.image_mean) == (0.0, 0.0, 0.0)
    assert (processor.max_query_length, processor.max_target_length) == (7, 9) and processor.decoder_tokenizer is None


@pytest.mark.hub
def test_it_is_published_like_any_processor(tmp_path):
    processor = make()
    with HubServer() as hub, connected(hub, tmp_path / "cache"):
        processor.push_to_hub("alice/words")
        processor.save_pretrained(tmp_path / "local", push_to_hub=True, repo_id="alice/also")
        for name in ("alice/words", "alice/also"):
            assert same(everything(processor), everything(VLJepaProcessor.from_pretrained(name)))


def test_auto_processor_finds_it(tmp_path):
    make().save_pretrained(tmp_path)
    found = AutoProcessor.from_pretrained(tmp_path)
    assert type(found) is VLJepaProcessor and found.decoder_tokenizer is not None
    batch, expected = everything(found), everything(make())
    assert all(torch.equal(batch[name], expected[name]) for name in expected)
