"""What an analysis asks of both players: the discriminator's kernel on a part of the samples, and the game of toys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genkernel.errors import InputError
from genkernel.gan import Discriminator, Generator, players
from genkernel.gan.analysis import analyze
from genkernel.gan.game import GameJacobian, discriminator_kernel, game_spectrum
from genkernel.gan.players import JUDGED, judged_alike, play
from genkernel.gan.stages import Real


def pair() -> tuple[Generator, Discriminator]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        g = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 2)).double()
        d = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    return Generator(g, (2,)), Discriminator(d, (2,))


def some(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Mixing(nn.Module):
    """A logit that depends on the mean of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x - x.mean(0))


def test_a_part_of_the_samples_is_judged() -> None:
    _, disc = pair()
    fake, real, missing = some(JUDGED + 40), Real(some(300, seed=1), None), list[str]()
    found = judged_alike(disc, fake, None, real, missing)
    assert found is not None and found.real == JUDGED and found.normalized.shape == (2 * JUDGED, 2 * JUDGED)
    taken = real.take(JUDGED, 0)
    expected = discriminator_kernel(disc, taken.samples, fake[:JUDGED])
    assert (found.between, found.within_real) == (expected.between, expected.within_real) and not missing
    every = {tuple(row) for row in real.samples.tolist()}
    assert len({tuple(row) for row in taken.samples.tolist()} & every) == JUDGED
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mixing = Discriminator(Mixing(), (2,))
    assert judged_alike(mixing, fake, None, real, missing) is None
    assert len(missing) == 1 and "no kernel of its own" in missing[0]


def test_the_game_is_that_of_its_own_module() -> None:
    gen, disc = pair()
    real = some(24, seed=1)
    result, kept = analyze(gen, disc, latents=16, jacobians=2, fresh=0, check=False, real=real, game={"r1": 0.5})
    found = result.game
    assert found is not None and found.exact and found.parameters == 32 + 25 and (found.latents, found.real) == (16, 16)
    jacobian = GameJacobian(gen, disc, kept.batch, Real(real, None).take(16, 0).samples, r1=0.5)
    expected = game_spectrum(jacobian)
    np.testing.assert_allclose(found.eigenvalues[:, 0], expected.eigenvalues.real)
    np.testing.assert_allclose(found.eigenvalues[:, 1], expected.eigenvalues.imag)
    assert found.eigenvalues.shape == (57, 2) and found.abscissa == expected.abscissa
    assert (found.generator_loss, found.discriminator_loss) == jacobian.losses
    assert result.to_summary()["game"]["abscissa"] == expected.abscissa
    plain, _ = analyze(gen, disc, latents=16, jacobians=2, fresh=0, check=False, real=real, game=True)
    assert plain.game is not None and plain.game.discriminator_loss < found.discriminator_loss


def test_games_that_are_not_played_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    gen, disc = pair()
    options = {"latents": 16, "jacobians": 2, "fresh": 0, "check": False}
    without, _ = analyze(gen, disc, game=True, **options)
    assert without.game is None and any("need a discriminator, and real samples" in s for s in without.missing)
    off, _ = analyze(gen, disc, real=some(20), **options)
    assert off.game is None and not any("eigenvalues" in s for s in off.missing)
    own, _ = analyze(gen, disc, real=some(20), game=True, loss=torch.neg, **options)
    assert own.game is None and any("need discriminator_loss" in s for s in own.missing)
    both = (torch.neg, lambda logit: 1 * logit)
    given, _ = analyze(gen, disc, real=some(20), game={"discriminator_loss": both}, loss=torch.neg, **options)
    assert given.game is not None
    missing: list[str] = []
    monkeypatch.setattr(players, "MOST_PARAMETERS", 56)
    assert play(gen, disc, gen.draw(8), Real(some(8), None), "kl", missing, {}) is None
    assert missing == ["the eigenvalues of the game are for players of up to 56 parameters together: these have 57"]
    monkeypatch.undo()
    with pytest.raises(InputError, match="r1 is a penalty"):
        play(gen, disc, gen.draw(8), Real(some(8), None), "kl", missing, {"r1": -1.0})


def test_a_network_without_second_derivatives_has_no_game() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: object, g: Tensor) -> Tensor:
            return g

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2, 1).double()

        def forward(self, x: Tensor) -> Tensor:
            return Once.apply(self.net(x).tanh())

    gen, _ = pair()
    disc, missing = Discriminator(Net(), (2,), output="logit"), list[str]()
    assert play(gen, disc, gen.draw(8), Real(some(8), None), "kl", missing, {}) is None
    assert len(missing) == 1 and "were not found" in missing[0] and "once_differentiable" in missing[0]
