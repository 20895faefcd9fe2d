"""Images from folders, archives, arrays and torchvision: what arrives, and what is said about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genkernel.data import ImageSet, load_images
from genkernel.data.images import check_source
from genkernel.errors import InputError, MissingError


def gradient(h: int = 8, w: int = 8, channels: int = 3) -> np.ndarray:
    """A picture with a different value at every pixel and channel, uint8 ``[h, w, channels]``."""
    return (np.arange(h * w * channels) * 251 % 256).astype(np.uint8).reshape(h, w, channels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for i in range(3):
            Image.fromarray(np.roll(gradient(), i, 0)).save(tmp_path / label / f"{i}.png")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    return tmp_path


# -------------------------------------------------------------------------- folders


def test_folder_gives_pixels_in_unit_range_and_classes(folder: Path) -> None:
    found = load_images(folder)
    assert found.images.shape == (6, 3, 8, 8) and found.images.dtype == torch.float32
    assert torch.equal(found.images[0], torch.from_numpy(gradient()).permute(2, 0, 1).float() / 255)
    assert found.labels is not None and found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.steps == []
    assert found.describe() == f"6 images 3×8×8 from {folder.name} (as they are)"


def test_single_file(folder: Path) -> None:
    assert len(load_images(str(folder / "cat" / "0.png"))) == 1


def test_flat_folder_has_no_labels(tmp_path: Path) -> None:
    Image.fromarray(gradient()).save(tmp_path / "a.PNG")
    assert load_images(tmp_path).labels is None


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="holds no images"):
        load_images(tmp_path)


@pytest.mark.parametrize("name", ["mnist-16", "mnist-16.npz", Path("emoji-32.npz")])
def test_shipped_samples_by_name(name: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_source(name)
    found = load_images(name, limit=3)
    assert tuple(found.images.shape[1:]) == ((1, 16, 16) if "mnist" in str(name) else (3, 32, 32))
    np.savez(tmp_path / "mnist-16.npz", x=np.zeros((2, 5, 5), np.uint8))  # what is there comes first
    assert tuple(load_images("mnist-16.npz").images.shape) == (2, 1, 5, 5)
    with pytest.raises(MissingError, match=r"shipped samples: emoji-32, fashion-16, mnist-16\)"):
        load_images("elsewhere/mnist-16")


def test_missing_path() -> None:
    with pytest.raises(MissingError, match="does not exist"):
        load_images("no/such/folder")


def test_unreadable_files_are_named(folder: Path) -> None:
    (folder / "dog" / "0.png").write_bytes(b"not a png")
    truncated = (folder / "dog" / "1.png").read_bytes()
    (folder / "dog" / "1.png").write_bytes(truncated[: len(truncated) // 2])
    with pytest.raises(InputError, match=r"2 of 6 image files cannot be read: 0\.png \(Unidentified.*1\.png"):
        load_images(folder)


def test_file_that_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(InputError, match="neither a folder of images"):
        load_images(tmp_path / "weights.bin")


def test_different_shapes_need_a_size(tmp_path: Path) -> None:
    Image.fromarray(gradient(8, 8)).save(tmp_path / "a.png")
    Image.fromarray(gradient(8, 12)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"differ in shape .*give a size"):
        load_images(tmp_path)
    found = load_images(tmp_path, size=8)
    assert found.images.shape == (2, 3, 8, 8)
    assert found.steps == ["8×12 padded to 12×12 with the corner pixel", "resized 12×12 → 8×8, antialiased bilinear"]


def test_different_channels_need_their_number(tmp_path: Path) -> None:
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    Image.fromarray(gradient()[..., 0]).save(tmp_path / "b.png")
    with pytest.raises(InputError, match="give the number of channels"):
        load_images(tmp_path)
    assert load_images(tmp_path, channels=3).images.shape == (2, 3, 8, 8)


def test_many_conversions_are_summed_up(tmp_path: Path) -> None:
    for w in range(9, 15):
        Image.fromarray(gradient(8, w)).save(tmp_path / f"{w}.png")
    steps = load_images(tmp_path, size=8).steps
    assert len(steps) == 4 and "more conversions" in steps[-1]


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    picture = np.zeros((4, 4, 4), np.uint8)
    picture[0, 0] = (255, 0, 0, 255)
    Image.fromarray(picture, "RGBA").save(tmp_path / "a.png")
    found = load_images(tmp_path)
    assert found.images[0, :, 0, 0].tolist() == [1, 0, 0]
    assert found.images[0, :, 1, 1].tolist() == [1, 1, 1]
    assert found.steps == ["transparency over white"]


def test_grey_with_alpha_stays_grey(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4, 2), (100, 255), np.uint8), "LA").save(tmp_path / "a.png")
    found = load_images(tmp_path)
    assert found.images.shape == (1, 1, 4, 4) and found.steps == []
    assert torch.allclose(found.images, torch.tensor(100 / 255))


def test_sixteen_bit_files(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65535], [32768, 1]], np.uint16)).save(tmp_path / "a.png")
    found = load_images(tmp_path)
    assert torch.allclose(found.images[0, 0], torch.tensor([[0, 1], [32768 / 65535, 1 / 65535]]))
    assert found.steps == ["16-bit grey read as [0, 1]"]


def test_palette_and_bilevel_files(tmp_path: Path) -> None:
    Image.fromarray(gradient()).quantize(16).save(tmp_path / "a.gif")
    assert load_images(tmp_path / "a.gif").images.shape == (1, 3, 8, 8)
    Image.fromarray(np.eye(4) > 0).save(tmp_path / "b.png")
    assert torch.equal(load_images(tmp_path / "b.png").images[0, 0], torch.eye(4))


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: the camera was held sideways
    Image.fromarray(gradient(4, 8)).save(tmp_path / "a.png", exif=exif)
    assert load_images(tmp_path).images.shape == (1, 3, 8, 4)


# ------------------------------------------------------------------------- archives


def test_npz_split_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    train, test = gradient(8, 8, 5), gradient(8, 8, 3)
    np.savez(path, x_train=train, y_train=np.arange(8), x_test=test, y_test=np.arange(8)[::-1, None])
    found = load_images(path, split="train")
    assert found.images.shape == (8, 1, 8, 5) and found.source == "set.npz:x_train"
    found = load_images(path)
    assert found.images.shape == (8, 1, 8, 3)
    assert found.labels is not None and found.labels.tolist() == list(range(8))[::-1]


@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels"), ("x", "labels"), ("images", "y")])
def test_npz_names(tmp_path: Path, names: tuple[str, str]) -> None:
    np.savez(tmp_path / "set.npz", **{names[0]: gradient(), names[1]: np.arange(8)})
    found = load_images(tmp_path / "set.npz", split="train")
    assert found.labels is not None and found.labels.tolist() == list(range(8))


def test_npz_labels_that_are_words_are_left_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x=gradient(), y=np.array(["a"] * 8))
    assert load_images(tmp_path / "set.npz").labels is None


def test_npz_without_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", weights=np.zeros(3))
    with pytest.raises(InputError, match=r"has arrays \['weights'\], none of them named x_test"):
        load_images(tmp_path / "set.npz")


@pytest.mark.parametrize("content", ["rubbish", "truncated", "npy", "objects", "scalar"])
def test_npz_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    path = tmp_path / "set.npz"
    if content == "objects":
        np.savez(path, x=np.array([{"pickled": 1}], dtype=object))
    elif content == "scalar":
        np.savez(path, x=np.float32(1))
    elif content == "npy":
        with path.open("wb") as file:
            np.save(file, gradient())
    else:
        np.savez_compressed(path, x=gradient(32, 32))
        raw = path.read_bytes()
        path.write_bytes(b"rubbish" if content == "rubbish" else raw[: len(raw) // 2])
    with pytest.raises(InputError, match=r"set\.npz"):
        load_images(path)


# --------------------------------------------------------------------------- arrays


@pytest.mark.parametrize(
    ("low", "high", "step"), [(0, 1, None), (-1, 1, "[-1, 1] read as [0, 1]"), (0, 255, "0…255 read as [0, 1]")]
)
def test_float_ranges(low: float, high: float, step: str | None) -> None:
    unit = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    found = load_images(low + (high - low) * unit)
    assert torch.allclose(found.images, unit, atol=1e-6)
    assert found.steps == ([step] if step else [])


def test_range_of_a_subset_is_the_range_of_the_whole() -> None:
    stack = torch.full((20, 1, 4, 4), 0.5)
    stack[7] = -1.0
    for seed in range(5):
        found = load_images(stack, limit=2, seed=seed)
        assert found.steps == ["[-1, 1] read as [0, 1]"]
        assert set(found.images.unique().tolist()) <= {0.0, 0.75}


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64])
def test_integers_are_eight_bit(dtype: type) -> None:
    found = load_images(gradient().astype(dtype))
    assert torch.equal(found.images[:, 0], torch.from_numpy(gradient()).float() / 255)


def test_masks_are_zero_and_one() -> None:
    assert torch.equal(load_images(torch.eye(4)[None] > 0).images[0, 0], torch.eye(4))


def test_channels_last() -> None:
    stack = gradient(6, 8, 3)[None]
    found = load_images(stack)
    assert found.images.shape == (1, 3, 6, 8) and found.steps == ["channels moved first"]
    assert torch.equal(found.images[0, 2], torch.from_numpy(stack[0, ..., 2]).float() / 255)


def test_negative_strides() -> None:
    assert torch.equal(load_images(gradient()[::-1]).images, load_images(gradient()).images.flip(0))


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (torch.zeros(4, 4), "3 or 4 axes"),
        (torch.zeros(()), "3 or 4 axes"),
        (torch.zeros(1, 1, 1, 4, 4), "3 or 4 axes"),
        (torch.full((1, 4, 4), 300), "0…255"),
        (torch.full((1, 4, 4), -1), "0…255"),
        (torch.full((1, 4, 4), -3.0), "run from -3"),
        (torch.full((1, 4, 4), torch.nan), "NaN"),
        (torch.full((1, 4, 4), 1j), "complex"),
        (np.full((1, 4, 4), "a"), "not pixels"),
        (torch.zeros(0, 1, 4, 4), "holds no images"),
        ([[1, 2]], "not list"),
        (None, "not NoneType"),
    ],
)
def test_what_is_not_images(bad: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_images(bad)


def test_image_set_is_not_changed() -> None:
    before = ImageSet(torch.rand(6, 3, 8, 8), torch.arange(6), "mine", ["made up"])
    kept = before.images.clone()
    found = load_images(before, limit=3, size=4, channels=1)
    assert found.images.shape == (3, 1, 4, 4) and found.source == "mine"
    assert found.steps == ["made up", "colour to luma", "resized 8×8 → 4×4, antialiased bilinear"]
    assert before.steps == ["made up"] and torch.equal(before.images, kept)


# ---------------------------------------------------------------- subsets and fitting


def test_subset_is_reproducible_and_in_order() -> None:
    stack = torch.arange(200, dtype=torch.float32).div(200).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    first, again, other = (load_images(stack, limit=20, seed=seed).images[:, 0, 0, 0] for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(first, first.sort().values) and len(first.unique()) == 20
    assert len(load_images(stack, limit=500)) == 200


def test_same_subset_from_folder_and_array(folder: Path) -> None:
    whole = load_images(folder)
    part = load_images(folder, limit=3, seed=5)
    assert torch.equal(part.images, load_images(whole, limit=3, seed=5).images)
    assert part.labels is not None and len(part.labels) == 3
    assert part.names == whole.names == load_images(whole, limit=2).names and whole.names is not None
    assert [path.name for path in sorted(folder.iterdir()) if path.is_dir()] == whole.names


def test_luma_and_repeated_grey() -> None:
    colour = torch.zeros(3, 3, 2, 2)
    colour[range(3), range(3)] = 1
    grey = load_images(colour, channels=1)
    assert torch.allclose(grey.images[:, 0, 0, 0], torch.tensor([0.299, 0.587, 0.114]))
    assert grey.steps == ["colour to luma"]
    back = load_images(grey.images, channels=3)
    assert back.steps == ["grey repeated to 3 channels"] and torch.equal(back.images[:, 0], back.images[:, 2])


@pytest.mark.parametrize(("have", "want"), [(4, 3), (3, 4), (1, 4), (4, 1)])
def test_channels_without_a_way(have: int, want: int) -> None:
    with pytest.raises(InputError, match=f"have {have} channels where {want} are wanted"):
        load_images(torch.rand(2, have, 8, 8), channels=want)


def test_padding_is_the_corner_pixel() -> None:
    picture = torch.full((1, 1, 2, 6), 0.25)
    found = load_images(picture, size=6)
    assert found.images.shape == (1, 1, 6, 6) and torch.equal(found.images, torch.full((1, 1, 6, 6), 0.25))
    assert found.steps == ["2×6 padded to 6×6 with the corner pixel"]


def test_resizing_keeps_the_mean_and_says_so() -> None:
    picture = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    found = load_images(picture, size=(16, 8))
    assert found.images.shape == (4, 1, 16, 8)
    assert found.steps == ["resized 32×32 → 16×8, antialiased bilinear"]
    assert torch.allclose(found.images.mean(), picture.mean(), atol=5e-3)


@pytest.mark.parametrize("argument", [{"size": 0}, {"size": (4, -1)}, {"channels": 0}, {"limit": 0}])
def test_numbers_below_one(argument: dict) -> None:
    with pytest.raises(InputError, match=f"{next(iter(argument))} must be at least 1"):
        load_images(torch.rand(1, 1, 4, 4), **argument)


def test_unknown_split() -> None:
    with pytest.raises(InputError, match="split must be"):
        load_images(torch.rand(1, 1, 4, 4), split="validation")


# ---------------------------------------------------------------------- torchvision


def test_torchvision_by_name() -> None:
    found = load_images("torchvision:FakeData", limit=3, size=8, channels=1)
    assert found.images.shape == (3, 1, 8, 8) and found.labels is not None and len(found.labels) == 3
    assert found.source == "torchvision FakeData (test)" and found.steps[0] == "colour to luma"


def test_torchvision_name_is_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"MNIST is not in .*allow the download"):
        load_images("mnist", root=tmp_path)
    assert not list(tmp_path.rglob("*.gz"))


def test_torchvision_name_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="neither a path nor a torchvision data set"):
        load_images("imagse")


def test_torchvision_class_that_needs_more() -> None:
    with pytest.raises((InputError, MissingError), match=r"ImageFolder|DatasetFolder"):
        load_images("DatasetFolder")


def test_one_colour_image_or_three_grey_ones_is_not_guessed() -> None:
    with pytest.raises(InputError, match="add the sample axis"):
        load_images(torch.rand(3, 8, 8))
    assert load_images(torch.rand(3, 8, 8)[None]).images.shape == (1, 3, 8, 8)
    assert load_images(torch.rand(4, 8, 8)).images.shape == (4, 1, 8, 8)


def test_figures_of_runs_are_no_images(folder: Path) -> None:
    import json

    run = folder / "runs" / "one"
    (run / "figures").mkdir(parents=True)
    Image.fromarray(gradient()).save(run / "figures" / "kernel.png")
    record = {"versions": {"genkernel": "1"}, "files": ["figures/kernel.png", "run.json"]}
    (run / "run.json").write_text(json.dumps(record))
    found = load_images(folder)
    assert len(found) == 6 and found.steps == ["the figures of the genkernel run in one left out"]
    assert found.labels is not None
    with pytest.raises(MissingError, match="no images but the figures"):
        load_images(run)
    (run / "run.json").write_text("{}")  # somebody else's
    assert len(load_images(folder)) == 7
