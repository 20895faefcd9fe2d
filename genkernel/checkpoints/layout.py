"""What lies at a path: a diffusers pipeline, a diffusers model, or a file of weights.

Only file names and JSON are read here. Nothing is loaded.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genkernel.errors import InputError, MissingError

# in the order in which a pipeline's denoiser is looked for
DENOISER_FOLDERS = ("unet", "transformer", "prior", "decoder")
ENCODER_FOLDERS = ("vae", "vqvae")
STEM = "diffusion_pytorch_model"
SAFE_SUFFIXES = frozenset({".safetensors"})
PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})


@dataclass(frozen=True)
class Weights:
    """The files of one model's weights."""

    files: tuple[Path, ...]
    format: str  # "safetensors" or "pickle"
    variant: str | None = None  # "fp16" in diffusion_pytorch_model.fp16.safetensors
    index: Path | None = None  # of sharded weights

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


@dataclass(frozen=True)
class Layout:
    """A checkpoint on disk."""

    root: Path
    kind: str  # "pipeline", "model" or "file"
    weights: Weights
    model: Path | None = None  # the folder with the denoiser's config.json
    model_class: str | None = None
    config: dict[str, Any] = field(default_factory=dict, repr=False)
    scheduler: Path | None = None  # scheduler_config.json
    encoder: Path | None = None  # the folder of a VAE: the denoiser works on its latents
    pipeline_class: str | None = None
    notes: tuple[str, ...] = ()


def detect(path: str | Path) -> Layout:
    """Say what a checkpoint is.

    Knows diffusers pipelines (``model_index.json``; the denoiser in ``unet/`` or
    ``transformer/``, or, in old ones, beside it), single models (``config.json`` with a
    scheduler inside, beside or above it), and single files of weights.

    Raises:
        MissingError: the path, the weights or the configuration of the denoiser do not exist.
        InputError: the folder or the file is of no known kind.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix in SAFE_SUFFIXES:
            return Layout(path, "file", Weights((path,), "safetensors"))
        if path.suffix in PICKLE_SUFFIXES:
            return Layout(path, "file", Weights((path,), "pickle"))
        known = ", ".join(sorted(SAFE_SUFFIXES | PICKLE_SUFFIXES))
        raise InputError(f"{path} is not a checkpoint: weights are files named {known}, or a diffusers folder")
    if not path.is_dir():
        raise MissingError(f"no checkpoint at {str(path)!r}: the path does not exist")
    index = _read_json(path / "model_index.json") if (path / "model_index.json").is_file() else None
    model, notes = _denoiser_folder(path, index)
    config = _read_json(model / "config.json")
    name = config.get("_class_name")
    if not isinstance(name, str):
        raise InputError(f"{model / 'config.json'} names no model class (_class_name), so it is not a diffusers model")
    encoder = None
    if index is not None or model != path:
        encoder = next((path / f for f in ENCODER_FOLDERS if (path / f / "config.json").is_file()), None)
    return Layout(
        root=path,
        kind="pipeline" if index is not None else "model",
        weights=find_weights(model),
        model=model,
        model_class=name,
        config=config,
        scheduler=_scheduler(path, model),
        encoder=encoder,
        pipeline_class=index.get("_class_name") if index else None,
        notes=tuple(notes),
    )


def find_weights(folder: Path) -> Weights:
    """The weight files of one diffusers model; safetensors and full precision are preferred.

    Raises:
        MissingError: there are none, or an index names a shard that is not there.
        InputError: an index names anything but files of weights beside it.
    """
    names = [p.name for p in folder.iterdir() if p.is_file()]
    for suffix, kind in (("safetensors", "safetensors"), ("bin", "pickle")):
        indexed = _variants(names, rf"{STEM}(?:\.([^.]+))?\.{suffix}\.index(?:\.([^.]+))?\.json")
        for name, variant in indexed:
            index = folder / name
            files = tuple(
                folder / shard for shard in _shards(index, SAFE_SUFFIXES if kind != "pickle" else PICKLE_SUFFIXES)
            )
            missing = [file.name for file in files if not file.is_file()]
            if missing:
                raise MissingError(f"{index} names {len(missing)} files that are not there, such as {missing[0]}")
            if files:
                return Weights(files, kind, variant, index)
        for name, variant in _variants(names, rf"{STEM}(?:\.([^.]+))?\.{suffix}"):
            return Weights((folder / name,), kind, variant)
    raise MissingError(f"{folder} has a configuration but no weights ({STEM}.safetensors)")


def _shards(index: Path, suffixes: frozenset[str]) -> list[str]:
    """The files an index names; plain names with a known suffix only, so that nothing outside the folder is opened."""
    named = _read_json(index).get("weight_map", {})
    if not isinstance(named, dict):
        raise InputError(f"{index}: weight_map has to map parameter names to files, not be a {type(named).__name__}")
    for shard in named.values():
        plain = isinstance(shard, str) and not set("/\\\0") & set(shard) and Path(shard).name == shard
        if not plain or Path(shard).suffix not in suffixes:
            known = ", ".join(sorted(suffixes))
            raise InputError(f"{index} names {shard!r}: shards have to be files named {known} in the same folder")
    return sorted(set(named.values()))


def _variants(names: list[str], pattern: str) -> list[tuple[str, str | None]]:
    """Matching file names with their variant (``fp16``), the plain one first, EMA-free ones last."""
    found = []
    for name in names:
        if match := re.fullmatch(pattern, name):
            found.append((name, next((g for g in match.groups() if g), None)))
    return sorted(found, key=lambda pair: (pair[1] is not None, "ema" in (pair[1] or ""), pair[0]))


def _denoiser_folder(path: Path, index: dict[str, Any] | None) -> tuple[Path, list[str]]:
    found = [path / name for name in DENOISER_FOLDERS if (path / name / "config.json").is_file()]
    if index is not None:
        named = [f for f in found if isinstance(index.get(f.name), list) and index[f.name][0] is not None]
        found = named or found
    if found:
        numbered = tuple(f"{name}_" for name in DENOISER_FOLDERS)  # transformer_2 of two-stage pipelines
        rest = [f.name for f in found[1:]] + [k for k in index or {} if k.startswith(numbered) and (path / k).is_dir()]
        notes = [f"the pipeline also has {', '.join(rest)}; {found[0].name} is used"] if rest else []
        return found[0], notes
    if (path / "config.json").is_file():
        return path, []
    wanted = " or ".join(f"{name}/config.json" for name in DENOISER_FOLDERS[:2])
    if index is not None:
        raise MissingError(f"{path} is the pipeline {index.get('_class_name')} but has no denoiser ({wanted})")
    raise InputError(
        f"{path} is not a diffusers checkpoint: it has neither model_index.json nor {wanted} nor config.json"
    )


def _scheduler(root: Path, model: Path) -> Path | None:
    """The scheduler's configuration in, beside or above the model."""
    places = [root / "scheduler", root, model / "scheduler", model.parent / "scheduler", model.parent]
    names = ("scheduler_config.json", "config.json")
    for place in places:
        for name in names if place.name == "scheduler" else names[:1]:
            if (place / name).is_file():
                return place / name
    return None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise MissingError(f"{path} does not exist")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} does not hold a JSON object")
    return value
