"""Both players together: saturated discriminators, their own kernel, and the eigenvalues of the game.

Three questions that the generator alone does not answer: does the discriminator still drive it, does the
discriminator's gradient tell real samples from generated ones, and do the simultaneous updates of both

    v(θ, φ) = (−ρ_G ∇_θ L_G, −ρ_D ∇_φ L_D)

approach an equilibrium, circle it or leave it (Mescheder et al. 2017, 2018)?
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genkernel.errors import CaptureError, ConvergenceError, InputError, NonFiniteError
from genkernel.gan import measures
from genkernel.gan.discriminator import Discriminator
from genkernel.gan.generator import Generator
from genkernel.gan.latent_kernel import EXACT_UP_TO
from genkernel.gan.losses import Loss, generator_losses, loss_of
from genkernel.gan.measures import separation
from genkernel.models import gan_losses
from genkernel.tangent import TangentModel, batches, exact_trace, kernel, probes
from genkernel.tangent.passes import guarded

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]
Sides = tuple[Loss, Loss]

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # of quantiles
DENSE_UP_TO = 1500  # parameters of both players whose Jacobian is built and diagonalised as it is
_NEGLIGIBLE = math.sqrt(np.finfo(np.float64).eps)  # a double zero eigenvalue moves by this much when J is rounded

# of the logits of real and of generated samples, entry by entry
DISCRIMINATOR_LOSSES: dict[str, Sides] = {name: (loss.real, loss.fake) for name, loss in gan_losses.LOSSES.items()}


# ----------------------------------------------------------------------------- vanishing drive


@dataclass
class LogitStatistics:
    """Of the logits of n samples; a map of logits counts as its mean.

    Attributes:
        mean, std: over samples.
        quantiles: at :data:`LEVELS`.
    """

    mean: float
    std: float
    quantiles: Array


@dataclass
class DriveStatistics:
    """How strongly the discriminator still drives the generator.

    The drive of a sample is δ = ℓ′(l) ∇l. It vanishes because the loss is saturated (ℓ′(l) ≈ 0) or because the
    discriminator is flat there (∇l ≈ 0); the two are counted apart.

    Attributes:
        generated: logits of generated samples.
        real: logits of real samples; None without any.
        separation: probability that a real sample has a larger logit than a generated one (the area under the ROC
            curve): 0.5 where the discriminator cannot tell them apart, 1 where it always does; NaN without real
            samples.
        saturated: share of generated samples with ‖δ‖ < ``fraction`` ‖∇l‖, that is below a stated fraction of the
            drive without saturation, −∇l (of the losses −l).
        fraction: the stated one.
        flat: share of generated samples with ∇l = 0 exactly; they have no drive whatever the loss, and are not
            counted as saturated.
        drive, gradient: quantiles of ‖δ‖ and of ‖∇l‖ at :data:`LEVELS`.
    """

    generated: LogitStatistics
    real: LogitStatistics | None
    separation: float
    saturated: float
    fraction: float
    flat: float
    drive: Array
    gradient: Array


def drive_statistics(
    discriminator: Discriminator,
    generated: Tensor,
    real: Tensor | None = None,
    loss: str | Loss = "non-saturating",
    *,
    fraction: float = 0.01,
    labels: Any = None,
    real_labels: Any = None,
) -> DriveStatistics:
    """Logits on both sides, and the drive on the generated one.

    Args:
        generated, real: samples ``[n, *sample]`` and ``[m, *sample]``.
        loss: of the generator: a name of :data:`~genkernel.gan.losses.LOSSES`, or a function of the logit.
        fraction: of the drive without saturation, below which a sample counts as saturated.
        labels, real_labels: of a conditional discriminator.

    Raises:
        InputError: samples do not fit, an unknown loss, or a fraction outside (0, 1).
        NonFiniteError: a logit or a gradient is NaN or infinite.
    """
    if not 0 < fraction < 1:
        raise InputError(f"the fraction of the drive lies between 0 and 1, not at {fraction!r}")
    fake = _per_sample(discriminator.logits(generated, labels))
    true = None if real is None else _per_sample(discriminator.logits(real, real_labels))
    drive = _norms(discriminator.drive(generated, loss, labels))
    gradient = _norms(discriminator.drive(generated, torch.neg, labels))
    return DriveStatistics(
        generated=_statistics(fake),
        real=None if true is None else _statistics(true),
        separation=math.nan if true is None else separation(fake, true),
        saturated=float((drive < fraction * gradient).mean()),
        fraction=fraction,
        flat=float((gradient == 0).mean()),
        drive=np.quantile(drive, LEVELS),
        gradient=np.quantile(gradient, LEVELS),
    )


# --------------------------------------------------------------------- the discriminator's kernel


@dataclass
class DiscriminatorKernel:
    """Cosines between the gradients of the discriminator's logits in its parameters.

    A step on one sample changes the logit of another by their kernel. Where ``between`` is as large as the other
    two, raising the logits of real samples raises those of generated ones as well.

    Attributes:
        normalized: ``[n + m, n + m]``, real samples first.
        real: n, the number of real samples.
        within_real, within_generated: means over pairs of different samples of one kind; NaN for a single one.
        between: mean over pairs of a real and a generated sample.
        probes: 0 for the exact trace (of maps of logits); else the number of random probes.
    """

    normalized: Array
    real: int
    within_real: float
    within_generated: float
    between: float
    probes: int = 0


def discriminator_kernel(
    discriminator: Discriminator,
    real: Tensor,
    generated: Tensor,
    *,
    labels: Any = None,
    real_labels: Any = None,
    count: int = 8,
    seed: int = 0,
    dtype: torch.dtype | str | None = None,
    memory: str | int = "8GiB",
) -> DiscriminatorKernel:
    """The discriminator's own kernel between real and generated samples.

    Args:
        real, generated: samples ``[n, *sample]`` and ``[m, *sample]``.
        labels, real_labels: of a conditional discriminator.
        count, seed: of the probes, for maps of more than 16 logits.
        dtype, memory: as for :func:`genkernel.kernel`.

    Raises:
        InputError: samples do not fit.
        BatchCouplingError: its logit for a sample depends on the rest of the batch, so that there is no such kernel.
        NonFiniteError: a gradient is NaN or infinite.
    """
    batch = batches.concatenate(discriminator.batch(real, real_labels), discriminator.batch(generated, labels))
    few = batches.take(batch, slice(0, 2))
    outputs = discriminator.tangent.forward(few)[0].numel()
    exact = outputs <= EXACT_UP_TO
    found = kernel(
        discriminator.tangent,
        batch,
        cotangents=exact_trace() if exact else probes(count, seed),
        by=None,
        dtype=dtype,
        memory=memory,
        progress=False,
    )
    values = found.normalized().values.numpy()
    n = len(real)
    return DiscriminatorKernel(
        normalized=values,
        real=n,
        within_real=measures.mean_off_diagonal(values[:n, :n]),
        within_generated=measures.mean_off_diagonal(values[n:, n:]),
        between=float(values[:n, n:].mean()),
        probes=0 if exact else count,
    )


# ------------------------------------------------------------------------- the Jacobian of the game


class GameJacobian:
    """The Jacobian ∂v/∂(θ, φ) ``[P, P]`` of simultaneous gradient descent, by its products.

    Its blocks are −ρ_G [∇²_θθ L_G, ∇²_θφ L_G] and −ρ_D [∇²_φθ L_D, ∇²_φφ L_D]. L_G and L_D are means over the
    latents and the real samples given, in float64, with both networks in the mode they are analysed in (so batch
    normalisation uses held statistics). Products go through one graph of both losses that is kept meanwhile. At
    kinks (ReLU, hinge) the second derivative is that of the piece.

    Args:
        generator, discriminator: the two players; their selected parameters are θ and φ.
        batch: of latents (``generator.draw(n)``).
        real: real samples ``[m, *sample]``.
        loss: of the generator; the discriminator has the usual counterpart of it: the logistic loss for
            ``"non-saturating"``, ``"minimax"`` and ``"kl"``, else the loss of the same name.
        discriminator_loss: functions of the logits of real and of generated samples, in place of the counterpart;
            needed where ``loss`` is a function.
        r1: γ of the penalty γ/2 E‖∇_x l‖² on real samples (Mescheder et al. 2018).
        rates: ρ_G and ρ_D, the learning rates relative to the step size that is asked about.
        labels: of generated samples, for a conditional discriminator; the generator's own by default.
        real_labels: of the real samples.

    Attributes:
        shape: (P, P), of θ and φ together.
        generator_size: number of entries of θ, which come first.
        losses: L_G and L_D, the penalty included.
        field: v ``[P]`` float64. Eigenvalues describe an equilibrium only where it is small.

    Raises:
        InputError: samples or labels do not fit, an unknown loss, or a number out of range.
        NonFiniteError: a loss or its gradient is NaN or infinite.
        CaptureError: a network cannot be differentiated twice.
    """

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        batch: dict[str, Any],
        real: Tensor,
        loss: str | Loss = "non-saturating",
        *,
        discriminator_loss: Sides | None = None,
        r1: float = 0.0,
        rates: tuple[float, float] = (1.0, 1.0),
        labels: Any = None,
        real_labels: Any = None,
    ):
        if generator.output_shape != discriminator.sample_shape:
            raise InputError(
                f"the generator makes samples {generator.output_shape}, the discriminator takes "
                f"{discriminator.sample_shape}"
            )
        if not (math.isfinite(r1) and r1 >= 0):
            raise InputError(f"r1 is a penalty from 0 on, not {r1!r}")
        if len(rates) != 2 or not all(math.isfinite(rate) and rate > 0 for rate in rates):
            raise InputError(f"rates are two positive numbers, of the generator and the discriminator, not {rates!r}")
        sides = _sides(loss, discriminator_loss)
        judged = discriminator.batch(real, real_labels)
        if labels is None and discriminator.classes is not None and "y" in batch:
            labels = batch["y"].argmax(1) if batch["y"].dim() > 1 else batch["y"]
        made = discriminator.batch(generator.images(batch), labels)
        maker, judge = generator.tangent, discriminator.tangent
        with guarded(maker), guarded(judge), torch.enable_grad():
            theta, phi = maker.tensors(torch.float64), judge.tensors(torch.float64)
            with maker.evaluating():
                x = maker.run(theta, batches.move(batch, maker.device, torch.float64))
            with judge.evaluating():
                fake = judge.run(phi, _with(judge, made, x), through=True)
                shown = judged["x"].detach().double().clone().requires_grad_(r1 > 0)
                true = judge.run(phi, _with(judge, judged, shown), through=True)
            L_G = generator_losses(loss, fake).mean()
            L_D = generator_losses(sides[0], true).mean() + generator_losses(sides[1], fake).mean()
            if r1:
                slope = _grad(true.flatten(1).mean(1).sum(), [shown])
                L_D = L_D + r1 / 2 * slope.square().sum() / len(shown)
            own = [theta[name] for name in maker.parameter_names], [phi[name] for name in judge.parameter_names]
            every = [*own[0], *own[1]]
            gradients = _grad(L_G.to(x.device), every), _grad(L_D.to(x.device), every)
        sizes = [sum(t.numel() for t in tensors) for tensors in own]
        self.shape = sum(sizes), sum(sizes)
        self.generator_size = sizes[0]
        self.losses = float(L_G.detach()), float(L_D.detach())
        self._rows = slice(0, sizes[0]), slice(sizes[0], sum(sizes))
        self._every, self._own, self._gradients, self._rates = every, own, gradients, rates
        found = zip(self._gradients, self._rows, rates, strict=True)
        self.field = -torch.cat([rate * g[rows].detach() for g, rows, rate in found]).cpu()
        if not all(map(math.isfinite, self.losses)) or not torch.isfinite(self.field).all():
            raise NonFiniteError("a loss of the game, or its gradient, is NaN or infinite")

    def matvec(self, u: Any) -> Tensor:
        """The product with u ``[P]``, float64.

        Raises:
            InputError: u has another length.
            CaptureError: a network cannot be differentiated twice.
        """
        u = torch.as_tensor(u, dtype=torch.float64).detach()
        if u.shape != self.shape[:1]:
            raise InputError(f"the Jacobian of this game takes vectors of length {self.shape[1]}, not {tuple(u.shape)}")
        # second derivatives are symmetric, so that rows of the Hessian times u are a derivative of ⟨∇L, u⟩
        parts = []
        with torch.inference_mode(False), torch.enable_grad():
            u = u.clone()
            for gradient, own, rate in zip(self._gradients, self._own, self._rates, strict=True):
                parts.append(-rate * _grad(gradient @ u.to(gradient.device), own, again=False).cpu())
        return torch.cat(parts)

    def dense(self) -> Tensor:
        """The matrix ``[P, P]`` float64, row by row."""
        rows = []
        with torch.inference_mode(False), torch.enable_grad():
            for gradient, mine, rate in zip(self._gradients, self._rows, self._rates, strict=True):
                rows += [
                    -rate * _grad(gradient[i], self._every, again=False).cpu() for i in range(mine.start, mine.stop)
                ]
        return torch.stack(rows)


@dataclass
class GameSpectrum:
    """Eigenvalues of the Jacobian of a game, and what they say of simultaneous gradient descent near an equilibrium.

    Attributes:
        eigenvalues: all of them where ``exact``; else those of the two searches together (one may have been found by
            both); largest real part first.
        largest: the ``count`` of largest magnitude.
        rightmost: the ``count`` of largest real part.
        exact: the matrix was built and diagonalised; otherwise the three numbers below are of the eigenvalues
            found, by Arnoldi iterations (ARPACK).
        abscissa: the largest real part. Above 0 the players leave the equilibrium at this rate. Networks rest where
            gradients are small rather than at an equilibrium, and some eigenvalues of the generator's Hessian are
            negative there: expect abscissae above 0 in good health as well, and compare them between runs.
        oscillation: the largest |Im λ/Re λ|; a lower bound unless exact. Far above 1 they circle it many times before
            they approach it.
        stable_step: min over λ of −2 Re λ/|λ|²: the step size up to which every |1 + ηλ| < 1; 0 where some
            Re λ ≥ 0, so that no step size is stable; an upper bound unless exact. Eigenvalues below 1.5e-8 of the
            largest are zero within rounding and count for neither this nor the oscillation.
        field_norms: ‖v‖ of the generator's and of the discriminator's part: 0 at an equilibrium. Far from one the
            eigenvalues describe how neighbouring paths separate, and no fixed point.
    """

    eigenvalues: Complex
    largest: Complex
    rightmost: Complex
    exact: bool
    abscissa: float
    oscillation: float
    stable_step: float
    field_norms: tuple[float, float]


def game_spectrum(
    jacobian: GameJacobian, count: int = 6, *, dense_up_to: int = DENSE_UP_TO, tolerance: float = 1e-9, seed: int = 0
) -> GameSpectrum:
    """Eigenvalues of largest magnitude and of largest real part.

    Args:
        count: of each kind.
        dense_up_to: number of parameters of both players up to which the matrix is built.
        tolerance: relative, of the iteration.
        seed: of its first vector.

    Raises:
        InputError: count is not positive.
        ConvergenceError: the iteration did not find that many eigenvalues.
        CaptureError: a network cannot be differentiated twice.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"at least one eigenvalue has to be asked for, not {count!r}")
    size = jacobian.shape[0]
    exact = size <= max(dense_up_to, count + 2)  # ARPACK finds up to P − 2
    if exact:
        from scipy.linalg import eigvals

        every = np.asarray(eigvals(jacobian.dense().numpy()), dtype=np.complex128)
        largest, rightmost = (every[np.argsort(-key, kind="stable")][:count] for key in (np.abs(every), every.real))
    else:
        largest, rightmost = (_arnoldi(jacobian, count, which, tolerance, seed) for which in ("LM", "LR"))
        every = np.concatenate([largest, rightmost])
    every = every[np.argsort(-every.real, kind="stable")]
    start = jacobian.generator_size
    return GameSpectrum(
        eigenvalues=every,
        largest=largest,
        rightmost=rightmost,
        exact=exact,
        abscissa=float(every.real.max()),
        oscillation=oscillation(every),
        stable_step=stable_step(every),
        field_norms=(float(jacobian.field[:start].norm()), float(jacobian.field[start:].norm())),
    )


