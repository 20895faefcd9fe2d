"""Real samples from a torch data set, or from a loader of its batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from genkernel.checkpoints.weights import a
from genkernel.errors import GenkernelError, InputError
from genkernel.tangent.restore import random_state_kept
from genkernel.workflows.arguments import shown, whole_numbers

MOST = 4096  # samples that are read: every one of them passes through the user's own code


def is_loader(given: Any) -> bool:
    """Whether it is a torch data set, or a loader of batches."""
    return isinstance(given, (DataLoader, Dataset))


def gather(given: Any, limit: int, *, labels: Any = None, seed: int = 0) -> tuple[Tensor, Tensor | None, str]:
    """Samples from a data set or a loader.

    Of a data set with a length they are drawn with ``seed``; of a loader, and of a data set that can only be iterated,
    they are the first ones, in the order in which they come. Random numbers that are drawn on the way follow
    from ``seed`` and leave no trace.

    Args:
        given: a loader of batches ``[b, *sample]`` or ``(batch, labels)``, or a data set of samples or
            ``(sample, label)``; samples are tensors, arrays, or PIL images, which become ``[C, H, W]``.
        limit: at most so many, and at most 4096.
        labels: classes of all samples of a data set with a length, in place of those that come with them.

    Returns:
        Samples ``[m, *sample]``, their classes ``[m]`` int64 (None where none come with them), and where they come
        from, in words.

    Raises:
        InputError: they are something else, they differ in shape, there are none, or labels do not fit.
    """
    count = min(limit, MOST)
    source = a(given)
    with torch.random.fork_rng(devices=[]), random_state_kept():
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            if isinstance(given, DataLoader):
                found, classes = _from_batches(given, count)
            elif isinstance(given, IterableDataset) or not hasattr(given, "__len__"):
                found, classes = _from_items(islice(_items(given), count))
            else:
                total = len(given)
                rows = np.sort(np.random.default_rng(seed).permutation(total)[:count])
                found, classes = _from_items(given[int(row)] for row in rows)
                if labels is not None:
                    classes = whole_numbers("real_labels", labels, total, "real sample")[torch.from_numpy(rows)]
                    return found, classes, source
        except GenkernelError:
            raise
        except Exception as error:  # of any kind: whatever the user's data set does
            reason = (str(error).strip().splitlines() or ["no message"])[0]
            raise InputError(
                f"the real samples of {source} cannot be read: {type(error).__name__}: {reason}"
            ) from error
    if labels is not None:
        raise InputError(
            f"real_labels= cannot be matched to the samples of {source}: let it give (samples, labels), or pass a data "
            "set with a length"
        )
    return found, classes, source


def _items(given: Any) -> Iterator[Any]:
    if hasattr(given, "__iter__"):
        return iter(given)
    return (given[i] for i in range(MOST))


def _from_batches(loader: Any, count: int) -> tuple[Tensor, Tensor | None]:
    if loader.batch_size is None and loader.batch_sampler is None:  # it gives single samples
        return _from_items(islice(loader, count))
    samples: list[Tensor] = []
    classes: list[Any] = []
    have = 0
    for batch in loader:
        batch_of, label = _parted(batch)
        if batch_of.dim() < 2 or (samples and batch_of.shape[1:] != samples[0].shape[1:]):
            raise InputError(
                "batches of real samples have shape [b, …] with samples of one shape, not "
                f"{tuple(batch_of.shape)}" + (f" after {tuple(samples[0].shape)}" if samples else "")
            )
        samples.append(batch_of)
        classes.append(label)
        have += len(batch_of)
        if have >= count:
            break
    if not samples:
        raise InputError("the loader of real samples gives no batch")
    found = torch.cat(samples)[:count]
    return found, _classes(classes, have, count)


def _from_items(items: Any) -> tuple[Tensor, Tensor | None]:
    pairs = [_parted(item) for item in items]
    if not pairs:
        raise InputError("the data set of real samples is empty")
    shapes = {tuple(sample.shape) for sample, _ in pairs}
    if len(shapes) > 1:
        few = ", ".join("×".join(map(str, shape)) for shape in sorted(shapes)[:3])
        raise InputError(f"the real samples of a data set have to be of one shape, and are of {few}")
    return torch.stack([sample for sample, _ in pairs]), _classes([label for _, label in pairs], len(pairs), len(pairs))


def _parted(item: Any) -> tuple[Tensor, Any]:
    """A sample or a batch, and its labels where they come with it."""
    label = None
    if isinstance(item, Sequence) and not isinstance(item, str) and len(item) in (1, 2):
        item, label = item[0], item[1] if len(item) == 2 else None
    if isinstance(item, Tensor):
        return item.detach().cpu(), label
    if isinstance(item, np.ndarray):
        return torch.from_numpy(item), label
    if hasattr(item, "getbands"):  # a PIL image
        array = torch.from_numpy(np.array(item))
        return (array[None] if array.dim() == 2 else array.permute(2, 0, 1)), label
    raise InputError(
        f"real samples of a data set or a loader are tensors, alone or as (samples, labels), not {shown(item)}"
    )


def _classes(labels: list[Any], have: int, count: int) -> Tensor | None:
    """Labels of all samples as one tensor; None where they are not whole numbers from 0 on, one for each."""
    try:
        joined = torch.cat([torch.as_tensor(label).detach().cpu().reshape(-1) for label in labels])
    except (TypeError, ValueError, RuntimeError):  # none, or words
        return None
    whole = not joined.is_floating_point() and not joined.is_complex() and joined.dtype is not torch.bool
    if not whole or len(joined) != have or int(joined.min()) < 0:
        return None
    return joined[:count].long()
