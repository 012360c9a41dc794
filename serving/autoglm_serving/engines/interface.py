"""What every engine offers: messages with images in, text deltas out."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from autoglm_serving.vision.cache import CacheFigures

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

Role = Literal["system", "user", "assistant"]
FinishReason = Literal["stop", "length"]


class PromptRefused(ValueError):
    """The request's content cannot become a prompt. The message is made for the client: no paths, no internals."""


class PromptTooLong(PromptRefused):
    """The prompt leaves no room for one answer token within the engine's context."""

    def __init__(self, prompt_tokens: int, limit: int) -> None:
        super().__init__(
            f"the prompt has {prompt_tokens} tokens, the engine takes at most {limit} for prompt and answer together"
        )
        self.prompt_tokens = prompt_tokens
        self.limit = limit


class EngineOverloaded(RuntimeError):
    """All places to run and to wait are taken: try again later or elsewhere."""


class EngineDead(RuntimeError):
    """The engine cannot serve any request again: its process should be replaced."""


class EngineOptionsInvalid(ValueError):
    """The engine's configuration names something this engine does not have. For operators."""


class GenerationFailed(RuntimeError):
    """This one request failed inside the engine; other requests go on."""


@dataclass(frozen=True)
class TextPart:
    """A piece of text of one message."""

    text: str


@dataclass(frozen=True)
class EncodedPicture:
    """What an engine that takes features needs of a picture: its size before any resizing, and its features."""

    width: int
    height: int
    features: "torch.Tensor"


@dataclass(frozen=True)
class ImagePart:
    """An image of one message: decoded, in RGB, or already encoded for an engine that takes features (`TakesFeatures`).

    `key` names its content and its tenant (`vision.cache.key`), for caches. Where it is empty, the engine hashes the pixels.
    """

    image: "Image | EncodedPicture"
    key: str = ""


Part = TextPart | ImagePart


@dataclass(frozen=True)
class Message:
    """One turn of the conversation, with its parts in the client's order."""

    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class GenerateRequest:
    """One generation. `max_pixels` bounds width x height of each image; None is the model's own bound.

    `tenant` says whose caches it uses: what one tenant sent makes no other tenant's request faster.
    """

    request_id: str
    messages: tuple[Message, ...]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    max_pixels: int | None = None
    tenant: str = ""


@dataclass(frozen=True)
class Delta:
    """New text since the last delta, with the counts so far. The last one alone has a finish reason.

    `cached_tokens` of the prompt were known from earlier requests and not computed again.
    """

    text: str
    finish_reason: FinishReason | None
    prompt_tokens: int
    completion_tokens: int
    image_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True)
class EngineStats:
    """Load of one engine now. `kv_tokens`: tokens of prompt and answer held by running requests.

    `cached_tokens_total`: prompt tokens that were not computed again. `caches` are the engine's own caches by name; those
    inside vLLM's engine core are not among them.
    """

    running: int
    waiting: int
    max_running: int
    max_waiting: int
    kv_tokens: int
    finished_total: int
    cancelled_total: int
    refused_total: int
    failed_total: int
    prompt_tokens_total: int
    completion_tokens_total: int
    cached_tokens_total: int = 0
    caches: Mapping[str, CacheFigures] = field(default_factory=dict)


class Engine(Protocol):
    """One model ready to answer. All methods are called from one event loop."""

    async def start(self) -> None:
        """Load the model; raises ModelNotFound, ModelInvalid, EngineOptionsInvalid or EngineDead."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Delta, None]:
        """Stream the answer; closing the generator cancels the request.

        The first step raises PromptRefused (PromptTooLong is one), EngineOverloaded or EngineDead; any step may
        raise GenerationFailed (this request alone) or EngineDead.
        """

    async def check(self) -> None:
        """Raise EngineDead if no request can be served again."""

    async def close(self) -> None:
        """Cancel what runs and free the model. Idempotent."""

    def stats(self) -> EngineStats:
        """Load figures, cheap enough for every request."""


@runtime_checkable
class TakesFeatures(Protocol):
    """An engine that reads images which were encoded elsewhere (`EncodedPicture`)."""

    def known_features(self, key: str, width: int, height: int, max_pixels: int | None) -> "torch.Tensor | None":
        """Features that the engine still has of an image (`ImagePart.key`) at this pixel limit."""
