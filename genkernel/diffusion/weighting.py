"""What-if loss weights: which levels would one training step improve, under other weightings?

Training on Σ_b p_b w_b L_b (p the timestep sampler, w the loss weight) has the gradient
g = Σ_b p_b w_b ∇L_b; sampler and weight enter as a product. One step changes the loss at level t, to
first order, by ΔL_t = -η ⟨∇L_t, g⟩. The evaluated levels count equally: g = (1/L) Σ_b ω_b ∇L_b.

Two fair comparisons, both reported:

- *equal learning rate*: η = 1 for every scheme, so a scheme with small weights takes a small step;
- *equal gradient norm*: η scaled so that η‖g‖ is that of uniform weighting; this compares directions
  and is the one that ``predicted_change`` holds.

Changes use the unbiased inner products over pairs of different images (:mod:`.interference`), so they
are predictions for *new* samples; the gradient's norm is that of the evaluated samples, the gradient a
step would really take, sampling noise included. Errors by the jackknife over images. L_t is the
unweighted squared error of the network's raw output, whatever it predicts; weights of the literature
that are defined for the ε- or the x₀-loss are converted with THEORY §6's ratios of prediction errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genkernel.diffusion.resampling import jackknife_stderr
from genkernel.diffusion.results import Interference, Levels, Weighting, WeightingRow
from genkernel.errors import InputError

if TYPE_CHECKING:
    from genkernel.diffusion.schedule import NoiseSchedule

Array = NDArray[np.float64]
Weights = Mapping[str, Any]  # name -> [L] or callable (t [L], log_snr [L]) -> [L]

MIN_SNR_GAMMA = 5.0  # Hang et al. 2023
P2_K, P2_GAMMA = 1.0, 1.0  # Choi et al. 2022


def min_snr(schedule: NoiseSchedule, t: Any, gamma: float = MIN_SNR_GAMMA) -> Array:
    """Min-SNR-γ (Hang et al. 2023) as a weight of the raw-output loss, ``[L]``.

    The x₀-loss is weighted by min(SNR, γ), hence the ε-loss by min(SNR, γ)/SNR and the v-loss by
    min(SNR, γ)/(SNR + 1).
    """
    log_snr = schedule.log_snr(t).numpy()
    return np.exp(np.minimum(0.0, np.log(gamma) - log_snr)) * _per_epsilon(schedule, t)


def p2(schedule: NoiseSchedule, t: Any, k: float = P2_K, gamma: float = P2_GAMMA) -> Array:
    """P2 (Choi et al. 2022): the ε-loss weighted by (k + SNR)^-γ, as a weight of the raw-output loss, ``[L]``."""
    log_snr = schedule.log_snr(t).numpy()
    return np.exp(-gamma * np.logaddexp(np.log(k), log_snr)) * _per_epsilon(schedule, t)


def _per_epsilon(schedule: NoiseSchedule, t: Any) -> Array:
    """Squared error of ε per squared error of the raw output: turns ε-loss weights into raw ones (THEORY §6)."""
    return 1.0 / schedule.error_ratio(t).numpy() ** 2


def schemes(
    schedule: NoiseSchedule, levels: Levels, weights: Weights | None = None, samplers: Weights | None = None
) -> dict[str, Array]:
    """Weights ``[L]`` of every scheme on the raw-output loss.

    Min-SNR and P2 are left out when a level has no noise at all and the network predicts x₀: the ε-loss they
    refer to does not exist there. ``weights`` are taken as they are; ``samplers`` are densities over the
    levels, scaled to mean one.

    Raises:
        InputError: a scheme is not one finite number ≥ 0 per level, or all zero, or its name is taken.
    """
    t = levels.timesteps
    found = {"uniform": np.ones(len(t))}
    with np.errstate(divide="ignore", invalid="ignore"):
        published = {f"min-SNR-{MIN_SNR_GAMMA:g}": min_snr(schedule, t), "P2": p2(schedule, t)}
    found.update({name: row for name, row in published.items() if np.isfinite(row).all()})
    for given, is_sampler in ((weights, False), (samplers, True)):
        for name, value in (given or {}).items():
            if name in found:
                raise InputError(f"a weighting named {name!r} exists already: give it another name")
            row = np.asarray(value(t, levels.log_snr) if isinstance(value, Callable) else value, dtype=np.float64)  # type: ignore[arg-type]
            if row.shape != t.shape or not np.isfinite(row).all() or (row < 0).any() or not row.any():
                raise InputError(
                    f"weighting {name!r} has to give a finite number ≥ 0 for each of the {len(t)} levels, not all zero"
                )
            found[name] = row / row.mean() if is_sampler else row
    return found


def weighting(found: Interference, levels: Levels, loss: Array, weights: Mapping[str, Array]) -> Weighting:
    """Predicted first-order change of every level's loss under each scheme.

    Args:
        found: the interference of the levels.
        loss: mean loss per level ``[L]``, for the table.
        weights: scheme → ``[L]``; ``"uniform"`` must be there, the norms refer to it.
    """
    products, plugin = found.inner_products, found.inner_products_plugin
    assert plugin is not None
    replicates, plugin_replicates = found.inner_products_jackknife, found.inner_products_plugin_jackknife
    size = len(levels.timesteps)
    uniform = np.ones(size)
    change, stderr, change_lr, stderr_lr, norms, rows = {}, {}, {}, {}, {}, []
    for name, weight in weights.items():
        change_lr[name] = -(products @ weight) / size
        change[name] = change_lr[name] * _relative_step(plugin, weight, uniform)
        norms[name] = float(_norm(plugin, weight))
        stderr[name] = stderr_lr[name] = np.full(size, np.nan)
        if replicates is not None and plugin_replicates is not None:
            left_out = -(replicates @ weight) / size
            stderr_lr[name] = jackknife_stderr(left_out)
            scale = _relative_step(plugin_replicates, weight, uniform)
            stderr[name] = jackknife_stderr(left_out * scale[:, None])
        rows += [
            WeightingRow(
                scheme=name,
                timestep=float(levels.timesteps[a]),
                log_snr=float(levels.log_snr[a]),
                weight=float(weight[a]),
                loss=float(loss[a]),
                change=float(change[name][a]),
                change_stderr=float(stderr[name][a]),
                change_equal_lr=float(change_lr[name][a]),
                change_equal_lr_stderr=float(stderr_lr[name][a]),
            )
            for a in range(size)
        ]
    return Weighting(
        schemes=dict(weights),
        predicted_change=change,
        stderr=stderr,
        predicted_change_equal_lr=change_lr,
        stderr_equal_lr=stderr_lr,
        rows=rows,
        gradient_norm=norms,
        definition=(
            "first-order change of the unweighted raw-output loss per level for one gradient step with learning rate 1 "
            "on the mean over levels of weight × loss; predicted_change scales the step so that its gradient has the "
            "norm that uniform weighting gives, predicted_change_equal_lr does not; changes are for new samples, "
            "norms are those of the evaluated ones"
        ),
    )


def _norm(products: Array, weight: Array) -> Array:
    """‖(1/L) Σ_b ω_b ∇L_b‖, ``[...]``."""
    squared = np.einsum("a,...ab,b->...", weight, products, weight) / len(weight) ** 2
    return np.sqrt(np.maximum(squared, 0.0))


def _relative_step(products: Array, weight: Array, uniform: Array) -> Array:
    """Factor that gives a scheme's gradient the norm of uniform weighting's, ``[...]``; NaN for a zero gradient."""
    norm = _norm(products, weight)
    return _norm(products, uniform) / np.where(norm > 0, norm, np.nan)
