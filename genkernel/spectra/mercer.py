"""The integral operator of a kernel, from samples: eigenvalues, eigenfunctions, their Nyström extension.

    (T h)(x) = E_x' K(x, x') h(x')          λ̂_j, u_j: eigenpairs of K_nn / n        ψ̂_j(x_i) = √n u_ij
    ψ̂_j(x) = 1 / (n λ̂_j) Σ_i K(x, x_i) ψ̂_j(x_i)                                   (Nyström; THEORY §5)

Kernels of several outputs are the (nO) × (nO) matrix with rows (sample, output). Eigenvalues at or below the noise
floor are rounding, and are never divided by. With ε the precision of the gradients it is

    rows · ε · λ_1      of a matrix: what errors of ε in all entries, and the dense decomposition, move at most
    √rows · ε · λ_1     of an operator: its products are rounded, one by one and independently; there is no matrix
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from genkernel.errors import InputError
from genkernel.spectra.arrays import as_tensor, as_values, whole_number
from genkernel.spectra.effective_number import entropy_number
from genkernel.tangent import Kernel, TangentOperator, exact_trace

LEADING = 16  # modes of an operator unless others are asked for


@dataclass(frozen=True)
class Mercer:
    """Eigenvalues and modes of an integral operator, as far as samples show them.

    Attributes:
        values: λ̂_j ``[r]``, falling.
        vectors: u_j ``[rows, r]``, orthonormal.
        samples, outputs: n and O; rows = n · O.
        floor: eigenvalues at or below it are rounding noise: rows · ε · λ_1 of matrices, √rows · ε · λ_1 of operators.
        trace: Σ of all eigenvalues, tr K / n (with those that were not asked for).
        trace_stderr: its standard error where what is outside of the modes was estimated, with an operator; else 0.
        stderr: standard errors of λ̂_j ``[r]`` over the random probes of an estimated kernel. None where the kernel is
            exact, and where it does not hold the kernels of two or more probes: those of :meth:`Kernel.normalized` do
            not, although they are estimates (:func:`genkernel.spectrum` takes cosines that do).
        residuals: ‖(K/n) u_j - λ̂_j u_j‖ ``[r]`` where an iteration found them; zero otherwise.
        mixed: why rᵀKr is ‖Jᵀr‖² of no residual r of the outputs, in words; None where it is.
    """

    values: Tensor
    vectors: Tensor
    samples: int
    outputs: int
    floor: float
    trace: float
    residuals: Tensor
    stderr: Tensor | None = None
    trace_stderr: float = 0.0
    mixed: str | None = None

    @property
    def modes(self) -> Tensor:
        """ψ̂_j at the samples ``[rows, r]``: of mean square 1 over the samples (summed over outputs)."""
        return self.vectors * math.sqrt(self.samples)

    @property
    def rank(self) -> int:
        """Eigenvalues above the floor, among those that were found."""
        return int((self.values > self.floor).sum())

    @property
    def effective_rank(self) -> float:
        """e^H of the eigenvalues over their sum (Roy and Vetterli, 2007), of those that were found."""
        return entropy_number(self.values.clamp_min(0).numpy())

    @property
    def missing_trace(self) -> float:
        """The part of the trace that is in no mode found here."""
        return max(0.0, self.trace - float(self.values.clamp_min(0).sum()))

    def coefficients(self, targets: Tensor | ArrayLike) -> Tensor:
        """v̂_j = ψ̂_jᵀ y / n of targets.

        Args:
            targets: ``[n, O]`` for a kernel of O outputs; for one of one number per pair ``[n]``, or ``[n, d]`` with a
                target in every column.

        Returns:
            ``[r]``, or ``[r, d]`` where every column is a target of its own.

        Raises:
            InputError: the number of samples or outputs differs, targets are names of classes, or something is not
                finite.
        """
        y = as_values(targets, "targets")
        if len(y) != self.samples:
            raise InputError(f"targets are of {len(y)} samples and the kernel is of {self.samples}")
        if self.outputs > 1:
            if tuple(y.shape) != (self.samples, self.outputs):
                raise InputError(f"targets have shape [{self.samples}, {self.outputs}], not {tuple(y.shape)}")
            y = y.reshape(-1)
        return self.modes.T @ y / self.samples

    def extend(self, cross: Kernel | Tensor) -> Tensor:
        """ψ̂_j at other points, for modes above the floor.

        Args:
            cross: K(x, x_i) between m other points and the samples: ``[m, n]``, or blocks ``[m, n, O, O]``.

        Returns:
            ``[m, rank]``, or ``[m, O, rank]``.

        Raises:
            InputError: the samples' side does not fit.
        """
        K = cross.values if isinstance(cross, Kernel) else as_tensor(cross, "the kernel")
        flat, outputs = as_matrix(K)
        if flat.shape[1] != len(self.vectors) or outputs != self.outputs:
            raise InputError(
                f"the kernel between other points and the samples has {flat.shape[1]} columns, and the modes "
                f"{len(self.vectors)} rows"
            )
        r = self.rank
        found = flat @ self.modes[:, :r] / (self.samples * self.values[:r])
        return found if outputs == 1 else found.reshape(len(K), outputs, r)


def mercer_decomposition(
    kernel: Kernel | TangentOperator | Tensor, modes: int | None = None, *, seed: int = 0
) -> Mercer:
    """Eigenvalues and modes of the integral operator that a kernel is the matrix of.

    Args:
        kernel: symmetric: a :class:`Kernel` (one number per pair, or full blocks), a matrix ``[n, n]``, or an operator
            (:func:`genkernel.operator`), whose matrix is never made.
        modes: how many of the largest; by default all for matrices, and 16 (or all of fewer rows) for operators.
        seed: of the iteration's starting vector.

    Raises:
        InputError: empty, complex, not symmetric, not finite, not positive semi-definite beyond rounding, or too many
            modes.
        ConvergenceError: the iteration for an operator did not converge.
    """
    modes = None if modes is None else whole_number(modes, "modes")
    if isinstance(kernel, TangentOperator):
        return _of_operator(kernel, min(LEADING, kernel.shape[0]) if modes is None else modes, seed)
    if isinstance(kernel, Kernel) and not kernel.symmetric:
        raise InputError("the kernel is between different samples on its two sides: a spectrum is of x against x")
    values = kernel.values if isinstance(kernel, Kernel) else as_tensor(kernel, "a kernel")
    K, outputs = as_matrix(values)
    rows = len(K)
    if K.shape[0] != K.shape[1]:
        raise InputError(f"a spectrum is of a square matrix, not {tuple(K.shape)}")
    if not rows:
        raise InputError("the kernel is of no samples: it has no spectrum")
    if not torch.isfinite(K).all():
        raise InputError("the kernel has NaN or infinite entries")
    size = float(K.abs().max())
    precision = precision_of(kernel)
    if float((K - K.T).abs().max()) > 100 * precision * size:
        raise InputError("the kernel is not symmetric: a spectrum is of x against x at one set of weights")
    if modes is not None and not 1 <= modes <= rows:
        raise InputError(f"the kernel has {rows} eigenvalues: modes is 1 to {rows}, not {modes}")
    n = rows // outputs
    found, vectors = torch.linalg.eigh((K + K.T) / (2 * n))
    found, vectors = found.flip(0), vectors.flip(1)
    floor = rows * precision * float(found[0].clamp_min(0))
    if float(found[-1]) < -max(floor, 1e-12 * float(found.abs().max())):
        raise InputError(
            f"the kernel has an eigenvalue of {float(found[-1]):.2e} beside {float(found[0]):.2e}: it is not positive "
            "semi-definite beyond rounding (a normalised estimate from few probes, or a two-time kernel?)"
        )
    r = rows if modes is None else modes
    return Mercer(
        values=found[:r].clone(),
        vectors=vectors[:, :r].clone(),
        samples=n,
        outputs=outputs,
        floor=floor,
        trace=float(K.diagonal().sum()) / n,
        residuals=torch.zeros(r, dtype=torch.float64),
        stderr=_over_probes(kernel, vectors[:, :r]) if isinstance(kernel, Kernel) else None,
        mixed=mixed(kernel),
    )


def _of_operator(operator: TangentOperator, modes: int, seed: int) -> Mercer:
    pairs = operator.eigsh(modes, seed=seed)
    rows, outputs = operator.shape[0], operator.rows_per_sample
    n = rows // outputs
    precision = torch.finfo(operator.dtype).eps
    # what is not in the modes is estimated by itself: an estimate of the whole would miss by more than there is of it
    outside = operator.trace_outside(pairs.vectors, seed=seed)
    return Mercer(
        values=pairs.values / n,
        vectors=pairs.vectors,
        samples=n,
        outputs=outputs,
        floor=rows**0.5 * precision * float(pairs.values[0]) / n,
        trace=(float(pairs.values.sum()) + outside.value) / n,
        residuals=pairs.residuals / n,
        trace_stderr=outside.stderr / n,
        mixed=mixed(operator),
    )


def _over_probes(kernel: Kernel, vectors: Tensor) -> Tensor | None:
    """Standard errors of eigenvalues to first order: of u_jᵀ K_p u_j / n over probes p."""
    each = kernel.per_probe
    if each is None or len(each) < 2:
        return None
    forms = torch.stack([((K.double() @ vectors) * vectors).sum(0) for K in each]) / len(vectors)
    return forms.std(0) / len(each) ** 0.5


def as_matrix(values: Tensor) -> tuple[Tensor, int]:
    """A kernel as float64 matrix, rows (sample, output), and the number of outputs per sample.

    Raises:
        InputError: neither ``[n, m]`` nor ``[n, m, O, O]``, or complex.
    """
    v = as_tensor(values, "a kernel").double()
    if v.dim() == 2:
        return v, 1
    if v.dim() == 4 and v.shape[2] == v.shape[3]:
        n, m, outputs, _ = v.shape
        return v.permute(0, 2, 1, 3).reshape(n * outputs, m * outputs), outputs
    raise InputError(f"a kernel has shape [n, m] or, with full blocks, [n, m, O, O], not {tuple(v.shape)}")


def precision_of(kernel: Any) -> float:
    """The relative rounding error of a kernel's entries.

    That of the dtype of its gradients where a :class:`Kernel` says so; of a tensor, an array or a list its own.
    """
    if isinstance(kernel, Kernel):
        known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
        dtype = known.get(str(kernel.meta.get("dtype")).removeprefix("torch."), torch.float64)
    else:
        dtype = as_tensor(kernel, "a kernel").dtype
    return float(torch.finfo(dtype if dtype.is_floating_point else torch.float64).eps)


def mixed(kernel: Any) -> str | None:
    """Why rᵀKr is ‖Jᵀr‖² of no residual r of the outputs, in words; None where it is, or where nothing is known.

    Cosines are off by the norms. A trace over O > 1 outputs is a sum of O kernels, J_1 J_1ᵀ + … + J_O J_Oᵀ, and r of
    one number per sample has no output.
    """
    if isinstance(kernel, TangentOperator):
        summed = kernel.sums_outputs
    elif isinstance(kernel, Kernel):
        if kernel.is_normalized:
            return "normalised: its entries are cosines"
        shape = kernel.meta.get("output_shape") or ()
        trace = kernel.meta.get("cotangents") == exact_trace().describe() or kernel.per_probe is not None
        summed = trace and math.prod(shape) > 1
    else:
        return None
    return "a sum over the outputs of a sample (a trace, or random probes of it)" if summed else None
