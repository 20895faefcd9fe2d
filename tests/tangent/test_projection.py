"""The random maps alone: unbiased, with the variance that is stated, the same whatever the route, checked against
a plain implementation of the hash."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from genkernel.errors import InputError
from genkernel.tangent.projection import Projection

SIZES = {"w": 50, "b": 10}
KINDS = [
    pytest.param({"dim": 16}, id="one"),
    pytest.param({"dim": 16, "nonzeros": 4}, id="four"),
    pytest.param({"dim": 24, "nonzeros": 3}, id="three"),
    pytest.param({"dim": 20, "kind": "rademacher"}, id="dense"),
]


def project(projection: Projection, gradients: dict[str, Tensor], which: int = 0) -> Tensor:
    n = len(next(iter(gradients.values())))
    out = torch.zeros(n, projection.dim, dtype=torch.float64)
    for name, block in gradients.items():
        projection.add(out, name, which, 0, block, block.shape[1])
    return out


def matrix(projection: Projection, name: str, size: int, which: int = 0) -> Tensor:
    """S itself ``[size, dim]``."""
    return project(projection, {name: torch.eye(size, dtype=torch.float64)}, which)


@pytest.fixture
def pair() -> dict[str, Tensor]:
    """Two gradients with a few large entries, not orthogonal."""
    draw = torch.Generator().manual_seed(3)
    x, y = torch.randn(2, 60, dtype=torch.float64, generator=draw) * torch.logspace(0, -1, 60, dtype=torch.float64)
    both = torch.stack([x, x + y])
    return {"w": both[:, :50], "b": both[:, 50:]}


@pytest.mark.parametrize("options", KINDS)
def test_unbiased_with_the_variance_that_is_stated(options: dict, pair: dict[str, Tensor]) -> None:
    found = []
    for seed in range(600):
        rows = project(Projection(seed=seed, **options), pair)
        found.append(rows[0] @ rows[1])
    estimates, projection = torch.stack(found), Projection(**options)
    x, y = torch.cat(list(pair.values()), 1)

    # pairs of coordinates that never meet: one with itself, and for the sparse kinds those of one aligned run
    run = projection.dim // projection.nonzeros if projection.kind == "sjlt" else 1
    label = torch.cat([torch.arange(50) // run, 1000 + torch.arange(10) // run])
    apart = label[:, None] != label[None]
    variance = float(((torch.outer(x**2, y**2) + torch.outer(x * y, x * y)) * apart).sum()) / projection.dim
    bound = float((x @ x) * (y @ y) + (x @ y) ** 2 - 2 * (x**2 * y**2).sum()) / projection.dim
    assert variance <= bound * (1 + 1e-12)

    count = len(estimates)
    error = estimates - x @ y
    spread = float((error**4).mean() - error.square().mean() ** 2)
    assert abs(float(error.mean())) < 4 * (variance / count) ** 0.5
    assert abs(float(error.square().mean()) - variance) < 4 * (spread / count) ** 0.5


@pytest.mark.parametrize("options", KINDS)
def test_columns_are_what_is_promised(options: dict) -> None:
    projection = Projection(**options)
    S = matrix(projection, "w", 200)
    if projection.kind == "rademacher":
        assert torch.equal(S.abs(), torch.full_like(S, projection.dim**-0.5))
    else:
        assert torch.equal((S != 0).sum(1), torch.full((200,), projection.nonzeros))
        assert bool(((S[S != 0].abs() - projection.nonzeros**-0.5).abs() < 1e-15).all())
        width = projection.dim // projection.nonzeros
        for run in S[: 200 // width * width].split(width):  # a permutation per block of entries
            assert torch.equal((run != 0).sum(0), torch.ones(projection.dim, dtype=torch.int64))
    assert abs(float(S.sign().sum())) < 4 * float((S != 0).sum()) ** 0.5


@pytest.mark.parametrize("options", KINDS)
def test_every_route_is_the_same_map(options: dict) -> None:
    projection = Projection(seed=7, **options)
    S = matrix(projection, "w", 333)
    G = torch.randn(5, 333, dtype=torch.float64)
    truth = G @ S
    for cuts in ([0, 333], [0, 1, 18, 100, 101, 333]):  # contiguous pieces
        out = torch.zeros_like(truth)
        for start, stop in pairwise(cuts):
            projection.add(out, "w", 0, start, G[:, start:stop], 333)
        assert float((out - truth).abs().max()) < 1e-12
    out = torch.zeros_like(truth)
    for some in torch.randperm(333).split(100):  # any coordinates in any order
        projection.add(out, "w", 0, some, G[:, some], 333)
    assert float((out - truth).abs().max()) < 1e-12
    out = torch.zeros_like(truth)
    for i in range(5):  # sample by sample
        projection.add(out[i : i + 1], "w", 0, 0, G[i : i + 1], 333)
    assert torch.equal(out, project(projection, {"w": G})) or float((out - truth).abs().max()) < 1e-12


def test_entries_and_signs_follow_from_the_hash_as_documented() -> None:
    """Python's own integers, so that neither wrap-around nor signed shifts of tensors decide the numbers."""
    seed, dim, size = 5, 64, 300
    ones = (1 << 64) - 1

    def key(*parts: object) -> int:
        text = "\0".join(map(str, ("genkernel sketch 1", seed, *parts)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")

    def mixed(key: int, counter: int) -> int:  # splitmix64
        z = (counter * 0x9E3779B97F4A7C15 + key) & ones
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & ones
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & ones
        return z ^ (z >> 31)

    S = torch.zeros(size, dim, dtype=torch.float64)
    turn = key("", "turn", 0, 2) % dim
    for chunk in range(-(-size // dim)):
        first, second = mixed(key("w", "place", 0), 2 * chunk), mixed(key("w", "place", 0), 2 * chunk + 1)
        for entry in range(dim):
            x = ((entry - turn) * (first % dim | 1) + (first >> 32)) % dim
            x = (x ^ (x >> 3)) * (second % dim | 1) % dim
            coordinate = chunk * dim + ((x ^ (x >> 3)) + (second >> 32)) % dim
            if coordinate < size:
                bit = mixed(key("w", "sign", 0, 2), coordinate // 64) >> (coordinate % 64) & 1
                S[coordinate, entry] = 2 * bit - 1
    assert torch.equal(matrix(Projection(dim, seed), "w", size, which=2), S)


@pytest.mark.parametrize("options", KINDS)
def test_seeds_parameters_and_cotangents_have_maps_of_their_own(options: dict) -> None:
    maps = [
        matrix(Projection(seed=0, **options), "a", 400),
        matrix(Projection(seed=1, **options), "a", 400),
        matrix(Projection(seed=0, **options), "b", 400),
        matrix(Projection(seed=0, **options), "a", 400, which=1),
    ]
    for i, one in enumerate(maps):
        for two in maps[:i]:
            products = (one * two).sum(1)
            same = products.mean() / (one * one).sum(1).mean()
            assert abs(float(same)) < 4 / 400**0.5 + 0.05


def test_low_precision_is_summed_as_the_sum_is_kept() -> None:
    G = torch.randn(3, 5000).bfloat16()
    for kind in ("sjlt", "rademacher"):
        projection = Projection(64, kind=kind)
        assert torch.equal(project(projection, {"w": G}), project(projection, {"w": G.double()}))


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    G = torch.randn(16, 40_000)
    projection, before = Projection(256, nonzeros=2), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(project(projection, {"w": G}))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", KINDS)
def test_the_same_map_on_a_gpu_with_the_same_bits_every_time(options: dict) -> None:
    projection, size = Projection(**options), 5000
    G = torch.randn(8, size, dtype=torch.float64)
    some = torch.randperm(size)
    here = project(projection, {"w": G})
    for at, block in ((0, G), (some, G[:, some])):
        found = []
        for _ in range(3):
            out = torch.zeros(8, projection.dim, dtype=torch.float64, device="cuda")
            projection.add(out, "w", 0, at if isinstance(at, int) else at.cuda(), block.cuda(), size)
            found.append(out.cpu())
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
        assert float((found[0] - here).abs().max()) < 1e-12


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dim": 1000}, "power of two"),
        ({"dim": 1024, "nonzeros": 3}, "power of two"),
        ({"dim": 0}, "dim"),
        ({"dim": 64, "kind": "rademacher", "nonzeros": 2}, "nonzeros"),
        ({"kind": "gaussian"}, "kind"),
    ],
)
def test_what_cannot_be_is_refused(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Projection(**options)
