"""How much of real sessions' prompts a replica's caches know, counted without a model: prompts, block names and caches alone.

CACHE_REPLAY_SESSIONS names a folder with more sessions of the same layout. Pictures have the size in which they were taken.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import table
from tokenizers import Tokenizer

from autoglm_serving.app.calls import EncodedImage
from autoglm_serving.engines.prefix_cache import ImageSpan, PrefixCache, block_names
from autoglm_serving.engines.prompt import IMAGE_PLACEHOLDER
from autoglm_serving.model.tiny_tokenizer import train_tokenizer
from autoglm_serving.model.vocabulary import IMAGE
from autoglm_serving.vision.cache import ByteCache, key
from autoglm_serving.vision.sizing import image_tokens
from support.phone_sessions import KEPT, Client, Session, Turn, load, requests

FOLDER = Path(__file__).parent / "data" / "phone-sessions"
BLOCK = 64
CAPACITY = 100_000
"""Tokens that each cache may hold."""


def prompt(turns: Sequence[Turn], tokenizer: Tokenizer) -> tuple[list[int], list[ImageSpan]]:
    """The tokens of a request as the model sees them, and where its pictures are."""
    text = "[gMASK]<sop>"
    images = [part for turn in turns for part in turn.parts if isinstance(part, EncodedImage)]
    for turn in turns:
        pieces = [IMAGE_PLACEHOLDER if isinstance(part, EncodedImage) else part.text for part in turn.parts]
        text += f"<|{turn.role}|>\n" + "\n".join(pieces)
    marker = tokenizer.token_to_id(IMAGE)
    ids: list[int] = []
    spans: list[ImageSpan] = []
    waiting = iter(images)
    for index in tokenizer.encode(text + "<|assistant|>\n", add_special_tokens=False).ids:
        if index != marker:
            ids.append(index)
            continue
        image = next(waiting)
        length = image_tokens(image.size.width, image.size.height)
        spans.append(ImageSpan(len(ids), length, key("", image.data, "")))
        ids += [marker] * length
    return ids, spans


def count(client: Client, sessions: Sequence[Session], tokenizer: Tokenizer) -> list[str]:
    """One row: what the caches knew of all requests."""
    prefixes: PrefixCache[None] = PrefixCache(CAPACITY)
    features: ByteCache[None] = ByteCache(CAPACITY)
    asked = known = seen = pictures = encoded = number = 0
    for session in sessions:
        for turns in requests(session, client):
            ids, spans = prompt(turns, tokenizer)
            names = block_names(ids, spans, "", BLOCK)
            reused = BLOCK * _known(prefixes, names[: (len(ids) - 1) // BLOCK])
            number, asked, known = number + 1, asked + len(ids), known + reused
            seen += sum(span.length for span in spans)
            pictures += len(spans)
            for span in spans:
                if span.end > reused and not features.holds(span.name):
                    encoded += 1
                    features.put(span.name, None, span.length)
            for last in range(len(names)):
                if not prefixes.holds(names[last]):
                    prefixes.put(names[: last + 1], None, BLOCK)
    return [
        client,
        str(number),
        str(round(asked / number)),
        f"{seen / asked:.0%}",
        f"{known / asked:.0%}",
        f"{1 - encoded / pictures:.0%} of {pictures}",
    ]


def _known(prefixes: PrefixCache[None], names: Sequence[str]) -> int:
    found = 0
    while found < len(names) and prefixes.holds(names[found]):
        found += 1
    return found


def main() -> None:
    folder = Path(os.environ.get("CACHE_REPLAY_SESSIONS", FOLDER))
    sessions = load(folder)
    tokenizer = train_tokenizer()
    columns = ["client keeps", "requests", "prompt tokens", "of them image", "reused", "pictures not encoded again"]
    print(f"{len(sessions)} sessions, {sum(len(each.steps) for each in sessions)} screens\n")
    print(table(columns, [count(client, sessions, tokenizer) for client in KEPT]))


if __name__ == "__main__":
    main()
