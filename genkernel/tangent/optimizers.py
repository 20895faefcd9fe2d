"""The diagonal P of a torch optimizer, from its state.

Conventions of THEORY §3.2: a step is Δθ = -γ P m̂ with the learning rate γ outside P and m̂ the
(bias-corrected) momentum, so P g is the direction that a fresh gradient is turned into once the
momentum is left out. With γ a group's learning rate, k the parameter's own step and
v̂ = v / (1 - β₂ᵏ):

    SGD                       1
    Adagrad                   1 / (√s + ε)                  γ divided by 1 + (k - 1)·lr_decay
    RMSprop                   1 / (√v + ε)                  centred: v less the squared mean gradient
    Adam, AdamW, NAdam        1 / (√v̂ + ε)                  amsgrad: v is the maximum of all v so far
    RAdam                     ρ √(1 - β₂ᵏ) / (√v + ε)       1 while the variance is intractable (SMA ≤ 5)
    Adamax                    1 / u                         u holds ε already
    Adadelta                  √(a + ε) / √(v + ε)           a, v as stored, see below

Accumulators are read as they are stored, that is after a step: then P is the one the step used.
Adadelta is the exception: its accumulated squared updates are one update ahead of those the last
step used, so P is that of the next step up to what its gradient adds to v.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.tangent.model import TangentModel
from genkernel.tangent.weights import own_names, without_wrapper

Entry = Mapping[str, Any]  # the state of one parameter
Group = Mapping[str, Any]  # hyperparameters
Names = Sequence[str] | Mapping[int, str]

_WIDEST = 2000  # partial matchings followed at a time


def diagonal_of(
    source: Any,
    model: TangentModel,
    *,
    names: Names | None = None,
    kind: str | None = None,
    learning_rates: str = "relative",
    without_state: str = "refuse",
) -> tuple[dict[str, Tensor], str]:
    """P by name for every selected parameter, float64 on the model's device, and what it is, in words.

    Arguments and errors as for :meth:`genkernel.tangent.Preconditioner.from_optimizer`.
    """
    if learning_rates not in ("relative", "include", "exclude"):
        raise InputError(f"learning_rates is 'relative', 'include' or 'exclude', not {learning_rates!r}")
    if without_state not in ("refuse", "zero"):
        raise InputError(f"without_state is 'refuse' or 'zero', not {without_state!r}")
    source = _unwrapped(source)
    live = hasattr(source, "param_groups") and callable(getattr(source, "state_dict", None))
    state = source.state_dict() if live else source
    groups, entries = _parts(state)
    named_kind = kind is not None or live
    kind = _checked(kind) if kind is not None else _kind_of(source) if live else _recognised(groups, entries)
    if live and names is None:
        name_of = _by_identity(model, source.param_groups, groups)
    else:
        name_of = _names(model, groups, entries, names, kind)
    return _collect(model, groups, entries, name_of, kind, named_kind, learning_rates, without_state)


def _collect(
    model: TangentModel,
    groups: list[Group],
    entries: Mapping[Any, Entry],
    name_of: Mapping[Any, str],
    kind: str,
    named_kind: bool,
    learning_rates: str,
    without_state: str,
) -> tuple[dict[str, Tensor], str]:
    parameters = dict(model.module.named_parameters())
    selected = set(model.parameter_names)
    rates: dict[str, float] = {}
    found: dict[str, Tensor] = {}
    idle: list[str] = []
    for group in groups:
        for index in group["params"]:
            name, entry = name_of.get(index), entries.get(index) or {}
            if name is None:
                continue
            _check_shapes(name, entry, parameters[name])
            steps = _steps(entry)
            if kind != "sgd" and (not entry or steps == 0):
                idle.append(name)
                continue
            rates[name] = _rate(kind, group, steps)
            if name not in selected:
                continue
            try:
                diagonal = _FORMULAS[kind](entry, group)
            except (KeyError, TypeError) as error:
                raise InputError(
                    f"the state of {name!r} is not that of {_TITLES[kind]}: it holds {_listed(entry)}, and its group "
                    f"{_listed(group)}"
                ) from error
            found[name] = diagonal.to(model.device, torch.float64).expand(parameters[name].shape)
    missing = [name for name in model.parameter_names if name not in found]
    if missing and without_state == "refuse":
        why = "never took a step on it" if missing[0] in idle else "does not hold it"
        raise InputError(
            f"the optimizer {why}: parameter {missing[0]!r} has no preconditioner ({len(missing)} such parameters); "
            "gk.Preconditioner.from_optimizer(…, without_state='zero') gives those P = 0, as they do not move"
        )
    largest = max(rates.values(), default=0.0)
    for name, diagonal in found.items():
        if learning_rates == "include":
            found[name] = diagonal * rates[name]
        elif learning_rates == "relative" and rates[name] != largest:
            found[name] = diagonal * (rates[name] / largest)
    for name in missing:
        found[name] = torch.zeros((), dtype=torch.float64, device=model.device).expand(parameters[name].shape)
    words = f"{_TITLES[kind]} diagonal" if named_kind else f"{_TITLES[kind]}-type diagonal, as its entries suggest"
    words += ", without momentum"
    if learning_rates == "include":
        words += ", times the learning rates"
    elif learning_rates == "relative" and any(rates[name] != largest for name in found if name in rates):
        words += ", times the learning rates relative to the largest"
    if missing:
        words += f", 0 on {len(missing)} parameters that never moved"
    return {name: found[name] for name in model.parameter_names}, words


# ------------------------------------------------------------------------ formulas


def _second_moment(entry: Entry) -> Tensor:
    return entry.get("max_exp_avg_sq", entry["exp_avg_sq"]).double()


def _bias(entry: Entry, group: Group) -> float:
    """1 - β₂ᵏ with the parameter's own step k."""
    return 1 - float(group["betas"][1]) ** float(entry["step"])


