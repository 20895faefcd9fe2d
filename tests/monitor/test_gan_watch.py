"""What is read of a GAN, against dense Jacobians and plain autograd."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from genkernel.errors import InputError
from genkernel.gan import Discriminator, Generator
from genkernel.gan.clusters import k_means
from genkernel.models.gans import DCGANDiscriminator, DCGANGenerator
from genkernel.monitor import Monitor
from genkernel.monitor.gan_watch import GanWatch
from genkernel.monitor.trace import Header, Reading, Trace
from tests.gan.generators import DISCRIMINATORS, GENERATORS, named
from tests.monitor.states import differences, state_of

pytestmark = pytest.mark.usefixtures("one_thread")

NEEDS_JUDGE = ("drive", "transport")


def networks(outputs: int = 2) -> tuple[nn.Sequential, nn.Sequential]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        maker = nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, outputs)).double()
        judge = nn.Sequential(nn.Linear(outputs, 10), nn.Tanh(), nn.Linear(10, 1)).double()
    return maker, judge


def points(n: int = 60) -> Tensor:
    draw = torch.Generator().manual_seed(5)
    centres = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]]).double()
    return centres[torch.arange(n) % 3] + 0.1 * torch.randn(n, 2, generator=draw, dtype=torch.float64)


def watching(maker: nn.Module, judge: nn.Module | None, **options: Any) -> GanWatch:
    generator = Generator(maker, (3,))
    given = None if judge is None else Discriminator(judge, generator.output_shape)
    return GanWatch(generator, given, **{"latents": 12, "samples": 40, "clusters": 3, **options})


def read(watch: GanWatch) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in watch.parts().values():
        found |= part()
    return found


def jacobians(module: nn.Module, z: Tensor) -> Tensor:
    """∂G(z_i)/∂θ, ``[n, O, P]``."""
    weights = {name: p.detach() for name, p in module.named_parameters()}
    found = torch.func.jacrev(lambda w: functional_call(module, w, (z,)))(weights)
    return torch.cat([part.reshape(len(z), -1, weights[name].numel()) for name, part in found.items()], 2)


def mean_cosine(field: Tensor) -> float:
    unit = field.flatten(1) / field.flatten(1).norm(dim=1, keepdim=True)
    n = len(unit)
    return float(((unit @ unit.T).sum() - n) / (n * (n - 1)))


# -------------------------------------------------------------------------------- values


def test_kernel_jacobian_and_samples_are_those_of_dense_jacobians() -> None:
    maker, judge = networks()
    watch = watching(maker, judge, real=points())
    found = read(watch)
    every = watch.generator.prior.draw(40, 0).double()
    z, made = every[:12], maker(every).detach()

    J = jacobians(maker, z)
    K = torch.einsum("aop,bop->ab", J, J)
    K = K / torch.outer(K.diagonal(), K.diagonal()).sqrt()
    p = torch.linalg.eigvalsh(K).clamp_min(0)
    p = p / p.sum()
    assert found["kernel/effective_rank"] == pytest.approx(float(torch.exp(-(p * p.log()).sum())), rel=1e-9)
    assert found["kernel/mean"] == pytest.approx(float((K.sum() - 12) / (12 * 11)), rel=1e-9)

    labels = k_means(points(), None, 3, 0).assign(made)
    first = labels[:12]
    for a in range(3):
        for b in range(3):
            pairs = [float(K[i, j]) for i in range(12) for j in range(12) if i != j and (first[i], first[j]) == (a, b)]
            expected = np.mean(pairs) if pairs else math.nan
            np.testing.assert_allclose(found["kernel/cluster"][a, b], expected, rtol=1e-9)
    np.testing.assert_allclose(found["samples/occupancy"], np.bincount(labels, minlength=3) / 40)

    sigma = torch.linalg.svdvals(torch.stack([torch.func.jacrev(maker)(one) for one in z[:4]]).detach())
    assert found["jacobian/condition"] == pytest.approx(
        np.median(np.log10((sigma[:, 0] / sigma[:, 1]).numpy())), rel=1e-9
    )
    assert found["jacobian/log_volume"] == pytest.approx(np.median(sigma.log().sum(1)), rel=1e-9)
    np.testing.assert_allclose(found["jacobian/singular"], np.median(sigma, axis=0), rtol=1e-9)

    distance = float(torch.pdist(made).mean())
    assert found["samples/diversity"] == pytest.approx(distance, rel=1e-9)
    real = points()[torch.randperm(60, generator=torch.Generator().manual_seed(0))[:40].sort().values]
    assert found["samples/relative_diversity"] == pytest.approx(distance / float(torch.pdist(real).mean()), rel=1e-9)


def test_the_drive_and_the_discriminator_are_those_of_autograd() -> None:
    maker, judge = networks()
    watch = watching(maker, judge, real=points())
    found = read(watch)
    x = maker(watch.generator.prior.draw(12, 0).double()).detach().requires_grad_(True)
    logits = judge(x)[:, 0]
    (delta,) = torch.autograd.grad(F.softplus(-logits).sum(), x)
    rows = torch.randperm(60, generator=torch.Generator().manual_seed(0))[:40].sort().values[:12]
    true, fake = judge(points()[rows])[:, 0].detach(), logits.detach()
    assert found["drive/norm"] == pytest.approx(float(delta.norm(dim=1).mean()), rel=1e-9)
    assert found["drive/coherence"] == pytest.approx(mean_cosine(delta), rel=1e-9)
    assert found["drive/saturated"] == 0
    assert found["discriminator/fake_logit"] == pytest.approx(float(fake.mean()), rel=1e-9)
    assert found["discriminator/spread"] == pytest.approx(float(fake.std(unbiased=False)), rel=1e-9)
    assert found["discriminator/gap"] == pytest.approx(float(true.mean() - fake.mean()), rel=1e-9)
    assert found["discriminator/separation"] == pytest.approx(float((true[:, None] > fake[None, :]).double().mean()))


def test_transport_is_that_of_dense_jacobians() -> None:
    maker, judge = networks()
    watch = watching(maker, judge, real=points(), receivers=9, loss="wgan")
    found = read(watch)
    z = watch.generator.prior.draw(12, 0).double()
    x = maker(z).detach().requires_grad_(True)
    (delta,) = torch.autograd.grad(-judge(x).sum(), x)
    J, labels = jacobians(maker, z), k_means(points(), None, 3, 0).assign(x.detach())
    parts = torch.stack(
        [-J[:9] @ (J * delta[:, :, None] * torch.from_numpy(labels == c)[:, None, None]).sum((0, 1)) / 12
         for c in range(3)]
    )  # fmt: skip
    norms = parts.norm(dim=2)
    share = (norms.sum(1) / norms.sum()).numpy()
    np.testing.assert_allclose(found["transport/driving"], share, rtol=1e-9)
    known = share[share > 0]
    assert found["transport/driving_dominance"] == pytest.approx(1 - np.exp(-(known * np.log(known)).sum()) / 3)
    for c in range(3):
        mine = torch.from_numpy(labels[:9] == c)
        column = norms[:, mine].mean(1).numpy() if mine.any() else np.full(3, math.nan)
        np.testing.assert_allclose(found["transport/amplification"][:, c], column, rtol=1e-9)
    U, G = parts.sum(0), x.detach()[:9]
    assert found["transport/coherence"] == pytest.approx(mean_cosine(U), rel=1e-9)
    U, G = U - U.mean(0), G - G.mean(0)
    assert found["transport/spread_gain"] == pytest.approx(float(2 * (G * U).sum() / G.square().sum()), rel=1e-9)
    p = np.bincount(labels, minlength=3) / 12
    known = p[p > 0]
    assert found["transport/occupancy_dominance"] == pytest.approx(1 - np.exp(-(known * np.log(known)).sum()) / 3)


def test_later_readings_are_of_the_present_weights_though_proofs_are_kept() -> None:
    maker, judge = networks()
    kept = watching(maker, judge, real=points(), ema=[p.detach().clone() for p in maker.parameters()])
    read(kept)
    with torch.no_grad():
        for p in (*maker.parameters(), *judge.parameters()):
            p.add_(0.3 * torch.cos(torch.arange(p.numel(), dtype=p.dtype)).reshape(p.shape))
    later, anew = read(kept), read(watching(maker, judge, real=points()))
    assert anew.keys() <= later.keys()
    for name in anew.keys() - {"weights/moved"}:
        np.testing.assert_allclose(later[name], anew[name], rtol=1e-9, atol=1e-12, err_msg=name)
    assert (later["weights/moved"] > 0).all() and later["ema/distance"] > 0


# --------------------------------------------------------------------------------- kinds of GANs


def test_without_a_discriminator_what_needs_one_is_absent() -> None:
    maker, judge = networks()
    alone, both = watching(maker, None), watching(maker, judge)
    assert both.parts().keys() - alone.parts().keys() == set(NEEDS_JUDGE)
    found = read(alone)
    assert not [
        name for name in (*found, *alone.arrays) if name.split("/")[0] in ("drive", "transport", "discriminator")
    ]
    assert not [label for label in alone.axes["parameter"].labels if label.startswith("D.")]
    assert [label for label in both.axes["parameter"].labels if label.startswith("D.")]


@pytest.mark.parametrize("options", [{}, {"real": points()}, {"classifier": nn.Linear(2, 4).double()}])
def test_arrays_have_the_shapes_of_their_axes(options: dict[str, Any]) -> None:
    watch = watching(*networks(), **options)
    arrays = {name: value for name, value in read(watch).items() if isinstance(value, np.ndarray)}
    assert arrays.keys() == watch.arrays.keys()
    for name, value in arrays.items():
        assert value.shape == tuple(len(watch.axes[axis]) for axis in watch.arrays[name]), name


def test_images_are_judged_in_eval_mode_though_both_networks_train() -> None:
    torch.manual_seed(2)
    maker, judge = DCGANGenerator(size=8, latent=3, width=4), DCGANDiscriminator(size=8, width=4)
    for _ in range(2):  # running statistics that differ from those of a batch
        judge(maker(torch.randn(8, 3, 1, 1)))
    mon = Monitor(maker, judge, latent_shape=(3, 1, 1), latents=6, samples=10, clusters=2, real=torch.randn(9, 1, 8, 8))
    reading = mon.read(0)
    assert not reading.problems and maker.training and judge.training
    with torch.no_grad():
        fake = judge.eval()(maker.eval()(mon.watch.generator.prior.draw(6, 0)))
    assert reading.scalars["discriminator/fake_logit"] == pytest.approx(float(fake.mean()), abs=1e-6)


class Mixing(nn.Module):
    """Its logit of a sample falls with the spread of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.cat([x.tanh(), x.std(0).mean().expand(len(x), 1)], 1))


