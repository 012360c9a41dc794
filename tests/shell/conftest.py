"""What several test modules of this layer start from."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from autoglm_serving.model.tiny import build
from support.gateway import Gateway
from support.screens import write_screens


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of AutoGLM-Tiny with random weights. To be read only: all tests share it."""
    path: Path = tmp_path_factory.mktemp("autoglm-tiny")
    build(path)
    return path


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six screens to learn from. To be read only: all tests share it."""
    path: Path = tmp_path_factory.mktemp("screens") / "data"
    write_screens(path, 6)
    return path


@pytest.fixture(scope="module")
def one_thread() -> None:
    """Torch computes in one thread: more threads than free cores wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def one_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One process for all tests of a module; each brings its own servers and table."""
    shared = Gateway(Path(tmp_path_factory.mktemp("gateway")))
    yield shared
    shared.stop()


@pytest.fixture
async def gateway(one_gateway: Gateway) -> AsyncIterator[Gateway]:
    """The module's gateway, lent to one test."""
    async with one_gateway.lent() as lent:
        yield lent