def _adam(entry: Entry, group: Group) -> Tensor:
    return 1 / ((_second_moment(entry) / _bias(entry, group)).sqrt() + float(group["eps"]))


def _radam(entry: Entry, group: Group) -> Tensor:
    beta, step = float(group["betas"][1]), float(entry["step"])
    longest = 2 / (1 - beta) - 1
    length = longest - 2 * step * beta**step / _bias(entry, group)
    if length <= 5:
        return torch.ones((), dtype=torch.float64)
    rectified = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return (rectified * _bias(entry, group)) ** 0.5 / (entry["exp_avg_sq"].double().sqrt() + float(group["eps"]))


def _adamax(entry: Entry, group: Group) -> Tensor:
    return 1 / entry["exp_inf"].double()


def _rmsprop(entry: Entry, group: Group) -> Tensor:
    second = entry["square_avg"].double()
    if group["centered"]:
        second = (second - entry["grad_avg"].double().square()).clamp_min(0)  # rounding may leave it below
    return 1 / (second.sqrt() + float(group["eps"]))


def _adagrad(entry: Entry, group: Group) -> Tensor:
    return 1 / (entry["sum"].double().sqrt() + float(group["eps"]))


def _adadelta(entry: Entry, group: Group) -> Tensor:
    eps = float(group["eps"])
    return ((entry["acc_delta"].double() + eps) / (entry["square_avg"].double() + eps)).sqrt()


def _sgd(entry: Entry, group: Group) -> Tensor:
    return torch.ones((), dtype=torch.float64)


_FORMULAS: dict[str, Callable[[Entry, Group], Tensor]] = {
    "sgd": _sgd,
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
    "adam": _adam,
    "adamw": _adam,
    "nadam": _adam,
    "radam": _radam,
    "adamax": _adamax,
    "adadelta": _adadelta,
}
_TITLES = {
    "sgd": "SGD",
    "adagrad": "Adagrad",
    "rmsprop": "RMSprop",
    "adam": "Adam",
    "adamw": "AdamW",
    "nadam": "NAdam",
    "radam": "RAdam",
    "adamax": "Adamax",
    "adadelta": "Adadelta",
}
_ACCUMULATORS = ("exp_avg_sq", "max_exp_avg_sq", "exp_inf", "square_avg", "grad_avg", "acc_delta", "sum")
_SHAPED = (*_ACCUMULATORS, "exp_avg", "momentum_buffer")


def _rate(kind: str, group: Group, steps: float | None) -> float:
    rate = float(group.get("lr", 1.0))
    if kind == "adagrad":
        rate /= 1 + (max(steps or 0.0, 1.0) - 1) * float(group.get("lr_decay", 0.0))
    return rate


def _steps(entry: Entry) -> float | None:
    return float(entry["step"]) if "step" in entry else None


# --------------------------------------------------------------------- whose state


def _unwrapped(source: Any) -> Any:
    """The optimizer inside of a wrapper such as Accelerate's."""
    inner = getattr(source, "optimizer", None)
    return _unwrapped(inner) if isinstance(inner, torch.optim.Optimizer) else source


