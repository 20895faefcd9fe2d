"""Latents: reproducible one by one, distributed as they are said to be, and of a shape that networks give away."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from genkernel.errors import InputError
from genkernel.gan.latents import Prior, as_input, check_classes, check_labels, few_labels, for_each, likely_shapes
from tests.gan.generators import GENERATORS, Case

KINDS = {
    "normal": Prior((3, 1, 1)),
    "truncated": Prior((3, 1, 1), truncation=0.5),
    "uniform": Prior((3, 1, 1), "uniform"),
    "sphere": Prior((3, 1, 1), "sphere"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_latent_depends_on_its_own_number_alone(kind: str) -> None:
    prior = KINDS[kind]
    z = prior.draw(9, 5)
    assert z.shape == (9, 3, 1, 1) and z.dtype == torch.float32
    assert torch.equal(prior.draw(4, 5), z[:4]) and torch.equal(prior.draw(30, 5)[:9], z)
    others = [prior.draw(9, 6), prior.draw(9, 5, stream=1), prior.draw(9, 0, stream=5)]
    every = torch.cat([z, *others]).flatten(1)
    assert len(torch.unique(every, dim=0)) == 36


def test_drawing_leaves_the_global_generators_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes()  # type: ignore[index]
    KINDS["truncated"].draw(5, 0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tobytes() == before[1]  # type: ignore[index]


def test_distributions() -> None:
    """Means and variances within 5 standard errors of n = 40,000 entries, and the ranges."""
    n, d = 4000, 10

    def check(z: torch.Tensor, variance: float, fourth: float) -> None:
        assert float(z.mean()) == pytest.approx(0, abs=5 * math.sqrt(variance / z.numel()))
        spread = math.sqrt((fourth - variance**2) / z.numel())
        assert float(z.square().mean()) == pytest.approx(variance, abs=5 * spread)

    check(Prior((d,)).draw(n, 0).double(), 1, 3)
    uniform = Prior((d,), "uniform").draw(n, 0).double()
    check(uniform, 1 / 3, 1 / 5)
    assert -1 <= float(uniform.min()) < -0.99 and 0.99 < float(uniform.max()) <= 1
    sphere = Prior((d,), "sphere").draw(n, 0).double()
    torch.testing.assert_close(
        sphere.norm(dim=1), torch.full((n,), math.sqrt(d), dtype=torch.float64), rtol=1e-6, atol=0
    )
    check(sphere, 1, 3 * d / (d + 2))
    psi = 0.8
    cut = Prior((d,), truncation=psi).draw(n, 0).double()
    mass = math.erf(psi / math.sqrt(2))
    variance = 1 - 2 * psi * math.exp(-(psi**2) / 2) / math.sqrt(2 * math.pi) / mass
    assert float(cut.abs().max()) <= psi
    check(cut, variance, 3 * variance)


def test_truncation_keeps_the_entries_within() -> None:
    free, cut = Prior((50,)).draw(20, 3), Prior((50,), truncation=1.0).draw(20, 3)
    within = free.abs() <= 1
    assert torch.equal(cut[within], free[within])
    assert 0.6 < float(within.float().mean()) < 0.75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((3,), "gaussian"), "normal, uniform, sphere, not 'gaussian'"),
        (((),), r"a latent shape is like \(100,\)"),
        (((0,),), "a latent shape is like"),
        (((2.5,),), "a latent shape is like"),
        (((True,),), "a latent shape is like"),
        (((3,), "uniform", 0.5), "only normal latents can be truncated"),
        (((3,), "normal", 0.0), "at least 0.05, not 0.0"),
        (((3,), "normal", math.nan), "at least 0.05, not nan"),
        (((3,), "normal", "half"), "at least 0.05, not 'half'"),
    ],
)
def test_priors_that_make_no_sense(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Prior(*arguments)


def test_draws_that_make_no_sense() -> None:
    prior = Prior((3,))
    for n in (0, -1, 2.5, True):
        with pytest.raises(InputError, match="the number of latents is a whole number of at least 1"):
            prior.draw(n, 0)  # type: ignore[arg-type]
    for wrong in (-1, 0.5, True, None):
        with pytest.raises(InputError, match="a seed is a whole number from 0 on"):
            prior.draw(2, wrong)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="a stream is a whole number from 0 on"):
            prior.draw(2, 0, stream=wrong)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------- labels


def test_labels() -> None:
    for given in ([0, 2, 1], (0, 2, 1), np.array([0, 2, 1]), torch.tensor([0, 2, 1], dtype=torch.uint8)):
        y = check_labels(given, 3, 3)
        assert y.dtype == torch.int64 and y.tolist() == [0, 2, 1]
    assert as_input(y, "index", 3, torch.float64) is y
    assert as_input(y, "one-hot", 3, torch.float64).tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]
    for wrong in ([0, 1], [[0], [1], [2]], [0.0, 1.0, 2.0], [True, False, True], 1):
        with pytest.raises(InputError, match="labels are 3 whole numbers"):
            check_labels(wrong, 3, 3)
    for wrong, reach in (([0, 1, 3], "0 to 3"), ([0, -1, 2], "-1 to 2")):
        with pytest.raises(InputError, match=f"labels lie in 0 … 2, these reach from {reach}"):
            check_labels(wrong, 3, 3)
    assert few_labels(4, None) is None
    for classes in (2, 3, 10):
        tried = few_labels(4, classes)
        assert tried is not None and {0, classes - 1} <= set(tried.tolist())


def test_classes_that_make_no_sense() -> None:
    check_classes(None, None)
    check_classes(2, "one-hot")
    for wrong in (1, 0, 2.5, True, "ten"):
        with pytest.raises(InputError, match="classes is the number of classes, at least 2"):
            check_classes(wrong, None)
    with pytest.raises(InputError, match="labels is 'index' or 'one-hot', not 'onehot'"):
        check_classes(3, "onehot")
    with pytest.raises(InputError, match="labels= belongs to a conditional network"):
        check_classes(None, "index")


def test_further_inputs_are_widened() -> None:
    given = {"mode": "const", "noise": [torch.ones(1, 2), torch.zeros(1)], "count": torch.tensor([[3]]), "none": None}
    found = for_each(given, 5, torch.device("cpu"), torch.float64)
    assert found["mode"] == "const" and found["none"] is None
    assert [t.shape for t in found["noise"]] == [(5, 2), (5,)] and found["noise"][0].dtype == torch.float64
    assert found["count"].shape == (5, 1) and found["count"].dtype == torch.int64
    for wrong in (torch.ones(2, 3), torch.tensor(1.0), [torch.ones(5, 2)]):
        with pytest.raises(InputError, match="the input 'noise' needs one row"):
            for_each({"noise": wrong}, 5, torch.device("cpu"), torch.float64)


# ------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("case", GENERATORS, ids=repr)
def test_the_shape_is_among_the_first_that_a_network_gives_away(case: Case) -> None:
    shapes = likely_shapes(case.module(), case.options.get("classes"))
    assert case.shape in shapes
    assert len(set(shapes)) == len(shapes)


def test_what_a_network_says_of_itself_comes_first() -> None:
    net = nn.Sequential(nn.Linear(7, 3), nn.Linear(3, 2))
    assert likely_shapes(net) == [(7,), (3,)]
    net.nz = 5
    assert likely_shapes(net)[:2] == [(5,), (5, 1, 1)]
    net.latent_shape = torch.Size([4, 2, 2])
    assert likely_shapes(net)[0] == (4, 2, 2)
    convolutional = nn.Sequential(nn.ConvTranspose2d(7, 3, 2))
    convolutional.config = {"latent_dim": 9}
    assert likely_shapes(convolutional)[:2] == [(9, 1, 1), (9,)]
    assert likely_shapes(nn.ReLU()) == []


def test_joined_labels_are_taken_off_the_first_width() -> None:
    net = nn.ModuleDict({"embed": nn.Embedding(10, 8), "first": nn.Linear(110, 5)})
    assert likely_shapes(net) == [(110,)]
    assert likely_shapes(net, 10) == [(110,), (100,), (102,)]
