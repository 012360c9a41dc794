"""The prompt of a question about a picture, in the model's own chat template: as an engine builds it, in two halves."""

from functools import cached_property

from autoglm_serving.engines.prompt import IMAGE_PLACEHOLDER, guard
from autoglm_serving.model.load import ModelTokenizer
from autoglm_serving.model.vocabulary import IMAGE
from autoglm_serving.training.examples import SYSTEM

ANSWER = "<|assistant|>"
"""The end of a question."""

END = "<|user|>"
"""An answer ends where the chat template would begin the next turn."""


class Prompts:
    """Ids of prompts, cut where the picture's tokens end: what is before them is the same for every question."""

    def __init__(self, tokenizer: ModelTokenizer) -> None:
        self._tokenizer = tokenizer
        self.image_id = tokenizer.encode(IMAGE)[0]
        self.end_id = tokenizer.encode(END)[0]
        self.answer_id = tokenizer.encode(ANSWER)[0]

    def before(self, image_tokens: int) -> list[int]:
        """The prompt up to and with the picture's tokens."""
        return [*self._head, *[self.image_id] * image_tokens]

    def after(self, instruction: str) -> list[int]:
        """The prompt after the picture's tokens, ready for the answer."""
        return self._tokenizer.encode(self._frame(instruction)[1])

    @cached_property
    def _head(self) -> list[int]:
        return self._tokenizer.encode(self._frame("")[0])

    def _frame(self, instruction: str) -> tuple[str, str]:
        content = IMAGE_PLACEHOLDER + "\n" + guard(instruction, self._tokenizer.specials)
        rendered = self._tokenizer.render([{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}])
        head, _, tail = rendered.partition(IMAGE)
        return head, tail
