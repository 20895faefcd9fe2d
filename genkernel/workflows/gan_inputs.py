"""What a GAN's samples are held against: real samples, known modes, a classifier, all as the generator makes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from genkernel.errors import GenkernelError, InputError, MissingError
from genkernel.gan.answers import answers
from genkernel.workflows.arguments import whole_numbers
from genkernel.workflows.loaders import gather, is_loader
from genkernel.workflows.points import as_samples, read_labels, read_points

if TYPE_CHECKING:
    from genkernel.gan import Generator

_LOOKED_AT = 64  # samples whose values show the range
_SLACK = 0.02  # how far beyond a range a value may lie and still belong to it
_INSIDE = 0.95  # part of the values that has to lie in [-1, 1]


@dataclass
class RealSamples:
    """Real samples as the generator makes them.

    Attributes:
        samples: ``[m, *out]``; None for none.
        source: where they come from, in words.
        description: one line.
        steps: what was done to them, in words.
        labels: their classes ``[m]``, where they come with them.
    """

    samples: Tensor | None = None
    source: str = ""
    description: str = ""
    steps: list[str] = field(default_factory=list)
    labels: Tensor | None = None

    def labels_below(self, classes: int) -> Tensor | None:
        """The labels, if they can be those of a network with so many classes."""
        if self.labels is None or int(self.labels.min()) < 0 or int(self.labels.max()) >= classes:
            return None
        return self.labels


def is_image(generator: Generator) -> bool:
    """Whether a sample is ``[C, H, W]`` with one or three channels."""
    return len(generator.output_shape) == 3 and generator.output_shape[0] in (1, 3)


def read_real(
    given: Any,
    generator: Generator,
    limit: int,
    *,
    real_range: Sequence[float] | None = None,
    labels: Any = None,
    split: str = "test",
    seed: int = 0,
    download: bool = False,
) -> RealSamples:
    """Real samples in the generator's shape and range.

    Args:
        given: for images anything that :func:`genkernel.load_images` reads; for other samples a tensor or array
            ``[m, *out]`` or a file of points (see :func:`read_points`), which is taken as it is; or, for both, a torch
            data set or a loader of one (see :func:`~genkernel.workflows.loaders.gather`); None for none.
        limit: at most this many, drawn with ``seed`` when there are more.
        real_range: the values (black, white) of the generator's images; found by looking when it is not given.
        labels: classes of all samples that were given, in their order, in place of those that come with them. A folder
            has its images in the order of their paths.

    Raises:
        MissingError: there is nothing at a path.
        InputError: shapes or labels do not fit, fewer than two samples, or a range that is not clear.
        NonFiniteError: a sample holds NaN or infinity.
    """
    if labels is not None:  # however many there have to be
        labels = whole_numbers("real_labels", labels, of="real sample")
        if given is None:
            raise InputError("real_labels= are the classes of real samples: give those with real=")
    if given is None:
        if real_range is not None:
            raise InputError("real_range= is the range that real images are brought to: give them with real=")
        return RealSamples()
    if is_loader(given):
        given, labels, source = gather(given, limit, labels=labels, seed=seed)
        inner = read_real(given, generator, limit, real_range=real_range, labels=labels, seed=seed)
        description = inner.description.replace(f"from {inner.source}", f"from {source}", 1)
        return replace(inner, source=source, description=description)
    if not is_image(generator):
        if real_range is not None:
            raise InputError("real_range= belongs to images; these samples are taken as they are")
        return _read_points(given, generator, limit, seed, labels)
    from genkernel.data import load_images

    channels, height, width = generator.output_shape
    found = load_images(
        given, size=(height, width), channels=channels, limit=limit, split=split, seed=seed, download=download
    )
    if labels is not None:
        found.labels = _kept_labels(labels, found.total, found.rows)
    (low, high), why = (_given_range(real_range), "as asked") if real_range is not None else value_range(generator)
    images = found.images
    steps = list(found.steps)
    if (low, high) != (0.0, 1.0):
        images = low + (high - low) * images
    steps.append(f"brought to [{low:g}, {high:g}], {why}")
    if len(images) < 2:
        raise InputError(f"{found.source} holds {len(images)} image: a comparison needs at least 2")
    shape = "×".join(map(str, images.shape[1:]))
    description = f"{len(images)} real images {shape} from {found.source} ({'; '.join(steps)})"
    return RealSamples(images.to(torch.float32), found.source, description, steps, found.labels)


def _read_points(given: Any, generator: Generator, limit: int, seed: int, labels: Tensor | None) -> RealSamples:
    import numpy as np

    if isinstance(given, (str, Path)):
        points, source = read_points(given, "real samples"), Path(given).name
        if labels is None:
            labels = read_labels(given, len(points))
    else:
        points, source = as_samples(given, "the real samples"), f"a {type(given).__name__.lower()}"
    if tuple(points.shape[1:]) != generator.output_shape:
        raise InputError(
            f"the real samples have shape {_by(points.shape[1:])}, the generated ones {_by(generator.output_shape)}"
        )
    if len(points) < 2:
        raise InputError("a comparison needs at least 2 real samples")
    total = len(points)
    rows = np.arange(total)
    if total > limit:
        rows = np.sort(np.random.default_rng(seed).permutation(total)[:limit])
        points = points[torch.from_numpy(rows)]
    if labels is not None:
        labels = _kept_labels(labels, total, rows)
    description = f"{len(points)} real samples of {_values(generator.output_shape)} from {source}, as they are"
    return RealSamples(points, source, description, labels=labels)


def _kept_labels(labels: Tensor, total: int | None, rows: Any) -> Tensor:
    """The labels of the samples that were kept, from those of all."""
    return whole_numbers("real_labels", labels, total, "real sample")[torch.from_numpy(rows)]


def value_range(generator: Generator) -> tuple[tuple[float, float], str]:
    """The values of black and white in the images that a generator makes, and how that is known.

    A last tanh or sigmoid says it; else the values do, where they leave no doubt.

    Raises:
        InputError: neither does.
    """
    from genkernel.tangent.passes import guarded

    batch = generator.draw(_LOOKED_AT, seed=0, stream=2)
    with guarded(generator.tangent), generator.tangent.evaluating(), _Squashed() as seen:
        images = generator.tangent.forward(batch)
    last = seen.last(images)
    if last is not None:
        return _SQUASHED[last], f"the range of the generator's last {last}"
    low, high = float(images.min()), float(images.max())
    spoken = f"from {low:.2g} to {high:.2g}"
    if low >= -_SLACK and high <= 1 + _SLACK and high > 0.1:
        return (0.0, 1.0), f"the range of the generated values, which run {spoken} (real_range= if it is another)"
    inside = float((images.abs() <= 1 + _SLACK).double().mean())
    if low < -0.1 and inside >= _INSIDE:
        return (-1.0, 1.0), f"the range of the generated values, which run {spoken} (real_range= if it is another)"
    raise InputError(
        f"the generated values run {spoken}, so it is not clear which range real images have to be brought to: pass "
        "real_range=(black, white)"
    )


def read_modes(given: Any, generator: Generator) -> Tensor | None:
    """Known modes ``[M, *out]`` from a tensor, an array, or a file of points.

    Raises:
        MissingError: there is no such file.
        InputError: fewer than two modes, or modes of another shape than the samples.
        NonFiniteError: a mode holds NaN or infinity.
    """
    if given is None:
        return None
    found = read_points(given, "modes") if isinstance(given, (str, Path)) else as_samples(given, "the modes")
    if tuple(found.shape[1:]) != generator.output_shape or len(found) < 2:
        raise InputError(
            f"modes have shape [M, {', '.join(map(str, generator.output_shape))}] with M ≥ 2, not {tuple(found.shape)}"
        )
    return found


def read_classifier(given: Any, generator: Generator) -> Any:
    """A classifier of the generator's samples.

    Args:
        given: ``classifier(samples) -> logits [n, classes]``, as it is; the folder of a digit classifier, as
            ``scripts/train_mnist_classifier.py`` writes it; or the name of a shipped one, ``"mnist-classifier"``.

    Raises:
        MissingError: there is none.
        InputError: it does not take such samples.
    """
    if given is None:
        return None
    if isinstance(given, (str, Path)):
        loaded = _load_classifier(given)
        loaded = loaded.to(generator.device, generator.dtype)
        given = loaded
        if is_image(generator) and value_range(generator)[0] == (0.0, 1.0):
            given = lambda images: loaded(2 * images - 1)  # noqa: E731 - it was trained on images in [-1, 1]
    if not callable(given):
        raise InputError(
            f"a classifier is a function samples -> logits, or a folder with one, not {type(given).__name__}"
        )
    _try("the classifier", given, generator, fewest=2)
    return given


def _load_classifier(given: str | Path) -> nn.Module:
    from safetensors import SafetensorError

    from genkernel import assets
    from genkernel.models.mnist_classifier import load_classifier

    path = Path(given).expanduser()
    if not path.exists():
        try:
            path = assets.path(str(given))
        except MissingError:
            raise MissingError(
                f"there is no classifier at {str(given)!r}: give its folder, or mnist-classifier for the shipped one"
            ) from None
    try:
        return load_classifier(path)
    except (RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"the classifier in {path} is not one of 32×32 digits: {reason}") from error


def read_features(given: Any, generator: Generator) -> Any:
    """``features(samples) -> [n, f]``, tried on two samples.

    Raises:
        InputError: it is no function, or does not take such samples.
    """
    if given is not None:
        if not callable(given):
            raise InputError(f"features is a function samples -> [n, f], not {type(given).__name__}")
        _try("features", given, generator)
    return given


def _try(what: str, function: Callable[[Any], Any], generator: Generator, fewest: int = 1) -> None:
    """Say in one sentence that a function does not take what the generator makes; it is left as it was."""
    samples = generator.images(generator.draw(2))
    try:
        answers(function, samples, fewest=fewest)
    except GenkernelError:
        raise
    except Exception as error:  # of any kind: whatever the user's function says
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise InputError(
            f"{what} cannot be run on samples {_by(generator.output_shape)} as the generator makes them: "
            f"{type(error).__name__}: {reason}"
        ) from error


# ---------------------------------------------------------------------------- inside


def _given_range(given: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in given)
        good = -1e6 < low < high < 1e6
    except (TypeError, ValueError):
        good = False
    if not good:
        raise InputError(f"real_range is the values (black, white) of the generator's images, not {given!r}")
    return low, high


_SQUASHED = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}


class _Squashed(TorchFunctionMode):
    """Remembers what every tanh and sigmoid gave."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "").rstrip("_").replace("special_expit", "sigmoid")
        if name in _SQUASHED:
            self.seen.append((name, out))
        return out

    def last(self, images: Tensor) -> str | None:
        """The one whose output the images are."""
        for name, out in reversed(self.seen):
            if out.numel() == images.numel() and torch.equal(out.flatten(), images.flatten()):
                return name
        return None


def _values(shape: Sequence[int]) -> str:
    return f"shape {_by(shape)}" if len(shape) != 1 else "1 value" if shape[0] == 1 else f"{shape[0]} values"


def _by(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
