"""Vanishing drives, the discriminator's kernel, and the eigenvalues of games whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from genkernel.errors import (
    BatchCouplingError,
    CaptureError,
    ConvergenceError,
    InputError,
    NonFiniteError,
)
from genkernel.gan import LOSSES, Discriminator, Generator
from genkernel.gan.game import (
    DISCRIMINATOR_LOSSES,
    GameJacobian,
    discriminator_kernel,
    drive_statistics,
    game_spectrum,
    oscillation,
    stable_step,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Linear(nn.Module):
    """l(x) = w·x + b, given."""

    def __init__(self, weight: list[float], bias: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(bias, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


# ----------------------------------------------------------------------------- vanishing drive


@pytest.mark.parametrize(("loss", "saturated"), [("minimax", 0.5), ("non-saturating", 0.25), ("wgan", 0.0)])
def test_saturation_by_hand(loss: str, saturated: float) -> None:
    """With l = 2x the logits are −20, −10, 0 and 20; D < 1 % for the first two, D > 99 % for the last."""
    found = drive_statistics(
        Discriminator(Linear([2.0]), (1,)),
        torch.tensor([[-10.0], [-5.0], [0.0], [10.0]]),
        torch.tensor([[4.0], [-7.0]]),
        loss,
    )
    assert found.saturated == saturated and found.fraction == 0.01 and found.flat == 0
    logits = torch.tensor([-20.0, -10.0, 0.0, 20.0], dtype=torch.float64)
    D = logits.sigmoid()
    weight = {"minimax": D, "non-saturating": 1 - D, "wgan": torch.ones(4).double()}[loss]
    np.testing.assert_allclose(found.drive, np.quantile(2 * weight, [0.05, 0.25, 0.5, 0.75, 0.95]), rtol=1e-9)
    np.testing.assert_allclose(found.gradient, 2, rtol=1e-14)
    assert found.generated.mean == pytest.approx(-2.5) and found.generated.std == pytest.approx(
        float(logits.std(unbiased=False))
    )
    assert found.real is not None and found.real.quantiles[2] == pytest.approx(-3)
    assert found.separation == (3 + 1) / 8  # 8 is above three of the four generated logits, −14 above one


def test_a_flat_discriminator_is_not_called_saturated() -> None:
    net = nn.Sequential(nn.Linear(1, 1), nn.ReLU()).double()
    nn.init.ones_(net[0].weight), nn.init.zeros_(net[0].bias)
    found = drive_statistics(Discriminator(net, (1,)), torch.tensor([[-3.0], [-1.0], [2.0], [0.5]]))
    assert found.flat == 0.5 and found.saturated == 0
    assert found.real is None and math.isnan(found.separation)


def test_maps_of_logits_count_as_their_mean() -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(1, 1, 3).double()
    x = normal(5, 1, 6, 6)
    found = drive_statistics(Discriminator(net, (1, 6, 6)), x, x + 1, "lsgan", fraction=0.5)
    with torch.no_grad():
        means = net(x).flatten(1).mean(1)
    assert found.generated.mean == pytest.approx(float(means.mean()), rel=1e-12)
    assert found.generated.std == pytest.approx(float(means.std(unbiased=False)), rel=1e-12)


def test_a_fraction_has_to_be_one() -> None:
    with pytest.raises(InputError, match=r"between 0 and 1, not at 1\.5"):
        drive_statistics(Discriminator(Linear([2.0]), (1,)), torch.zeros(2, 1), fraction=1.5)


# --------------------------------------------------------------------- the discriminator's kernel


def test_the_kernel_of_a_linear_discriminator() -> None:
    real, generated = normal(4, 3), normal(3, 3, seed=1) + 2
    found = discriminator_kernel(Discriminator(Linear([0.5, -1.0, 2.0], 0.3), (3,)), real, generated)
    x = torch.cat([torch.cat([real, generated]), torch.ones(7, 1).double()], 1)
    unit = x / x.norm(dim=1, keepdim=True)
    expected = (unit @ unit.T).numpy()
    np.testing.assert_allclose(found.normalized, expected, rtol=0, atol=1e-14)
    assert found.between == pytest.approx(expected[:4, 4:].mean(), rel=1e-12)
    assert found.within_real == pytest.approx(expected[:4, :4][~np.eye(4, dtype=bool)].mean(), rel=1e-12)
    assert found.within_generated == pytest.approx(expected[4:, 4:][~np.eye(3, dtype=bool)].mean(), rel=1e-12)
    assert found.real == 4 and found.probes == 0


def test_kernels_of_maps_use_probes_and_mixing_discriminators_have_none() -> None:
    torch.manual_seed(0)
    maps = Discriminator(nn.Conv2d(1, 1, 2).double(), (1, 6, 6))
    found = discriminator_kernel(maps, normal(3, 1, 6, 6), normal(1, 1, 6, 6, seed=1), count=3)
    assert found.probes == 3 and found.normalized.shape == (4, 4) and math.isnan(found.within_generated)

    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x - x.mean(0))

    with pytest.raises(BatchCouplingError):
        discriminator_kernel(Discriminator(Mixing(), (2,)), torch.randn(6, 2), torch.randn(6, 2))


# ----------------------------------------------------------------------- games with known answers


class Point(nn.Module):
    """G(z) = θ + z."""

    def __init__(self, start: list[float]):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        return self.theta + z


class Quadratic(nn.Module):
    """l(x) = φᵀ B x − a ‖x‖²/2."""

    def __init__(self, scales: list[float], bend: float = 0.0, start: float = 0.0):
        super().__init__()
        self.phi = nn.Parameter(torch.full((len(scales),), start, dtype=torch.float64))
        self.scales, self.bend = torch.tensor(scales, dtype=torch.float64), bend

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.scales.to(x) * self.phi) - self.bend / 2 * x.square().sum(1)


def game(scales: list[float], bend: float = 0.0, z: list[float] | None = None, **options: object) -> GameJacobian:
    """Data at the origin, a generator that is a point there, and latents and data spread by ``z`` in each dimension."""
    d = len(scales)
    gen, disc = Generator(Point([0.0] * d), (d,)), Discriminator(Quadratic(scales, bend), (d,), output="logit")
    spread = torch.tensor(z or [0.0], dtype=torch.float64)[:, None].expand(-1, d)
    return GameJacobian(gen, disc, gen.batch(spread), spread, **options)  # type: ignore[arg-type]


def by_imaginary(values: np.ndarray) -> np.ndarray:
    return values[np.lexsort((values.real, values.imag))]


def test_the_bilinear_game_turns_in_circles() -> None:
    jacobian = game([1.0], loss="wgan")
    np.testing.assert_array_equal(jacobian.dense(), [[0, 1], [-1, 0]])
    assert jacobian.losses == (0, 0) and not jacobian.field.any()
    found = game_spectrum(jacobian)
    np.testing.assert_allclose(by_imaginary(found.eigenvalues), [-1j, 1j], atol=1e-15)
    assert found.abscissa == pytest.approx(0, abs=1e-15) and found.oscillation > 1e15
    assert found.stable_step == pytest.approx(0, abs=1e-14) and found.exact and found.field_norms == (0, 0)


def test_learning_rates_of_the_players() -> None:
    found = game_spectrum(game([1.0], loss="wgan", rates=(4.0, 0.25 / 4)))
    np.testing.assert_allclose(by_imaginary(found.eigenvalues), [-0.5j, 0.5j], atol=1e-15)
    jacobian = game([2.0], loss="wgan", rates=(3.0, 5.0))
    np.testing.assert_array_equal(jacobian.dense(), [[0, 6], [-10, 0]])
    np.testing.assert_array_equal(jacobian.matvec(torch.tensor([1.0, 2.0])), [12, -10])


def test_a_quadratic_game() -> None:
    """Blocks [[−a, b], [−b, −γ b²]] with eigenvalues −(a + γb²)/2 ± √((a − γb²)²/4 − b²)."""
    scales, a, gamma = [0.5, 1.0, 3.0], 0.7, 0.4
    jacobian = game(scales, a, loss="wgan", r1=gamma)
    found = game_spectrum(jacobian)
    expected = []
    for b in scales:
        root = np.emath.sqrt((a - gamma * b**2) ** 2 / 4 - b**2)
        expected += [-(a + gamma * b**2) / 2 + root, -(a + gamma * b**2) / 2 - root]
    expected = by_imaginary(np.array(expected, dtype=complex))
    np.testing.assert_allclose(by_imaginary(found.eigenvalues), expected, rtol=1e-12, atol=1e-14)
    assert found.abscissa == pytest.approx(expected.real.max(), rel=1e-12)
    assert found.oscillation == pytest.approx(np.abs(expected.imag / expected.real).max(), rel=1e-11)
    step = found.stable_step
    assert step == pytest.approx((-2 * expected.real / np.abs(expected) ** 2).min(), rel=1e-12)
    assert np.abs(1 + 0.999 * step * expected).max() < 1 < np.abs(1 + 1.001 * step * expected).max()
    np.testing.assert_allclose(found.largest[:2].real, -(a + gamma * 9) / 2, rtol=1e-12)
    assert found.rightmost[0].real == found.abscissa


DIRAC = {"non-saturating": 0.5, "minimax": 0.5, "hinge": 1.0, "wgan": 1.0}  # f′(0) of Mescheder et al. 2018


@pytest.mark.parametrize("loss", DIRAC)
def test_dirac_gan_without_regularisation_does_not_converge(loss: str) -> None:
    """Mescheder et al. 2018, section 2: ± f′(0) i."""
    found = game_spectrum(game([1.0], loss=loss))
    np.testing.assert_allclose(by_imaginary(found.eigenvalues), [-1j * DIRAC[loss], 1j * DIRAC[loss]], atol=1e-15)


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.5])
def test_dirac_gan_with_r1_converges(gamma: float) -> None:
    """Section 3 of the same, the penalty being γ/2 ψ²: −γ/2 ± √(γ²/4 − f′(0)²); double at γ = 2 f′(0) = 1."""
    found = game_spectrum(game([1.0], loss="non-saturating", r1=gamma))
    root = np.emath.sqrt(gamma**2 / 4 - 0.25)
    expected = by_imaginary(np.array([-gamma / 2 + root, -gamma / 2 - root], dtype=complex))
    np.testing.assert_allclose(by_imaginary(found.eigenvalues), expected, rtol=1e-7 if gamma == 1 else 1e-12, atol=1e-8)
    assert found.abscissa < 0 < found.stable_step
    if gamma < 1:
        assert found.stable_step == pytest.approx(gamma / 0.25, rel=1e-12)  # |λ|² = f′(0)²


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_dirac_gan_with_instance_noise_converges(sigma: float) -> None:
    """Section 3 of the same: f″(0)σ² ± √(f″(0)²σ⁴ − f′(0)²) with f″(0) = −1/4; noise ±σ has the same variance."""
    found = game_spectrum(game([1.0], loss="non-saturating", z=[sigma, -sigma]))
    real = -(sigma**2) / 4
    root = np.emath.sqrt(real**2 - 0.25)
    expected = by_imaginary(np.array([real + root, real - root], dtype=complex))
    np.testing.assert_allclose(by_imaginary(found.eigenvalues), expected, rtol=1e-12)
    assert found.abscissa < 0


def test_least_squares_at_a_point_that_is_no_equilibrium() -> None:
    """θ = φ = 0 with L_G = (φθ − 1)²/2, L_D = (φθ)²/2: J = [[0, 1], [0, 0]], a defective zero eigenvalue."""
    found = game_spectrum(game([1.0], loss="lsgan"))
    np.testing.assert_allclose(found.eigenvalues, 0, atol=1e-15)
    assert found.stable_step == math.inf and math.isnan(found.oscillation)


def test_losses_of_the_players_are_those_of_the_literature() -> None:
    assert DISCRIMINATOR_LOSSES.keys() == LOSSES.keys()
    logits = torch.linspace(-3, 3, 13, dtype=torch.float64)
    D = logits.sigmoid()
    expected = {
        "non-saturating": (-D.log(), -(1 - D).log()),
        "hinge": ((1 - logits).clamp_min(0), (1 + logits).clamp_min(0)),
        "wgan": (-logits, logits),
        "lsgan": ((logits - 1) ** 2 / 2, logits**2 / 2),
    }
    for name, (on_real, on_generated) in DISCRIMINATOR_LOSSES.items():
        real, generated = expected.get(name, expected["non-saturating"])
        torch.testing.assert_close((on_real(logits), on_generated(logits)), (real, generated), rtol=1e-12, atol=1e-14)


# -------------------------------------------------------------------------------- a network of each


def players(dtype: torch.dtype = torch.float64) -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    gen = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)
    disc = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).to(dtype)
    return Generator(gen, (3,)), Discriminator(disc, (2,))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_jacobian_is_that_of_the_vector_field(loss: str) -> None:
    gen, disc = players()
    batch, real, gamma, rates = gen.draw(7), normal(9, 2) + 1, 0.8, (1.5, 0.5)
    found = GameJacobian(gen, disc, batch, real, loss, r1=gamma, rates=rates)
    owners = [(m, name, p) for m in (gen.module, disc.module) for name, p in m.named_parameters()]

    def field(w: Tensor) -> Tensor:
        parts = w.split([p.numel() for _, _, p in owners])
        held: dict[nn.Module, dict[str, Tensor]] = {gen.module: {}, disc.module: {}}
        for (module, name, p), values in zip(owners, parts, strict=True):
            held[module][name] = values.view_as(p)
        judge = lambda x: functional_call(disc.module, held[disc.module], (x,))  # noqa: E731
        fake = judge(functional_call(gen.module, held[gen.module], (batch["z"],)))
        shown = real.clone().requires_grad_()
        true = judge(shown)
        on_real, on_generated = DISCRIMINATOR_LOSSES[loss]
        (slope,) = torch.autograd.grad(true.sum(), shown, create_graph=True)
        L_G = LOSSES[loss](fake).mean()
        L_D = on_real(true).mean() + on_generated(fake).mean() + gamma / 2 * slope.square().sum(1).mean()
        mine, theirs = (torch.autograd.grad(value, w, create_graph=True)[0] for value in (L_G, L_D))
        return -torch.cat([rates[0] * mine[: found.generator_size], rates[1] * theirs[found.generator_size :]])

    w = torch.cat([p.detach().flatten() for _, _, p in owners]).requires_grad_()
    torch.testing.assert_close(found.field, field(w).detach(), rtol=1e-11, atol=1e-13)
    J = torch.autograd.functional.jacobian(field, w.detach())
    torch.testing.assert_close(found.dense(), J, rtol=1e-9, atol=1e-12)
    u = normal(len(w), seed=4)
    torch.testing.assert_close(found.matvec(u), J @ u, rtol=1e-9, atol=1e-12)
    assert found.shape == (57, 57) == tuple(J.shape) and found.generator_size == 32


def test_iterations_find_the_eigenvalues_of_the_matrix() -> None:
    gen, disc = players()
    jacobian = GameJacobian(gen, disc, gen.draw(16), normal(16, 2) + 1, r1=0.5)
    exact = game_spectrum(jacobian, count=4)
    found = game_spectrum(jacobian, count=4, dense_up_to=0, seed=3)
    assert exact.exact and len(exact.eigenvalues) == 57 and not found.exact and len(found.eigenvalues) == 8
    np.testing.assert_allclose(np.abs(found.largest), np.abs(exact.largest), rtol=1e-7)
    np.testing.assert_allclose(found.rightmost.real, exact.rightmost.real, rtol=1e-7)
    assert found.abscissa == pytest.approx(exact.abscissa, rel=1e-7)
    nearest = [np.abs(exact.eigenvalues - value).min() for value in found.eigenvalues]
    assert max(nearest) < 1e-7 * np.abs(exact.largest[0])
    assert found.stable_step >= exact.stable_step * (1 - 1e-7)
    again = game_spectrum(jacobian, count=4, dense_up_to=0, seed=3)
    np.testing.assert_array_equal(found.eigenvalues, again.eigenvalues)


def test_iterations_that_find_nothing_say_so() -> None:
    jacobian = game([0.0] * 30, loss="wgan")  # the Jacobian is zero
    with pytest.raises(ConvergenceError, match="raise dense_up_to to 60"):
        game_spectrum(jacobian, count=2, dense_up_to=0)
    assert game_spectrum(jacobian).stable_step == math.inf


def test_networks_in_float32_are_analysed_in_float64_and_left_alone() -> None:
    gen, disc = players(torch.float32)
    hook = disc.module[0].register_forward_hook(lambda *_: None)
    gen.module.train(), disc.module[1].eval()
    real = normal(6, 2).float()
    nets = gen.module, disc.module
    modes = [m.training for net in nets for m in net.modules()]
    before = [p.detach().clone() for net in nets for p in net.parameters()]
    state = torch.get_rng_state()
    with torch.no_grad():
        found = GameJacobian(gen, disc, gen.draw(5), real, r1=1.0)
        product = found.matvec(torch.ones(57))
    with torch.inference_mode():
        inside = GameJacobian(gen, disc, gen.draw(5), real.clone(), r1=1.0).matvec(torch.ones(57))
    torch.testing.assert_close(product, found.dense().sum(1), rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(inside, product, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state) and not real.requires_grad
    assert modes == [m.training for net in nets for m in net.modules()] and len(disc.module[0]._forward_hooks) == 1
    after = [p for net in nets for p in net.parameters()]
    assert all(torch.equal(a, p) and p.grad is None for a, p in zip(before, after, strict=True))
    hook.remove()
    doubled = Generator(gen.module.double(), (3,)), Discriminator(disc.module.double(), (2,))
    exact = GameJacobian(*doubled, {"z": gen.draw(5)["z"].double()}, real.double(), r1=1.0)
    torch.testing.assert_close(found.dense(), exact.dense(), rtol=1e-11, atol=1e-13)


class Judge(nn.Module):
    """A conditional discriminator of patches, whose last layer is a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Embedding(3, 4)
        self.linear, self.end = nn.Linear(4, 2), nn.Sigmoid()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.end(self.linear(torch.tanh(x + self.classes(y))))


