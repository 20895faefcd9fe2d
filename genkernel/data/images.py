"""Read images from anywhere a user keeps them, and say what was done to them.

Every loader returns an :class:`ImageSet`: float32 images ``[n, C, H, W]`` in ``[0, 1]``,
optional labels, and ``steps``, the list of conversions in the order they were applied.
The data range a *model* wants (``[-1, 1]`` for most diffusion models) is the model's
business, not this module's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
ARRAY_KEYS = {"train": ("x_train", "x", "images"), "test": ("x_test", "x", "images", "x_train")}
LABEL_KEYS = {"x_train": "y_train", "x_test": "y_test", "x": "y", "images": "labels"}


@dataclass
class ImageSet:
    """Images ``[n, C, H, W]``, float32 in ``[0, 1]``, with what is known about them."""

    images: torch.Tensor
    labels: torch.Tensor | None = None
    source: str = ""
    steps: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return self.images.shape[0]

    def describe(self) -> str:
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
            ``y_train``, ``y_test``), a tensor or array, an :class:`ImageSet`, or the name of
            a torchvision data set (``"MNIST"``, ``"torchvision:CIFAR10"``).
        size: height and width of the result; images are padded to a square first and
            resized with antialiasing.
        channels: 1 or 3; colour becomes luma, grey is repeated.
        limit: at most this many images; when there are more, a random subset drawn with
            ``seed``, in file order.
        split: ``"train"`` or ``"test"``, where the source has both.
        download: allow torchvision to download (never otherwise).
        root: where torchvision data sets are kept.

    Returns:
        ImageSet: images ``[n, C, H, W]`` in ``[0, 1]``.

    Raises:
        FileNotFoundError: the path does not exist, or the folder holds no image.
        ValueError: unreadable files, unknown arrays, or shapes that are not images.
    """
    if split not in ARRAY_KEYS:
        raise ValueError(f"split must be 'train' or 'test', not {split!r}")
    if isinstance(source, ImageSet):
        found = ImageSet(source.images, source.labels, source.source, list(source.steps))
        if limit is not None and len(found) > limit:
            keep = _subset(len(found), limit, seed)
            labels = found.labels[keep] if found.labels is not None else None
            found = ImageSet(found.images[keep], labels, found.source, found.steps)
    elif isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if path.is_dir():
            found = _from_folder(path, limit, seed, size, channels)
        elif path.suffix == ".npz" and path.is_file():
            found = _from_npz(path, split, limit, seed)
        elif path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            found = _from_files([path], str(path), size, channels)
        elif (name := _torchvision_name(str(source))) and not path.exists():
            found = _from_torchvision(name, split, limit, seed, download, root)
        elif path.exists():
            raise ValueError(f"{path} is neither a folder of images, an image, nor an .npz archive")
        else:
            raise FileNotFoundError(
                f"no images at {str(source)!r}: the path does not exist "
                "(give a folder of images, an .npz, or a torchvision data set name such as MNIST)"
            )
    else:
        found = _from_array(source, limit, seed)
    found = _fit(found, size, channels)
    if not len(found):
        raise ValueError(f"{found.source or 'the data'} holds no images")
    return found


# ------------------------------------------------------------------------- sources


def _subset(n: int, limit: int | None, seed: int) -> np.ndarray:
    """Indices of a reproducible random subset, in order."""
    if limit is None or n <= limit:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).permutation(n)[:limit])


def _from_array(source: Any, limit: int | None, seed: int) -> ImageSet:
    import torch

    if not isinstance(source, (torch.Tensor, np.ndarray)):
        raise ValueError(
            f"data must be a path, a data set name, a tensor or an array, not {type(source).__name__}"
        )
    array = torch.as_tensor(source).detach().cpu()
    if array.dim() not in (3, 4):
        raise ValueError(f"an image array has 3 or 4 dimensions, this one has shape {tuple(array.shape)}")
    array = array[torch.from_numpy(_subset(array.shape[0], limit, seed))]
    images, steps = _to_unit_range(array)
    return ImageSet(images, None, "a tensor", steps)