def test_a_discriminator_that_mixes_samples_judges_them_together() -> None:
    maker, _ = networks()
    judge = Mixing()
    found = read(watching(maker, judge, real=points()))
    x = maker(Generator(maker, (3,)).prior.draw(12, 0).double()).detach().requires_grad_(True)
    (delta,) = torch.autograd.grad(F.softplus(-judge(x)).sum(), x)
    assert found["drive/norm"] == pytest.approx(float(delta.norm(dim=1).mean()), rel=1e-9)
    assert found["transport/axial_coherence"] > 0


class Told(nn.Module):
    def __init__(self, inputs: int, outputs: int, classes: int = 2) -> None:
        super().__init__()
        self.inner, self.name = nn.Linear(inputs, outputs).double(), nn.Embedding(classes, outputs).double()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.inner(x.tanh()) * (1 + self.name(y))


def test_a_conditional_generator_has_its_classes_as_regions() -> None:
    torch.manual_seed(3)
    generator = Generator(Told(3, 2), (3,), classes=2)
    judge = Discriminator(Told(2, 1), (2,), classes=2)
    watch = GanWatch(generator, judge, latents=10, samples=20)
    found = read(watch)
    assert watch.axes["cluster"].labels == ["class 0", "class 1"]
    assert found["kernel/cluster"].shape == (2, 2) and found["transport/occupancy_dominance"] == pytest.approx(0)
    assert "samples/occupancy" not in found and "samples/occupancy" not in watch.arrays
    told = GanWatch(generator, judge, latents=10, samples=20, clusters=3, real=(points(30), torch.arange(30) % 2))
    assert read(told)["samples/occupancy"].shape == (3,)
    with pytest.raises(InputError, match="real=\\(samples, classes\\)"):
        GanWatch(generator, judge, latents=10, samples=20, clusters=3, real=points(30))


