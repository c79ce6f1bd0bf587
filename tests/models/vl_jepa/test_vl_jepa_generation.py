"""The Y-Decoder: what it reads, what of it is trained, and that it learns to say what was encoded."""

import pytest
import torch
from tiny_vl_jepa import TINY, spread, tiny_batch, tiny_config
from transformers import AutoConfig, AutoModelForCausalLM

from hf_jepa.models.vl_jepa.decoder_vl_jepa import VLJepaDecoder, VLJepaForConditionalGeneration
from hf_jepa.models.vl_jepa.modeling_vl_jepa import VLJepaForPreTraining


LABELS = torch.tensor([[9, 4, 7, 2], [3, 2, -100, -100], [8, 8, 2, -100]])


def model_of(**fields) -> VLJepaForConditionalGeneration:
    torch.manual_seed(0)
    return spread(VLJepaForConditionalGeneration(tiny_config(**fields)))


@pytest.fixture
def model():
    return model_of()


@pytest.fixture
def texts(model):
    batch = tiny_batch(model.config)
    return {name: batch[name] for name in ("target_ids", "target_mask")}


@pytest.fixture
def seen(model):
    batch = tiny_batch(model.config)
    return {name: batch[name] for name in ("pixel_values_videos", "query_ids", "query_mask")}


def test_the_loss_is_that_of_the_tokens_behind_the_prefix(model, texts):
    model.eval()
    out = model(**texts, labels=LABELS)
    assert out.logits.shape == (3, 4, 64)
    embeddings = model.vl_jepa.encode_text(**texts)
    losses = []
    for row, labels in enumerate(LABELS):
        words = labels[labels != -100]
        states = [model.decoder.prefix(embeddings[row : row + 1])]
        for position, word in enumerate(words):  # one word after the other
            logits = model.decoder.language_model(inputs_embeds=torch.cat(states, dim=1)).logits[0, -1]
            torch.testing.assert_close(out.logits[row, position], logits, rtol=1e-4, atol=1e-5)
            losses.append(torch.nn.functional.cross_entropy(logits, word))
            states.append(model.decoder.language_model.get_input_embeddings()(word.view(1, 1)))
    torch.testing.assert_close(out.loss, torch.stack(losses).mean(), rtol=1e-5, atol=1e-5)


def test_padding_of_labels_changes_nothing_on_either_side(model, texts):
    model.eval()
    expected = model(**texts, labels=LABELS)
    left = torch.tensor([[9, 4, 7, 2], [-100, -100, 3, 2], [-100, 8, 8, 2]])
    torch.testing.assert_close(model(**texts, labels=left).loss, expected.loss)
    longer = torch.cat([LABELS, torch.full((3, 2), -100)], dim=1)
    torch.testing.assert_close(model(**texts, labels=longer).loss, expected.loss)


def test_the_length_of_an_embedding_does_not_count(model, texts):
    model.eval()
    embeddings = model.vl_jepa.encode_text(**texts)
    torch.testing.assert_close(
        model(embeddings=7 * embeddings, labels=LABELS).loss, model(**texts, labels=LABELS).loss
    )
    assert model(embeddings=-embeddings, labels=LABELS).loss != model(**texts, labels=LABELS).loss


def test_only_the_decoder_is_trained(model, texts):
    model.train()
    assert model.decoder.training and not any(part.training for part in model.vl_jepa.modules())
    model(**texts, labels=LABELS).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == name.startswith("decoder."), name
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_noise_in_training_alone(texts):
    model = model_of(prefix_noise=0.3)
    losses = [model.train()(**texts, labels=LABELS).loss for _ in range(2)]
    assert losses[0] != losses[1]
    assert model.eval()(**texts, labels=LABELS).loss == model(**texts, labels=LABELS).loss
    embedding = torch.nn.functional.normalize(torch.randn(4000, 16), dim=-1)
    decoder = VLJepaDecoder(tiny_config(prefix_noise=0.3, num_prefix_tokens=1, decoder_config=NARROW))
    with torch.no_grad():
        decoder.prefix_projection.weight.copy_(torch.eye(16))
        decoder.prefix_projection.bias.zero_()
    noise = decoder.train().prefix(5 * embedding).squeeze(1) - embedding
    assert noise.std().item() == pytest.approx(0.3, rel=0.05)
    torch.testing.assert_close(decoder.eval().prefix(5 * embedding).squeeze(1), embedding)


NARROW = TINY["decoder_config"] | {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}