def _from_npz(path: Path, split: str, limit: int | None, seed: int) -> ImageSet:
    import torch

    try:
        archive = np.load(path, allow_pickle=False)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as an .npz archive: {error}") from error
    with archive:
        key = next((k for k in ARRAY_KEYS[split] if k in archive), None)
        if key is None:
            raise ValueError(
                f"{path} has arrays {sorted(archive.files)}, none of them named "
                f"{', '.join(ARRAY_KEYS[split])}"
            )
        array = archive[key]
        label_key = LABEL_KEYS[key] if LABEL_KEYS[key] in archive else None
        label_key = label_key or next((k for k in ("y", "labels") if k in archive and key in ("x", "images")), None)
        labels = archive[label_key] if label_key else None
    if array.ndim not in (3, 4):
        raise ValueError(f"{path}: array {key!r} has shape {array.shape}, which is not a stack of images")
    keep = _subset(len(array), limit, seed)
    images, steps = _to_unit_range(torch.from_numpy(array[keep]))
    kept = torch.from_numpy(np.asarray(labels)[keep]).long() if _are_labels(labels, len(array)) else None
    return ImageSet(images, kept, f"{path.name}:{key}", steps)


def _are_labels(labels: Any, n: int) -> bool:
    return labels is not None and len(labels) == n and np.issubdtype(np.asarray(labels).dtype, np.integer)


def _from_folder(path: Path, limit: int | None, seed: int, size: Any, channels: int | None) -> ImageSet:
    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not files:
        raise FileNotFoundError(
            f"{path} holds no images (looked for {', '.join(sorted(IMAGE_SUFFIXES))} in it and its subfolders)"
        )
    keep = [files[i] for i in _subset(len(files), limit, seed)]
    found = _from_files(keep, path.name, size, channels)
    classes = sorted({p.parent for p in files})
    if len(classes) > 1 and all(p.parent == path for p in classes):
        import torch

        found.labels = torch.tensor([classes.index(p.parent) for p in keep])
    return found


def _from_files(files: list[Path], name: str, size: Any, channels: int | None) -> ImageSet:
    """Decode files one by one; the first has to say the common size when none was asked."""
    import torch
    from PIL import Image, UnidentifiedImageError

    images, steps, broken = [], [], []
    for file in files:
        try:
            with Image.open(file) as opened:
                opened.load()
                picture = opened
                if picture.mode in ("RGBA", "LA", "PA", "P"):
                    picture = picture.convert("RGBA")
                    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
                elif picture.mode not in ("L", "RGB"):
                    picture = picture.convert("RGB")
                array = torch.from_numpy(np.array(picture))
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            broken.append(f"{file.name} ({type(error).__name__})")
            continue
        array = array[..., None] if array.dim() == 2 else array
        single = ImageSet(array.permute(2, 0, 1)[None].float() / 255)
        single = _fit(single, size, channels)
        steps = steps or single.steps
        images.append(single.images)
    if broken:
        shown = ", ".join(broken[:3]) + (f" and {len(broken) - 3} more" if len(broken) > 3 else "")
        raise ValueError(f"{len(broken)} of {len(files)} image files cannot be read: {shown}; remove or repair them")
    shapes = {tuple(image.shape[1:]) for image in images}
    if len(shapes) > 1:
        few = ", ".join("×".join(map(str, s)) for s in sorted(shapes)[:3])
        raise ValueError(f"the images in {name} differ in shape ({few}, …): give a size to bring them to")
    return ImageSet(torch.cat(images), None, name, steps)


def _torchvision_name(source: str) -> str | None:
    """The data set meant by ``"MNIST"`` or ``"torchvision:MNIST"``, if it could be one."""
    name = source.removeprefix("torchvision:")
    return name if name.isidentifier() else None


