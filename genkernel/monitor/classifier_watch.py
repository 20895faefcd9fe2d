"""What is read of a classifier while it trains: losses by class, and what its kernel makes of the labels.

Every reading uses the same samples and cotangents, so that two readings differ by the weights alone:

- **loss** and accuracy, class by class, of the weights and of their average (``ema=``);
- **kernel** between samples: its alignment with the labels, its mean within and between classes, how far it has
  drifted, and samples whose nearest neighbours in it have another label (THEORY §8);
- **holdout**: by how much the tangent rank grows with samples that are held out (THEORY §5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from genkernel.classifier.labels import Labels, class_indices
from genkernel.classifier.logits import cross_entropies, logits_of, predicted
from genkernel.errors import InputError, NonFiniteError
from genkernel.gan.clusters import Clusters
from genkernel.gan.latent_kernel import between_clusters
from genkernel.monitor.average import Average
from genkernel.monitor.classes import class_axis, mean_by_class
from genkernel.monitor.drift import drift
from genkernel.monitor.finite import require_finite_weights
from genkernel.monitor.headroom import Headroom
from genkernel.monitor.trace import Array, Axis, Trace
from genkernel.monitor.watch import Values
from genkernel.monitor.weights import WeightProbe
from genkernel.spectra.alignment import cka
from genkernel.spectra.gram_ranks import gram_rank_gap
from genkernel.spectra.neighbours import TIED
from genkernel.tangent import Cotangents, Kernel, TangentModel, batches, exact_trace, kernel, probes, total
from genkernel.tangent.coverage import Coverage
from genkernel.tangent.fingerprint import fingerprint
from genkernel.tangent.passes import guarded

TRACED_UP_TO = 4  # logits whose trace is taken exactly
NEIGHBOURS = 5
KEPT = 64  # samples up to which the whole kernel is part of a reading
FEWEST = 4  # samples that an unbiased alignment needs
TOGETHER = 256  # samples in a forward pass
_ROUNDING = 1e-9  # of votes, which are sums of shares


class ClassifierWatch:
    """Reads a classifier.

    Args:
        module: the network: it answers with logits ``[n, C]``, with an object or a mapping that has ``logits``, or with
            a tuple of which they are the first entry.
        data: n samples, as the network takes them: a tensor, a dict of its keyword arguments, or a tuple.
        targets: their classes ``[n]``, or rows of one-hot vectors.
        holdout: samples that it is not trained on, or a pair of these and their classes.
        names: of the classes.
        probes: random cotangents of the kernel; with up to 4 logits its trace is exact.
        ema: average of the weights, in any form that :meth:`TangentModel.at` takes.
        batch_norm: ``"eval"`` for running statistics, ``"frozen"`` for those of ``data`` by the present weights.
        seed: of the probes.
        memory: bound on what a reading holds beside the model; None for what the training leaves free.

    Raises:
        InputError: too few samples, a single class, labels or outputs that do not fit, or an unknown option.
    """

    kind = "classifier"

    def __init__(
        self,
        module: nn.Module,
        data: Any,
        targets: Any,
        *,
        holdout: Any = None,
        names: Sequence[str] | None = None,
        probes: int = 2,
        ema: Any = None,
        batch_norm: str = "eval",
        seed: int = 0,
        memory: str | int | None = None,
    ):
        if isinstance(probes, bool) or not isinstance(probes, int) or probes < 1:
            raise InputError(f"probes= is a whole number of at least 1, not {probes!r}")
        if batch_norm not in ("eval", "frozen"):
            raise InputError(f"batch_norm= is 'eval' or 'frozen' for a classifier that is watched, not {batch_norm!r}")
        n = batches.size(data)
        self._labels = class_indices(targets, n)
        if n < FEWEST or len(set(self._labels.tolist())) < 2:
            raise InputError(
                f"a classifier is watched on at least {FEWEST} samples of at least two classes, not {n} of "
                f"{len(set(self._labels.tolist()))}"
            )
        frozen = {"reference": data} if batch_norm == "frozen" else {}
        self.model = TangentModel(module, call=logits_of, batch_norm=batch_norm, **frozen)
        self.modules: list[nn.Module] = [module]
        self._data = batches.copy(batches.move(data, self.model.device))
        self._holdout, self._held = _held_out(holdout, data, self.model.device)
        self._probes, self._seed = probes, seed
        self._headroom = Headroom(memory)
        self._coverage: dict[str, Coverage] = {}
        self._weights = WeightProbe(lambda: self.model.parameters)
        self._ema = None if ema is None else Average(ema, self.model)
        self.modules += [] if self._ema is None else self._ema.modules
        self._outputs = self._check()
        self._seen = _Seen()
        self.axes = {
            "class": class_axis(self._labels, names),
            "sample": Axis("sample", [f"sample {i}" for i in range(n)], [float(i) for i in range(n)], "sample"),
            "parameter": self._weights.axis,
        }
        self.arrays = {
            "drawn/classes": ["class"],
            "loss/class": ["class"],
            "accuracy/class": ["class"],
            "kernel/class": ["class", "class"],
            "kernel/suspicion": ["sample"],
            **{name: ["parameter"] for name in WeightProbe.ARRAYS},
        }
        if n <= KEPT:
            self.arrays["kernel/samples"] = ["sample", "sample"]
        held = 0 if self._holdout is None else batches.size(self._holdout)
        self.settings: dict[str, Any] = {
            "class": type(module).__name__, "parameters": sum(p.numel() for p in self.model.parameters.values()),
            "data": fingerprint(self._data), "samples": n, "targets": self._labels.tolist(), "outputs": self._outputs,
            "holdout": held,
            "probes": probes, "neighbours": min(NEIGHBOURS, n - 1), "batch_norm": batch_norm,
            "ema": self._ema is not None,
        }  # fmt: skip

    def forget(self) -> None:
        """The training went back."""
        self._weights.forget()
        self._seen.last = None
        if self._ema is not None:
            self._ema.forget()

    def parts(self) -> dict[str, Callable[[], Values]]:
        self._seen.now = None
        found: dict[str, Callable[[], Values]] = {
            "weights": self._weights.read,
            "loss": self._losses,
            "kernel": self._kernel,
        }
        if self._holdout is not None:
            found["holdout"] = self._ranks
            if self._held is not None:
                found["holdout loss"] = self._held_losses
        if self._ema is not None:
            found["ema"] = self._averaged
        return found

    def derived(self, values: Values, before: Trace) -> Values:
        """How far the normalised kernel has moved since the first reading that has one, and since the last."""
        return self._seen.drifts(fresh=not before.readings)

    # ------------------------------------------------------------------------ parts

    def _losses(self) -> Values:
        """Cross-entropy and accuracy, with those of each class."""
        losses, right = self._judged(self.model, self._data, self._labels)
        count = len(self.axes["class"])
        return {
            "loss/mean": float(losses.mean()),
            "accuracy/mean": float(right.mean()),
            "loss/class": mean_by_class(losses, self._labels, count),
            "accuracy/class": mean_by_class(right, self._labels, count),
        }

    def _kernel(self) -> Values:
        """What the trace kernel makes of the labels."""
        exact = self._outputs <= TRACED_UP_TO
        found = self._run("kernel", self._data, exact_trace() if exact else probes(self._probes, self._seed))
        cosines = found.normalized().values.numpy()
        self._seen.now = cosines
        labels, count = self._labels, len(self.axes["class"])
        every = between_clusters(cosines, Clusters(labels, self.axes["class"].labels, "the labels"))
        same = labels[:, None] == labels[None, :]
        other = ~np.eye(len(labels), dtype=bool)
        votes = neighbour_votes(cosines, labels, min(NEIGHBOURS, len(labels) - 1), count)
        own = votes[np.arange(len(labels)), labels]
        values: dict[str, float | Array] = {
            "kernel/label_alignment": cka(found, torch.from_numpy(labels)),
            "kernel/within": float(cosines[same & other].mean()) if (same & other).any() else math.nan,
            "kernel/between": float(cosines[~same].mean()),
            "kernel/class": every,
            "kernel/label_disagreement": float((votes.max(1) > own + _ROUNDING).mean()),
            "kernel/suspicion": 1 - own / votes.sum(1),
        }
        return values | {"kernel/samples": cosines} if len(labels) <= KEPT else values

    def _ranks(self) -> Values:
        """The tangent rank gap of the samples held out, of the gradients of the sum of logits.

        One backward pass gives the Gram matrix of these gradients.
        """
        together = batches.concatenate(self._data, self._holdout)
        precision = torch.promote_types(self.model.dtype, torch.float32)
        gram = self._run("rank", together, total(), precision).values
        gap = gram_rank_gap(gram, len(self._labels), self.model.dtype)
        return {
            "rank/gap": float(gap.gap),
            "rank/share": gap.gap / (len(gram) - len(self._labels)),
            "rank/trained": float(gap.trained.value),
            "rank/alone": gap.alone,
        }

    def _held_losses(self) -> Values:
        assert self._held is not None
        losses, right = self._judged(self.model, self._holdout, self._held)
        return {"loss/holdout": float(losses.mean()), "accuracy/holdout": float(right.mean())}

    def _averaged(self) -> Values:
        """The average of the weights, and its loss."""
        assert self._ema is not None
        found = dict(self._ema.read())
        losses, right = self._judged(self._ema.at(), self._data, self._labels, "the average of the classifier")
        return found | {"ema/loss": float(losses.mean()), "ema/accuracy": float(right.mean())}

    # ------------------------------------------------------------------------ inside

    def _check(self) -> int:
        """C, from a few samples.

        Raises:
            InputError: the outputs are no logits of these classes.
        """
        few = batches.take(self._data, slice(0, 2))
        try:
            with guarded(self.model):
                out = self.model.forward(few)
        except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise batches.does_not_run(few, error) from error
        most = max(int(labels.max()) for labels in (self._labels, self._held) if labels is not None)
        if out.dim() != 2 or out.shape[1] < 2:
            raise InputError(f"a classifier answers n samples with logits [n, C], C ≥ 2, not with {tuple(out.shape)}")
        if out.shape[1] <= most:
            raise InputError(f"the classifier has {out.shape[1]} logits, and there are labels up to {most}")
        if self._holdout is not None:
            batches.concatenate(few, batches.take(self._holdout, slice(0, 2)))
        return int(out.shape[1])

    def _judged(
        self, model: TangentModel, data: Any, labels: Labels, whose: str = "the classifier"
    ) -> tuple[Array, Array]:
        """Cross-entropies ``[n]``, and 1 where the largest logit is that of the label ``[n]``.

        Raises:
            NonFiniteError: weights or logits are not finite, with where.
        """
        require_finite_weights(model, whose)
        n = len(labels)
        parts = [model.forward(batches.take(data, slice(s, s + TOGETHER))) for s in range(0, n, TOGETHER)]
        logits = torch.cat(parts).double().cpu()
        bad = (~torch.isfinite(logits)).any(1).nonzero().flatten()
        if len(bad):
            raise NonFiniteError(f"the logits of {len(bad)} of {n} samples are NaN or infinite, first of {int(bad[0])}")
        y = torch.from_numpy(labels)
        return cross_entropies(logits, y).numpy(), (predicted(logits) == y).double().numpy()

    def _run(
        self,
        name: str,
        batch: Any,
        cotangents: Cotangents,
        dtype: torch.dtype | None = None,
    ) -> Kernel:
        require_finite_weights(self.model, "the classifier")
        found = kernel(
            self.model,
            batch,
            cotangents=cotangents,
            by=None,
            dtype=dtype,
            accumulate="float32",
            memory=self._headroom.bytes(self.model.device),
            coverage=self._coverage.get(name),
            distributed=False,
            progress=False,
        )
        if found.coverage is not None:
            self._coverage[name] = found.coverage
        return found


class _Seen:
    """Normalised kernels that later ones are compared with: a trace keeps them of few samples only.

    Attributes:
        now: of this reading, or None where it has none.
        last: of the reading before that had one; None after the training went back.
    """

    def __init__(self) -> None:
        self._first: Array | None = None
        self.last: Array | None = None
        self.now: Array | None = None

    def drifts(self, fresh: bool) -> dict[str, float]:
        """Drifts of the present kernel, which is the next one's last.

        Args:
            fresh: there is no reading before this one.
        """
        if fresh:
            self._first = self.last = None
        if self.now is None:
            return {}
        found = {}
        for name, earlier in (("kernel/drift", self._first), ("kernel/drift_last", self.last)):
            if earlier is not None:
                found[name] = drift(self.now, earlier)
        self._first = self.now if self._first is None else self._first
        self.last = self.now
        return found


def neighbour_votes(cosines: Array, labels: Labels, k: int, classes: int) -> Array:
    """How many of the k nearest of each sample, itself left out, have each label ``[n, classes]``; they sum to k.

    Where several samples are equally near at the k-th place, each counts with the probability that it is among the k,
    as in :func:`~genkernel.spectra.neighbours.knn_label_agreement`.

    Args:
        cosines: normalised kernel ``[n, n]``.
        labels: ``[n]``.
        k: at most n − 1.
    """
    distance = 1 - cosines
    margin = TIED * float(np.abs(distance).max())
    np.fill_diagonal(distance, np.inf)
    last = np.partition(distance, k - 1, axis=1)[:, k - 1 : k]
    closer = distance < last - margin
    tied = np.isfinite(distance) & (np.abs(distance - last) <= margin)
    weights = closer + tied * (k - closer.sum(1, keepdims=True)) / tied.sum(1, keepdims=True)
    found: Array = weights @ np.eye(classes)[labels]
    return found


def _held_out(given: Any, data: Any, device: torch.device) -> tuple[Any, Labels | None]:
    """Samples held out, and their classes where these came with them."""
    if given is None:
        return None, None
    pair = isinstance(given, (tuple, list)) and len(given) == 2
    pair = pair and (not isinstance(data, (tuple, list)) or isinstance(given[0], (tuple, list)))
    x, y = given if pair else (given, None)
    n = batches.size(x)
    return batches.copy(batches.move(x, device)), None if y is None else class_indices(y, n)
