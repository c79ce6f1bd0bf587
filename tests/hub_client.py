"""Users of `hub_server` in this process: their connection, what they publish, and what commands tell them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from hub_server import WRITE, HubServer
from huggingface_hub import constants
from perturbed import perturbed
from safetensors.torch import load_file, save_file
from transformers.utils import hub as transformers_hub

from hf_jepa.cli.main import main
from hf_jepa.hub.cards import build_card
from hf_jepa.hub.fingerprint import load_target_encoder, write_fingerprint
from hf_jepa.models.ijepa.configuration_ijepa import IJepaConfig
from hf_jepa.models.ijepa.modeling_ijepa import IJepaForPreTraining, IJepaModel
from hf_jepa.registry import VARIANTS


REPO = "alice/tiny"
FILES = [".gitattributes", "README.md", "config.json", "fingerprint.json", "model.safetensors"]  # of it, published


@contextmanager
def connected(hub: HubServer, cache, token: str | None = WRITE) -> Iterator[SimpleNamespace]:
    """Let `huggingface_hub` and transformers of this process use a server, with a cache and a token of its own.

    Retries do not wait. They read the address when they are imported, so it is changed wherever they keep it.

    Yields:
        what was `waited` for, in seconds, one number per retry.
    """
    waited: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.url)
        patch.setattr(transformers_hub, "_hf_api", None)  # made anew at the next use
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "no-token"))
        patch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=waited.append))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            patch.delenv(name, raising=False)
        if token is not None:
            patch.setenv("HF_TOKEN", token)
        yield SimpleNamespace(waited=waited)


def save_model(folder, **fields):
    """A checkpoint that can be published."""
    torch.manual_seed(0)
    model = IJepaForPreTraining(IJepaConfig(**(VARIANTS["ijepa"].tiny | fields)))
    model.save_pretrained(folder)
    write_fingerprint(model.target_encoder, folder)
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\nlibrary_name: transformers\n---\n# Tiny\n")
    return model


def push(*arguments) -> int:
    return main(["push", *map(str, arguments)])


def error_line(capsys) -> str:
    """What a command said in its one line of error."""
    err = capsys.readouterr().err
    assert err.count(": error: ") == 1 and "Traceback" not in err
    line = err[err.index("hf-jepa ") :].rstrip("\n")  # a bar that was broken off may stand before it
    assert "\n" not in line
    return line


def change(folder) -> None:
    """Other weights, with the fingerprint that belongs to them."""
    state = load_file(folder / "model.safetensors")
    state = {name: value + 0.01 if value.is_floating_point() else value for name, value in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    write_fingerprint(IJepaModel.from_pretrained(folder), folder)


def save_run(name: str, folder: Path, **fields) -> Path:
    """A pretraining checkpoint with all that a run leaves beside it."""
    variant = VARIANTS[name]
    config = variant.config_class()(**(variant.tiny | fields))
    torch.manual_seed(0)
    model = perturbed(variant.model_class()(config))
    model.save_pretrained(folder)
    if variant.processor_class is not None and variant.modality == "image":
        variant.processor(config).save_pretrained(folder)
    if variant.base_model is not None:
        write_fingerprint(load_target_encoder(variant, folder), folder)
        card = build_card(variant, config, folder.name, {}, "mit", "Nothing was verified.", folder.name)
        card.save(folder / "README.md")
    (folder / "training_args.bin").write_bytes(b"a pickle")
    (folder / "checkpoint-4").mkdir()
    return folder
