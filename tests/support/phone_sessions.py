"""Real sessions of a phone agent, and the requests that different clients make of them."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autoglm_serving.app.calls import EncodedImage
from autoglm_serving.engines.interface import Role, TextPart
from autoglm_serving.images import read_size

Client = Literal["one picture", "last three", "all pictures"]
"""`one picture` is Open-AutoGLM: it takes each picture out of the history as soon as it is answered."""
KEPT: dict[Client, int] = {"one picture": 1, "last three": 3, "all pictures": 1000}

SYSTEM = "今天的日期是2026年1月1日。你是一个智能手机操作助手,根据截图和任务决定下一步操作。\n" + "\n".join(
    f'{number}. do(action="{action}", ...): {action} 是操作,坐标从左上角 (0,0) 到右下角 (999,999)。'
    for number, action in enumerate(
        ("Launch", "Tap", "Type", "Swipe", "Back", "Home", "Double Tap", "Long Press", "Wait", "Take_over"), start=1
    )
)


@dataclass(frozen=True)
class Step:
    """One screen, and the answer that the agent gave to it."""

    picture: bytes
    answer: str


@dataclass(frozen=True)
class Session:
    """One task on one phone."""

    name: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Turn:
    """One message with its pictures as they are sent."""

    role: Role
    parts: tuple[TextPart | EncodedImage, ...]


def load(folder: Path) -> list[Session]:
    """The sessions of a folder `application/number/`."""
    places = sorted(path.parent for path in folder.glob("*/*/data.json"))
    return [Session(str(place.relative_to(folder)), tuple(_steps(place))) for place in places]


def _steps(place: Path) -> Iterator[Step]:
    told = json.loads((place / "data.json").read_text(encoding="utf-8"))
    for picture in sorted(place.glob("*.jpg"), key=lambda path: int(path.stem)):
        step = told.get(picture.stem, {"Thought": "", "Action": "stop"})
        answer = f'<think>{step["Thought"]}</think><answer>do(action="{step["Action"]}")</answer>'
        yield Step(picture.read_bytes(), answer)


def requests(session: Session, client: Client) -> Iterator[tuple[Turn, ...]]:
    """The messages of each request of a session, one request for each screen."""
    for last in range(len(session.steps)):
        turns = [Turn("system", (TextPart(SYSTEM),))]
        for number, step in enumerate(session.steps[: last + 1]):
            text = f"任务: {session.name}" if number == 0 else "** Screen Info **"
            kept = number > last - KEPT[client]
            turns.append(Turn("user", (*((_image(step.picture),) if kept else ()), TextPart(text))))
            if number < last:
                turns.append(Turn("assistant", (TextPart(step.answer),)))
        yield tuple(turns)


def _image(picture: bytes) -> EncodedImage:
    url = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
    return EncodedImage(picture, read_size(url, "picture"), "picture")
