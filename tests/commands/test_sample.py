"""What `wgan sample` draws: latents of seeds, truncated ones, grids, files and arrays."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import load_generator
from pipeline.cli import main
from pipeline.errors import ConfigError
from pipeline.run.latents import latent_batches, latents_of_seeds, name_seeds, parse_seeds
from tests.trained import newest, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def latents(count: int, seed: int = 0, truncation: float | None = None, latent: int = 8) -> torch.Tensor:
    return torch.cat(list(latent_batches(latent, count, seed, truncation)))


def arrays(run: Path, out: Path, *words: str) -> tuple[np.ndarray, np.ndarray]:
    assert main(["sample", str(run), "--npz", "--out", str(out), *words]) == 0
    with np.load(out, allow_pickle=False) as content:
        assert sorted(content) == ["images", "latents"]
        return content["images"], content["latents"]


def test_the_latent_of_a_seed_is_the_first_that_the_seed_draws() -> None:
    found = torch.cat(list(latents_of_seeds(8, [5, 0, 3])))
    assert torch.equal(found, torch.cat([latents(300, seed)[:1] for seed in (5, 0, 3)]))


def test_the_latent_of_a_seed_depends_on_no_other_seed() -> None:
    many = torch.cat(list(latents_of_seeds(8, range(300))))
    assert torch.equal(many[[299]], next(latents_of_seeds(8, [299])))
    assert len(many.unique()) == 2400


@pytest.mark.parametrize("bound", [1e-6, 0.1, 0.7, 2.0])
def test_truncated_latents_are_a_normal_cut_at_the_bound(bound: float) -> None:
    """Against the distribution function of a truncated normal."""
    values = latents(12_500, truncation=bound).flatten().double()
    assert values.abs().max() <= bound
    inside = math.erf(bound / math.sqrt(2))
    expected = (torch.erf(values.sort().values / math.sqrt(2)) / inside + 1) / 2
    empirical = (torch.arange(len(values)) + 0.5) / len(values)
    # The Kolmogorov-Smirnov distance, which is above 1.95 / sqrt(n) once in a thousand times.
    assert (expected - empirical).abs().max() < 1.95 / math.sqrt(len(values))


def test_numbers_within_the_bound_are_not_redrawn() -> None:
    free, cut = latents(256, seed=4), latents(256, seed=4, truncation=0.7)
    is_inside = free.abs() <= 0.7
    assert torch.equal(free[is_inside], cut[is_inside])
    assert len(cut.unique()) == cut.numel(), "values outside are drawn again, not clipped"


def test_a_truncated_latent_does_not_depend_on_how_many_are_drawn() -> None:
    assert torch.equal(latents(300, 1, 0.5), latents(600, 1, 0.5)[:300])


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("7", [7]), ("0-3", [0, 1, 2, 3]), ("0-2,100", [0, 1, 2, 100]), ("9, 4-4", [9, 4])],
)
def test_seeds_are_numbers_and_ranges(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is neither a seed nor a range"),
        ("1,,2", "'' is neither a seed nor a range"),
        ("-1", "'-1' is neither a seed nor a range"),
        ("1-", "'1-' is neither a seed nor a range"),
        ("1-2-3", "'1-2-3' is neither a seed nor a range"),
        ("1.5", r"'1\.5' is neither"),
        ("²", "'²' is neither"),
        ("5-2", r"5-2 ends before it begins\. Write 2-5"),
        ("0-3,2", "a seed is listed twice"),
        ("0-999999999999", "more than 1,000,000 seeds"),
        ("9" * 5000, "is neither"),
    ],
)
def test_what_is_not_a_list_of_seeds_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_seeds(text)


def test_arrays_hold_images_and_the_latents_that_make_them(run: Path, tmp_path: Path) -> None:
    images, drawn = arrays(run, tmp_path / "x.npz", "--count", "300", "--seed", "2")
    assert (images.shape, images.dtype) == ((300, 8, 8, 1), np.uint8)
    assert (drawn.shape, drawn.dtype) == ((300, 8), np.float32)
    assert np.array_equal(drawn, latents(300, 2))
    expected = load_generator(run).draw(torch.from_numpy(drawn)).permute(0, 2, 3, 1)
    assert np.abs(images - (expected.cpu().numpy() + 1) * 127.5).max() <= 0.501


def test_arrays_of_colour_images_have_their_channels_last(tmp_path: Path) -> None:
    images, _ = arrays(write_run(tmp_path, channels=3), tmp_path / "x.npz", "--count", "2")
    expected = load_generator(tmp_path / "run").sample(2).permute(0, 2, 3, 1)
    assert np.abs(images - (expected.cpu().numpy() + 1) * 127.5).max() <= 0.501


def test_seeds_choose_the_images(run: Path, tmp_path: Path) -> None:
    images, drawn = arrays(run, tmp_path / "x.npz", "--seeds", "4-5,9")
    for place, seed in enumerate((4, 5, 9)):
        alone, latent = arrays(run, tmp_path / "alone.npz", "--seed", str(seed), "--count", "1")
        assert np.array_equal(images[[place]], alone)
        assert np.array_equal(drawn[[place]], latent)


def test_truncation_reaches_the_latents(run: Path, tmp_path: Path) -> None:
    _, drawn = arrays(run, tmp_path / "x.npz", "--truncation", "0.5", "--seeds", "0-9")
    assert np.array_equal(drawn, torch.cat(list(latents_of_seeds(8, range(10), 0.5))))
    assert np.abs(drawn).max() <= 0.5


def test_without_a_name_files_say_what_was_drawn(run: Path) -> None:
    for words in (
        ["--npz"],
        ["--seeds", "0-3,10"],
        ["--truncation", "0.5", "--no-ema", "--seed", "3"],
        ["--files", "--seeds", "4,11"],
    ):
        assert main(["sample", str(run), *words]) == 0
    assert sorted(str(path.relative_to(run / "samples")) for path in (run / "samples").rglob("*.*")) == [
        "step_00000004-ema-seed0.npz",
        "step_00000004-ema-seeds0-3,10.png",
        "step_00000004-ema-seeds4,11/seed000004.png",
        "step_00000004-ema-seeds4,11/seed000011.png",
        "step_00000004-generator-seed3-truncated0.5.png",
    ]


def test_a_checkpoint_and_an_exported_file_draw_what_their_run_does(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "far" / "generator.safetensors"
    assert main(["export", str(run), "--format", "safetensors", "--out", str(file)]) == 0
    pictures = []
    for source, place in (
        (run, run / "samples"),
        (newest(run), run / "samples"),
        (file, file.parent),
    ):
        assert main(["sample", str(source), "--count", "4"]) == 0
        picture = place / "step_00000004-ema-seed0.png"
        pictures.append(picture.read_bytes())
        picture.unlink()
    assert pictures[0] == pictures[1] == pictures[2]


def test_files_of_seeds_are_images_of_these_seeds(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "files"
    assert main(["sample", str(run), "--files", "--seeds", "4", "--out", str(out)]) == 0
    (expected,) = load_generator(run).sample(1, seed=4).cpu()
    with Image.open(out / "seed000004.png") as image:
        assert np.abs(np.asarray(image) - (expected[0].numpy() + 1) * 127.5).max() <= 0.501


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0-3", "--seed", "1"], "cannot be combined with --seed. Leave one of them out"),
        (["--seeds", "0-3", "--count", "4"], "so it cannot be combined with --count"),
        (
            ["--seeds", "0-10000"],
            "images do not fit into one picture: a grid has at most 10,000. Add --files",
        ),
        (["--truncation", "0"], "truncation 0.0: expected a number from 0.000001 to 1,000"),
        (["--truncation", "nan"], "truncation nan: expected a number from 0.000001 to 1,000"),
        (["--out", "{run}"], "is a directory, and a grid is one file. Name a file in it, or add --npz for"),
        (["--npz", "--out", "{run}"], "is a directory, and an archive of arrays is one file"),
        (["--npz", "--out", "x.png"], "an archive of arrays is written as .npz, and this name ends in .png"),
        (
            ["--out", "a.txt"],
            "--out a.txt: a grid is written as .png, and this name ends in .txt. Name a file",
        ),
        (["--out", "a"], "a grid is written as .png, and this name has no ending"),
        (["--files", "--out", "x.png"], "the PNGs of --files go into a directory"),
        (["--files", "--out", "{run}/config.yaml"], "config.yaml is a file, and the PNGs of --files go into"),
    ],
)
def test_mistakes_are_reported_before_anything_is_drawn(
    run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", str(run), *[word.format(run=run) for word in words]]) == 2
    assert message in capsys.readouterr().err
    assert not (run / "samples").exists()


def test_files_and_arrays_are_not_both_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sample", str(run), "--files", "--npz"])
    assert "not allowed with argument" in capsys.readouterr().err


def test_a_short_list_of_seeds_is_its_own_name_and_a_long_one_is_hashed() -> None:
    assert name_seeds("0-3, 10", [0, 1, 2, 3, 10]) == "0-3,10"
    even = list(range(0, 2000, 2))
    text = ",".join(map(str, even))
    other = [*even[:500], 1001, *even[501:]]
    name = name_seeds(text, even)
    assert name.startswith("0..1998-1000-")
    assert name == name_seeds(text, even) != name_seeds(",".join(map(str, other)), other)
    assert len(name) < 40


def test_images_of_many_single_seeds_have_a_name_that_file_systems_take(run: Path) -> None:
    seeds = ",".join(map(str, range(0, 200, 2)))
    assert main(["sample", str(run), "--seeds", seeds]) == 0
    (path,) = (run / "samples").iterdir()
    assert path.name.startswith("step_00000004-ema-seeds0..198-100-")


def test_a_name_that_the_file_system_refuses_is_reported(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", str(run), "--out", f"{'x' * 300}.png"]) == 7
    assert "cannot be written: File name too long. Choose a shorter name" in capsys.readouterr().err
