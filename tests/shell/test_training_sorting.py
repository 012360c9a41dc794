"""Codes of signs from what a tower tells apart, and the stages that teach them to its last MLP."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from autoglm_serving.model.folder import check_folder
from autoglm_serving.model.load import ModelImages, ModelTokenizer, load_weights
from autoglm_serving.training.batches import BatchMaker
from autoglm_serving.training.dataset import Screens, open_screens
from autoglm_serving.training.discriminants import discriminants
from autoglm_serving.training.looking import spell_words, start_looking
from autoglm_serving.training.network import Student, write_start
from autoglm_serving.training.recipe import PRESETS, Network, Recipe, Stage, plan_step
from autoglm_serving.training.signs import LATIN, SIGNS, USUAL_NUMBERS, number_of
from autoglm_serving.training.sorting import Sorter
from autoglm_serving.training.spelling import letter_directions, place_directions, reader, spelling, start_codes
from autoglm_serving.training.starts import start
from autoglm_serving.training.trainer import Machine
from autoglm_serving.training.trainer import train as run_training
from support.screens import write_screens
from support.training import lines_of

pytestmark = pytest.mark.usefixtures("one_thread")

SORTED = Recipe(
    "sorted",
    (
        Stage("gathering", 3, (84, 112), 0, cards_percent=100, token_budget=64),
        Stage("sorting", 5, (84,), 0, cards_percent=100, token_budget=1),
        Stage("looking", 1, (84,), 0, cards_percent=100, token_budget=64, perfect=True),
    ),
    network=PRESETS["smoke"].network,
    batch_limit=3,
    warmup=2,
    checkpoint_every=5,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Screens:
    folder: Path = tmp_path_factory.mktemp("screens") / "data"
    write_screens(folder, 2)
    return open_screens(folder)


def drawn(generator: torch.Generator, signs: torch.Tensor, middles: torch.Tensor) -> torch.Tensor:
    """Patches of these signs; ten of 96 directions are noise five times as loud as what tells signs apart."""
    noise = torch.randn(len(signs), middles.shape[1], generator=generator)
    return middles[signs] + noise * torch.where(torch.arange(middles.shape[1]) < 10, 5.0, 0.15)


def some_signs() -> tuple[torch.Generator, torch.Tensor, torch.Tensor]:
    """A generator, 100 Latin and Chinese signs twenty times each, and the middle of every sign."""
    generator = torch.Generator().manual_seed(3)
    chosen = torch.cat([torch.tensor(USUAL_NUMBERS), torch.arange(LATIN, LATIN + 100 - len(USUAL_NUMBERS))])
    return generator, chosen.repeat(20), torch.randn(len(SIGNS), 96, generator=generator)


def test_codes_from_discriminants_tell_signs_of_new_patches_where_loud_noise_hides_them() -> None:
    generator, signs, middles = some_signs()
    empty = drawn(generator, torch.zeros(500, dtype=torch.long), torch.zeros(1, 96))
    found = discriminants(drawn(generator, signs, middles), signs, empty, 64)
    told = drawn(generator, signs, middles) @ found.weight.T + found.bias
    right = (told @ found.codes.T).argmax(1) == signs
    assert right.float().mean() > 0.85
    lost = (empty @ found.weight.T + found.bias).norm(dim=1).mean()
    assert lost < 0.6 * told.norm(dim=1).mean(), "patches that show nothing say little"


def test_small_letters_keep_right_angles_and_signs_never_seen_have_codes_too() -> None:
    generator, signs, middles = some_signs()
    empty = drawn(generator, torch.zeros(100, dtype=torch.long), torch.zeros(1, 96))
    codes = discriminants(drawn(generator, signs, middles), signs, empty, 64).codes
    assert codes.shape == (len(SIGNS), 64)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(len(SIGNS)))
    usual = codes[list(USUAL_NUMBERS)]
    torch.testing.assert_close(usual @ usual.T, torch.eye(len(USUAL_NUMBERS)), atol=1e-4, rtol=0)


def test_a_tower_narrower_than_the_directions_leaves_some_empty() -> None:
    generator, signs, middles = some_signs()
    patches = drawn(generator, signs, middles)[:, 20:52]
    found = discriminants(patches, signs, patches.mean(0, keepdim=True), 64)
    assert found.weight.shape == (64, 32)
    assert bool(found.codes.isfinite().all())


def test_without_empty_patches_there_are_no_discriminants() -> None:
    generator, signs, middles = some_signs()
    with pytest.raises(ValueError, match="patches without one"):
        discriminants(drawn(generator, signs, middles), signs, torch.zeros(0, 96), 64)


def test_what_patches_read_lies_among_the_directions_of_letters_and_places() -> None:
    found = reader(96, 256)
    used = torch.cat([letter_directions(256), place_directions(256)])
    torch.testing.assert_close(found, used.T @ (used @ found), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.T @ found, torch.eye(96), atol=1e-5, rtol=0)


def test_words_are_spelled_with_the_codes_that_there_are_and_other_signs_stay() -> None:
    codes = start_codes(256)
    torch.testing.assert_close(spelling("Wi-Fi 7 €", 256, codes), spelling("Wi-Fi 7 €", 256), atol=1e-5, rtol=0)
    turned = codes.flip(1)
    number = number_of("A")
    assert number == SIGNS.index("a")
    torch.testing.assert_close(spelling("A", 256, turned), turned[number] @ letter_directions(256))
    assert not torch.allclose(spelling("A", 256, turned), spelling("A", 256), atol=0.1)


def student(folder: Path, recipe: Recipe) -> Student:
    write_start(folder, recipe.network, 0)
    checked = check_folder(folder)
    model = load_weights(checked, torch.float32, torch.device("cpu"))
    torch.manual_seed(0)
    start(model, ModelImages(checked), ModelTokenizer(checked))
    return Student(model, recipe)


def test_sorting_lowers_the_loss_and_leaves_all_but_the_last_mlp_alone(data: Screens, tmp_path: Path) -> None:
    learner = student(tmp_path, SORTED)
    tokenizer = ModelTokenizer(check_folder(tmp_path))
    maker = BatchMaker(SORTED, data, tokenizer, ModelImages(check_folder(tmp_path)))
    sorter = Sorter(learner, 0)
    batches = [maker.batch(plan_step(SORTED, number)) for number in range(3)]
    for batch in batches:
        assert not sorter.gather(batch).total.requires_grad
    first = float(sorter.loss(0).total.detach())
    sorter.begin()
    begun = float(sorter.loss(0).total.detach())
    assert begun < first, "codes that the tower tells apart are nearer than codes by chance"
    visual = learner.model.model.visual
    before = {name: value.clone() for name, value in visual.state_dict().items()}
    optimizer = torch.optim.AdamW(learner.parameters(), lr=2e-3)
    for number in range(12):
        optimizer.zero_grad(set_to_none=True)
        sorter.loss(number).total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(sorter.loss(0).total.detach()) < begun
    last = f"blocks.{len(visual.blocks) - 1}."
    moved = {name for name, value in visual.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith((f"{last}mlp", f"{last}norm2", "post_layernorm")) for name in moved)
    unsettled = passes_on(learner, batches[0])
    sorter.settle(tokenizer)
    assert passes_on(learner, batches[0]) > max(0.5, unsettled + 0.1), "three of four numbers fit through this merger"


def passes_on(learner: Student, batch: Any) -> float:
    """How like, in direction, image tokens are to the sums of what their patches say."""
    seen: dict[str, torch.Tensor] = learner._seen
    with torch.no_grad():
        output = learner.model.model.get_image_features(batch.pixels, batch.grid, return_dict=True)
        said = learner.spelling(seen["patches"]).view(-1, 16, learner.spelling.out_features).sum(1)
    return float(functional.cosine_similarity(torch.cat(tuple(output.pooler_output)), said).mean())


def test_pictures_that_show_no_sign_leave_the_codes_of_the_start(data: Screens, tmp_path: Path) -> None:
    learner = student(tmp_path, SORTED)
    maker = BatchMaker(SORTED, data, ModelTokenizer(check_folder(tmp_path)), ModelImages(check_folder(tmp_path)))
    batch = maker.batch(plan_step(SORTED, 0))
    nothing = {place: torch.zeros(0, dtype=torch.long) for place in ("places", "signs")}
    blank = replace(batch, told=replace(batch.told, loud=torch.zeros(0), **nothing))
    sorter, before = Sorter(learner, 0), learner.codes.clone()
    sorter.gather(blank)
    sorter.begin()
    assert torch.equal(learner.codes, before)
    assert bool(sorter.loss(0).total.isfinite())


def test_words_and_image_tokens_share_codes_again_after_the_sorting(tmp_path: Path) -> None:
    network = Network(vision_layers=1)
    write_start(tmp_path, network, 0)
    checked = check_folder(tmp_path)
    model, tokenizer = load_weights(checked, torch.float32, torch.device("cpu")), ModelTokenizer(checked)
    start_looking(model, tokenizer)
    codes = functional.normalize(torch.randn(len(SIGNS), 64, generator=torch.Generator().manual_seed(1)), dim=1)
    spell_words(model, tokenizer, codes)
    token = tokenizer.encode("Camera")[0]
    word = tokenizer.pieces[token].decode()
    embedded = model.get_input_embeddings().weight[token].detach() @ letter_directions(256).T
    wanted = spelling(word, 256, codes) @ letter_directions(256).T
    assert torch.cosine_similarity(embedded, wanted, 0) > 0.95


def test_a_run_that_stops_in_the_middle_of_the_sorting_gathers_again_and_goes_on_the_same(
    data: Screens, tmp_path: Path
) -> None:
    def losses(folder: Path) -> list[float]:
        return [line["loss"] for line in lines_of(folder)]

    class Killed(Exception):
        pass

    def kill(progress: Any) -> None:
        if progress.step == 5:  # the checkpoint after two of the five steps of sorting is there
            raise Killed

    machine = Machine(device="cpu", threads=1)
    run_training(SORTED, data, tmp_path / "whole", machine, False, lambda _: None)
    with pytest.raises(Killed):
        run_training(SORTED, data, tmp_path / "cut", machine, False, kill)
    run_training(SORTED, data, tmp_path / "cut", machine, True, lambda _: None)
    whole, cut = losses(tmp_path / "whole"), losses(tmp_path / "cut")
    assert len(whole) == len(cut) == SORTED.steps
    assert cut == pytest.approx(whole, rel=2e-2)
    assert whole[:3] == [0, 0, 0]
    assert whole[3] > 0
