"""The model as transformers itself runs it, for what engines have to answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from transformers import AutoProcessor

from autoglm_serving.engines.text import TextStream
from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.load import ModelTokenizer, load_weights
from support.models import SYSTEM


@dataclass(frozen=True)
class Reference:
    """Its processor, its `generate`."""

    processor: Any
    model: Any
    tokenizer: ModelTokenizer

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Of a model folder, in one thread: more threads than free cores wait for each other."""
        torch.set_num_threads(1)
        checked = check_folder(folder)
        model = load_weights(checked, torch.float32, torch.device("cpu"))
        return cls(AutoProcessor.from_pretrained(folder), model, ModelTokenizer(checked))

    def ids(self, text: str, image: Image.Image | None, max_new_tokens: int) -> list[int]:
        """The greedy answer, up to and with an end token."""
        placeholder = "<|begin_of_image|><|image|><|end_of_image|>\n" if image is not None else ""
        prompt = self.processor.apply_chat_template(
            [{"role": "system", "content": SYSTEM}, {"role": "user", "content": placeholder + text}],
            add_generation_prompt=True,
            tokenize=False,
        )
        images = {"images": [image]} if image is not None else {}
        inputs = self.processor(text=[prompt], return_tensors="pt", **images)
        output = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        ids: list[int] = output[0, inputs.input_ids.shape[1] :].tolist()
        return ids

    def text(self, ids: list[int]) -> str:
        """What these tokens say."""
        stream = TextStream(self.tokenizer.pieces)
        return stream.push(ids).text + stream.finish()