class Maker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2 + 3, 4)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.linear(torch.cat([z, y], 1))


def test_conditional_players_share_their_labels() -> None:
    torch.manual_seed(0)
    gen = Generator(Maker().double(), (2,), classes=3, labels="one-hot")
    disc = Discriminator(Judge().double(), (4,), classes=3)
    y, real, real_y = torch.tensor([0, 2, 1, 1]), normal(5, 4), [0, 1, 2, 2, 1]
    batch = gen.batch(normal(4, 2, seed=2), y)
    found = GameJacobian(gen, disc, batch, real, real_labels=real_y)
    given = GameJacobian(gen, disc, batch, real, labels=y, real_labels=real_y)
    other = GameJacobian(gen, disc, batch, real, labels=y.flip(0), real_labels=real_y)
    torch.testing.assert_close(found.dense(), given.dense(), rtol=0, atol=0)
    assert not torch.allclose(found.dense(), other.dense())
    with torch.no_grad():
        fake, true = (torch.logit(disc.module(x, c)) for x, c in ((gen.images(batch), y), (real, torch.tensor(real_y))))
        expected = nn.functional.softplus(-true).mean() + nn.functional.softplus(fake).mean()
    assert found.losses[1] == pytest.approx(float(expected), rel=1e-12)
    with pytest.raises(InputError, match="conditional"):
        GameJacobian(gen, disc, batch, real)