def _parts(state: Any) -> tuple[list[Group], Mapping[Any, Entry]]:
    if not isinstance(state, Mapping):
        raise InputError(f"an optimizer's state is a torch optimizer or its state_dict(), not {type(state).__name__}")
    if "state" not in state or "param_groups" not in state:
        raise InputError("an optimizer's state_dict() has the entries 'state' and 'param_groups'; this mapping has not")
    groups = list(state["param_groups"])
    if not any(group["params"] for group in groups):
        raise InputError("the optimizer holds no parameters, so it gives no preconditioner")
    return groups, state["state"]


def _checked(kind: str) -> str:
    if kind.lower() not in _FORMULAS:
        raise InputError(f"the diagonal of {kind!r} is not known; known are {', '.join(_TITLES.values())}")
    return kind.lower()


def _kind_of(optimizer: Any) -> str:
    """Which of torch's optimizers this is; a subclass with a step of its own is another."""
    ancestors = [c.__name__ for c in type(optimizer).__mro__ if c.__module__.startswith("torch.optim")]
    own_step = not getattr(getattr(type(optimizer), "step", None), "__module__", "").startswith("torch.optim")
    name = type(optimizer).__name__ if own_step or not ancestors else ancestors[0]
    if own_step or name.lower() not in _FORMULAS:
        raise InputError(
            f"{name} does not turn a gradient into a step by a diagonal that is known: known are "
            f"{', '.join(_TITLES.values())}; kind= says which of them it is if its state and step are theirs"
        )
    return name.lower()


def _recognised(groups: list[Group], entries: Mapping[Any, Entry]) -> str:
    """Which of torch's optimizers wrote this state, from what it stored and its hyperparameters."""
    stored = {key for entry in entries.values() for key in entry}
    options = set(groups[0])
    marks: tuple[tuple[str, set[str], set[str]], ...] = (
        ("adamax", {"exp_inf"}, {"betas"}),
        ("nadam", {"exp_avg_sq", "mu_product"}, {"betas", "momentum_decay"}),
        ("adam", {"exp_avg_sq"}, {"betas", "amsgrad"}),
        ("radam", {"exp_avg_sq"}, {"betas", "decoupled_weight_decay"}),
        ("adadelta", {"acc_delta", "square_avg"}, {"rho"}),
        ("rmsprop", {"square_avg"}, {"alpha", "centered"}),
        ("adagrad", {"sum"}, {"lr_decay"}),
        ("sgd", set(), {"dampening", "nesterov"}),
    )
    for kind, keys, hyperparameters in marks:
        if keys <= stored and hyperparameters <= options and (kind != "sgd" or stored <= {"momentum_buffer"}):
            return kind
    if not stored:
        raise InputError("the optimizer's state is empty: it never took a step, so it gives no preconditioner")
    raise InputError(
        f"this optimizer state (entries {_listed(stored)}) is none of {', '.join(_TITLES.values())} as torch writes "
        "them: kind= says which of them it is if its entries and step are theirs, and Preconditioner.diagonal takes "
        "any P by parameter name"
    )


def _listed(keys: Any) -> str:
    return ", ".join(sorted(map(str, keys))) or "nothing"


# --------------------------------------------------------------------- whose entry


def _by_identity(model: TangentModel, live: list[Group], saved: list[Group]) -> dict[Any, str]:
    name_of = {id(parameter): name for name, parameter in model.module.named_parameters()}
    found = {
        index: name_of[id(parameter)]
        for group, indices in zip(live, saved, strict=True)
        for parameter, index in zip(group["params"], indices["params"], strict=True)
        if id(parameter) in name_of
    }
    if not found:
        raise InputError(
            "the optimizer holds none of the network's own parameters: it belongs to another network or to a copy; "
            "give its state_dict() if the copy is of this network"
        )
    return found


def _names(
    model: TangentModel, groups: list[Group], entries: Mapping[Any, Entry], names: Names | None, kind: str
) -> dict[Any, str]:
    """Which parameter each index of a state dict stands for."""
    known = own_names(model.module)
    indices = [index for group in groups for index in group["params"]]
    if names is not None:
        return _given(names, indices, known)
    if all(isinstance(index, str) for index in indices):  # keyed by name, as torch.distributed.checkpoint writes it
        return _stored(indices, indices, known)
    if all("param_names" in group for group in groups):
        return _stored(indices, [name for group in groups for name in group["param_names"]], known)
    shapes = [[(index, _shape(entries.get(index))) for index in group["params"]] for group in groups]
    if kind == "sgd" and len({float(group.get("lr", 1.0)) for group in groups}) == 1:
        shapes = [[(index, None) for index in indices]]  # all alike: which is which does not matter
    own = dict(model.module.named_parameters())
    orders = {
        tuple(own),
        tuple(name for name, parameter in own.items() if parameter.requires_grad),
        tuple(model.parameter_names),
    }
    candidates = [[(name, own[name].shape) for name in order] for order in orders if len(order) == len(indices)]
    matchings = [matching for candidate in candidates for matching in _matchings(shapes, candidate)]
    if len(matchings) == 1:
        return matchings[0]
    if matchings or (len(groups) > 1 and _permuted(shapes, candidates)):
        raise InputError(
            f"the optimizer state has {len(groups)} groups without parameter names, and order and shapes alone do "
            "not say which entry belongs to which parameter: give the optimizer itself, its state made from "
            "named_parameters(), or names="
        )
    raise InputError(
        f"the optimizer state has {len(indices)} parameters that do not match the network's {len(own)} in number and "
        "shape: it belongs to another network or lists them in another order (names= says which is which)"
    )


