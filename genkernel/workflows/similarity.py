"""``gk.similarity``: from a classifier and labelled samples to a report on what its kernel makes of classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.classifier.classifier import Classifier
from genkernel.classifier.folders import by_name, folder_classes
from genkernel.classifier.labels import Labels, balanced, class_indices
from genkernel.classifier.results import SCHEMA_VERSION, SimilarityResult
from genkernel.errors import InputError
from genkernel.runs import Provenance, RunFolder, Stopwatch, data_sha256
from genkernel.tangent.fingerprint import fingerprint
from genkernel.workflows.arguments import (
    as_dtype,
    check_counts,
    check_device,
    check_memory,
    described,
    say_nothing,
    shown,
    stays_on,
)
from genkernel.workflows.report import BaseReport
from genkernel.workflows.resume import finished

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from genkernel.data import ImageSet


READ = 10  # times as many images are read as are taken: so many of every class are to be among them
IGNORED = (
    "its labels are left out, as nothing says that they are of this classifier's classes (new_labels=True, "
    "--new-labels, takes them as such)"
)


class SimilarityReport(BaseReport["SimilarityResult"]):
    """What :func:`genkernel.similarity` found, and where it came from.

    Attributes:
        result: the numbers (:class:`SimilarityResult`).
        provenance: versions, arguments, digests, timings.
        folder: where it was saved to or read from; None for a report in memory.
        reused: it was read from a finished run instead of being computed.
    """

    kind = "classifier"

    @classmethod
    def _stored(cls) -> tuple[type[SimilarityResult], int]:
        return SimilarityResult, SCHEMA_VERSION

    def _drawings(self) -> Mapping[str, Callable[[], Figure]]:
        from genkernel.plots.classifier import classifier_figures

        return classifier_figures(self.result)

    def _page(self, drawn: Mapping[str, bytes]) -> str:
        from genkernel.report.classifier import classifier_page

        return classifier_page(self.result, self.provenance.to_json(), drawn)

    def __repr__(self) -> str:
        own = self.result.trained
        size = f"{len(self.result.labels)} samples, {len(self.result.names)} classes"
        return f"SimilarityReport({size}, within − between {own.contrast:.2f}, CKA {own.cka:.2f}{self._where()})"


@dataclass
class Samples:
    """Samples as a network takes them, with their classes where these are known.

    Attributes:
        inputs: a tensor ``[n, ...]``, a dict of the network's keyword arguments, or a tuple.
        labels: ``[n]``, or None.
        description: what they are and where they come from.
        names: of classes, by their numbers, where folders were taken as classes.
        notes: what was assumed of the labels, in sentences.
    """

    inputs: Any
    labels: Labels | None
    description: str
    names: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        from genkernel.tangent import batches

        return batches.size(self.inputs)

    def about(self) -> dict[str, Any]:
        """For provenance."""
        plain = isinstance(self.inputs, Tensor)
        return {
            "description": self.description,
            "count": len(self),
            "labels": None if self.labels is None else data_sha256(torch.from_numpy(self.labels)),
            "sha256": data_sha256(self.inputs) if plain else fingerprint(self.inputs),
        }


def similarity(
    model: Any,
    data: Any,
    *,
    labels: Any = None,
    new: Any = None,
    new_labels: Any = None,
    held_out: Any = None,
    checkpoints: Mapping[str, Any] | Sequence[str | Path] | None = None,
    samples: int = 200,
    probes: int = 8,
    neighbours: int = 10,
    controls: bool = True,
    seed: int = 0,
    out: str | Path | None = None,
    split: str = "test",
    dtype: str | torch.dtype | None = None,
    memory: str | int = "8GiB",
    device: str | torch.device | None = None,
    download: bool = False,
    trust_pickle: bool = False,
    resume: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> SimilarityReport:
    """Does the kernel of a classifier know its classes, what is that due to, and how far does it reach? (THEORY §8)

    Args:
        model: a :class:`~genkernel.Classifier`, a network (whose options are those of the wrapper), or a path or name
            for :func:`genkernel.load`, such as ``"torchvision:resnet18"`` or ``"mnist-classifier"``.
        data: labelled samples. Anything :func:`genkernel.load_images` reads with labels, brought to the size and
            channels of the classifier and normalised as it says; or, as the network takes them, ``(inputs, labels)``,
            or a tensor or dict of its keyword arguments with ``labels``. Folders with one folder per class are matched
            with the names of the classes (in any case of letters); folders named by whole numbers are these classes;
            as many folders as classes, none of which has the name of one, are taken in sorted order, which is said.
        labels: classes ``[n]`` of ``data``, numbers of logits or names of classes, where they do not come with it.
        new: samples of another kind, such as printed digits for a network of written ones; forms as for ``data``.
            Labels that come with what is read are not taken as the network's classes, unless ``new_labels`` says so or
            all their folders have names of classes.
        new_labels: their classes ``[m]``; or True for those that come with them, as for ``data``.
        held_out: samples of the kind of ``data`` that the network was not trained on, beside which new ones are seen;
            those that are part of ``data`` are left out.
        checkpoints: earlier weights of the same network: files in the order of the training, or name → a file or
            anything else that :meth:`TangentModel.at` takes.
        samples: at most so many of each, of all classes alike, drawn with ``seed``.
        probes: random probes of the trace kernel; with no more logits than that it is exact.
        neighbours: of each sample, at most; no more than the smallest class has others.
        controls: also compute the untrained network, permuted labels, the inputs, and the kernel without its last
            layer.
        seed: of the choice of samples, the probes, the folds and the untrained network.
        out: write the run folder there; it is claimed before the work starts.
        split: of data sources that have several.
        dtype: of the gradients (default: the model's).
        memory: bound on the memory of the kernel computation, such as ``"8GiB"``.
        device: where to compute; by default where the model is.
        download: allow the network for torchvision's weights and data sets.
        trust_pickle: allow a checkpoint's pickle to run code.
        resume: if ``out`` already holds this very run, read it instead of computing it again.
        progress: called with (stage, stages done, number of stages) before each stage.
        say: called with one sentence for everything that was converted or assumed.
        options: of :func:`genkernel.load`, or of :class:`~genkernel.Classifier`.

    Returns:
        SimilarityReport: ``.result``, ``.kernel``, ``.summary()``, ``.save(dir)``.

    Raises:
        InputError: samples without labels, labels that cannot be matched with the classes, no class with two samples,
            or samples of a form that the classifier does not take.
        GenkernelError: see ``load``, ``load_images`` and the analysis; every message is one sentence.
    """
    from genkernel.classifier.reading import read
    from genkernel.classifier.similarity import analyze

    say = say or say_nothing
    check_counts(samples=(samples, 4), probes=(probes, 1), neighbours=(neighbours, 1))
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InputError(f"seed has to be a whole number from 0 to 2^32 - 1, not {shown(seed)}")
    kind = as_dtype(dtype)
    check_memory(memory)
    check_device(device)
    watch = Stopwatch()
    folder = None if out is None else RunFolder.create(out, kind=SimilarityReport.kind)
    try:
        with watch("load"):
            clf = _classifier(model, device, download, trust_pickle, options)
            for note in clf.notes:
                say(note)
            earlier_weights = _checkpoints(checkpoints, trust_pickle)

        def take(given: Any, mine: Any, name: str, without: Any = None, **how: Any) -> Samples:
            found = samples_for(
                clf, given, mine, samples, seed, split=split, download=download, name=name, without=without, **how
            )
            for said in (found.description, *found.notes):
                say(f"{name}: {said}")
            return found

        with watch("data"):
            trained = take(data, labels, "data")
            if trained.labels is None:
                raise InputError(
                    "similarity compares classes, and data has no labels: give a folder with one folder per class, or "
                    "labels="
                )
            others = None
            if new is not None:
                others = take(
                    new,
                    None if isinstance(new_labels, bool) else new_labels,
                    "new",
                    own_labels="needed" if new_labels is True else "named",
                    classes=trained,
                )
                if new_labels is True and others.labels is None:
                    raise InputError(
                        "new_labels=True (--new-labels) takes the labels that come with new, and none do: give a "
                        "folder with one folder per class, or the classes as an array"
                    )
            held = None if held_out is None else take(held_out, None, "held_out", trained.inputs, own_labels="unused")
        provenance = Provenance(
            arguments={
                "checkpoint": clf.checkpoint.get("name") or clf.name,
                "data": trained.about(),
                "new": None if others is None else others.about(),
                "held_out": None if held is None else held.about(),
                "checkpoints": {name: fingerprint(weights) for name, weights in earlier_weights.items()},
                # what is made of a file, whose digest does not say so
                "network": described(options or None),
                "samples": samples,
                "probes": probes,
                "neighbours": neighbours,
                "controls": controls,
                "seed": seed,
                "dtype": str(kind or clf.dtype).removeprefix("torch."),
                "device": str(clf.device),
                "memory": str(memory),
            },
            seed=seed,
            device=str(clf.device),
            dtype=str(kind or clf.dtype).removeprefix("torch."),
            checkpoint={"name": clf.checkpoint.get("name") or clf.name, "sha256": clf.checkpoint.get("sha256")},
            data={"source": trained.description, **trained.about()},
        )
        if resume and out is not None and (earlier := finished(out, provenance)) is not None:
            say(f"the finished run in {out} has the same arguments, samples and weights: it is used again")
            return earlier
        with watch("similarity"):
            result, kernel = analyze(
                clf,
                trained.inputs,
                trained.labels,
                new=None if others is None else others.inputs,
                new_labels=None if others is None else others.labels,
                held_out=None if held is None else held.inputs,
                checkpoints=earlier_weights,
                number=probes,
                neighbours=neighbours,
                controls=controls,
                seed=seed,
                dtype=kind,
                memory=memory,
                progress=progress,
            )
        result.meta.update(model=clf.name, dtype=provenance.dtype, data=trained.description)
        if clf.names is None and trained.names:
            result.names = [trained.names[c] for c in result.classes.tolist()]
        asked = [("data", trained), *([] if others is None else [("new", others)])]
        result.notes[:0] = [f"{name}: {note}" for name, one in asked for note in one.notes]
        result.meta["reading"] = read(result)
        report = SimilarityReport(result, kernel, provenance, stopwatch=watch)
        if folder is None:
            provenance.complete(watch)
        else:
            report.save(folder)
        return report
    finally:
        if folder is not None:
            folder.close()


def _checkpoints(given: Any, trust_pickle: bool) -> dict[str, Any]:
    """Name → weights, read where they are files."""
    from genkernel.checkpoints import read_state_dict, resolve

    if given is None:
        return {}
    if isinstance(given, (str, Path)):
        given = [given]
    if not isinstance(given, Mapping):
        given = {Path(file).stem: file for file in given}
    found = {}
    for name, weights in given.items():
        if isinstance(weights, (str, Path)):
            weights = read_state_dict(resolve(weights), trust_pickle=trust_pickle)
        elif isinstance(weights, torch.nn.Module):
            weights = weights.state_dict()
        found[str(name)] = weights
    return found


def _classifier(model: Any, device: Any, download: bool, trust_pickle: bool, options: Mapping[str, Any]) -> Classifier:
    """A classifier from whatever was given; a module or classifier is never moved."""
    if isinstance(model, (str, Path)):
        from genkernel.workflows.load import load

        given = {"kind": "classifier", **options}
        found = load(model, device=device, download=download, trust_pickle=trust_pickle, **given)
        assert isinstance(found, Classifier)
        return found
    if isinstance(model, Classifier):
        if options:
            raise InputError(
                f"{', '.join(sorted(options))} cannot be changed on a finished Classifier: give it to gk.wrap"
            )
        found = model
    else:
        from genkernel.workflows.wrap import wrap

        found = wrap(model, kind="classifier", **options)
    stays_on(found, device)
    return found


def samples_for(
    clf: Classifier,
    given: Any,
    labels: Any,
    limit: int,
    seed: int = 0,
    *,
    split: str = "test",
    download: bool = False,
    name: str = "data",
    without: Any = None,
    own_labels: Literal["needed", "named", "unused"] = "needed",
    classes: Samples | None = None,
) -> Samples:
    """Samples as a classifier takes them, of all classes alike.

    Images that are read (from a folder, an archive, a data set) are in [0, 1], and are brought to the classifier's
    size, channels and normalisation. Tensors and dicts are taken as they are.

    Args:
        labels: numbers or names of classes; None for those that come with the samples.
        limit: at most so many.
        name: for messages.
        without: samples that are not to be among them.
        own_labels: what labels that are read along with images are for: ``"needed"`` as classes of the network;
            ``"named"``, the same where they are of folders that all have the name of a class; ``"unused"``, to draw
            from all of them alike and for nothing else.
        classes: those that there are samples of already, whose labels and names those that are read are matched with.

    Raises:
        InputError: they are neither, labels do not fit or are missing, or none is left.
    """
    from genkernel.data import ImageSet, load_images
    from genkernel.tangent import batches

    found = None
    if isinstance(given, (str, Path, ImageSet)):
        shape = clf.sample_shape
        fits: dict[str, Any] = {}
        if shape is not None and len(shape) == 3:
            fits = {"size": (shape[1], shape[2]), "channels": shape[0]}
        most = READ * limit if labels is None else None  # labels are of all of them
        found = load_images(given, limit=most, split=split, seed=seed, download=download, **fits)
        inputs: Any = clf.prepare(found.images)
        said = found.describe().removeprefix(f"{len(found)} images ")
    else:
        pair = isinstance(given, (tuple, list)) and len(given) == 2 and labels is None
        inputs, labels = given if pair else (given, labels)
        said = "in memory, " + (f"{tuple(inputs.shape[1:])}" if isinstance(inputs, Tensor) else type(inputs).__name__)
    n = batches.size(inputs)
    own, kinds = None, None
    names: dict[int, str] = {}
    notes: list[str] = []
    if labels is not None:
        own = kinds = class_indices(labels, n, f"samples of {name}", clf.names)
    elif found is not None and found.labels is not None:
        kinds = class_indices(found.labels, n, f"samples of {name}")
        if own_labels != "unused":
            own, names, notes = _matched(clf, found, inputs, name, own_labels, classes)
    there = np.flatnonzero(~_among(inputs, without, n))
    if not len(there):
        raise InputError(f"all samples of {name} are part of data: give others")
    rows = there[_rows(None if kinds is None else kinds[there], len(there), limit, seed)]
    left = "" if len(there) == n else f"; {n - len(there)} that are part of data left out"
    taken = batches.take(inputs, torch.from_numpy(rows))
    said = f"{len(rows)} of {n} samples {said}{left}"
    return Samples(taken, None if own is None else own[rows], said, names, notes)


def _matched(
    clf: Classifier, found: ImageSet, inputs: Any, name: str, own_labels: str, known: Samples | None
) -> tuple[Labels | None, dict[int, str], list[str]]:
    """Labels that were read as classes of the network, the folders of these, and notes; None where they are no such."""
    from genkernel.tangent import batches

    raw = class_indices(found.labels, len(found), f"samples of {name}")
    folders = found.names
    if folders is None:
        return (raw, {}, []) if own_labels == "needed" else (None, {}, [IGNORED])
    count = max(2, clf.logits(batches.take(inputs, slice(0, 1))).shape[1])
    names = None if clf.names is None else clf.class_names(count)
    called = names
    if names is None and known is not None and known.names:
        called = [known.names.get(c, "") for c in range(count)]
    mine, note = by_name(folders, called), None
    if mine is None and own_labels == "named":
        return None, {}, [IGNORED]
    if mine is None:
        mine, note = folder_classes(folders, names, count, name)
    own = np.array(mine, dtype=np.int64)[raw]
    there = set() if known is None or known.labels is None else set(known.labels.tolist())
    if own_labels == "named" and there and (missing := sorted(set(own.tolist()) - there)):
        said = ", ".join(folders[mine.index(c)] for c in missing[:5])
        return None, {}, [f"its labels are left out, as data has no samples of {said}"]
    return own, dict(zip(mine, folders, strict=True)), [] if note is None else [note]


def _among(inputs: Any, others: Any, n: int) -> NDArray[np.bool_]:
    """Which of n samples are among others; none where they are more than one tensor."""
    if not isinstance(inputs, Tensor) or not isinstance(others, Tensor):
        return np.zeros(n, dtype=bool)
    known = {row.numpy().tobytes() for row in others.detach().cpu().contiguous()}
    return np.array([row.numpy().tobytes() in known for row in inputs.detach().cpu().contiguous()], dtype=bool)


def _rows(labels: Labels | None, n: int, limit: int, seed: int) -> NDArray[np.int64]:
    if labels is not None:
        return balanced(labels, limit, seed)
    return np.sort(np.random.default_rng(seed).permutation(n)[:limit])
