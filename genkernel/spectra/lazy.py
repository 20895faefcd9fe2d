"""The lazy limit: how far the kernel moves in training, and what training would do if it did not.

With the kernel frozen at K, gradient descent with step η on (1/2n) Σ ‖f(x_i) - y_i‖² is linear in the outputs,

    f_t(x) = f_0(x) + k_xᵀ K⁻¹ (I - (I - η K / n)^t) (y - f_0),        gradient flow: exp(-K t / n) for the power,

and ends at kernel regression on y - f_0 (Jacot et al. 2018; Lee et al. 2019; Courtois et al., remark 3.9; THEORY §5).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.spectra.arrays import as_tensor, unit_of
from genkernel.spectra.mercer import as_matrix, mercer_decomposition
from genkernel.tangent import Kernel


def kernel_drift(before: Kernel | Tensor, after: Kernel | Tensor) -> float:
    """‖K_t - K_0‖_F / ‖K_0‖_F.

    Args:
        before, after: kernels of the same samples at two times, of one shape: ``[n, m]`` or blocks ``[n, m, O, O]``.

    Raises:
        InputError: shapes differ, something is not finite, or the first kernel is zero.
    """
    first, second = (_kernel(k) for k in (before, after))
    if first.shape != second.shape:
        raise InputError(f"the kernels differ in shape: {tuple(first.shape)}, {tuple(second.shape)}")
    first, second = first.double(), second.double()
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise InputError("a kernel has NaN or infinite entries")
    if not first.any():
        raise InputError("the first kernel is zero: nothing can be relative to it")
    unit = unit_of(first)
    first, second = first / unit, second / unit
    return float((second - first).norm() / first.norm())


class FrozenKernel:
    """Training with squared loss and a kernel that stays as it is, at any time of it.

    Args:
        kernel: of the n training samples, symmetric: one number per pair (then every column of the targets is
            regressed on by itself), or full blocks ``[n, n, O, O]``.
        targets: y ``[n]`` or ``[n, O]``.
        initial: f_0 at the training samples, of the same shape; 0 by default.

    Raises:
        InputError: the kernel is no symmetric positive semi-definite one, or shapes do not fit.

    Example:
        >>> import torch
        >>> K = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
        >>> frozen = FrozenKernel(K, torch.tensor([1.0, 0.0]))
        >>> frozen.after(1, rate=0.5), frozen.after(10_000, rate=0.5)
        (tensor([0.5000, 0.2500], dtype=torch.float64), tensor([1., 0.], dtype=torch.float64))
    """

    def __init__(self, kernel: Kernel | Tensor, targets: Tensor, initial: Tensor | None = None):
        kernel = kernel if isinstance(kernel, Kernel) else as_tensor(kernel, "the kernel")
        mercer = mercer_decomposition(kernel)
        y = _outputs(targets, "targets")
        start = torch.zeros_like(y) if initial is None else _outputs(initial, "initial")
        n, outputs = mercer.samples, mercer.outputs
        if start.shape != y.shape:
            raise InputError(f"initial has the shape of the targets {tuple(y.shape)}, not {tuple(start.shape)}")
        if len(y) != n or (outputs > 1 and tuple(y.shape) != (n, outputs)):
            wanted = f"[{n}, {outputs}]" if outputs > 1 else f"[{n}] or [{n}, outputs]"
            raise InputError(f"targets have shape {wanted}, not {tuple(y.shape)}")
        self.samples, self.outputs = n, outputs
        self._initial = start
        self._values = mercer.values.clamp_min(0)  # of K / n
        self._floor = mercer.floor
        self._vectors = mercer.vectors
        self._matrix = as_matrix(_kernel(kernel))[0]
        self._residual = mercer.vectors.T @ (y - start).reshape(len(mercer.vectors), -1)

    @property
    def largest_rate(self) -> float:
        """2n / λ_max: from here on gradient descent diverges."""
        top = float(self._values[0])
        return 2 / top if top else math.inf

    def after(
        self, steps: int, *, rate: float, cross: Kernel | Tensor | None = None, initial: Tensor | None = None
    ) -> Tensor:
        """Outputs after some steps of gradient descent.

        Args:
            steps: t ≥ 0.
            rate: η for the loss (1/2n) Σ ‖f - y‖²; for a plain mean of squared errors half of what the optimizer has.
            cross: kernel between other points and the training samples ``[m, n]`` or ``[m, n, O, O]``; None for the
                training samples themselves.
            initial: f_0 at the other points; 0 by default.

        Returns:
            ``[m]`` or ``[m, O]``, in float64.

        Raises:
            InputError: the rate is not below :attr:`largest_rate`, or shapes do not fit.
        """
        if steps < 0:
            raise InputError(f"steps is not negative, not {steps}")
        if not 0 < rate < self.largest_rate:
            raise InputError(
                f"with this kernel gradient descent converges for rates between 0 and {self.largest_rate:.3g}, not at "
                f"{rate}"
            )
        # 1 - (1 - ηλ)^t, exactly also where ηλ is small; above 1 the power oscillates
        shrink = 1 - rate * self._values
        small = shrink > 0
        left = torch.where(
            small, -torch.expm1(steps * torch.log1p(-rate * self._values.clamp_max(1 / rate))), 1 - shrink**steps
        )
        return self._outputs_at(self._over_values(left, rate * steps), cross, initial)

    def at(self, time: float, *, cross: Kernel | Tensor | None = None, initial: Tensor | None = None) -> Tensor:
        """Outputs of gradient flow on (1/2n) Σ ‖f - y‖² at a time; infinity for kernel regression.

        Args, Returns: as for :meth:`after`.

        Raises:
            InputError: the time is negative, or shapes do not fit.
        """
        if not time >= 0:
            raise InputError(f"time is not negative, not {time}")
        if math.isinf(time):
            inverse = torch.where(self._values > self._floor, 1 / self._values, 0.0)
            return self._outputs_at(inverse, cross, initial)
        return self._outputs_at(self._over_values(-torch.expm1(-self._values * time), time), cross, initial)

    def _over_values(self, share: Tensor, limit: float) -> Tensor:
        """share / λ, and what that tends to as λ → 0."""
        return torch.where(self._values > 0, share / self._values, limit)

    def _outputs_at(self, weights: Tensor, cross: Kernel | Tensor | None, initial: Tensor | None) -> Tensor:
        start: Any
        if cross is None:
            if initial is not None:
                raise InputError("initial= belongs to cross=: at the training samples it was given at the start")
            k, count, start = self._matrix, self.samples, self._initial
        else:
            values = _kernel(cross)
            k, outputs = as_matrix(values)
            count = len(values)
            if k.shape[1] != len(self._vectors) or outputs != self.outputs:
                raise InputError(
                    f"the kernel between other points and the {self.samples} training samples has shape "
                    f"[m, {self.samples}{', O, O' if self.outputs > 1 else ''}], not {tuple(values.shape)}"
                )
            shape = (count, *self._initial.shape[1:])
            start = torch.zeros(shape, dtype=torch.float64) if initial is None else _outputs(initial, "initial")
            if start.shape != shape:
                raise InputError(f"initial has shape {shape}, not {tuple(start.shape)}")
        moved = k @ (self._vectors @ (weights[:, None] * self._residual)) / self.samples
        return start + moved.reshape(start.shape)


def _kernel(given: Kernel | Tensor) -> Tensor:
    return as_tensor(given.values if isinstance(given, Kernel) else given, "a kernel")


def _outputs(values: Tensor, name: str) -> Tensor:
    found = as_tensor(values, name).double()
    if found.dim() not in (1, 2):
        raise InputError(f"{name} have shape [n] or [n, outputs], not {tuple(found.shape)}")
    if not torch.isfinite(found).all():
        raise InputError(f"{name} have NaN or infinite entries")
    return found
