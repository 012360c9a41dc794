"""`autoglm train ground`: from a tower to a model that taps, part after part."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.load import ModelImages, ModelTokenizer, load_weights
from autoglm_serving.screens.dice import Dice
from autoglm_serving.screens.records import write_line
from autoglm_serving.training.cards import draw_card
from autoglm_serving.training.commands import train
from autoglm_serving.training.dataset import DatasetInvalid, Screens, open_screens
from autoglm_serving.training.grounding import kept, saying
from autoglm_serving.training.grounding.asking import Asker, lower, merged
from autoglm_serving.training.grounding.finding import LAYERS, Finder
from autoglm_serving.training.grounding.merging import Merging, loss_of, tokens
from autoglm_serving.training.grounding.recipe import PRESETS, Grounding, Lesson, Views
from autoglm_serving.training.grounding.run import GroundingRefused, Told, ground, network_of
from autoglm_serving.training.grounding.saying import Speaker, hold
from autoglm_serving.training.grounding.spots import Spot, findable, spots
from autoglm_serving.training.looking import start_looking
from autoglm_serving.training.network import Student, write_start
from autoglm_serving.training.recipe import PRESETS as TINY
from autoglm_serving.training.recipe import Network
from autoglm_serving.training.replies import Replier
from autoglm_serving.training.spelling import moved, place_codes_at

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = Network(vision_layers=2, vision_width=64, vision_heads=2, merger_width=96, text_mlp_width=192)
"""A small tower, and a language model with room for the way from a question to its place."""

RECIPE = replace(
    PRESETS["smoke"],
    views=Views(count=6, whole_sides=(112,), part_sides=(112, 140), cards_percent=30),
    sorting=Lesson(4, 1, 2e-3),
    merging=Lesson(4, 16, 1e-3),
    finding=Lesson(4, 2, 6e-4),
    saying=Lesson(4, 8, 1e-3),
    questions=24,
)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of screens that know their texts: cards."""
    folder: Path = tmp_path_factory.mktemp("known")
    (folder / "images").mkdir()
    lines = []
    for number in range(5):
        card = draw_card(Dice("grounding", number), 0.5)
        card.picture.save(folder / f"images/{number}.png")
        lines.append(write_line(replace(card.screen, id=f"c{number}", image=f"images/{number}.png")))
    (folder / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("start")
    write_start(folder, SMALL, 3)
    return folder


def silent(_: Any) -> None:
    pass


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_weights(check_folder(folder), torch.float32, torch.device("cpu")).state_dict())


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


class Parts:
    """A student, its questions and its pictures, as they are when the sorting is done."""

    def __init__(self, start: Path, screens: Screens) -> None:
        folder = check_folder(start)
        torch.manual_seed(0)
        model = load_weights(folder, torch.float32, torch.device("cpu"))
        self.tokenizer = ModelTokenizer(folder)
        start_looking(model, self.tokenizer)
        self.student = Student(model, replace(TINY["night"], network=network_of(model.config)))
        self.asker = Asker(self.tokenizer)
        views = kept.keep(self.student, ModelImages(folder), screens, RECIPE.views, 0, lambda *_: None)
        self.views = [kept.as_told(self.student, view) for view in views]


@pytest.fixture
def parts(start: Path, known: Path) -> Parts:
    return Parts(start, open_screens(known))