def test_an_average_is_read_beside_the_weights() -> None:
    maker, judge = networks()
    average = torch.optim.swa_utils.AveragedModel(maker)
    with torch.no_grad():
        for p in average.parameters():
            p.mul_(0.5)
    watch = watching(maker, judge, ema=average)
    found = read(watch)
    z = watch.generator.prior.draw(40, 0).double()
    assert found["ema/diversity"] == pytest.approx(float(torch.pdist(average(z).detach()).mean()), rel=1e-9)
    assert found["ema/distance"] == pytest.approx(0.5) and math.isnan(found["ema/follows"])
    assert average in watch.modules


@pytest.mark.parametrize("name", ["patches", "minibatch_stddev", "projection", "sigmoid_function"])
def test_discriminators_of_other_kinds(name: str) -> None:
    case = named(DISCRIMINATORS, name)
    classes = case.options.get("classes")
    size = torch.Size(case.shape).numel()
    maker = nn.Linear(3, size).double() if classes is None else Told(3, size, classes)

    def made(module: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        given = [batch["z"]] if classes is None else [batch["z"], batch["y"]]
        return module(*given).reshape(-1, *case.shape).tanh()

    generator = Generator(maker, (3,), classes=classes, call=made)
    judge = Discriminator(case.module(), case.shape, **case.options)
    real = torch.randn(20, *case.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given = real if classes is None else (real, torch.arange(20) % classes)
    watch = GanWatch(generator, judge, latents=8, samples=20, clusters=2, real=given)
    read(watch)
    found = read(watch)
    told = None if classes is None else torch.arange(8) % classes
    x = generator(generator.draw(8))
    delta = judge.drive(x, "non-saturating", told)
    assert found["drive/norm"] == pytest.approx(float(delta.flatten(1).norm(dim=1).mean()), rel=1e-9)
    logits = judge.logits(x, told).reshape(8, -1).mean(1)
    assert found["discriminator/fake_logit"] == pytest.approx(float(logits.mean()), rel=1e-9)
    assert math.isfinite(found["discriminator/separation"]) and math.isfinite(found["transport/spread_gain"])


def test_latents_in_w_follow_the_mapping_network() -> None:
    case = named(GENERATORS, "stylegan_w")
    generator = Generator(case.module(), case.shape, **case.options)
    watch = GanWatch(generator, None, latents=6, samples=12, clusters=2)
    before = read(watch)["samples/diversity"]
    with torch.no_grad():
        for p in generator.module.get_submodule("mapping").parameters():
            p.mul_(1.5)
    images = generator(generator.draw(12))
    after = read(watch)["samples/diversity"]
    assert after == pytest.approx(float(torch.pdist(images.flatten(1)).mean()), rel=1e-9)
    assert after != pytest.approx(before, rel=1e-3)


def test_a_small_memory_gives_the_same_numbers() -> None:
    maker, judge = networks()
    ample, tight = (read(watching(maker, judge, real=points(), memory=size)) for size in ("1GiB", 1))
    for name in ample:
        np.testing.assert_allclose(tight[name], ample[name], rtol=1e-9, atol=1e-12, err_msg=name)


# -------------------------------------------------------------------------------- over time


def test_regions_of_the_first_reading_stay() -> None:
    maker, judge = networks()
    watch = watching(maker, judge)
    z = watch.generator.prior.draw(40, 0).double()
    first = k_means(maker(z).detach(), None, 3, 0)
    np.testing.assert_allclose(read(watch)["samples/occupancy"], first.occupancy)
    with torch.no_grad():
        maker[2].weight.mul_(0.01)
        maker[2].bias.copy_(maker(z)[0] + 2)
    later = read(watch)
    expected = np.bincount(first.assign(maker(z).detach()), minlength=3) / 40
    np.testing.assert_allclose(later["samples/occupancy"], expected)
    assert expected.max() == 1 and later["samples/effective_clusters"] == pytest.approx(1)


def test_a_generator_that_ignores_its_latents_has_no_regions_yet() -> None:
    maker, judge = networks()
    weight = maker[2].weight.detach().clone()
    with torch.no_grad():
        maker[2].weight.zero_()
    mon = Monitor(maker, judge, latent_shape=(3,), latents=12, samples=40, clusters=3)
    reading = mon.read(0)
    assert [p.part for p in reading.problems] == ["transport"]
    assert reading.scalars["samples/diversity"] == 0 and "kernel/mean" in reading.scalars
    assert "samples/occupancy" not in reading.arrays and "kernel/cluster" not in reading.arrays
    with torch.no_grad():
        maker[2].weight.copy_(weight)
    assert not mon.read(1).problems and "samples/occupancy" in mon.latest.arrays


def test_drift_is_since_the_first_reading_and_since_the_last() -> None:
    maker, judge = networks()
    mon = Monitor(maker, judge, latent_shape=(3,), latents=12, samples=40, clusters=3, real=points())
    assert "kernel/drift" not in mon.read(0).scalars
    with torch.no_grad():
        maker[0].weight.add_(0.5)
    moved = mon.read(1).scalars
    assert moved["kernel/drift"] == moved["kernel/drift_last"] > 1e-3
    still = mon.read(2).scalars
    assert still["kernel/drift"] == pytest.approx(moved["kernel/drift"]) and abs(still["kernel/drift_last"]) < 1e-12


def test_drift_of_known_kernels() -> None:
    watch = watching(*networks())
    one = np.array([[1.0, 0.2, np.nan], [0.2, 0.5, 0.1], [np.nan, 0.1, 0.9]])
    before = Trace(Header("gan"), [Reading(0, 0.0, 0.0, {}, {"kernel/cluster": one})])
    assert watch.derived({"kernel/cluster": 3 * one + 2}, before)["kernel/drift"] == pytest.approx(0)
    assert watch.derived({"kernel/cluster": -one}, before)["kernel/drift"] == pytest.approx(2)
    assert watch.derived({}, before) == {}


# ------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("side", ["G", "D"])
def test_weights_that_are_not_finite_are_located(side: str) -> None:
    maker, judge = networks()
    mon = Monitor(maker, judge, latent_shape=(3,), latents=12, samples=40, clusters=3, real=points())
    with torch.no_grad():
        (maker if side == "G" else judge)[2].weight[0, 1] = math.nan
    reading = mon.read(0)
    counts = dict(zip(mon.watch.axes["parameter"].labels, reading.arrays["weights/nonfinite"], strict=True))
    assert {name for name, count in counts.items() if count} == {f"{side}.2.weight"}
    assert reading.scalars["health/nonfinite"] == 1
    failed = {"samples", "kernel", "jacobian", *NEEDS_JUDGE} if side == "G" else set(NEEDS_JUDGE)
    assert {p.part for p in reading.problems} == failed
    whose = "the generator" if side == "G" else "the discriminator"
    assert all(p.error == "NonFiniteError" and f"{whose}: '2.weight'" in p.message for p in reading.problems)


@pytest.mark.parametrize("broken", [False, True])
def test_nothing_is_touched(broken: bool) -> None:
    torch.manual_seed(4)
    maker = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))
    judge = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(2, 8)), nn.Dropout(0.5), nn.Linear(8, 1))
    average = torch.optim.swa_utils.AveragedModel(maker)
    judge(maker(torch.randn(6, 3))).sum().backward()
    judge[2].bias.requires_grad_(False)
    mon = Monitor(
        maker, judge, latent_shape=(3,), latents=12, samples=40, clusters=3, real=points().float(), ema=average,
        classifier=nn.Linear(2, 3),
    )  # fmt: skip
    if broken:
        with torch.no_grad():
            judge[2].weight[0, 0] = math.inf
    before = state_of(maker, judge, average)
    for step in range(2):
        assert {p.part for p in mon.read(step).problems} == (set(NEEDS_JUDGE) if broken else set())
    assert differences(before, state_of(maker, judge, average)) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"latents": 2}, "latents= is a whole number of at least 3"),
        ({"samples": 2}, "samples= is a whole number of at least 3"),
        ({"clusters": 1}, "clusters= is"),
        ({"jacobians": 0}, "jacobians= is"),
        ({"receivers": True}, "receivers= is"),
        ({"probes": 1.5}, "probes= is"),
        ({"loss": "hinged"}, "the generator's loss is one of"),
        ({"real": torch.zeros(9, 3)}, "the real samples have shape"),
        ({"real": points()[:2]}, "3 regions need at least as many real samples"),
        ({"real": torch.full((9, 2), math.nan)}, "NaN or infinity"),
        ({"ema": nn.Linear(2, 2)}, "weight"),
        ({"classifier": nn.Linear(2, 1).double()}, "at least two"),
    ],
)
def test_wrong_inputs_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        watching(*networks(), **options)


def test_networks_of_different_samples_are_refused() -> None:
    generator = Generator(networks(2)[0], (3,))
    with pytest.raises(InputError, match="the discriminator takes"):
        GanWatch(generator, Discriminator(networks(4)[1], (4,)), latents=12, samples=40, clusters=3)
