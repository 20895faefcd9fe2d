"""``gk.load`` and ``gk.wrap`` for classifiers: torchvision's by name, our folders, the user's classes and weights."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genkernel.errors import InputError, MissingError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from genkernel.classifier import Classifier

TORCHVISION = "torchvision:"
RECORD, WEIGHTS = "training.json", "model.safetensors"
_OURS = frozenset({"module", "name", "checkpoint", "notes"})


def is_classifier_folder(path: str | Path) -> bool:
    """Whether a ``training.json`` says how the classifier in a folder is built."""
    return _record(path) is not None


def load_classifier(
    path: str | Path,
    factory: str | None = None,
    factory_args: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
    *,
    weights: str | Path | None = None,
    name: str | None = None,
    key: str | None = None,
    download: bool = False,
    trust_pickle: bool = False,
    **options: Any,
) -> Classifier:
    """Load a classifier.

    Args:
        path: ``"torchvision:resnet18"``; the folder of a reference classifier, as ``scripts/train_mnist_classifier.py``
            writes it, or its name, ``"mnist-classifier"``; or a file of weights (then with ``factory``).
        factory, factory_args: as for :func:`genkernel.load`.
        weights: of a network of torchvision: a file; without it torchvision's own, from its cache unless ``download``.
            Classes of a file have names where it is one that torchvision publishes.
        key: entry of a nested weights file.
        options: those of :class:`~genkernel.classifier.Classifier`; mean, std, names and the size of the images follow
            from torchvision's weights, and from the record of a folder, where they are not given.

    Raises:
        MissingError: there is nothing at ``path``, or torchvision's weights are not here and may not be downloaded.
        UnsafeCheckpointError: reading it would run code from it.
        InputError: a network is not known, weights do not fit it, or something it needs was not given.
        NonFiniteError: its weights hold NaN or infinity.
    """
    from genkernel.checkpoints import resolve, sha256
    from genkernel.workflows.device import place
    from genkernel.workflows.factory import from_factory

    _known(options)
    target = place(device)
    if str(path).startswith(TORCHVISION):
        return _torchvision(str(path), target, weights, name, key, download, trust_pickle, options)
    if weights is not None:
        raise InputError(f"weights= are of networks of torchvision ('{TORCHVISION}resnet18'), not of {path}")
    where = resolve(path, download=download)
    record = _record(where)
    known: dict[str, Any] = {}
    if record is not None:
        factory, factory_args, known = _recorded(where, record, factory, factory_args)
        name, where = name or where.name, where / WEIGHTS
        if not where.is_file():
            raise MissingError(f"{path} holds no {WEIGHTS}: the training that it is of has not finished")
    if factory is None:
        raise InputError(
            f"{path} does not say what network it belongs to: pass the classifier's class as factory='module:Class', "
            f"or load one of torchvision with these weights ('{TORCHVISION}resnet18', weights={path})"
        )
    module, notes = from_factory(factory, factory_args, where, trust_pickle, key)
    checkpoint = {"name": str(path), "sha256": sha256(where)}
    return _wrapped(
        module.to(target), path, {**known, **options}, name=name or where.stem, checkpoint=checkpoint, notes=notes
    )


def wrap_classifier(module: nn.Module, options: Mapping[str, Any]) -> Classifier:
    """A classifier of any network; mean, std and size of the images as its ``pretrained_cfg`` says, if it has one.

    Raises:
        InputError: an option is unknown, or makes no sense.
    """
    from genkernel.classifier import Classifier

    _known({name: value for name, value in options.items() if name not in _OURS})
    return Classifier(module, **{**_timm(module), **options})


def _torchvision(
    path: str,
    target: torch.device,
    weights: str | Path | None,
    name: str | None,
    key: str | None,
    download: bool,
    trust_pickle: bool,
    options: Mapping[str, Any],
) -> Classifier:
    import torchvision

    from genkernel.checkpoints import read_state_dict, resolve, sha256

    which = path.removeprefix(TORCHVISION)
    known = torchvision.models.list_models(module=torchvision.models)
    if which not in known:
        near = " or ".join(map(repr, get_close_matches(which, known, 3)))
        raise InputError(f"torchvision has no classifier {which!r}" + (f": is {near} meant?" if near else ""))
    default = torchvision.models.get_model_weights(which).DEFAULT
    where = _cached(default, path, download) if weights is None else resolve(weights)
    state, digest = read_state_dict(where, key=key, trust_pickle=trust_pickle), sha256(where)
    module = _filled(which, state, len(default.meta["categories"]), f"{where} does not hold weights of {path}")
    if weights is None and hasattr(module, "transform_input"):
        setattr(module, "transform_input", True)  # noqa: B010  (as torchvision does for weights that it has converted)
    transforms = default.transforms()
    side = int(transforms.crop_size[0])
    said: dict[str, Any] = {"mean": transforms.mean, "std": transforms.std, "sample_shape": (3, side, side)}
    names = default.meta["categories"] if weights is None else _published(which, digest)
    if names is not None:
        said["names"] = names
    assumed = [f"{side} × {side}"] if "sample_shape" not in options else []
    assumed += ["normalised"] if not {"mean", "std"} & set(options) else []
    notes = [f"images are {' and '.join(assumed)} as for torchvision's own weights"] if assumed else []
    checkpoint = {"name": path if weights is None else str(weights), "sha256": digest}
    return _wrapped(
        module.eval().to(target), path, {**said, **options}, name=name or which, checkpoint=checkpoint, notes=notes
    )


def _published(which: str, digest: str) -> list[str] | None:
    """Names of classes, where a file is one that torchvision publishes: its name ends in the start of its digest."""
    import torchvision

    for one in torchvision.models.get_model_weights(which):
        _, dash, start = Path(one.url).stem.rpartition("-")
        if dash and digest.startswith(start):
            return list(one.meta["categories"])
    return None


def _cached(default: Any, path: str, download: bool) -> Path:
    """The file of torchvision's own weights."""
    from torch.hub import get_dir

    file = Path(get_dir()) / "checkpoints" / Path(default.url).name
    if not file.is_file() and not download:
        raise MissingError(
            f"the weights of {path} are not on this machine: give a file of them (weights=, --weights), or allow the "
            "download (download=True, --download)"
        )
    if not file.is_file():
        try:
            default.get_state_dict(progress=False, check_hash=True)
        except Exception as error:  # of whatever kind: the network, or the disk
            raise MissingError(f"the weights of {path} cannot be downloaded: {error}") from error
    return file


