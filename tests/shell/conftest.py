"""What several test modules of this layer start from."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from autoglm_serving.model.tiny import build
from support.engine_process import HAS_VLLM, EngineProcess, RemoteEngine
from support.gateway import Gateway
from support.models import PLACES, WAITING, engine_config
from support.screens import write_screens


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of AutoGLM-Tiny with random weights. To be read only: all tests share it."""
    path: Path = tmp_path_factory.mktemp("autoglm-tiny")
    build(path)
    return path


@pytest.fixture(scope="session")
def vllm_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """A process for engines of vLLM, one after the other."""
    if not HAS_VLLM:
        pytest.skip("vLLM is an extra")
    with EngineProcess("vllm", tmp_path_factory.mktemp("vllm") / "log") as process:
        yield process


@pytest.fixture(scope="session")
def vllm(vllm_process: EngineProcess, folder: Path) -> RemoteEngine:
    """An engine of vLLM that is started. It is killed by the last test that uses it."""
    return vllm_process.engine(engine_config(folder, "vllm", concurrency=PLACES, queue=WAITING)).start_and_wait()


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