def test_generation_from_clips_and_from_embeddings(model, seen):
    model.eval()
    options = {"max_new_tokens": 5, "do_sample": False}
    ids = model.generate(**seen, **options)
    assert ids.shape[0] == 3 and ids.shape[1] <= 5
    embeddings = model.vl_jepa.predict(**seen)
    assert torch.equal(model.generate(embeddings, **options), ids)
    greedy, first = [], model(embeddings=embeddings).logits[:, -1].argmax(dim=-1)
    greedy.append(first)
    assert torch.equal(ids[:, 0], first)
    tokens = model.vl_jepa.get_vision_tokens(seen.pop("pixel_values_videos"))
    assert torch.equal(model.generate(vision_tokens=tokens, **seen, **options), ids)
    assert model.generate(embeddings, num_beams=2, **options).shape[0] == 3


@pytest.mark.slow
def test_it_learns_to_say_what_was_encoded():
    torch.manual_seed(0)
    model = VLJepaForConditionalGeneration(tiny_config(prefix_noise=0.02)).train()
    spread(model.vl_jepa)
    words = torch.arange(4, 14).view(10, 1)
    labels = torch.cat([words, words.flip(0), torch.full_like(words, 2)], dim=1)
    optimizer = torch.optim.AdamW(model.decoder.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        model(target_ids=words, labels=labels).loss.backward()
        optimizer.step()
    model.eval()
    found = model.generate(model.vl_jepa.encode_text(words), max_new_tokens=2, do_sample=False)
    assert (found == labels[:, :2]).float().mean() > 0.9


def test_a_decoder_is_added_to_what_was_trained(tmp_path, texts):
    torch.manual_seed(1)
    trained = spread(VLJepaForPreTraining(tiny_config(decoder_config=None)), seed=3)
    trained.save_pretrained(tmp_path / "vl_jepa")
    language_model = spread(AutoModelForCausalLM.from_config(AutoConfig.for_model(**TINY["decoder_config"])), seed=4)
    language_model.save_pretrained(tmp_path / "decoder")
    parts = {
        "folders": (tmp_path / "vl_jepa", tmp_path / "decoder"),
        "models": (trained, language_model),
    }
    found = []
    for kind, (vl_jepa, decoder) in parts.items():
        torch.manual_seed(2)
        model = VLJepaForConditionalGeneration.from_vl_jepa(vl_jepa, decoder, num_prefix_tokens=3)
        assert model.config.num_prefix_tokens == 3 and model.config.layer_slice == [1, 3], kind
        expected = trained.vl_jepa.state_dict()
        assert all(torch.equal(x, expected[name]) for name, x in model.vl_jepa.state_dict().items()), kind
        state = model.decoder.language_model.state_dict()
        assert all(torch.equal(x, state[name]) for name, x in language_model.state_dict().items()), kind
        found.append(model.eval()(**texts, labels=LABELS).loss)
    assert torch.equal(*found)
    model.save_pretrained(tmp_path / "both")
    again = VLJepaForConditionalGeneration.from_pretrained(tmp_path / "both").eval()
    assert torch.equal(again(**texts, labels=LABELS).loss, found[0])
    assert str(tmp_path) not in (tmp_path / "both/config.json").read_text()


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
def test_other_decoders(family, texts):
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2} if family == "gpt2" else NARROW
    config = {**sizes, "model_type": family, "vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = model_of(decoder_config=config).eval()
    assert model(**texts, labels=LABELS).loss.isfinite()
    assert len(model.generate(model.vl_jepa.encode_text(**texts), max_new_tokens=3)) == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target_ids": None, "target_mask": None}, "give one of the three"),
        ({"embeddings": torch.zeros(3, 16)}, "give one of the three"),
        ({"labels": LABELS[:2]}, r"labels have shape \(2, 4\), expected \(3, tokens\)"),
        ({"labels": torch.full((3, 4), -100)}, "all labels are -100"),
        (
            {"target_ids": None, "target_mask": None, "embeddings": torch.zeros(3, 15)},
            r"\(3, 15\), expected \(batch, 16",
        ),
    ],
)
def test_unusable_inputs_are_refused(model, texts, changed, message):
    with pytest.raises(ValueError, match=message):
        model(**{**texts, "labels": LABELS} | changed)


def test_a_misspelt_argument_is_refused(model, texts):
    with pytest.raises(TypeError, match="has no argument 'label'"):
        model(**texts, labels=LABELS, label=LABELS)
