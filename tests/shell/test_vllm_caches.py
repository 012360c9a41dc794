"""vLLM with its caches set otherwise than by default."""

import json
from pathlib import Path

import pytest

from support import vllm_facts
from support.engine_process import HAS_VLLM, EngineProcess
from support.models import answer, engine_config, request, screenshot

pytestmark = [pytest.mark.timeout(1500), pytest.mark.skipif(not HAS_VLLM, reason="vLLM is an extra")]

GIB = 2**30
LONG = request("打开设置 open settings " * 80, screenshot(seed=9), 8)
"""Several of vLLM's blocks of tokens, which are 128 tokens long on a CPU."""


async def test_keys_and_values_take_a_byte_each_and_nothing_is_kept_where_options_say_so(
    folder: Path, tmp_path: Path
) -> None:
    config = engine_config(
        folder,
        "vllm",
        kvCacheDtype="fp8_e4m3",
        kvCacheGib=1,
        prefixCaching=False,
        processorCacheGib=0,
        prefillChunk=256,
    )
    with EngineProcess("vllm-caches", tmp_path / "log") as process:
        engine = process.engine(config)
        await engine.start()
        blocks, size = await engine.ask(vllm_facts.room)
        assert blocks == GIB // (size * numbers_of_a_token(folder))
        texts = []
        for _ in range(2):
            text, deltas = await answer(engine, LONG)
            assert deltas[-1].prompt_tokens > 2 * size
            assert deltas[-1].cached_tokens == 0
            texts.append(text)
        assert texts[0] == texts[1] != ""
        assert "processor" not in engine.stats().caches
        await engine.close()


def numbers_of_a_token(folder: Path) -> int:
    """Numbers that one token has as keys and values."""
    text = json.loads((folder / "config.json").read_text())["text_config"]
    head: int = text["hidden_size"] // text["num_attention_heads"]
    return 2 * int(text["num_hidden_layers"]) * int(text["num_key_value_heads"]) * head