def _filled(which: str, state: Mapping[str, Any], classes: int, misfit: str) -> nn.Module:
    """A network of torchvision with these weights, for as many classes as they tell apart."""
    import torch
    from torchvision.models import get_model

    own = {"init_weights": False} if which in ("googlenet", "inception_v3") else {}  # else they take a minute, and warn
    with torch.random.fork_rng(devices=[]):
        module = get_model(which, weights=None, **own)
        expected = {name: value.shape for name, value in module.state_dict().items()}
        other = {
            int(value.shape[0])
            for name, value in state.items()
            if name in expected and value.shape[1:] == expected[name][1:] and len(expected[name])
            if expected[name][0] == classes != value.shape[0]
        }
        if len(other) == 1:
            module = get_model(which, weights=None, num_classes=other.pop(), **own)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{misfit}: {' '.join(str(error).split())[:300]}") from error
    return module


def _wrapped(module: nn.Module, path: str | Path, options: Mapping[str, Any], **ours: Any) -> Classifier:
    try:
        return wrap_classifier(module, {**options, **ours})
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error


def _known(options: Mapping[str, Any]) -> None:
    from genkernel.classifier import Classifier

    known = set(inspect.signature(Classifier).parameters) - _OURS
    if unknown := sorted(set(options) - known):
        raise InputError(f"{unknown[0]!r} is no option of a classifier; these are {', '.join(sorted(known))}")


def _record(path: str | Path) -> dict[str, Any] | None:
    """What is recorded of a folder of a classifier; None for anything else."""
    file = Path(path).expanduser() / RECORD
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # somebody else's file of that name
        return None
    return found if isinstance(found, dict) and isinstance(found.get("factory"), str) else None


def _recorded(
    folder: Path, record: Mapping[str, Any], factory: str | None, arguments: Mapping[str, Any] | None
) -> tuple[str, Mapping[str, Any], dict[str, Any]]:
    """Factory and arguments: those given, else those recorded, as far as they are networks of ours; and the inputs."""
    from genkernel.workflows.factory import is_ours

    recorded = record["factory"]
    if factory is None and not is_ours(recorded):
        raise InputError(
            f"{folder / RECORD} names {recorded!r}, which is no network of genkernel.models: if it may be imported, "
            f"pass factory={recorded!r}"
        )
    inputs = {name: record[name] for name in ("sample_shape", "mean", "std", "names") if name in record}
    return factory or recorded, dict(record.get("arguments") or {}) if arguments is None else arguments, inputs


def _timm(module: nn.Module) -> dict[str, Any]:
    """What a network of timm says of its images."""
    config = getattr(module, "pretrained_cfg", None)
    if not isinstance(config, Mapping):
        return {}
    names = {"mean": "mean", "std": "std", "input_size": "sample_shape"}
    return {ours: config[theirs] for theirs, ours in names.items() if config.get(theirs)}