def _given(names: Names, indices: list[Any], known: Mapping[str, str]) -> dict[Any, str]:
    if isinstance(names, Mapping):
        pairs = dict(names)
        if extra := sorted(set(pairs) - set(indices), key=str):
            raise InputError(f"names= names parameter {extra[0]!r}, which the optimizer state does not have")
    else:
        if isinstance(names, str) or len(names) != len(indices):
            raise InputError(
                f"names= has to name the {len(indices)} parameters of the optimizer state in the order of its groups, "
                f"not {len(names)}"
            )
        pairs = dict(zip(indices, names, strict=True))
    unknown = [name for name in pairs.values() if name not in known]
    if unknown:
        raise InputError(f"names= has {unknown[0]!r}, which is no parameter of the network")
    found = {index: known[name] for index, name in pairs.items()}
    if len(set(found.values())) < len(found):
        raise InputError("names= names a parameter twice")
    return found


def _stored(indices: list[Any], names: list[str], known: Mapping[str, str]) -> dict[Any, str]:
    """Names that the state itself carries; others than the network's own belong to another network."""
    plain = without_wrapper(names, known)
    found = {index: known[name] for index, name in zip(indices, plain, strict=True) if name in known}
    if not found:
        raise InputError(
            f"the optimizer state names its parameters ({names[0]!r}, …), and the network has none of them: it "
            "belongs to another network (names= says which is which)"
        )
    return found


def _shape(entry: Entry | None) -> torch.Size | None:
    for key in _SHAPED:
        if entry and isinstance(entry.get(key), Tensor):
            return entry[key].shape
    return None


def _check_shapes(name: str, entry: Entry, parameter: Tensor) -> None:
    for key in _SHAPED:
        if isinstance(entry.get(key), Tensor) and entry[key].shape != parameter.shape:
            raise InputError(
                f"the optimizer state of {name!r} has shape {tuple(entry[key].shape)}, the parameter "
                f"{tuple(parameter.shape)}: it belongs to another network or lists parameters in another order"
            )


Indexed = list[list[tuple[Any, torch.Size | None]]]


def _matchings(groups: Indexed, candidates: list[tuple[str, torch.Size]]) -> list[dict[Any, str]]:
    """Ways to deal ``candidates`` out to ``groups``, each group in the order of the network, with equal shapes.

    Optimizers list a group's parameters in the order of ``module.parameters()``, so a group is a subsequence of
    the network's list. One way decides; of several, two are returned.
    """
    # how far each group is filled → the ways to get there: what was taken last, and the way before
    frontier: dict[tuple[int, ...], list[Any]] = {(0,) * len(groups): [None]}
    for _, shape in candidates:
        after: dict[tuple[int, ...], list[Any]] = {}
        for filled, ways in frontier.items():
            for g, group in enumerate(groups):
                if filled[g] == len(group) or group[filled[g]][1] not in (None, shape):
                    continue
                key = (*filled[:g], filled[g] + 1, *filled[g + 1 :])
                reached = after.setdefault(key, [])
                reached.extend((group[filled[g]][0], way) for way in ways[: 2 - len(reached)])
        if len(after) > _WIDEST:  # so many ways are no answer, either
            return [{}, {}]
        frontier = after
    found = []
    for way in next(iter(frontier.values()), []):
        taken = []
        while way is not None:
            index, way = way
            taken.append(index)
        found.append(dict(zip(reversed(taken), (name for name, _ in candidates), strict=True)))
    return found


def _permuted(groups: Indexed, candidates: list[list[tuple[str, torch.Size]]]) -> bool:
    """The shapes are the network's, in an order that is not."""
    held = sorted(tuple(shape) for group in groups for _, shape in group if shape is not None)
    return any(held == sorted(tuple(shape) for _, shape in candidate) for candidate in candidates)
