"""J·u and Jᵀ·w of a network on one batch, and the routes to J·u.

Jᵀ·w is one backward pass. J·u (a directional derivative in the parameters) has three routes, none
of which works on every network as it comes:

* ``forward``: dual numbers, one forward pass per direction. Fused attention has no forward-mode
  formula, so the attention runs unfused; GroupNorm's formula fails on channels-last inputs, so its
  inputs are made contiguous; ``no_grad`` regions and the padding row of an embedding, which forward
  mode would differentiate, are held constant as backward mode does.
* ``double-backward``: Jᵀw is linear in w, and J u = ∂⟨Jᵀw, u⟩/∂w. Needs twice differentiable
  functions; fused attention is not.
* ``finite-differences``: (f(θ + hu) − f(θ − hu)) / 2h, in float64 where the network runs in it.

Which one is right for a network is not assumed but measured, by the adjoint identity
⟨w, J u⟩ = ⟨Jᵀw, u⟩ (:func:`choose`).
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from genkernel.errors import CaptureError, InputError, NonFiniteError
from genkernel.tangent import batches
from genkernel.tangent.model import TangentModel

Vector = dict[str, Tensor]  # a vector in parameter space: name → tensor shaped like the parameter

WIDTH = 4  # directions that share a forward pass: more of them save little and hold as many tangents
METHODS = ("auto", "forward", "double-backward", "finite-differences")
# what the adjoint identity may miss by, relative, per precision of the run
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
_COARSE = 5e-2  # for 16-bit runs
_DIFFERENCES = 1e-3  # for finite differences in any precision
# what a network that a route does not support raises
UNSUPPORTED = (NotImplementedError, RuntimeError, TypeError, ValueError, AttributeError)


def pull_back(
    model: TangentModel,
    tensors: dict[str, Tensor],
    batch: Any,
    vectors: Callable[[Tensor], Iterator[Tensor]],
    first: int | None = None,
) -> Iterator[Vector]:
    """Yield Jᵀw for every w: one forward pass, one backward pass per w.

    Args:
        tensors: what ``model.tensors()`` returned.
        vectors: ``vectors(outputs)`` yields tensors shaped like the outputs ``[n, *out]``.
        first: number of the first sample, for messages.

    Raises:
        NonFiniteError: an output is NaN or infinite.
    """
    with torch.enable_grad():
        out = model.run(tensors, batch)
    require_finite(out, first)
    waiting = vectors(out.detach())
    w = next(waiting, None)
    while w is not None:
        after = next(waiting, None)
        yield backward(model, tensors, out, w, retain=after is not None)
        w = after


def backward(model: TangentModel, tensors: dict[str, Tensor], out: Tensor, w: Tensor, retain: bool = False) -> Vector:
    """Jᵀw from outputs that carry their graph; zero where a parameter has no influence."""
    leaves = [tensors[name] for name in model.parameter_names]
    found: tuple[Tensor | None, ...] = (None,) * len(leaves)
    if out.requires_grad:
        found = torch.autograd.grad(out, leaves, w.to(out), retain_graph=retain, allow_unused=True)
    return {
        name: torch.zeros_like(leaf.detach()) if g is None else (g.to_dense() if g.is_sparse else g).detach()
        for name, leaf, g in zip(model.parameter_names, leaves, found, strict=True)
    }


def require_finite(out: Tensor, first: int | None = None) -> None:
    """Raise NonFiniteError where outputs are NaN or infinite; ``first`` is the number of the first sample."""
    bad = (~torch.isfinite(out.detach())).reshape(len(out), -1).any(1).nonzero().flatten()
    if len(bad):
        where = f"{len(bad)} of {len(out)} samples" if first is None else f"sample {first + int(bad[0])}"
        raise NonFiniteError(f"the output is NaN or infinite for {where}: check that input, or the weights")


def require_finite_gradient(gradient: Vector) -> None:
    """Raise NonFiniteError where a gradient is NaN or infinite."""
    for name, value in gradient.items():
        if not torch.isfinite(value).all():
            raise NonFiniteError(f"the gradient of {name!r} is NaN or infinite: check the inputs, or the weights")


class Route:
    """One way to J·u.

    Attributes:
        name: as in ``METHODS``.
        activations: memory held, relative to a backward pass over the same batch.
    """

    name: str
    activations: float

    def products(
        self, model: TangentModel, tensors: dict[str, Tensor], batch: Any, directions: list[Vector]
    ) -> tuple[Tensor, list[Tensor]]:
        """Outputs ``[n, *out]``, and J·u of the same shape for every direction u."""
        raise NotImplementedError

    def describe(self) -> str:
        return self.name


class Forward(Route):
    """Dual numbers."""

    name = "forward"
    activations = 1.0

    def products(
        self, model: TangentModel, tensors: dict[str, Tensor], batch: Any, directions: list[Vector]
    ) -> tuple[Tensor, list[Tensor]]:
        _load_formulas()
        held = {name: tensor.detach() for name, tensor in tensors.items()}
        found: Tensor | None = None
        out: Tensor | None = None
        for place, u in enumerate(directions):
            # gradients stay enabled: a network may differentiate within its forward pass
            with torch.enable_grad(), _unfused(), forward_ad.dual_level(), _ForwardMode():
                duals = {name: forward_ad.make_dual(held[name], u[name].to(held[name])) for name in u}
                out, tangent = forward_ad.unpack_dual(model.run({**held, **duals}, batch))
            out = out.detach()
            if found is None:
                # one block for all: small tensors between large ones that come and go would cut the heap into
                # pieces that the next activations do not fit into
                found = torch.zeros(len(directions), *out.shape, dtype=out.dtype, device=out.device)
            if tangent is not None:
                found[place] = tangent.detach()
        assert out is not None and found is not None
        return out, list(found.unbind())


class ForwardTogether(Forward):
    """Dual numbers with several directions at a time, which share the plain part of the forward pass.

    Some networks cannot run so (control flow that depends on values, operators without a batching rule): see
    :func:`faster`.

    Args:
        width: directions at a time; their tangents are held together.
    """

    activations = float(WIDTH)

    def __init__(self, width: int = WIDTH):
        self.width = width

    def products(
        self, model: TangentModel, tensors: dict[str, Tensor], batch: Any, directions: list[Vector]
    ) -> tuple[Tensor, list[Tensor]]:
        if len(directions) == 1:
            return super().products(model, tensors, batch, directions)
        _load_formulas()
        held = {name: tensor.detach() for name, tensor in tensors.items()}
        names = list(directions[0])
        start = {name: held[name] for name in names}

        def outputs(moved: dict[str, Tensor]) -> Tensor:
            return model.run({**held, **moved}, batch)

        def along(u: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            values, tangents = torch.func.jvp(outputs, (start,), (u,))[:2]
            return values, tangents

        found: list[Tensor] = []
        out: Tensor | None = None
        for first in range(0, len(directions), self.width):
            some = directions[first : first + self.width]
            stacked = {name: torch.stack([u[name].to(held[name]) for u in some]) for name in names}
            with torch.enable_grad(), _unfused(), _ForwardMode():
                out, tangents = torch.vmap(along, out_dims=(None, 0))(stacked)  # type: ignore[arg-type]
            found += tangents.detach().unbind()
        assert out is not None
        return out.detach(), found


def faster(
    model: TangentModel, tensors: dict[str, Tensor], batch: Any, route: Route, directions: list[Vector]
) -> Route:
    """The route that takes several directions at a time where it gives what ``route`` gives, else ``route``.

    Args:
        batch: a few real samples.
        directions: two or more, to compare on.
    """
    if type(route) is not Forward or len(directions) < 2:
        return route
    together = ForwardTogether()
    try:
        _, expected = route.products(model, tensors, batch, directions[:2])
        _, found = together.products(model, tensors, batch, directions[:2])
    except UNSUPPORTED:
        return route
    dtype = expected[0].dtype
    near = all(
        float((a - b).double().norm()) <= _TOLERANCE.get(dtype, _COARSE) * float(a.double().norm())
        for a, b in zip(expected, found, strict=True)
    )
    return together if near else route


class DoubleBackward(Route):
    """The derivative of the backward pass with respect to its cotangent."""

    name = "double-backward"
    activations = 6.0

    def products(
        self, model: TangentModel, tensors: dict[str, Tensor], batch: Any, directions: list[Vector]
    ) -> tuple[Tensor, list[Tensor]]:
        names = list(directions[0])
        with torch.enable_grad(), _unfused():
            out = model.run(tensors, batch)
            w = torch.zeros_like(out).requires_grad_(True)
            if not out.requires_grad:
                return out.detach(), [torch.zeros_like(out) for _ in directions]
            gradients = torch.autograd.grad(
                out, [tensors[name] for name in names], w, create_graph=True, allow_unused=True
            )
            found = []
            for u in directions:
                pairs = [
                    (g, u[name].to(g)) for name, g in zip(names, gradients, strict=True) if g is not None and g.grad_fn
                ]
                (product,) = (
                    torch.autograd.grad(
                        [g for g, _ in pairs], w, [d for _, d in pairs], retain_graph=True, allow_unused=True
                    )
                    if pairs
                    else (None,)
                )
                found.append(torch.zeros_like(out) if product is None else product.detach())
        return out.detach(), found


class FiniteDifferences(Route):
    """Central differences with a step relative to the size of the parameters.

    Args:
        dtype: what the network runs in for the differences.
        step: ‖h u‖ / ‖θ‖.
    """

    name = "finite-differences"
    activations = 2.0

    def __init__(self, dtype: torch.dtype, step: float):
        self.dtype, self.step = dtype, step

    def products(
        self, model: TangentModel, tensors: dict[str, Tensor], batch: Any, directions: list[Vector]
    ) -> tuple[Tensor, list[Tensor]]:
        held = {name: t.detach() for name, t in model.tensors(self.dtype).items()}
        batch = batches.move(batch, model.device, self.dtype)
        found, out = [], None
        with torch.no_grad():
            out = model.run(held, batch)
            for u in directions:
                h = self.step * norm({name: held[name] for name in u}) / max(norm(u), torch.finfo(torch.float64).tiny)
                if h == 0:
                    raise InputError("finite differences need parameters that are not all zero")
                ends = [
                    model.run({**held, **{name: held[name] + s * h * u[name].to(held[name]) for name in u}}, batch)
                    for s in (1, -1)
                ]
                found.append((ends[0] - ends[1]) / (2 * h))
        return out, found

    def describe(self) -> str:
        return f"{self.name} ({str(self.dtype).removeprefix('torch.')}, step {self.step:.0e})"


def choose(
    model: TangentModel, tensors: dict[str, Tensor], batch: Any, dtype: torch.dtype, method: str = "auto"
) -> tuple[Route, float]:
    """The first route that satisfies the adjoint identity on a batch, and by how much it misses it.

    Args:
        batch: a few real samples, on the model's device and in the dtype of the run.
        dtype: coarsest precision in the network; decides how exactly the identity has to hold.
        method: one of ``METHODS``; anything but ``"auto"`` allows that route alone.

    Raises:
        InputError: the method is unknown.
        CaptureError: no allowed route gives J·u for this network.
    """
    if method not in METHODS:
        raise InputError(f"method is one of {', '.join(METHODS)}, not {method!r}")
    reasons = []
    for route in (Forward(), DoubleBackward()):
        if method not in ("auto", route.name):
            continue
        try:
            error = adjoint_error(model, tensors, batch, route)
        except NonFiniteError:
            raise
        except UNSUPPORTED as refusal:
            reasons.append(f"{route.name}: {str(refusal).splitlines()[0][:160]}")
            continue
        if error <= _TOLERANCE.get(dtype, _COARSE):
            return route, error
        reasons.append(f"{route.name}: misses the adjoint identity by {error:.1e}")
    if method in ("auto", FiniteDifferences.name):
        best: tuple[Route, float] | None = None
        for candidate in _differences(dtype):
            try:
                error = adjoint_error(model, tensors, batch, candidate)
            except NonFiniteError:
                raise
            except UNSUPPORTED as refusal:
                reasons.append(f"{candidate.describe()}: {str(refusal).splitlines()[0][:160]}")
                continue
            if best is None or error < best[1]:
                best = candidate, error
            if error <= _TOLERANCE.get(dtype, _COARSE):
                break
        if best is not None and best[1] <= _DIFFERENCES:
            return best
        if best is not None:
            reasons.append(f"{best[0].describe()}: misses the adjoint identity by {best[1]:.1e}")
    raise CaptureError("no route gives J·u of this network (" + "; ".join(reasons) + ")")


def adjoint_error(model: TangentModel, tensors: dict[str, Tensor], batch: Any, route: Route) -> float:
    """By how much ⟨w, J u⟩ = ⟨Jᵀw, u⟩ fails, relative to either side; the larger of two tests.

    u = Jᵀw for a random w (then both sides are ‖Jᵀw‖²), which is sharp along gradients, and a random u
    with w = J u (both sides ‖J u‖²), which also sees what gradients never reach.
    """
    draw = torch.Generator().manual_seed(0)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=draw, dtype=torch.float64).to(like)

    probes: list[Tensor] = []

    def random_cotangent(out: Tensor) -> Iterator[Tensor]:
        probes.append(noise(out))
        yield probes[0]

    (gradient,) = pull_back(model, tensors, batch, random_cotangent)
    require_finite_gradient(gradient)
    typical = norm(gradient) / max(1, len(gradient)) ** 0.5
    random = {}
    for name, g in gradient.items():
        size = float(g.double().norm()) or typical  # every parameter counts alike
        direction = noise(g)
        random[name] = direction * (size / max(float(direction.double().norm()), 1e-300))
    if not typical:
        random = {name: noise(g) for name, g in gradient.items()}
    _, (along, across) = route.products(model, tensors, batch, [gradient, random])
    (back,) = pull_back(model, tensors, batch, lambda out: iter([across.to(out)]))
    return max(
        _gap(_inner({"": probes[0]}, {"": along}), _inner(gradient, gradient)),
        _gap(_inner({"": across}, {"": across}), _inner(back, random)),
    )


def _differences(dtype: torch.dtype) -> Iterator[FiniteDifferences]:
    for precision in dict.fromkeys((torch.float64, dtype)):
        best = torch.finfo(precision).eps ** (1 / 3)  # balances truncation h² against rounding eps/h
        for factor in (1.0, 0.1, 10.0, 0.01):
            yield FiniteDifferences(precision, best * factor)


def _inner(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    return sum(float((a[name].double() * b[name].double()).sum()) for name in a)


def norm(u: Mapping[str, Tensor]) -> float:
    """Euclidean norm of a vector in parameter space, summed in float64."""
    return _inner(u, u) ** 0.5


def _gap(a: float, b: float) -> float:
    size = max(abs(a), abs(b))
    return abs(a - b) / size if size else 0.0


# ------------------------------------------------------------------------- forward mode's gaps


@functools.cache
def _load_formulas() -> None:
    """torch imports its forward formulas on first use, with a warning that is not the user's to act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("torch._decomp.decompositions_for_jvp")


@contextmanager
def _unfused() -> Iterator[None]:
    """Attention in terms of matrix products and softmax, which can be differentiated any way."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _ForwardMode(TorchFunctionMode):
    """Where forward mode fails, or differentiates what backward mode does not."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        if func is F.group_norm or func is torch.group_norm:
            out = _group_norm(func, *args, **kwargs)
        elif func is F.embedding:
            out = _embedding(*args, **kwargs)
        else:
            out = func(*args, **kwargs)
        if not torch.is_grad_enabled():
            given = {id(arg) for arg in args}
            out = tree_map(
                lambda leaf: leaf.detach() if isinstance(leaf, Tensor) and id(leaf) not in given else leaf, out
            )
        return out


def _group_norm(func: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return func(input.clone(memory_format=torch.contiguous_format), *args, **kwargs)


def _embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None, *args: Any, **kwargs: Any) -> Tensor:
    out = F.embedding(input, weight, None, *args, **kwargs)
    if padding_idx is None:
        return out
    return torch.where((input == padding_idx % len(weight))[..., None], out.detach(), out)