def _from_torchvision(
    name: str, split: str, limit: int | None, seed: int, download: bool, root: str | Path | None
) -> ImageSet:
    import inspect

    import torch
    from torchvision import datasets, transforms

    by_lower = {k.lower(): k for k in datasets.__all__}
    if name.lower() not in by_lower:
        raise FileNotFoundError(
            f"no images at {name!r}: neither a path nor a torchvision data set (those include MNIST, CIFAR10, …)"
        )
    cls = getattr(datasets, by_lower[name.lower()])
    accepted = inspect.signature(cls).parameters
    wanted: dict[str, Any] = {"root": str(root or Path.home() / ".cache" / "torchvision")}
    if "train" in accepted:
        wanted["train"] = split == "train"
    elif "split" in accepted:
        wanted["split"] = split
    if "download" in accepted:
        wanted["download"] = download
    try:
        dataset = cls(**wanted)
    except RuntimeError as error:
        raise FileNotFoundError(
            f"torchvision's {cls.__name__} is not in {wanted['root']} ({error}); "
            "allow the download, or give the folder that holds it"
        ) from error
    keep = _subset(len(dataset), limit, seed)
    to_tensor = transforms.ToTensor()
    pairs = [dataset[int(i)] for i in keep]
    images = torch.stack([to_tensor(image) for image, *_ in pairs])
    targets = [pair[1] for pair in pairs]
    labels = torch.tensor(targets) if all(isinstance(y, int) for y in targets) else None
    return ImageSet(images, labels, f"torchvision {cls.__name__} ({split})", [])


# --------------------------------------------------------------------- conversions


def _to_unit_range(array: torch.Tensor) -> tuple[torch.Tensor, list[str]]:
    """Bring a stack of images to ``[n, C, H, W]`` float32 in ``[0, 1]``; say what was done."""
    import torch

    steps = []
    if array.dim() == 3:
        array = array[:, None]
    elif array.shape[1] not in (1, 3) and array.shape[-1] in (1, 3):
        array = array.permute(0, 3, 1, 2)
        steps.append("channels moved first")
    if not array.is_floating_point():
        if array.numel() and (int(array.min()) < 0 or int(array.max()) > 255):
            raise ValueError("integer images must lie in 0…255")
        return array.float() / 255, steps
    array = array.float()
    if not torch.isfinite(array).all():
        raise ValueError("the images hold NaN or infinite pixels")
    low, high = (float(array.min()), float(array.max())) if array.numel() else (0.0, 1.0)
    if low >= 0 and high <= 1:
        return array, steps
    if low >= -1 and high <= 1:
        return (array + 1) / 2, [*steps, "[-1, 1] read as [0, 1]"]
    if low >= 0 and high <= 255:
        return array / 255, [*steps, "0…255 read as [0, 1]"]
    raise ValueError(f"pixel values run from {low:.3g} to {high:.3g}: give images in [0, 1], [-1, 1] or 0…255")


def _fit(found: ImageSet, size: int | tuple[int, int] | None, channels: int | None) -> ImageSet:
    """Convert channels, pad to a square, resize; every change is added to ``steps``."""
    import torch
    import torch.nn.functional as F

    images, steps = found.images, list(found.steps)
    have = images.shape[1]
    if channels is not None and have != channels:
        if have == 3 and channels == 1:
            luma = images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
            images = (images * luma).sum(1, keepdim=True)
            steps.append("colour to luma")
        elif have == 1:
            images = images.expand(-1, channels, -1, -1).contiguous()
            steps.append(f"grey repeated to {channels} channels")
        else:
            raise ValueError(f"the images have {have} channels, the model takes {channels}, and there is no "
                             "agreed way to turn one into the other")
    if size is not None:
        want = (size, size) if isinstance(size, int) else tuple(size)
        h, w = images.shape[-2:]
        if want[0] == want[1] and h != w:
            side = max(h, w)
            border = images[..., :1, :1]
            canvas = border.expand(-1, -1, side, side).clone()
            top, left = (side - h) // 2, (side - w) // 2
            canvas[..., top : top + h, left : left + w] = images
            images = canvas
            steps.append(f"{h}×{w} padded to {side}×{side} with the corner pixel")
        if tuple(images.shape[-2:]) != want:
            h, w = images.shape[-2:]
            chunks = [
                F.interpolate(part, want, mode="bilinear", antialias=True, align_corners=False)
                for part in images.split(4096)
            ]
            images = torch.cat(chunks).clamp(0, 1)
            steps.append(f"resized {h}×{w} → {want[0]}×{want[1]}, antialiased bilinear")
    return ImageSet(images, found.labels, found.source, steps)