def oscillation(eigenvalues: Complex) -> float:
    """The largest |Im λ/Re λ|; infinite on the imaginary axis, NaN where all are zero."""
    found = _not_zero(eigenvalues)
    if not len(found):
        return math.nan
    with np.errstate(divide="ignore"):
        return float(np.max(np.abs(found.imag) / np.abs(found.real)))


def stable_step(eigenvalues: Complex) -> float:
    """min over λ of −2 Re λ/|λ|², at least 0: the largest step size of simultaneous gradient descent."""
    found = _not_zero(eigenvalues)
    return max(0.0, float(np.min(-2 * found.real / np.abs(found) ** 2))) if len(found) else math.inf


def _not_zero(eigenvalues: Complex) -> Complex:
    size = np.abs(eigenvalues)
    return eigenvalues[size > _NEGLIGIBLE * size.max()]


def _arnoldi(jacobian: GameJacobian, count: int, which: str, tolerance: float, seed: int) -> Complex:
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigs

    size = jacobian.shape[0]
    operator = LinearOperator(jacobian.shape, matvec=lambda u: jacobian.matvec(u.ravel()).numpy(), dtype=np.float64)
    start = np.random.default_rng(seed).standard_normal(size)
    room = min(size, max(4 * count, 40))  # vectors kept: eigenvalues of a game lie close to each other
    try:
        found = eigs(operator, k=count, which=which, v0=start, tol=tolerance, ncv=room, return_eigenvectors=False)
    except ArpackError as error:
        kind = "magnitude" if which == "LM" else "real part"
        raise ConvergenceError(
            f"the {count} eigenvalues of largest {kind} were not found ({error}): ask for fewer, or raise dense_up_to "
            f"to {size} for all of them"
        ) from None
    key = np.abs(found) if which == "LM" else found.real
    return np.asarray(found[np.argsort(-key, kind="stable")], dtype=np.complex128)


