"""Techniques and sizes measured from the command line, on a model that knows nothing and screens drawn here."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image, ImageDraw

from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.load import load_weights
from autoglm_serving.screens.records import Screen, write_line
from autoglm_serving.training import natural
from autoglm_serving.training.ablation import ways, zoom
from autoglm_serving.training.ablation.commands import TuneOptions
from autoglm_serving.training.ablation.memory import Memory
from autoglm_serving.training.ablation.table import Table
from autoglm_serving.training.ablation.table import markdown as table_page
from autoglm_serving.training.ablation.tuning import Plan, Tuner
from autoglm_serving.training.ablation.weights import WeightsRefused, load_new, new_weights
from autoglm_serving.training.commands import evaluate, train
from autoglm_serving.training.dataset import open_screens
from autoglm_serving.training.network import write_start
from autoglm_serving.training.recipe import PRESETS
from autoglm_serving.training.replies import Replier, Reply, Seen
from autoglm_serving.training.starts import start_positions
from autoglm_serving.training.study.data import Study
from autoglm_serving.training.study.page import page
from autoglm_serving.training.study.picture import picture
from autoglm_serving.vision import flops
from autoglm_serving.vision.boxes import Box
from autoglm_serving.vision.modules.flops import count_flops
from autoglm_serving.vision.modules.variant import FusedVariant
from autoglm_serving.vision.modules.variants import VARIANTS, Options, build_variant
from autoglm_serving.vision.quality import load
from autoglm_serving.vision.sizing import TokenGrid
from support.screens import draw, screen, write_screens

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("screens") / "data"
    write_screens(folder, 2)
    return folder


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One session of three screens: a button changes its colour, then nothing happens."""
    folder: Path = tmp_path_factory.mktemp("sessions") / "data"
    (folder / "images").mkdir(parents=True)
    made: list[Screen] = []
    for step, colour in enumerate(((210, 40, 40), (240, 200, 0), (240, 200, 0))):
        shown = replace(screen(0), id=f"a{step}", image=f"images/a{step}.png", session="a", step=step)
        drawn = draw(shown)
        ImageDraw.Draw(drawn).rectangle(shown.elements[0].box, fill=colour)
        drawn.save(folder / shown.image)
        made.append(shown)
    (folder / "manifest.jsonl").write_text("".join(map(write_line, made)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_model(tmp_path_factory.mktemp("model"), 0)


def made_model(folder: Path, seed: int) -> Path:
    write_start(folder, PRESETS["smoke"].network, seed)
    started = load_weights(check_folder(folder), torch.float32, torch.device("cpu"))
    start_positions(started)
    started.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def replier(model: Path) -> Replier:
    return Replier(model)


@pytest.fixture(scope="module")
def tuned(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("variants") / "out"
    names = "scales-weights,attention-channel,dynamic-normalisation,grid-nearest,crop-tower"
    command = ["variant", names, str(data), str(out), "--from", model.as_uri(), "--steps", "3", "--side", "112"]
    result = CliRunner().invoke(train, command)
    assert result.exit_code == 0, result.output
    assert "scales-weights: 2 new weights, 3 steps" in result.output
    return out


def asked(data: Path, *, before: bool = False) -> ways.Asked:
    screens = open_screens(data)
    first, second = screens.items[:2]
    shown = screens.decoded(second if before else first)
    return ways.Asked(shown, ("Tap Wi-Fi", "点击“蓝牙”"), 112, screens.decoded(first) if before else None)


def test_only_what_a_technique_adds_is_written_and_read_back(tuned: Path, model: Path) -> None:
    assert sorted(path.stem for path in tuned.iterdir()) == [
        "attention-channel",
        "dynamic-normalisation",
        "scales-weights",
    ]
    started = load_weights(check_folder(model), torch.float32, torch.device("cpu"))
    variant = build_variant("scales-weights", started, Options())
    assert isinstance(variant, FusedVariant)
    before = [each.clone() for each in variant.tower.parameters()]
    found = load_new(variant, "scales-weights", tuned)
    assert (found.new_weights, found.steps) == (new_weights(variant), 3)
    assert any(not torch.equal(old, new) for old, new in zip(before, variant.tower.parameters(), strict=True))


def test_new_weights_of_another_model_are_refused(tuned: Path, tmp_path: Path) -> None:
    other = load_weights(check_folder(made_model(tmp_path, 1)), torch.float32, torch.device("cpu"))
    variant = build_variant("scales-weights", other, Options())
    assert isinstance(variant, FusedVariant)
    with pytest.raises(WeightsRefused, match="train it anew"):
        load_new(variant, "scales-weights", tuned)


def test_learning_new_weights_leaves_the_model_alone_and_lowers_the_loss(
    model: Path, data: Path, tmp_path: Path
) -> None:
    plan = Plan(steps=12, examples=1, short_side=112, learning_rate=1e-2)
    tuner = Tuner(model, open_screens(data), plan)
    before = {name: value.clone() for name, value in tuner.model.state_dict().items()}
    done = tuner.tune("scales-channels", Options(), tmp_path, lambda *_: None)
    assert done is not None
    assert done.last < done.first
    assert all(torch.equal(value, before[name]) for name, value in tuner.model.state_dict().items())


def test_each_technique_learns_for_as_long_as_is_usual_unless_it_is_told() -> None:
    free = TuneOptions(uri="", threads=None, steps=None, examples=None, side=112, device="cpu")
    lengths = {name: (plan.steps, plan.examples) for name in VARIANTS for plan in [free.plan(name)]}
    assert lengths["tiles-2x2-cross-middle"] == lengths["queries"] == (320, 80)
    assert lengths["attention-cbam"] == lengths["scales-pyramid"] == (200, 50)
    assert lengths["dynamic-normalisation"] == lengths["scales-weights-early"] == (60, 30)
    told = replace(free, steps=7).plan("queries")
    assert (told.steps, told.examples, told.short_side) == (7, 80, 112)


def test_a_table_has_every_chosen_technique_with_its_steps(
    tuned: Path, model: Path, data: Path, sessions: Path, tmp_path: Path
) -> None:
    seen = "stretched,padded frame,stitched,content,crop,zoom,region"
    only = f"{seen},tiles-2x2-concat-middle,tiles-by,scales-weights,grid-nearest"
    command = ["tiny", str(data), "--model", model.as_uri(), "--techniques", str(tmp_path), "--only", only]
    options = ["--sessions", str(sessions), "--variants", str(tuned), "--side", "112", "--limit", "2"]
    result = CliRunner().invoke(evaluate, [*command, *options])
    assert result.exit_code == 0, result.output
    table = Table.model_validate_json((tmp_path / "techniques.json").read_text(encoding="utf-8"))
    rows = {row.name: row for row in table.rows}
    assert {"baseline", "crop-question", "crop-tower", "grid-nearest, beyond", "zoom", "tiles-by-edge-concat"} <= set(
        rows
    )
    assert rows["scales-weights"].steps == 3
    assert "scales-weights-middle" not in rows
    assert ("scales-weights-middle", "not trained") in {(each.name, each.measured) for each in table.findings}
    assert all(row.gflops > 0 and row.latency_ms > 0 for row in table.rows)
    changed = rows["region by flow, changed part"].total
    assert 1 <= changed < 12
    assert {row.total for row in table.rows if "changed part" not in row.name} == {12}
    assert rows["crop-tower"].image_tokens <= 0.63 * rows["baseline"].image_tokens
    assert (tmp_path / "techniques.md").read_text(encoding="utf-8") == table_page(table)


def test_the_whole_list_of_findings_is_measured(model: Path, data: Path, sessions: Path, tmp_path: Path) -> None:
    from autoglm_serving.training.ablation.findings import findings
    from autoglm_serving.training.ablation.measure import Settings
    from autoglm_serving.training.ablation.run import Job

    found = {each.name: each for each in findings(Job(model, data, sessions, None, Settings(short_side=112)), None)}
    assert found["resize_with_pad and back"].verdict == "exact"
    assert found["FLOPs from first principles, vision tower"].verdict == "within 2 %"
    assert "1 of 3 steps repeat one" in found["cache of prepared pictures"].measured


def test_a_study_is_written_with_its_page_picture_and_quality_table(model: Path, data: Path, tmp_path: Path) -> None:
    command = ["tiny", str(data), "--model", model.as_uri(), "--study", str(tmp_path), "--sizes", "84,112,168,224"]
    result = CliRunner().invoke(evaluate, [*command, "--jobs", "2"])
    assert result.exit_code == 0, result.output
    study = Study.model_validate_json((tmp_path / "resolution.json").read_text(encoding="utf-8"))
    assert study.short_sides == (84, 112, 168, 224)
    assert len(study.tasks) == 12
    assert list(study.tasks[0].tokens) == sorted(set(study.tasks[0].tokens))
    assert study.tasks[0].tokens[1] == 32
    assert (tmp_path / "resolution.md").read_text(encoding="utf-8") == page(study)
    assert (tmp_path / "resolution.svg").read_text(encoding="utf-8") == picture(study)
    assert load((tmp_path / "quality.json").read_text(encoding="utf-8")).loss_at(112, "phone").basis == "measured"
    assert json.loads((tmp_path / "quality.json").read_text(encoding="utf-8"))["measurements"][0]["samples"] == 12


def test_a_name_that_is_no_technique_is_told(data: Path, model: Path, tmp_path: Path) -> None:
    command = ["tiny", str(data), "--model", model.as_uri(), "--techniques", str(tmp_path), "--only", "nonsense"]
    assert "no technique's name begins with 'nonsense'" in CliRunner().invoke(evaluate, command).output
    result = CliRunner().invoke(train, ["variant", "nonsense", str(data), str(tmp_path), "--from", model.as_uri()])
    assert "'nonsense' is no technique" in result.output


def test_what_is_remembered_of_a_picture_gives_the_same_answers_and_is_made_once(
    replier: Replier, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about, memory = asked(data), Memory()
    for name in ("attention-channel", "tiles-2x2-weights"):
        variant = build_variant(name, replier.model, Options())
        assert isinstance(variant, FusedVariant)
        fresh = ways.by_variant(variant)(*replier.pixels(about.picture, about.max_pixels))
        kept = ways.by_variant(variant, memory)
        first = kept(*replier.pixels(about.picture, about.max_pixels))
        with monkeypatch.context() as patched:
            patched.setattr(variant.tower, "begin", None)  # whoever asks the tower again fails
            again = kept(*replier.pixels(about.picture, about.max_pixels))
        for seen in (first, again):
            torch.testing.assert_close(seen.tokens, fresh.tokens)
            assert torch.equal(seen.grid, fresh.grid)


def test_another_picture_of_the_same_size_is_not_taken_for_a_remembered_one(replier: Replier, data: Path) -> None:
    about, memory = asked(data), Memory()
    see = memory.remembered("plain", replier.see)
    turned = about.picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    here = see(*replier.pixels(about.picture, about.max_pixels)).tokens
    there = see(*replier.pixels(turned, about.max_pixels)).tokens
    assert not torch.allclose(here, there)


def test_a_question_looks_at_every_image_token_with_attention_that_is_the_models_own(
    replier: Replier, data: Path
) -> None:
    about = asked(data)
    seen = ways.Plain().first_look(replier, about)
    together = replier.looks(seen, about.instructions)
    assert together.shape == (2, len(seen.tokens))
    assert bool((together > 0).all())
    assert bool((together.sum(1) < 1).all())
    alone = replier.looks(seen, about.instructions[:1])  # without the filling that the shorter prompt gets
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-3)


def test_a_part_around_a_place_stays_on_the_screen_and_its_points_go_back(data: Path) -> None:
    assert zoom.part_around((200, 400), (0.5, 0.5), (0.5, 0.25)) == Box(50, 150, 150, 250)
    assert zoom.part_around((200, 400), (0.0, 1.0), (0.5, 0.25)) == Box(0, 300, 100, 400)
    about = asked(data)
    width, height = about.picture.size
    shown = ways.cut_out(about, Box(0, height // 2, width // 2, height), closer=2)
    assert shown.picture.size == (112, 224)  # half of a screen of 112 x 224, twice as large
    assert shown.back((500, 500)) == pytest.approx((250, 750))


def test_a_zoom_asks_about_a_closer_part_and_taps_on_the_whole_screen(
    replier: Replier, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = asked(data)
    shown: list[int] = []

    def answers_about(seen: Seen, instructions: tuple[str, ...], max_new_tokens: int = 48) -> list[Reply]:
        shown.append(len(seen.tokens))
        text = 'do(action="Tap", element=[500,500])' if len(shown) > 1 else 'do(action="Tap", element=[1,1])'
        return [Reply(each, 1.0, len(seen.tokens)) for each in (text, 'finish(message="On")')[: len(instructions)]]

    monkeypatch.setattr(replier, "answers_about", answers_about)
    monkeypatch.setattr(zoom, "looked_at", lambda *_: [(0.0, 0.0), (0.0, 0.0)])
    tapped, told = zoom.Zoomed(zoom.ZoomRule(wide=0.5, tall=0.5, close=2.0)).answers(replier, about)
    assert tapped.text == 'do(action="Tap", element=[250,250])'
    assert tapped.image_tokens == sum(shown)
    assert told.text == 'finish(message="On")'
    assert (told.image_tokens, len(shown)) == (shown[0], 2)


def test_keeping_every_token_is_seeing_the_whole_picture(replier: Replier, data: Path) -> None:
    about = asked(data)
    seen = ways.Plain().first_look(replier, about)
    all_kept = Seen(seen.tokens, seen.grid, tuple(range(len(seen.tokens))))
    assert replier.answers_about(all_kept, about.instructions) == replier.answers_about(seen, about.instructions)


def test_a_technique_without_an_effect_of_its_own_sees_as_the_model_does(replier: Replier, data: Path) -> None:
    variant = build_variant("padded", replier.model, Options())
    assert isinstance(variant, FusedVariant)
    about = asked(data)
    here, there = ways.Plain(ways.by_variant(variant)), ways.Plain()
    torch.testing.assert_close(
        here.first_look(replier, about).tokens, there.first_look(replier, about).tokens, atol=1e-4, rtol=1e-3
    )


def test_a_padded_frame_maps_taps_back_and_a_stretched_one_needs_no_map(data: Path) -> None:
    about = asked(data)
    side = ways.square_side(about)
    shown = ways.padded(about)
    assert shown.picture.size == (side, side)
    assert shown.back((0, 0)) == pytest.approx((0, 0))
    assert shown.back((1000 * 0.5, 1000)) == pytest.approx((1000, 1000), abs=15)
    assert ways.stretched(about).picture.size == (side, side)


def test_what_changed_is_cut_out_at_its_scale_and_points_go_back(sessions: Path) -> None:
    about = asked(sessions, before=True)
    box = open_screens(sessions).items[1].elements[0].box
    found = ways.changed_box(about)
    assert found is not None
    assert found.contains((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    shown = ways.changed(about)
    assert shown.picture.height < 0.6 * 224
    x, y = shown.back((500, 500))
    assert (x, y) == pytest.approx((500 * (found.left + found.right) / 224, 500 * (found.top + found.bottom) / 448))


def test_a_screen_that_stays_the_same_is_seen_whole(data: Path) -> None:
    about = asked(data)
    same = replace(about, before=about.picture)
    assert ways.changed_box(same) is None
    assert ways.changed(same).picture is about.picture
    assert ways.changed(about).picture is about.picture


def test_an_enlarged_picture_has_four_times_the_tokens_and_nothing_new(data: Path) -> None:
    shown = ways.enlarged(replace(asked(data), short_side=56))
    assert shown.picture.size == (112, 224)
    assert shown.max_pixels == 4 * 56 * 112


def test_a_stitched_screen_is_the_screen_again() -> None:
    pencil = Image.effect_noise((300, 600), 80).convert("RGB")
    shown = ways.stitched(ways.Asked(pencil, ("Tap",), 300))
    assert shown.picture.width == pytest.approx(300, abs=3)
    assert shown.picture.height == pytest.approx(600, abs=6)


def test_work_is_counted_as_the_formulas_count_it(replier: Replier, data: Path, model: Path) -> None:
    about = asked(data)
    shape = flops.architecture(json.loads((model / "config.json").read_text(encoding="utf-8")))
    seen = count_flops(lambda: ways.Plain().first_look(replier, about))
    assert seen == pytest.approx(flops.vision(shape.vision, [TokenGrid(8, 4)]).total, rel=0.02)


def test_a_probe_tells_pictures_apart_and_loses_what_is_not_shown(model: Path, replier: Replier) -> None:
    """Stripes that lie or stand, one pixel wide; at a detail of one pixel all are the same grey."""
    grey = np.zeros((60, 8, 8), np.uint8)
    for number in range(60):
        phase = number // 2 % 2
        if number % 2:
            grey[number, phase::2] = 255
        else:
            grey[number, :, phase::2] = 255
    pictures = natural.Pictures(grey, np.arange(60) % 2)
    rows = list(natural.probe(replier, Replier(model), pictures, [56], [1]))
    assert [(row.side, row.detail, row.image_tokens) for row in rows] == [(56, 8, 9), (56, 1, 9)]
    assert rows[0].tower.right >= 16
    assert rows[0].tower == rows[0].untrained
    assert rows[1].tower.right <= 12
    assert "| 56 px | 8 px |" in natural.markdown(rows, "m", "s")


def test_without_the_package_that_has_the_pictures_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    result = CliRunner().invoke(evaluate, ["natural", str(tmp_path)])
    assert result.exit_code == 1
    assert "autoglm[natural]" in result.output
