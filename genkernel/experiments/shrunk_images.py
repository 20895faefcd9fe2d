"""Images shrunk to a few pixels, and a network on them: small enough for its tangent features to be written out."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from genkernel.errors import InputError, MissingError


def require(folder: str | Path, *names: str) -> None:
    """Find out before hours of work whether data sets are there.

    Raises:
        MissingError: the folder has no ``name.npz`` for one of the names.
    """
    for name in names:
        if not (Path(folder).expanduser() / f"{name}.npz").is_file():
            files = " and ".join(f"{one}.npz" for one in names)
            raise MissingError(f"{folder} has no {name}.npz: data= (--data) names a folder with {files}")


def shrunk(
    folder: str | Path, name: str, size: int, count: int, *, split: str, seed: int, classes: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor]:
    """Random images of a data set as rows, and their labels.

    Args:
        folder: holds ``name.npz`` with images and labels, as :func:`genkernel.load_images` reads them.
        name: of the data set.
        size: height and width after shrinking.
        count: how many.
        split: ``"train"`` or ``"test"``.
        seed: of the choice.
        classes: labels to take from; all by default.

    Returns:
        ``[count, size²]`` in [0, 1], float64, and labels ``[count]``.

    Raises:
        MissingError: the folder has no such file.
        InputError: there are no labels, or too few images.
    """
    import torch

    from genkernel.data import load_images

    require(folder, name)
    path = Path(folder).expanduser() / f"{name}.npz"
    found = load_images(path, channels=1, size=size, split=split, limit=None if classes else count, seed=seed)
    if found.labels is None:
        raise InputError(f"{path} has no labels")
    x, y = found.images.flatten(1), found.labels.long()
    if classes:
        kept = torch.isin(y, torch.tensor(classes)).nonzero()[:, 0]
        kept = kept[torch.randperm(len(kept), generator=torch.Generator().manual_seed(seed))[:count]]
        x, y = x[kept], y[kept]
    if len(x) < count:
        raise InputError(f"{path} has {len(x)} images of those classes, and {count} are needed")
    return x.double(), y


def network(inputs: int, width: int, classes: int, seed: int) -> nn.Sequential:
    """A tanh network with one hidden layer, float64."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, classes)).double()