def test_games_with_losses_of_ones_own() -> None:
    own = game([1.0], loss=torch.neg, discriminator_loss=(torch.neg, lambda logit: 2 * logit))
    np.testing.assert_array_equal(own.dense(), [[0, 1], [-2, 0]])
    with pytest.raises(InputError, match="discriminator_loss has to be given"):
        game([1.0], loss=torch.neg)
    with pytest.raises(InputError, match="two functions of logits"):
        game([1.0], loss="wgan", discriminator_loss=(torch.neg, "wgan"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"loss": "least squares"}, "loss is one of"),
        ({"r1": -1.0}, "r1 is a penalty from 0 on"),
        ({"rates": (1.0, 0.0)}, "rates are two positive numbers"),
    ],
)
def test_games_that_cannot_be_played(options: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        game([1.0], **options)


def test_players_that_do_not_fit() -> None:
    gen, disc = players()
    with pytest.raises(InputError, match=r"makes samples \(2,\), the discriminator takes \(3,\)"):
        GameJacobian(gen, Discriminator(nn.Linear(3, 1).double(), (3,)), gen.draw(3), normal(3, 3))
    with pytest.raises(InputError, match=r"takes samples \[n, 2\]"):
        GameJacobian(gen, disc, gen.draw(3), normal(3, 5))
    with pytest.raises(NonFiniteError):
        GameJacobian(gen, disc, gen.draw(3), torch.full((3, 2), math.nan))
    found = GameJacobian(gen, disc, gen.draw(3), normal(3, 2))
    with pytest.raises(InputError, match="vectors of length 57"):
        found.matvec(torch.ones(56))
    with pytest.raises(InputError, match="at least one eigenvalue"):
        game_spectrum(found, 0)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return 2 * x * g


def test_a_network_that_can_be_differentiated_only_once() -> None:
    class Odd(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return Once.apply(super().forward(x))

    gen = Generator(Point([0.1]), (1,))
    with pytest.raises(CaptureError, match="marked once_differentiable"):
        GameJacobian(gen, Discriminator(Odd([1.0]), (1,)), gen.draw(3), normal(3, 1))


def test_numbers_read_off_eigenvalues() -> None:
    values = np.array([-1 + 2j, -1 - 2j, -0.1 + 0.05j, -0.1 - 0.05j, 1e-12 + 0j])
    assert oscillation(values) == 2 and stable_step(values) == pytest.approx(0.4)
    assert stable_step(np.array([0.1 + 1j, -5 + 0j])) == 0 and stable_step(np.array([-4 + 0j])) == 0.5
    assert oscillation(np.array([1j, -1j])) == math.inf
