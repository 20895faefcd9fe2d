"""Read images from anywhere a user keeps them, and say what was done to them.

Every loader returns an :class:`ImageSet`: float32 images ``[n, C, H, W]`` in ``[0, 1]``,
optional labels, and ``steps``, the list of conversions in the order they were applied.
The data range a *model* wants (``[-1, 1]`` for most diffusion models) is the model's
business, not this module's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genkernel.data.convert import fit, to_unit_range, value_limits
from genkernel.errors import InputError, MissingError
from genkernel.runs import run_files

if TYPE_CHECKING:
    import torch

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
ARRAY_KEYS = {"train": ("x_train", "x", "images"), "test": ("x_test", "x", "images", "x_train")}
LABEL_KEYS = {"x_train": ("y_train",), "x_test": ("y_test",), "x": ("y", "labels"), "images": ("labels", "y")}


@dataclass
class ImageSet:
    """Images ``[n, C, H, W]``, float32 in ``[0, 1]``, with what is known about them.

    ``rows`` ``[n]`` are their places among the ``total`` images of the source, for what is kept apart from it;
    None where they were not read from one. ``names`` are those of the classes, where a folder has them: label ``i`` is
    of ``names[i]``.
    """

    images: torch.Tensor
    labels: torch.Tensor | None = None
    source: str = ""
    steps: list[str] = field(default_factory=list)
    rows: np.ndarray | None = None
    total: int | None = None
    names: list[str] | None = None

    def __len__(self) -> int:
        return self.images.shape[0]

    def describe(self) -> str:
        """One line: how many images of which shape, from where, and what was done to them."""
        n, c, h, w = self.images.shape
        done = "; ".join(self.steps) or "as they are"
        return f"{n} images {c}×{h}×{w} from {self.source} ({done})"


def load_images(
    source: Any,
    *,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    limit: int | None = None,
    split: str = "test",
    seed: int = 0,
    download: bool = False,
    root: str | Path | None = None,
) -> ImageSet:
    """Load images and bring them to the asked size and number of channels.

    Args:
        source: a folder of images (searched recursively), an image file, an ``.npz``
            (arrays ``x``, ``images``, ``x_train`` or ``x_test``; labels ``y``, ``labels``,
            ``y_train``, ``y_test``), a tensor or array (three axes are a stack of grey
            images), an :class:`ImageSet`, the name of a torchvision data set
            (``"MNIST"``, ``"torchvision:CIFAR10"``), or one of the samples that come with
            genkernel (``"mnist-16"``, ``"fashion-16"``, ``"emoji-32"``).
        size: height and width of the result; images are padded to a square first and
            resized with antialiasing.
        channels: colour becomes luma for 1, grey is repeated for 3.
        limit: at most this many images; when there are more, a random subset drawn with
            ``seed``, in file order.
        split: ``"train"`` or ``"test"``, where the source has both.
        download: allow torchvision to download (never otherwise).
        root: where torchvision data sets are kept.

    Returns:
        ImageSet: images ``[n, C, H, W]`` in ``[0, 1]``.

    Raises:
        MissingError: the path does not exist, or the folder holds no image.
        InputError: unreadable files, unknown arrays, or shapes that are not images.
    """
    if split not in ARRAY_KEYS:
        raise InputError(f"split must be 'train' or 'test', not {split!r}")
    sides = (size, size) if isinstance(size, int) else size
    for argument, numbers in (("size", sides), ("channels", (channels,)), ("limit", (limit,))):
        if any(number is not None and number < 1 for number in numbers or ()):
            raise InputError(f"{argument} must be at least 1")
    if isinstance(source, ImageSet):
        found = _subset_of(source, limit, seed)
    elif isinstance(source, (str, Path)):
        path = _place(source)
        if path.is_dir():
            found = _from_folder(path, limit, seed, size, channels)
        elif path.suffix.lower() == ".npz" and path.is_file():
            found = _from_npz(path, split, limit, seed)
        elif path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            found = _from_files([path], path.name, size, channels)
            found.rows, found.total = _subset(1, None, seed), 1
        elif path.exists():
            raise InputError(f"{path} is neither a folder of images, an image, nor an .npz archive")
        elif name := _torchvision_name(str(source)):
            found = _from_torchvision(name, split, limit, seed, size, channels, download, root)
        else:
            raise _nothing_at(source)
    else:
        found = _from_array(source, limit, seed)
    if not found.images.numel():
        raise InputError(f"{found.source} holds no images")
    images, steps = fit(found.images, size, channels)
    return ImageSet(images, found.labels, found.source, [*found.steps, *steps], found.rows, found.total, found.names)


def check_source(source: str | Path, *, split: str = "test") -> None:
    """Find out quickly whether there can be images at ``source``, without decoding any.

    Raises:
        MissingError: the path does not exist, the folder holds no image, or torchvision has no such data set.
        InputError: a file that is neither an image nor an ``.npz``, or an unknown split.
    """
    if split not in ARRAY_KEYS:
        raise InputError(f"split must be 'train' or 'test', not {split!r}")
    path = _place(source)
    if path.is_dir():
        _image_files(path)
    elif path.exists():
        if not path.is_file() or path.suffix.lower() not in {".npz", *IMAGE_SUFFIXES}:
            raise InputError(f"{path} is neither a folder of images, an image, nor an .npz archive")
        if not path.stat().st_size:
            raise InputError(f"{path} is an empty file")
    elif name := _torchvision_name(str(source)):
        _torchvision_class(name)
    else:
        raise _nothing_at(source)


# ------------------------------------------------------------------------- sources


def _place(source: str | Path) -> Path:
    """A path as it is where there is something; else the place of the shipped samples of that name."""
    from genkernel import assets

    path = Path(source).expanduser()
    if path.name != str(source) or path.exists():
        return path
    try:
        return assets.path(f"{path.name.removesuffix('.npz')}.npz")
    except MissingError:
        return path


def _nothing_at(source: str | Path) -> MissingError:
    from genkernel import assets

    shipped = ", ".join(name.removesuffix(".npz") for name in assets.names() if name.endswith(".npz"))
    return MissingError(
        f"no images at {str(source)!r}: the path does not exist "
        f"(give a folder of images, an .npz, a torchvision data set name such as MNIST, or shipped samples: {shipped})"
    )


def _subset(n: int, limit: int | None, seed: int) -> np.ndarray:
    """Indices of a reproducible random subset, in order."""
    if limit is None or n <= limit:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).permutation(n)[:limit])


def _subset_of(found: ImageSet, limit: int | None, seed: int) -> ImageSet:
    import torch

    rows = _subset(len(found), limit, seed)
    keep = torch.from_numpy(rows)
    labels = found.labels[keep] if found.labels is not None else None
    source = found.source or "an ImageSet"
    return ImageSet(found.images[keep], labels, source, list(found.steps), rows, len(found), found.names)


def _from_array(source: Any, limit: int | None, seed: int) -> ImageSet:
    import torch

    if not isinstance(source, (torch.Tensor, np.ndarray)):
        raise InputError(f"data must be a path, a data set name, a tensor or an array, not {type(source).__name__}")
    if source.ndim == 3 and source.shape[0] == 3 < min(source.shape[1:]):
        raise InputError(
            f"data of shape {tuple(source.shape)} can be one colour image or three grey ones: add the sample axis to "
            "the first (data[None]) or the channel axis to the others (data[:, None])"
        )
    total = len(source) if source.ndim else 0
    rows = _subset(total, limit, seed)
    images, steps = _from_stack(source, rows, "the array")
    return ImageSet(images, None, "a tensor" if isinstance(source, torch.Tensor) else "an array", steps, rows, total)


def _from_stack(stack: torch.Tensor | np.ndarray, keep: np.ndarray, name: str) -> tuple[torch.Tensor, list[str]]:
    """The kept images of a stack; its range is judged by the whole stack."""
    import torch

    if stack.ndim not in (3, 4):
        raise InputError(f"{name} has shape {tuple(stack.shape)}: a stack of images has 3 or 4 axes")
    try:
        array = torch.as_tensor(np.ascontiguousarray(stack) if isinstance(stack, np.ndarray) else stack)
    except TypeError as error:
        raise InputError(f"{name} holds {stack.dtype}, which are not pixels") from error
    limits = None if array.is_complex() else value_limits(array)
    return to_unit_range(array.detach().cpu()[torch.from_numpy(keep)], limits)


def _from_npz(path: Path, split: str, limit: int | None, seed: int) -> ImageSet:
    import torch

    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with archive:
            key = next((k for k in ARRAY_KEYS[split] if k in archive), None)
            names = sorted(archive.files)
            array = archive[key] if key else np.empty(0)
            label_key = next((k for k in LABEL_KEYS[key] if k in archive), None) if key else None
            labels = archive[label_key] if label_key else None
    except Exception as error:  # truncated zips, bad CRCs and object arrays each raise their own kind
        raise InputError(f"{path} cannot be read as an .npz archive: {error}") from error
    if key is None:
        raise InputError(f"{path} has arrays {names}, none of them named {', '.join(ARRAY_KEYS[split])}")
    keep = _subset(len(array) if array.ndim else 0, limit, seed)
    images, steps = _from_stack(array, keep, f"array {key!r} of {path}")
    found = ImageSet(images, None, f"{path.name}:{key}", steps, keep, len(array))
    if labels is not None and labels.size == len(array) and np.issubdtype(labels.dtype, np.integer):
        found.labels = torch.from_numpy(labels.reshape(-1)[keep].astype(np.int64))
    return found


def _from_folder(
    path: Path, limit: int | None, seed: int, size: int | tuple[int, int] | None, channels: int | None
) -> ImageSet:
    """A folder of images; when all of them lie in its direct subfolders, those are the classes."""
    files, skipped = _image_files(path)
    rows = _subset(len(files), limit, seed)
    keep = [files[i] for i in rows]
    found = _from_files(keep, path.name, size, channels)
    found.rows, found.total = rows, len(files)
    found.steps += skipped
    classes = sorted({p.parent for p in files})
    if len(classes) > 1 and all(p.parent == path for p in classes):
        import torch

        found.labels = torch.tensor([classes.index(p.parent) for p in keep])
        found.names = [p.name for p in classes]
    return found


def _image_files(path: Path) -> tuple[list[Path], list[str]]:
    """Image files in and below ``path``, without the figures of genkernel's runs, and a note on those."""
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    runs = sorted(p.parent for p in path.rglob("run.json") if run_files(p.parent) is not None)
    figures: set[Path] = set()
    for run in runs:
        if run == path:  # images that a run was put beside are still images
            figures.update(run / name for name in run_files(run) or ())
        else:
            figures.update(p for p in files if run in p.parents)
    kept = [p for p in files if p not in figures]
    if not kept:
        what = " but the figures of genkernel runs" if files else ""
        raise MissingError(
            f"{path} holds no images{what} (looked for {', '.join(sorted(IMAGE_SUFFIXES))} in it and its subfolders)"
        )
    names = [run.name for run in runs if run != path] or [path.name]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    skipped = f"the figures of the genkernel run{'s' * (len(names) > 1)} in {', '.join(names[:3])}{more} left out"
    return kept, [skipped] if len(kept) < len(files) else []


