"""A small classifier of MNIST digits, by which the modes of generated digits are counted.

It looks at images as generators make them: 32×32, in [-1, 1].
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import trange

from genkernel.errors import InputError, MissingError, OutputError
from genkernel.models.coverage import Coverage, count_modes
from genkernel.runs import data_sha256, versions, write_atomic
from genkernel.runs.atomic import explain

CLASSES = 10
SURE = 0.9  # the probability of its class from which an image counts as a good digit
_MOVED = 2  # pixels by which training images are moved at most


class MNISTClassifier(nn.Module):
    """Images ``[n, 1, 32, 32]`` in [-1, 1] to class logits ``[n, 10]``."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(),
            nn.Conv2d(16, 32, 5, 2, 2), nn.ReLU(),
            nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, 64), nn.ReLU(),
        )  # fmt: skip
        self.last = nn.Linear(64, CLASSES)

    def features(self, images: Tensor) -> Tensor:
        """The last hidden layer, ``[n, 64]``."""
        return self.convolutions(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.features(images))


@dataclass(frozen=True)
class ClassifierRecipe:
    """Everything that decides the weights, apart from the images: Adam with a learning rate that falls to zero."""

    steps: int = 1500
    batch: int = 128
    lr: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")


def train_classifier(
    images: Tensor,
    labels: Tensor,
    test: tuple[Tensor, Tensor],
    out: str | Path,
    recipe: ClassifierRecipe | None = None,
    *,
    progress: bool = True,
) -> MNISTClassifier:
    """Train the classifier, and save ``model.safetensors`` and ``training.json`` with its accuracy on test images.

    Args:
        images: ``[n, 1, 32, 32]`` in [0, 1], with classes ``[n]``.
        test: images and classes that it does not learn from.
        out: the folder; what an earlier run left there is replaced.
        recipe: optimisation.
        progress: show a progress bar.

    Returns:
        The classifier in eval mode.

    Raises:
        InputError: images of another shape, or classes outside 0 … 9.
        OutputError: ``out`` cannot be written to.
    """
    recipe = recipe or ClassifierRecipe()
    for x, y in ((images, labels), test):
        if tuple(x.shape[1:]) != (1, 32, 32) or not len(x) or y.shape != (len(x),):
            raise InputError(f"the classifier takes images [n, 1, 32, 32] with n classes, not {tuple(x.shape)}")
        if int(y.min()) < 0 or int(y.max()) >= CLASSES:
            raise InputError(f"classes are the digits 0 … 9, not {int(y.min())} … {int(y.max())}")
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(explain(error, out)) from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = MNISTClassifier()
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    draw = torch.Generator().manual_seed(recipe.seed)
    for _ in trange(recipe.steps, disable=not progress, desc="train"):
        index = torch.randint(len(images), (recipe.batch,), generator=draw)
        moved = _moved(images[index].float() * 2 - 1, draw)
        loss = F.cross_entropy(network(moved), labels[index].long())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    record = {
        "recipe": asdict(recipe),
        "factory": "genkernel.models.mnist_classifier:MNISTClassifier",
        "sample_shape": [1, 32, 32],
        "mean": 0.5,
        "std": 0.5,
        "names": [str(digit) for digit in range(CLASSES)],
        "images": len(images),
        "data_sha256": data_sha256(images),
        "parameters": sum(p.numel() for p in network.parameters()),
        "test_images": len(test[0]),
        "test_accuracy": accuracy(network, *test),
        "versions": versions(),
    }
    write_atomic(out / "model.safetensors", save({k: v.contiguous() for k, v in network.state_dict().items()}))
    write_atomic(out / "training.json", json.dumps(record, indent=2) + "\n")
    return network


def load_classifier(folder: str | Path) -> MNISTClassifier:
    """The classifier saved in a folder, in eval mode; the shipped one is ``assets.path("mnist-classifier")``.

    Raises:
        MissingError: there is none.
    """
    path = Path(folder) / "model.safetensors"
    if not path.is_file():
        raise MissingError(f"{folder} holds no classifier: there is no model.safetensors in it")
    network = MNISTClassifier()
    network.load_state_dict(load_file(path))
    return network.eval()


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Part of the images ``[n, 1, 32, 32]`` in [0, 1] whose class is found."""
    found = probabilities(network, images.float() * 2 - 1).argmax(1)
    return float((found == labels.to(found.device)).double().mean())


@torch.no_grad()
def probabilities(network: nn.Module, samples: Tensor, batch_size: int = 512) -> Tensor:
    """Of the classes, ``[n, 10]``, for samples ``[n, 1, 32, 32]`` in [-1, 1]."""
    parts = [network(samples[s : s + batch_size]) for s in range(0, len(samples), batch_size)]
    return torch.cat(parts).softmax(1)


def digit_coverage(network: nn.Module) -> Callable[[Tensor], Coverage]:
    """Counts the modes of digits by a classifier.

    A sample is good where the classifier is sure of it (probability 0.9 or more), in every channel. One channel has 10
    modes; three have 1,000 (stacked MNIST), numbered like three-digit numbers. A classifier can be sure of what is no
    digit at all, so the share of good samples says how decided they are, not how good they look.
    """

    def coverage(samples: Tensor) -> Coverage:
        if samples.dim() != 4 or tuple(samples.shape[2:]) != (32, 32):
            raise InputError(f"digits are counted in samples [n, channels, 32, 32], not {tuple(samples.shape)}")
        channels = samples.shape[1]
        sure, digit = probabilities(network, samples.reshape(-1, 1, 32, 32)).max(1)
        places = CLASSES ** torch.arange(channels - 1, -1, -1)
        mode = (digit.cpu().reshape(-1, channels) * places).sum(1)
        return count_modes(mode, (sure.cpu() >= SURE).reshape(-1, channels).all(1), CLASSES**channels)

    return coverage


def _moved(images: Tensor, draw: torch.Generator) -> Tensor:
    """The images, all moved by the same few pixels; what comes in at the edge is black."""
    dx, dy = torch.randint(-_MOVED, _MOVED + 1, (2,), generator=draw).tolist()
    return F.pad(images, (dx, -dx, dy, -dy), value=-1.0)
