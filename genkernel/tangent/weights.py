"""Weights for a module, from wherever training code keeps them, under the module's own names.

A ``state_dict``, an average (diffusers' ``EMAModel``, torch's ``AveragedModel``), another module
or a file, matched by name, or by order where only an order is kept, with every shape compared.
Nothing is copied, and the module is only looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genkernel.checkpoints import read_state_dict
from genkernel.errors import InputError


def read_weights(
    module: nn.Module,
    weights: Any,
    *,
    prefix: str = "",
    strict: bool = True,
    key: str | None = None,
    trust_pickle: bool = False,
) -> dict[str, Tensor]:
    """Tensors for the parameters and buffers of ``module``, by the names it lists them under.

    Arguments and errors as for :meth:`genkernel.tangent.TangentModel.at`.
    """
    if isinstance(weights, (str, Path)):
        weights = read_state_dict(weights, trust_pickle=trust_pickle, key=key)
    elif key is not None:
        raise InputError("key= names an entry of a file: give the path of one, or the weights themselves without key=")
    weights = getattr(weights, "tangent", weights)  # a domain wrapper
    shadow = weights.get("shadow_params") if isinstance(weights, Mapping) else getattr(weights, "shadow_params", None)
    if shadow is not None:
        weights = list(shadow)
    if isinstance(weights, Sequence):
        return _by_order(module, weights)
    if callable(getattr(weights, "state", None)) and isinstance(getattr(weights, "module", None), nn.Module):
        weights = weights.state()  # another TangentModel
    elif isinstance(weights, nn.Module):
        weights = {**dict(weights.named_parameters()), **dict(weights.named_buffers())}
    if not isinstance(weights, Mapping):
        raise InputError(
            "weights are a state_dict, a module, an EMA with shadow_params, a TangentModel or a path, "
            f"not {type(weights).__name__}"
        )
    return _by_name(module, weights, prefix, strict)


def own_names(module: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer, without ``_orig_mod.``, to the one the module lists it under."""
    listed = {id(t): name for name, t in (*module.named_parameters(), *module.named_buffers())}
    every = (*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False))
    return {plain_name(name): listed[id(tensor)] for name, tensor in every}


def plain_name(name: str) -> str:
    """The name that a parameter has in the module that ``torch.compile`` wrapped."""
    return name.replace("_orig_mod.", "")


def without_wrapper(names: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """Plain names, without the ``module.`` that wrappers (DDP, AveragedModel) put before all of them."""
    plain = [plain_name(name) for name in names]
    while plain and all(name.startswith("module.") for name in plain) and not any(name in known for name in plain):
        plain = [name.removeprefix("module.") for name in plain]
    return plain


# ------------------------------------------------------------------------- by name


def _by_name(module: nn.Module, weights: Mapping[Any, Any], prefix: str, strict: bool) -> dict[str, Tensor]:
    # modules may keep more than tensors in a state_dict; how often an average was taken is not a weight
    given = {str(k): v for k, v in weights.items() if str(k) != "n_averaged" and not str(k).endswith("_extra_state")}
    if prefix:
        given = {name.removeprefix(prefix): v for name, v in given.items() if name.startswith(prefix)}
        if not given:
            raise InputError(f"no weight has a name that begins with {prefix!r} (the first is {_first(weights)})")
    known = own_names(module)
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    found: dict[str, Tensor] = {}
    source: dict[str, str] = {}
    unknown = []
    for name, (said, value) in zip(without_wrapper(list(given), known), given.items(), strict=True):
        target = known.get(name)
        if target is None:
            unknown.append(said)
            continue
        _check_entry(said, value, own[target])
        if target in found and not _equal(found[target], value):
            raise InputError(
                f"the module ties {source[target]!r} and {said!r}, and the weights given for them differ: "
                "they are of a module that does not tie them"
            )
        found[target], source[target] = value, said
    if not found:
        kind = type(module).__name__
        raise InputError(
            f"none of the {len(given)} weights is named like a parameter of {kind}: the first is {_first(given)}, "
            f"where {kind} has {_first(own)}; prefix= takes a beginning off the names"
        )
    if strict:
        _check_complete(module, found, unknown)
    return found


def _check_complete(module: nn.Module, found: Mapping[str, Tensor], unknown: list[str]) -> None:
    if unknown:
        raise InputError(
            f"{type(module).__name__} has no parameter or buffer {unknown[0]!r}, which the weights have "
            f"({len(unknown)} such names); strict=False ignores them"
        )
    missing = [name for name, _ in module.named_parameters() if name not in found]
    if not missing:
        stored = {plain_name(name) for name in module.state_dict(keep_vars=True)}
        listed = own_names(module)
        buffers = {name for name, _ in module.named_buffers()}
        kept = [listed[name] for name in stored if listed.get(name) in buffers]
        if any(name in found for name in kept):  # parameters alone (an average of them) leave buffers as they are
            missing = [name for name in dict.fromkeys(kept) if name not in found]
    if missing:
        raise InputError(
            f"the weights have nothing for {min(missing)!r} ({len(missing)} are missing); strict=False keeps what the "
            "module has there"
        )


def _check_entry(name: str, value: Any, own: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise InputError(f"the weight {name!r} is a {type(value).__name__}, not a tensor")
    if value.shape != own.shape:
        raise InputError(f"the weight {name!r} has shape {tuple(value.shape)}, the module's {tuple(own.shape)}")
    if value.is_meta:
        raise InputError(f"the weight {name!r} is on the meta device and holds no values: load it first")
    if value.is_floating_point() != own.is_floating_point():
        raise InputError(f"the weight {name!r} is {value.dtype}, the module's {own.dtype}")


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.data_ptr() == b.data_ptr() and a.stride() == b.stride() and a.device == b.device:
        return True
    return bool(torch.equal(a.detach(), b.detach().to(a)))


def _first(names: Mapping[Any, Any]) -> str:
    return repr(str(next(iter(names)))) if names else "nothing"


# ------------------------------------------------------------------------ by order


def _by_order(module: nn.Module, weights: Sequence[Any]) -> dict[str, Tensor]:
    """Averages that keep a list: in the order of ``module.parameters()``, all or those that are trained."""
    named = list(module.named_parameters())
    trained = [(name, p) for name, p in named if p.requires_grad]
    candidates = [c for c in (named, trained) if len(c) == len(weights)]
    if not candidates:
        raise InputError(
            f"a list of {len(weights)} weights does not say which they are: {type(module).__name__} has {len(named)} "
            f"parameters, {len(trained)} of which require gradients"
        )
    for (name, own), value in zip(candidates[0], weights, strict=True):
        _check_entry(name, value, own)
    return {name: value for (name, _), value in zip(candidates[0], weights, strict=True)}
