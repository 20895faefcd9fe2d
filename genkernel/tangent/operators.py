"""``operator()``: the tangent kernel by its products, without the matrix.

    K v = J(x) P J(y)ᵀ v

One backward pass over the samples of y gives u = J(y)ᵀ v, a vector in parameter space; P is applied to
it, and J(x)·u comes from the route that was verified for the network (:mod:`genkernel.tangent.jvp`).
Nothing larger than the activations of one batch and a few copies of the parameters is ever held.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.tangent import batches, spectral
from genkernel.tangent.cotangents import Cotangents
from genkernel.tangent.jvp import METHODS, Vector
from genkernel.tangent.model import TangentModel, as_tangent_model, check_pair
from genkernel.tangent.plan import parse_memory
from genkernel.tangent.precision import parse_dtype
from genkernel.tangent.preconditioner import Preconditioner, as_preconditioner
from genkernel.tangent.side import Pair, Side, prove
from genkernel.tangent.spectral import Eigenpairs, Solution, SpectralDensity, SpectralMeasure, Trace

__all__ = ["Eigenpairs", "Solution", "SpectralDensity", "TangentOperator", "Trace", "operator"]


def operator(
    model: TangentModel | nn.Module | Any,
    x: Any,
    y: Any = None,
    *,
    model_y: TangentModel | nn.Module | Any = None,
    cotangents: Cotangents | None = None,
    precondition: Preconditioner | Mapping[str, Tensor] | Any = None,
    dtype: torch.dtype | str | None = None,
    batch_size: int | None = None,
    memory: str | int = "8GiB",
    method: str = "auto",
    progress: bool | None = None,
) -> TangentOperator:
    """The tangent kernel as a linear operator: products, eigenpairs, trace and spectral density.

    Args:
        model: a :class:`TangentModel`, a module, or a domain wrapper that has one.
        x: batch of n samples: a pytree of tensors with a leading sample axis.
        y: batch of m samples; None for x again.
        model_y: the model on the side of y (two-time kernels); its parameters have the names and
            shapes of the first's.
        cotangents: None for the kernel of all outputs, ``[n·O, m·O]`` with rows (sample, output) in
            this order (what ``blocks()`` is there); otherwise the kernel ``[n, m]`` that
            :func:`genkernel.kernel` gives for them.
        precondition: P: a :class:`Preconditioner`, non-negative diagonals by parameter name (1
            elsewhere), or a torch optimizer.
        dtype: dtype of activations and gradients (the model's own by default).
        batch_size: samples that run together; follows from ``memory`` by default.
        memory: bound on activations and vectors in parameter space (``"8GiB"``, bytes).
        method: the route to J·u: ``"forward"``, ``"double-backward"``, ``"finite-differences"``, or
            ``"auto"`` for the first of them that satisfies ⟨w, J u⟩ = ⟨Jᵀw, u⟩ on real samples.
        progress: show a progress bar (by default when the work takes a while in a terminal).

    Raises:
        InputError: empty or mismatched batches, unknown options, P or model_y of the wrong shape.
        BatchCouplingError, RandomOutputError: the output is no function of one sample.
        NonFiniteError: NaN or infinity in weights, outputs or gradients.
        CaptureError: no route gives J·u for this network.

    Example:
        >>> import torch, genkernel as gk
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        >>> op = gk.operator(net, torch.randn(5, 4))
        >>> op.shape, (op @ torch.ones(15)).shape, op.eigsh(2).values.shape, op.method
        ((15, 15), torch.Size([15]), torch.Size([2]), 'forward')
    """
    model = as_tangent_model(model)
    other = model if model_y is None else as_tangent_model(model_y)
    if not (cotangents is None or isinstance(cotangents, Cotangents)):
        raise InputError("cotangents is one of total(), output(i), exact_trace(), probes(k), cotangent(fn), or None")
    if cotangents is not None and cotangents.blocks:
        raise InputError("the operator of all pairs of outputs is the one without cotangents: leave cotangents= out")
    if method not in METHODS:
        raise InputError(f"method is one of {', '.join(METHODS)}, not {method!r}")
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size has to be at least 1, not {batch_size}")
    batches.size(x)
    if other is not model:
        check_pair(model, other)
    budget = parse_memory(memory)
    precision = parse_dtype(dtype) or model.dtype
    action = _preconditioner(precondition, model, precision)

    proof = prove(model, x, precision, method, cotangents)
    left = Side(model, x, cotangents, precision, proof, batch_size, budget, progress)
    right = left
    if y is not None or other is not model:
        seen = x if y is None else y
        proof = prove(other, seen, precision, method, cotangents)
        right = Side(other, seen, cotangents, precision, proof, batch_size, budget, progress)
        if cotangents is not None and left.count != right.count:
            raise InputError("the two sides have different output shapes, so these cotangents do not pair up")
    return TangentOperator(left, right, action)


class TangentOperator:
    """J(x) P J(y)ᵀ by its products. Made by :func:`operator`.

    Attributes:
        shape: ``(rows, columns)``.
        symmetric: both sides are the same samples of the same model.
        dtype: what the network runs in. Products come back in the wider of it and the vector's dtype.
        rows_per_sample: outputs of one sample, O; 1 with cotangents.
        method: the verified route to J·u.
        adjoint_error: by how much that route misses ⟨w, J u⟩ = ⟨Jᵀw, u⟩, relative.
    """

    __array_ufunc__ = None  # numpy leaves ``array @ operator`` to us instead of taking us apart

    def __init__(self, left: Side, right: Side, precondition: Callable[[Vector], Vector]):
        self._left, self._right, self._precondition = left, right, precondition
        self.shape = (left.rows, right.rows)
        self.symmetric = left is right
        self.rows_per_sample = left.rows // left.n
        self.dtype = left.dtype
        routes = dict.fromkeys((left.proof.route.describe(), right.proof.route.describe()))
        self.method = ", ".join(routes)
        self.adjoint_error = max(left.proof.error, right.proof.error)

    @property
    def T(self) -> TangentOperator:
        """The transpose, J(y) P J(x)ᵀ."""
        return self if self.symmetric else TangentOperator(self._right, self._left, self._precondition)

    @property
    def sums_outputs(self) -> bool:
        """An entry is a sum over several outputs (a trace, or random probes of it): vᵀKv is no ‖Jᵀv‖²."""
        cotangents, shape = self._left.cotangents, self._left.proof.shape
        if cotangents is None or math.prod(shape) == 1:
            return False
        return cotangents.random or cotangents.count(shape) > 1

    @property
    def parameter_count(self) -> int:
        """P, the length of a flat vector in parameter space."""
        return self._left.numel

    # -------------------------------------------------------------------------------- products

    @torch.inference_mode(False)
    def __matmul__(self, v: Tensor | np.ndarray) -> Any:
        """K v for a vector ``[columns]`` or a matrix ``[columns, c]``, torch or numpy.

        Raises:
            InputError: v has the wrong shape or is not finite.
        """
        if isinstance(v, Tensor):
            found = self._matrix(self._columns(_plain(v), self.shape[1]))
            wider = torch.promote_types(v.dtype, self.dtype)
            return found.reshape(self.shape[0], *v.shape[1:]).to(v.device, wider)
        array = np.asarray(v)
        if array.dtype.kind not in "fiub":
            raise InputError(f"an operator is applied to real numbers, not to {array.dtype}")
        found = self._matrix(self._columns(torch.as_tensor(array.astype(np.float64)), self.shape[1]))
        narrow = array.dtype == np.float32 and self.dtype != torch.float64
        return found.reshape(self.shape[0], *array.shape[1:]).numpy().astype(np.float32 if narrow else np.float64)

    @torch.inference_mode(False)
    def __rmatmul__(self, v: Tensor | np.ndarray) -> Any:
        """vᵀ K for a vector ``[rows]`` or a matrix ``[c, rows]``."""
        v = v if isinstance(v, Tensor) else np.asarray(v)
        return (self.T @ v.T).T if v.ndim == 2 else self.T @ v

    @torch.inference_mode(False)
    def jvp(self, u: Tensor | np.ndarray | Mapping[str, Tensor]) -> Tensor:
        """J(x) u, ``[n, *out]``: the change of the outputs along u, to first order.

        Args:
            u: flat ``[P]`` in the order of ``model.parameter_names``, or tensors by parameter name
                (parameters that are not named stay where they are).

        Raises:
            InputError: u names unknown parameters or has the wrong shape.
        """
        return self._left.jvp(self._direction(u))

    @torch.inference_mode(False)
    def vjp(self, w: Tensor | np.ndarray, *, flat: bool = False) -> Any:
        """J(x)ᵀ w: the gradient of Σ ⟨w_i, f(x_i)⟩ by parameter name, or ``[P]`` when ``flat``.

        Args:
            w: ``[n, *out]``, or flat ``[n·O]``.

        Raises:
            InputError: w has the wrong number of entries.
        """
        w = _plain(torch.as_tensor(w))
        if w.numel() != self._left.n * self._left.outputs:
            raise InputError(
                f"w has shape {tuple(w.shape)}, the outputs have {(self._left.n, *self._left.proof.shape)}"
            )
        found = self._left.vjp(w.reshape(self._left.n, *self._left.proof.shape))
        return self.flatten(found) if flat else found

    def flatten(self, u: Mapping[str, Tensor]) -> Tensor:
        """A vector in parameter space as ``[P]``, in the order of ``model.parameter_names``."""
        return torch.cat([u[name].reshape(-1) for name in self._left.model.parameter_names])

    def unflatten(self, u: Tensor) -> Vector:
        """``[P]`` as tensors by parameter name.

        Raises:
            InputError: u has the wrong length.
        """
        parameters = self._left.model.parameters
        if u.shape != (self._left.numel,):
            raise InputError(f"a vector of parameters has shape {(self._left.numel,)}, not {tuple(u.shape)}")
        parts = u.split([p.numel() for p in parameters.values()])
        return {name: part.reshape(p.shape) for (name, p), part in zip(parameters.items(), parts, strict=True)}

    @property
    def linear_operator(self) -> Any:
        """A ``scipy.sparse.linalg.LinearOperator`` in float64, whatever the network runs in."""
        from scipy.sparse.linalg import LinearOperator

        def apply(of: TangentOperator) -> Callable[[np.ndarray], np.ndarray]:
            return lambda v: of @ np.asarray(v, dtype=np.float64)

        return LinearOperator(
            self.shape, matvec=apply(self), matmat=apply(self), rmatvec=apply(self.T), rmatmat=apply(self.T),
            dtype=np.float64,
        )  # fmt: skip

    # --------------------------------------------------------------------------------- spectra

    @torch.inference_mode(False)
    def eigsh(self, k: int = 6, *, tol: float | None = None, seed: int = 0) -> Eigenpairs:
        """The k largest eigenvalues with their eigenvectors, by Lanczos; residual norms are the errors.

        Repeated eigenvalues come as often as they occur: those of a linear head do once for every output.

        Args:
            k: how many.
            tol: relative accuracy at which the iteration stops; by default what the dtype of the run
                supports (1e-10 in float64, 1e-5 in float32).
            seed: of the starting vectors.

        Raises:
            InputError: the operator is not symmetric, or has fewer than k rows.
            ConvergenceError: the iteration did not converge.
        """
        self._require_symmetric("eigsh")
        stop = 1e-10 if self.dtype == torch.float64 else 1e-5
        return spectral.eigenpairs(
            self._matrix, self.shape[0], k, seed=seed, tol=stop if tol is None else tol,
            precision=max(torch.finfo(self.dtype).eps, self.adjoint_error),
        )  # fmt: skip

    @torch.inference_mode(False)
    def trace(self, probes: int = 30, *, method: str = "hutch++", seed: int = 0) -> Trace:
        """The trace, with its standard error; exact when there are as many probes as rows.

        Args:
            probes: vectors that the operator is applied to.
            method: ``"hutch++"`` (the default: spectra of tangent kernels fall steeply, and what a third
                of the probes finds of the range is taken exactly) or ``"hutchinson"`` (no J·u needed).
            seed: of the random signs.

        Raises:
            InputError: the operator is not square, an unknown method, or too few probes for it.
        """
        if self.shape[0] != self.shape[1]:
            raise InputError(f"only square operators have a trace; this one has shape {self.shape}")
        return spectral.trace(self._matrix, self._forms, self.shape[0], probes, method=method, seed=seed)

    @torch.inference_mode(False)
    def trace_outside(self, vectors: Tensor, probes: int = 30, *, seed: int = 0) -> Trace:
        """The trace that known eigenvectors leave, with its standard error: Σλ of the others.

        Args:
            vectors: orthonormal ``[rows, k]``, as :meth:`eigsh` returns them.
            probes: random vectors.
            seed: of the random signs.

        Raises:
            InputError: the operator is not symmetric, the vectors have another length, or there is no probe.
        """
        self._require_symmetric("trace_outside")
        return spectral.trace_outside(self._forms, self._columns(_plain(vectors), self.shape[0]), probes, seed=seed)

    @torch.inference_mode(False)
    def spectral_density(
        self,
        probes: int = 8,
        steps: int = 30,
        *,
        points: int = 400,
        width: float | None = None,
        scale: str = "log",
        seed: int = 0,
    ) -> SpectralDensity:
        """How many eigenvalues lie where, by stochastic Lanczos quadrature; it integrates to the number of rows.

        Args:
            probes: random vectors; the standard error comes from their spread.
            steps: Lanczos steps per probe: more resolve the small eigenvalues.
            points: length of the grid.
            width: smoothing on the axis: decades when ``scale`` is ``"log"`` (0.1), else 1/50 of the extent.
            scale: ``"log"`` or ``"linear"`` axis.
            seed: of the random vectors.

        Raises:
            InputError: the operator is not symmetric, or an option makes no sense.
        """
        self._require_symmetric("spectral_density")
        return spectral.spectral_density(
            self._matrix, self.shape[0], probes=probes, steps=steps, points=points, width=width, scale=scale,
            precision=torch.finfo(self.dtype).eps, seed=seed,
        )  # fmt: skip

    def spectral_measure(self, v: Tensor | np.ndarray, steps: int = 30) -> SpectralMeasure:
        """How the energy of a vector is spread over the eigenvalues, without an eigenvector.

        Args:
            v: ``[rows]``, or ``[n, *out]``: a residual or a target.
            steps: Lanczos steps: more resolve the small eigenvalues.

        Raises:
            InputError: the operator is not symmetric, v has the wrong length, is zero or not finite.
        """
        return self.spectral_measures(torch.as_tensor(v).reshape(-1, 1), steps)[0]

    @torch.inference_mode(False)
    def spectral_measures(self, vectors: Tensor | np.ndarray, steps: int = 30) -> list[SpectralMeasure]:
        """:meth:`spectral_measure` of every column ``[rows, c]``, at the price of one pass over the samples per step.

        Raises:
            InputError: as there.
        """
        self._require_symmetric("spectral_measures")
        columns = self._columns(_plain(torch.as_tensor(vectors)), self.shape[0])
        return spectral.spectral_measures(self._matrix, columns, steps, precision=torch.finfo(self.dtype).eps)

    @torch.inference_mode(False)
    def solve(
        self, targets: Tensor | np.ndarray, ridge: float = 0.0, *, steps: int = 100, tol: float | None = None
    ) -> Solution:
        """(K + δ I)⁻¹ Y by conjugate gradients: kernel ridge regression without the matrix.

        With α its values, predictions at other samples are ``genkernel.operator(model, other, x) @ α``.

        Args:
            targets: Y ``[rows]``, ``[n, *out]`` or ``[rows, c]``, in the order of the rows.
            ridge: δ, in units of the kernel.
            steps: at most so many products; stopping early is a regularisation of its own.
            tol: relative residual at which a column is done; what the dtype of the run supports by default.

        Raises:
            InputError: the operator is not symmetric, targets have another length, are zero or not finite, or the
                ridge is negative.
        """
        self._require_symmetric("solve")
        given = torch.as_tensor(targets)
        whole = given.reshape(-1) if given.numel() == self.shape[0] else given
        columns = self._columns(_plain(whole), self.shape[0])
        stop = 1e-10 if self.dtype == torch.float64 else 1e-5
        found = spectral.solve(self._matrix, columns, ridge, steps, stop if tol is None else tol)
        return replace(found, values=found.values.reshape(given.shape))

    def __repr__(self) -> str:
        rows, columns = self.shape
        name = str(self.dtype).removeprefix("torch.")
        return f"TangentOperator({rows}×{columns}, {name}, J·u by {self.method})"

    # --------------------------------------------------------------------------------- inside

    def _matrix(self, V: Tensor) -> Tensor:
        """K V for ``V [columns, c]`` in float64 on the CPU."""
        left, right = self._left, self._right
        found = torch.zeros(self.shape[0], V.shape[1], dtype=torch.float64)
        for pairs in self._portions(V.shape[1]):
            gradients = right.adjoint(pairs, V)
            directions = [self._precondition(gradients.pop(0)) for _ in pairs]  # one copy of each at a time
            products = left.forward(pairs, directions)
            for place, (_, column) in enumerate(pairs):
                found[:, column] += products[:, place]
        return found * self._scale()

    def _forms(self, Z: Tensor) -> Tensor:
        """zᵀKz for the columns of Z; of a symmetric operator ⟨Jᵀz, P Jᵀz⟩, which needs no J·u."""
        if not self.symmetric:
            return (Z * self._matrix(Z)).sum(0)
        found = torch.zeros(Z.shape[1], dtype=torch.float64)
        for pairs in self._portions(Z.shape[1]):
            for (_, column), u in zip(pairs, self._left.adjoint(pairs, Z), strict=True):
                other = self._precondition(u)
                found[column] += sum(float((u[name].double() * other[name].double()).sum()) for name in u)
        return found * self._scale()

    def _portions(self, columns: int) -> list[list[Pair]]:
        every = [(k, c) for k in range(self._left.count) for c in range(columns)]
        size = self._left.together
        return [every[start : start + size] for start in range(0, len(every), size)]

    def _scale(self) -> float:
        cotangents = self._left.cotangents
        return 1.0 if cotangents is None else cotangents.scale(self._left.proof.shape)

    def _columns(self, v: Tensor, length: int) -> Tensor:
        if v.dim() not in (1, 2) or v.shape[0] != length:
            raise InputError(f"an operator of shape {self.shape} does not apply to shape {tuple(v.shape)}")
        if v.is_complex():
            raise InputError("an operator is applied to real numbers, not to complex ones")
        v = v.to("cpu", torch.float64)
        if not torch.isfinite(v).all():
            raise InputError("the vector that the operator is applied to holds NaN or infinity")
        return v.reshape(length, -1)

    def _direction(self, u: Tensor | np.ndarray | Mapping[str, Tensor]) -> Vector:
        parameters = self._left.model.parameters
        if not isinstance(u, Mapping):
            u = self.unflatten(torch.as_tensor(u))
        unknown = [name for name in u if name not in parameters]
        if unknown:
            raise InputError(f"u names {unknown[0]!r}, which is not among the selected parameters")
        found = {}
        for name, p in parameters.items():
            value = u.get(name)
            if value is not None and value.shape != p.shape:
                raise InputError(f"u has shape {tuple(value.shape)} for {name!r}, the parameter has {tuple(p.shape)}")
            given = torch.zeros_like(p) if value is None else value
            found[name] = _plain(given).to(p.device, self.dtype)
        return found

    def _require_symmetric(self, what: str) -> None:
        if not self.symmetric:
            raise InputError(
                f"{what} needs a symmetric operator: give x alone, without y and model_y (singular values of this "
                "one: scipy.sparse.linalg.svds(op.linear_operator))"
            )


def _plain(v: Tensor) -> Tensor:
    """Without a graph, and no inference tensor: those take no part in a derivative."""
    return v.detach().clone() if v.is_inference() else v.detach()


def _preconditioner(given: Any, model: TangentModel, dtype: torch.dtype) -> Callable[[Vector], Vector]:
    """The action of P on a vector in parameter space."""
    if given is None:
        return lambda u: u
    # vectors are sums over samples, in float32 at least
    P = as_preconditioner(given, model).to(model.device, torch.promote_types(dtype, torch.float32))
    return lambda u: {name: row[0] for name, row in P.apply({name: v[None] for name, v in u.items()}).items()}