def test_the_command_makes_a_model_that_answers(start: Path, known: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(
        train, ["ground", str(known), str(out), "--from", start.as_uri(), "--preset", "smoke", "--threads", "1"]
    )
    assert result.exit_code == 0, result.output
    assert (out / "model").as_uri() in result.output
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    smoke = PRESETS["smoke"]
    assert [line["part"] for line in lines] == (
        ["sorting"] * smoke.sorting.steps
        + ["merging"] * smoke.merging.steps
        + ["finding"] * smoke.finding.steps
        + ["saying"] * smoke.saying.steps
    )
    assert all(line["loss"] > 0 for line in lines)
    screens = open_screens(known)
    replier = Replier(out / "model")
    pixels, grid = replier.pixels(screens.decoded(screens.items[0]), 112 * 112)
    assert replier.looks(replier.see(pixels, grid), ["Tap x"]).shape[0] == 1


def test_the_tower_stays_but_for_its_last_mlp(start: Path, known: Path, tmp_path: Path) -> None:
    model = ground(RECIPE, open_screens(known), start, tmp_path / "out", silent)
    visual = {name: each for name, each in weights(start).items() if "visual." in name}
    other = changed(visual, weights(model))
    last = f"blocks.{SMALL.vision_layers - 1}."
    may = (f"{last}mlp", f"{last}norm2", "post_layernorm", "merger", "downsample")
    assert other
    assert all(any(part in name for part in may) for name in other), other


def test_merging_learns_what_tokens_tell_and_keeps_their_length(parts: Parts) -> None:
    """The rest of the model stays, and a picture's tokens are nearer to its letters and their places."""
    recipe = replace(RECIPE, merging=Lesson(60, 64, 3e-3))
    learner = Merging(parts.student, parts.views, recipe)
    view = next(view for view in parts.views if bool(view.full.any()))
    wanted = tokens(parts.student, view)
    before = {name: each.clone() for name, each in parts.student.model.state_dict().items()}

    def now() -> torch.Tensor:
        with torch.no_grad():
            features: torch.Tensor = merged(parts.student, view.patches)
        return features

    first, length = float(loss_of(now(), wanted)), sum(merged_length(parts, each) for each in parts.views)
    for step in range(60):
        learner.step(step)
    learner.settle()
    assert float(loss_of(now(), wanted)) < 0.8 * first
    after = sum(merged_length(parts, each) for each in parts.views)
    assert after == pytest.approx(length, rel=0.25)
    other = changed(before, parts.student.model.state_dict())
    assert other
    assert all("merger" in name or "downsample" in name for name in other), other


def merged_length(parts: Parts, view: kept.View) -> float:
    """The mean length of a view's image tokens that show something."""
    with torch.no_grad():
        return float(merged(parts.student, view.patches)[view.full].norm(dim=1).mean().nan_to_num())


def test_tokens_want_the_letters_that_they_show(parts: Parts) -> None:
    view = next(view for view in parts.views if bool(view.full.any()))
    wanted = tokens(parts.student, view)
    shown = wanted.letters.norm(dim=1) > 0
    assert torch.equal(shown, view.full)
    codes, signs = parts.student.codes.detach(), view.signs
    at = int(view.full.nonzero()[0])
    per_token = view.patches.shape[1]
    told = [number for number, patch in enumerate(signs.patches[signs.places].tolist()) if patch // per_token == at]
    expected = sum(codes[signs.signs[number]] * signs.loud[number] for number in told)
    assert torch.allclose(wanted.letters[at], torch.as_tensor(expected), atol=1e-6)


def test_only_taps_go_along_where_a_picture_is_moved() -> None:
    by = (0.3, -0.2)
    said = Spot("Make sure that Wi-Fi is selected", 'finish(message="Wi-Fi")', "other")
    assert saying._spot_moved(said, by) is said
    tapped = Spot("Tap Wi-Fi", 'do(action="Tap", element=[400,500])', "text", (0.4, 0.5), (7,))
    there = saying._spot_moved(tapped, by)
    assert there is not None
    assert there.place == pytest.approx((0.7, 0.3))
    assert saying._spot_moved(tapped, (0.7, 0.0)) is None
    assert saying._spot_moved(replace(tapped, kind="other"), by) is None


def test_finding_learns_where_names_are_and_leaves_the_upper_layers_alone(parts: Parts) -> None:
    view = next(view for view in parts.views if findable(view.screen, view.window, 8, Dice(1)))
    finder = Finder(parts.student, parts.asker, replace(RECIPE, finding=Lesson(60, 1, 2e-3)))
    asked = findable(view.screen, view.window, 8, Dice(1))
    before = {name: each.clone() for name, each in parts.student.model.state_dict().items()}
    first = float(finder.loss(view, asked).total.detach())
    for step in range(25):
        finder.step([view], step)
    assert float(finder.loss(view, asked).total.detach()) < 0.8 * first
    other = changed(before, parts.student.model.state_dict())
    learned = ("merger", "downsample", *(f"language_model.layers.{number}." for number in range(LAYERS)))
    assert other
    assert all(any(part in name for part in learned) for name in other), other


def test_what_the_upper_layers_learn_from_is_what_the_whole_model_says(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With all image tokens kept, the loss of held questions is that of the model itself on the picture."""
    monkeypatch.setattr(saying, "_SEEN", 1 << 20)
    monkeypatch.setattr(saying, "_MOVED_PERCENT", 0)
    monkeypatch.setattr(saying, "_MISSED_PERCENT", 100)
    view = next(view for view in parts.views if spots(view.screen, view.window, 6, Dice(2)))
    few = replace(RECIPE, questions=1)
    prefix, held = hold(parts.student, parts.asker, [view], few, lambda *_: None)
    speaker = Speaker(parts.student, prefix, few)
    loss, _ = speaker.loss(held)

    features = merged(parts.student, view.patches)
    asked = spots(view.screen, view.window, saying._QUESTIONS, Dice(few.seed, "saying", 0))[:1]
    batch, _, _ = saying._where_it_looks(parts.student, parts.asker, view, saying._Asking(features, asked))
    assert torch.equal(batch.ids[0, -len(held[0].ids) :], held[0].ids)
    layers = parts.student.model.model.language_model.layers
    said = lower(parts.student, batch, features, len(layers))
    text_model = parts.student.model.model.language_model
    logits = parts.student.model.lm_head(text_model.norm(said.states[-1][0]))
    losses = torch.nn.functional.cross_entropy(logits[batch.targets - 1], batch.ids[0, batch.targets], reduction="none")
    expected = (losses * batch.weights).sum() / batch.weights.sum()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=2e-2)


def test_few_image_tokens_stand_for_all_in_the_mean(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention to twelve that are drawn, each for so many, is near the attention to all; unweighted it would not be."""
    monkeypatch.setattr(saying, "_MOVED_PERCENT", 0)
    few = replace(RECIPE, questions=30)
    prefix, held = hold(parts.student, parts.asker, parts.views, few, lambda *_: None)
    packed = saying._packed(prefix, held[:1])
    seen = slice(len(prefix.states), len(prefix.states) + len(held[0].seen))
    shares = packed.mask[0, 0, -1, seen].exp()
    assert float(shares.sum()) == pytest.approx(held[0].image_tokens)


def test_saying_learns_held_questions_by_heart_and_leaves_the_lower_layers_alone(parts: Parts) -> None:
    prefix, held = hold(parts.student, parts.asker, parts.views, replace(RECIPE, questions=8), lambda *_: None)
    before = {name: each.clone() for name, each in parts.student.model.state_dict().items()}
    speaker = Speaker(parts.student, prefix, replace(RECIPE, saying=Lesson(80, 8, 3e-3)))
    first = float(speaker.loss(held)[0].detach())
    for step in range(40):
        speaker.step(held, step)
    assert float(speaker.loss(held)[0].detach()) < 0.5 * first
    upper = ("lm_head", "language_model.norm", *(f"layers.{number}." for number in range(LAYERS, SMALL.text_layers)))
    other = changed(before, parts.student.model.state_dict())
    assert all(any(part in name for part in upper) for name in other), other


def test_codes_of_places_turn_as_the_places_move() -> None:
    places = torch.tensor([[0.1, 0.2], [0.5, 0.9], [0.33, 0.4]])
    by = (0.25, -0.15)
    there = place_codes_at(places + torch.tensor(by))
    assert torch.allclose(moved(place_codes_at(places), by), there, atol=1e-5)


def test_a_run_that_stops_goes_on_with_the_part_that_it_was_in(start: Path, known: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(told: Told) -> None:
        if told.part == "saying" and told.done == 2:
            raise Stopped

    screens = open_screens(known)
    whole = ground(RECIPE, screens, start, tmp_path / "whole", silent)
    with pytest.raises(Stopped):
        ground(RECIPE, screens, start, tmp_path / "cut", stop)
    with pytest.raises(GroundingRefused, match="not empty"):
        ground(RECIPE, screens, start, tmp_path / "cut", silent)
    again: list[str] = []
    on = ground(RECIPE, screens, start, tmp_path / "cut", lambda told: again.append(told.part), resume=True)
    assert "finding" not in again
    assert not changed(weights(whole), weights(on))


def test_what_cannot_be_grounded_is_refused_with_what_to_do(
    start: Path, known: Path, data: Path, tmp_path: Path
) -> None:
    screens = open_screens(known)
    with pytest.raises(DatasetInvalid, match="--split train"):
        ground(RECIPE, open_screens(data), start, tmp_path / "a", silent)
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    write_start(narrow, TINY["smoke"].network, 0)
    with pytest.raises(GroundingRefused, match="three layers"):
        ground(RECIPE, screens, narrow, tmp_path / "b", silent)
    ground(RECIPE, screens, start, tmp_path / "c", silent)
    other: Grounding = replace(RECIPE, seed=1)
    with pytest.raises(GroundingRefused, match="another run"):
        ground(other, screens, start, tmp_path / "c", silent, resume=True)
    fewer = replace(screens, items=screens.items[:-1])
    with pytest.raises(GroundingRefused, match="screens"):
        ground(RECIPE, fewer, start, tmp_path / "c", silent, resume=True)
