"""A Hub server, this process connected to it, and a checkpoint that can be published."""

import pytest
from hub_client import connected, save_model
from hub_server import HubServer


@pytest.fixture
def hub():
    with HubServer() as hub:
        yield hub


@pytest.fixture
def client(hub, tmp_path):
    """This process, logged in as the owner, with an empty cache."""
    with connected(hub, tmp_path / "cache") as client:
        yield client


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "model")
    return tmp_path / "model"