# ------------------------------------------------------------------------------------------ inside


def _sides(loss: str | Loss, given: Sides | None) -> Sides:
    if given is not None:
        if len(given) != 2 or not all(map(callable, given)):
            raise InputError("discriminator_loss is two functions of logits: of real samples, and of generated ones")
        return given
    if callable(loss):
        raise InputError("with a function as the generator's loss, discriminator_loss has to be given as well")
    loss_of(loss)
    return DISCRIMINATOR_LOSSES[loss]


def _with(judge: TangentModel, batch: dict[str, Any], x: Tensor) -> dict[str, Any]:
    """A discriminator's batch in float64 with other samples, that derivatives pass through."""
    return {**batches.move(batch, judge.device, torch.float64), "x": x.to(judge.device)}


def _grad(value: Tensor, leaves: list[Tensor], *, again: bool = True) -> Tensor:
    """The gradient, flattened to one vector; ``again``: to be differentiated further."""
    if not value.requires_grad:
        return torch.cat([torch.zeros_like(leaf).flatten() for leaf in leaves])
    try:
        found = torch.autograd.grad(
            value, leaves, retain_graph=True, create_graph=again, allow_unused=True, materialize_grads=True
        )
    except RuntimeError as error:
        if "not implemented" not in str(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise CaptureError(f"a network of this game cannot be differentiated twice: {reason}") from None
    flat = torch.cat([g.flatten().to(leaves[0].device) for g in found])
    if again and _ends_in_error(flat):
        raise CaptureError(
            "a network of this game has a torch.autograd.Function that is marked once_differentiable, so that its "
            "second derivatives are not known"
        )
    return flat


def _ends_in_error(value: Tensor) -> bool:
    """Autograd leaves what is once_differentiable out of second derivatives, without a word where others reach them."""
    seen, left = set(), [value.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            return True
        seen.add(node)
        left += [following for following, _ in node.next_functions]
    return False


def _per_sample(logits: Tensor) -> Array:
    return logits.double().cpu().reshape(len(logits), -1).mean(1).numpy()


def _norms(field: Tensor) -> Array:
    return field.double().cpu().flatten(1).norm(dim=1).numpy()


def _statistics(logits: Array) -> LogitStatistics:
    return LogitStatistics(float(logits.mean()), float(logits.std()), np.quantile(logits, LEVELS))