def _from_files(files: Sequence[Path], name: str, size: int | tuple[int, int] | None, channels: int | None) -> ImageSet:
    from PIL import Image

    decoded: list[tuple[torch.Tensor, list[str]]] = []
    broken: list[str] = []
    for file in files:
        try:
            image, steps = _decode(file)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            broken.append(f"{file.name} ({type(error).__name__})")
            continue
        fitted, more = fit(image, size, channels)
        decoded.append((fitted, steps + more))
    if broken:
        shown = ", ".join(broken[:3]) + (f" and {len(broken) - 3} more" if len(broken) > 3 else "")
        raise InputError(f"{len(broken)} of {len(files)} image files cannot be read: {shown}; remove or repair them")
    return _stacked(decoded, name)


def _decode(file: Path) -> tuple[torch.Tensor, list[str]]:
    """One image file as ``[1, C, H, W]`` in ``[0, 1]``: upright, its first frame, transparency over white."""
    import torch
    from PIL import Image, ImageOps

    steps: list[str] = []
    with Image.open(file) as opened:
        picture: Image.Image = ImageOps.exif_transpose(opened)
    if picture.mode.startswith("I;16"):
        grey = torch.from_numpy(np.array(picture).astype(np.float32) / 65535)
        return grey[None, None], ["16-bit grey read as [0, 1]"]
    if picture.mode in ("I", "F"):
        raise ValueError("32-bit pixels have no known range")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        grey_only = picture.mode in ("LA", "La")
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema() != (255, 255):
            steps.append("transparency over white")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        picture = picture.convert("RGB").convert("L") if grey_only else picture.convert("RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode not in ("L", "RGB"):
        picture = picture.convert("RGB")
    array = torch.from_numpy(np.array(picture))
    array = array[..., None] if array.dim() == 2 else array
    return array.permute(2, 0, 1)[None].float() / 255, steps


def _stacked(images: Iterable[tuple[torch.Tensor, list[str]]], name: str) -> ImageSet:
    """One stack from single images ``[1, C, H, W]``, each with its steps."""
    import torch

    tensors, steps = [], {}
    for image, done in images:
        tensors.append(image)
        steps.update(dict.fromkeys(done))
    shapes = sorted({tuple(image.shape[1:]) for image in tensors})
    if len(shapes) > 1:
        few = ", ".join("×".join(map(str, s)) for s in shapes[:3]) + (", …" if len(shapes) > 3 else "")
        give = "a size" if len({s[1:] for s in shapes}) > 1 else "the number of channels"
        raise InputError(f"the images in {name} differ in shape ({few}): give {give} to bring them to")
    said = list(steps)
    if len(said) > 4:  # a folder of photographs: every shape has a step of its own
        said = [*said[:3], f"and {len(said) - 3} more conversions, file by file"]
    return ImageSet(torch.cat(tensors) if tensors else torch.empty(0, 1, 1, 1), None, name, said)


# ---------------------------------------------------------------------- torchvision


def _torchvision_name(source: str) -> str | None:
    """The data set meant by ``"MNIST"`` or ``"torchvision:MNIST"``, if it could be one."""
    name = source.removeprefix("torchvision:")
    return name if name.isidentifier() else None


def _from_torchvision(
    name: str,
    split: str,
    limit: int | None,
    seed: int,
    size: int | tuple[int, int] | None,
    channels: int | None,
    download: bool,
    root: str | Path | None,
) -> ImageSet:
    import torch
    from torchvision.transforms.functional import to_tensor

    dataset = _torchvision_dataset(name, split, download, Path(root) if root else None)
    kind = type(dataset).__name__
    decoded, targets = [], []
    rows = _subset(len(dataset), limit, seed)
    for index in rows:
        try:
            picture, target, *_ = dataset[int(index)]
            image = to_tensor(picture)[None]
        except (TypeError, ValueError) as error:
            raise InputError(f"torchvision's {kind} is not a data set of labelled images ({error})") from error
        decoded.append(fit(image, size, channels))
        targets.append(target)
    found = _stacked(decoded, f"torchvision {kind} ({split})")
    found.rows, found.total = rows, len(dataset)
    if targets and all(isinstance(y, (int, np.integer)) for y in targets):
        found.labels = torch.tensor([int(y) for y in targets])
    return found


def _torchvision_class(name: str) -> Any:
    from torchvision import datasets

    by_lower = {k.lower(): k for k in datasets.__all__}
    if name.lower() not in by_lower:
        raise MissingError(
            f"no images at {name!r}: neither a path nor a torchvision data set (those include MNIST, CIFAR10, …)"
        )
    return getattr(datasets, by_lower[name.lower()])


def _torchvision_dataset(name: str, split: str, download: bool, root: Path | None) -> Any:
    """The torchvision data set of that name, whatever arguments its class takes."""
    import inspect

    cls = _torchvision_class(name)
    root = root or Path.home() / ".cache" / "torchvision"
    offered = {"root": str(root), "train": split == "train", "split": split, "download": download}
    accepted = inspect.signature(cls).parameters
    try:
        return cls(**{key: value for key, value in offered.items() if key in accepted})
    except (RuntimeError, OSError) as error:
        raise MissingError(
            f"torchvision's {cls.__name__} is not in {root} ({error}); "
            "allow the download, or give the folder that holds it"
        ) from error
    except (TypeError, ValueError, ImportError) as error:
        raise InputError(f"torchvision's {cls.__name__} cannot be opened by name and split: {error}") from error
