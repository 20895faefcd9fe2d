"""Generator losses and their derivatives, against THEORY §7."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.gan.losses import LOSSES, generator_losses, logit_gradient, loss_of

LOGITS = torch.linspace(-30, 30, 61, dtype=torch.float64)
D = torch.sigmoid(LOGITS)
DERIVATIVES = {
    "kl": -torch.ones_like(D),
    "hinge": -torch.ones_like(D),
    "wgan": -torch.ones_like(D),
    "minimax": -D,
    "non-saturating": -torch.sigmoid(-LOGITS),
    "lsgan": LOGITS - 1,
}
VALUES = {
    "kl": -LOGITS,
    "hinge": -LOGITS,
    "wgan": -LOGITS,
    "minimax": torch.log(torch.sigmoid(-LOGITS)),
    "non-saturating": -torch.log(D),
    "lsgan": (LOGITS - 1) ** 2 / 2,
}


def test_all_losses_are_tested() -> None:
    assert set(DERIVATIVES) == set(VALUES) == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_derivatives(name: str) -> None:
    torch.testing.assert_close(generator_losses(name, LOGITS), VALUES[name], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(logit_gradient(name, LOGITS), DERIVATIVES[name], rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_saturates_in_float32(name: str) -> None:
    """D or 1 − D rounds to 1 far out; the loss and its derivative do not care."""
    far = torch.tensor([-80.0, 80.0])
    exact = logit_gradient(name, far.double())
    torch.testing.assert_close(logit_gradient(name, far).double(), exact, rtol=1e-5, atol=0)
    assert torch.isfinite(generator_losses(name, far)).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_map_of_logits_is_averaged(name: str) -> None:
    logits = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(generator_losses(name, logits), LOSSES[name](logits).mean((1, 2)))
    torch.testing.assert_close(logit_gradient(name, logits), logit_gradient(name, logits.flatten()).view(3, 2, 5) / 10)


def test_a_loss_of_ones_own() -> None:
    assert loss_of(torch.square) is torch.square
    torch.testing.assert_close(logit_gradient(torch.square, LOGITS), 2 * LOGITS)
    with torch.inference_mode():
        assert torch.equal(logit_gradient("lsgan", LOGITS.clone()), LOGITS - 1)


def test_refusals() -> None:
    for wrong in ("nonsaturating", "", None, 3):
        with pytest.raises(InputError, match="the generator's loss is one of non-saturating, minimax, kl"):
            loss_of(wrong)  # type: ignore[arg-type]
    for reducing in (lambda logit: logit.mean(), lambda logit: 0.0):
        with pytest.raises(InputError, match="entry by entry"):
            generator_losses(reducing, LOGITS)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="does not depend on the logit"):
        logit_gradient(lambda logit: torch.zeros_like(logit), LOGITS)


@pytest.mark.parametrize(
    ("name", "printed"), [("kl", 0.800), ("minimax", 0.3443), ("non-saturating", 0.4557), ("lsgan", None)]
)
def test_at_the_optimal_discriminator_a_loss_descends_a_divergence(name: str, printed: float | None) -> None:
    """p_g = N(μ, 1) and p_d = N(0, 1) at μ = 0.8: E δ ∂x/∂μ is dKL/dμ, d(2 JSD)/dμ, and d(KL − 2 JSD)/dμ."""
    x = torch.linspace(-14, 14, 40_001, dtype=torch.float64)
    dx = float(x[1] - x[0])

    def log_density(at: Tensor, mean: Tensor | float) -> Tensor:
        return -0.5 * (at - mean) ** 2 - 0.5 * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64))

    mean = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    logit = (log_density(x, 0.0) - log_density(x, mean)).detach()
    slope = -0.8  # ∇ₓ logit = ∇ log p_d − ∇ log p_g = −x + (x − μ)
    weight = torch.exp(log_density(x, 0.8)) * dx
    # LSGAN is used with D itself, which is l* = D at its own optimum: (D − 1) ∇D = −D(1 − D)² ∇ logit
    if printed is None:
        d = torch.sigmoid(logit)
        delta = logit_gradient(name, d) * d * (1 - d)
        torch.testing.assert_close(delta, -d * (1 - d) ** 2, rtol=1e-12, atol=1e-300)
        return
    moved = float((weight * logit_gradient(name, logit) * slope).sum())
    p, q = log_density(x, mean), log_density(x, 0.0)
    middle = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0, dtype=torch.float64))
    kl = (p.exp() * (p - q)).sum() * dx
    twice_jsd = (p.exp() * (p - middle) + q.exp() * (q - middle)).sum() * dx
    divergence = {"kl": kl, "minimax": twice_jsd, "non-saturating": kl - twice_jsd}[name]
    (gradient,) = torch.autograd.grad(divergence, mean)
    assert moved == pytest.approx(float(gradient), rel=1e-9)
    assert moved == pytest.approx(printed, abs=5e-5)
