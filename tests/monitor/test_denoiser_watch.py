"""What is read of a denoiser, against plain loops of autograd in float64, and against networks made for one answer."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genkernel.diffusion import Denoiser, NoiseSchedule
from genkernel.diffusion.locality import default_window, locality_index, window_mask
from genkernel.errors import InputError
from genkernel.monitor import Monitor, Trace
from genkernel.monitor.denoiser_watch import DenoiserWatch

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (1, 2, 2)
LEVELS = [100.0, 300.0, 600.0, 900.0]


class Net(nn.Module):
    """x and t to a noise estimate; ``told`` changes the time on its way in."""

    def __init__(self, classes: int = 0, told: Any = lambda t: t) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 4)
        self.labels = nn.Embedding(classes, 8) if classes else None
        self.told = told

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        time = (self.told(t).to(x) / 1000)[:, None]
        h = self.first(torch.cat([x.flatten(1), time], 1))
        if class_labels is not None and self.labels is not None:
            h = h + self.labels(class_labels)
        return self.last(torch.tanh(h)).reshape(x.shape)


def net(seed: int = 0, **options: Any) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(**options).double()


def denoiser(module: nn.Module, **options: Any) -> Denoiser:
    return Denoiser(module, NoiseSchedule.vp(), SHAPE, **options)


def images(n: int = 6) -> Tensor:
    return torch.rand((n, *SHAPE), generator=torch.Generator().manual_seed(1))


def watch(module: nn.Module | None = None, n: int = 6, conditioning: Any = None, **options: Any) -> DenoiserWatch:
    den = denoiser(net() if module is None else module, conditioning=conditioning)
    return DenoiserWatch(den, images(n), levels=LEVELS, images_per_level=3, **options)


def read(found: DenoiserWatch, *parts: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for part in parts:
        values |= found.parts()[part]()
    return values


def gradients(module: nn.Module, points: Any, den: Denoiser) -> Tensor:
    """Loss gradients of every point ``[L, n, P]``, one by one."""
    rows = []
    for k in range(len(points.x_t)):
        out = module(points.x_t[k : k + 1].double(), points.t[k : k + 1])
        target = den.target(points.x0[k : k + 1], points.noise[k : k + 1], points.t[k : k + 1]).double()
        loss = (out - target).square().mean()
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()))]))
    return torch.stack(rows).reshape(points.levels, points.images, -1)


def test_losses_are_those_of_the_training_objective() -> None:
    module = net()
    found = watch(module)
    points = found._all
    with torch.no_grad():
        out = module(points.x_t.double(), points.t)
    naive = (out - points.noise).square().flatten(1).mean(1).reshape(4, 6)
    values = read(found, "loss")
    assert values["loss/level"] == pytest.approx(naive.mean(1).numpy(), rel=1e-6)
    assert values["loss/mean"] == pytest.approx(float(naive.mean()), rel=1e-6)


def test_gradients_agree_with_a_loop_of_autograd() -> None:
    module = net()
    found = watch(module)
    g = gradients(module, found._few, found.denoiser)
    mean = g.mean(1)
    values = read(found, "gradient")
    norms = mean.norm(dim=1)
    assert values["gradient/norm"] == pytest.approx(norms.numpy(), rel=1e-5)
    cosine = (mean @ mean.T) / torch.outer(norms, norms)
    assert values["gradient/cosine"] == pytest.approx(cosine.numpy(), abs=1e-5)
    upper = cosine[torch.triu_indices(4, 4, 1).unbind()]
    assert values["gradient/conflicts"] == pytest.approx(float((upper < 0).double().mean()))
    assert values["gradient/total"] == pytest.approx(float(g.mean((0, 1)).norm()), rel=1e-5)
    n = g.shape[1]
    own = g.square().sum(2).mean(1)
    between = (g.sum(1).square().sum(1) - g.square().sum((1, 2))) / (n * (n - 1))
    assert values["gradient/agreement"] == pytest.approx((between / own).numpy(), abs=1e-5)
    known = between > 0
    scale = (own - between) / between
    assert values["gradient/noise_scale"][known] == pytest.approx(scale[known].numpy(), rel=1e-4)
    assert np.isnan(values["gradient/noise_scale"][~known.numpy()]).all()


def test_the_kernel_between_levels_is_that_of_its_probes() -> None:
    module = net()
    found = watch(module, probes=1, seed=3)
    values = read(found, "kernel")
    from genkernel.tangent import kernel, probes

    K = kernel(found.denoiser.tangent, found._few.batch(found.denoiser), cotangents=probes(1, 3)).normalized().values
    naive = np.empty((4, 4))
    for a in range(4):
        for b in range(4):
            pairs = [(3 * a + i, 3 * b + j) for i in range(3) for j in range(3) if i != j]  # of different images
            naive[a, b] = np.mean([float(K[row, column]) for row, column in pairs])
    assert values["kernel/level"] == pytest.approx(naive, abs=1e-5)
    mask = window_mask(np.array(LEVELS), default_window(LEVELS, 1000))
    assert values["kernel/locality"] == pytest.approx(float(locality_index(values["kernel/level"], mask)))


@pytest.mark.parametrize(("factor", "ratio"), [(1.0, 1.0), (0.5, 0.5)])
def test_the_best_told_time_is_the_one_that_the_network_was_made_for(factor: float, ratio: float) -> None:
    class Exact(nn.Module):
        """Knows the noise, and is wrong by as much as the time it is told is off."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
            self.answers: dict[bytes, tuple[Tensor, float]] = {}

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            rows = []
            for row, told in zip(x, t, strict=True):
                noise, time = self.answers.get(row.detach().cpu().numpy().tobytes(), (torch.zeros_like(row), 0.0))
                off = (told.double() - factor * time) / 1000
                rows.append(noise.to(row) + (0.1 + off.abs()) * self.scale)
            return torch.stack(rows)

    module = Exact()
    found = watch(module)
    scan = found._scan
    for k in range(len(scan.x_t)):
        row = found.denoiser.batch(scan.x_t[k : k + 1], scan.t[k : k + 1])["x"][0]
        module.answers[row.cpu().numpy().tobytes()] = (scan.noise[k], float(scan.t[k]))
    values = read(found, "time")
    assert values["time/ratio"] == pytest.approx(np.full(4, ratio))
    assert (values["time/gain"] > 0.5).all() == (factor != 1.0)
    assert (values["time/cost"] > 0.3).all()


def test_a_network_that_ignores_the_time_pays_nothing_for_a_wrong_one() -> None:
    values = read(watch(net(told=lambda t: 0 * t)), "time")
    assert values["time/ratio"] == pytest.approx(np.ones(4))
    assert values["time/cost"] == pytest.approx(np.zeros(4), abs=1e-12)


def test_an_average_is_read_beside_the_weights() -> None:
    module = net()
    average = copy.deepcopy(module)
    found = watch(module, ema=average)
    first = read(found, "loss", "ema")
    assert first["ema/loss"] == pytest.approx(first["loss/mean"])
    assert first["ema/distance"] == 0 and np.isnan(first["ema/follows"])
    with torch.no_grad():
        for mean, now in zip(average.parameters(), module.parameters(), strict=True):
            step = torch.full_like(now, 0.1)
            now += step
            mean += 0.25 * step
    second = read(found, "ema")
    assert second["ema/follows"] == pytest.approx(0.25, rel=1e-5)
    size = torch.cat([p.detach().flatten() for p in module.parameters()])
    assert second["ema/distance"] == pytest.approx(float(0.075 * len(size) ** 0.5 / size.norm()), rel=1e-6)
    found.forget()
    assert np.isnan(read(found, "ema")["ema/follows"])


def test_the_worth_of_a_label_is_what_another_class_costs() -> None:
    labels = torch.arange(6) % 3
    module = net(classes=3)
    found = watch(module, conditioning={"class_labels": labels}, groups=labels)
    values = read(found, "loss", "conditioning")
    points = found._all

    def losses(shift: int) -> Tensor:
        with torch.no_grad():
            told = (labels + shift) % 3
            out = module(points.x_t.double(), points.t, told[points.image_of])
        return (out - points.noise).square().flatten(1).mean(1).reshape(4, 6).mean(0)

    own, other = losses(0), losses(1)  # the next image is of the next class
    gain = (other - own) / own
    assert values["conditioning/gain"] == pytest.approx([float(gain[labels == c].mean()) for c in range(3)], rel=1e-5)
    assert values["loss/class"] == pytest.approx([float(own[labels == c].mean()) for c in range(3)], rel=1e-6)


def test_parts_are_those_that_there_are_data_for() -> None:
    assert set(watch().parts()) == {"weights", "loss", "gradient", "kernel", "time"}
    labels = torch.arange(6) % 2
    assert "conditioning" not in watch(groups=labels).parts()  # no conditioning to swap
    arrays = watch(groups=labels).arrays
    assert {"loss/class", "gradient/class_agreement"} <= set(arrays) and "ema/loss_level" not in arrays


def test_drift_is_from_the_first_reading_and_from_the_last() -> None:
    module = net()
    monitor = Monitor(
        denoiser(module), data=images(), levels=4, images_per_level=3, every=1, max_overhead=None, rules=[]
    )
    monitor.step(0)
    monitor.step(1)
    assert monitor.latest is not None
    assert monitor.latest.scalars["kernel/drift"] == pytest.approx(0, abs=1e-9)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(generator=torch.Generator().manual_seed(4))
    monitor.step(2)
    monitor.step(3)
    now = monitor.latest.scalars
    assert now["kernel/drift"] > 1e-3 and now["kernel/drift_last"] == pytest.approx(0, abs=1e-9)


def test_weights_that_are_not_finite_are_located_and_hide_nothing_else() -> None:
    module = net()
    monitor = Monitor(denoiser(module), data=images(), levels=4, images_per_level=3, every=1, max_overhead=None)
    monitor.step(0)
    with torch.no_grad():
        module.last.bias[1] = float("nan")
    alert = monitor.step(1)
    assert alert is not None and alert.severity == "failure" and alert.where == ["last.bias"]
    reading = monitor.latest
    assert reading is not None and reading.scalars["health/nonfinite"] == 1
    assert {problem.error for problem in reading.problems} == {"NonFiniteError"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": None}, "data= is the images"),
        ({"data": torch.rand(2, *SHAPE)}, "at least 3"),
        ({"data": torch.rand(6, 1, 3, 3)}, "the model takes"),
        ({"groups": [0, 1]}, "6 probes and 2 labels"),
        ({"groups": [0.5] * 6}, "whole numbers"),
        ({"ema": net(classes=2)}, "labels"),
        ({"nonsense": 1}, "'nonsense' is no option"),
        ({"latents": 3}, "'latents' is no option"),
    ],
)
def test_bad_input_is_said(options: dict[str, Any], message: str) -> None:
    given = {"data": images(), "images_per_level": 3, **options}
    with pytest.raises(InputError, match=message):
        Monitor(denoiser(net()), **given)


@pytest.mark.parametrize("shape", [(3,), (1, 12), (1, 2, 4, 4)])
def test_samples_of_any_number_of_axes_are_read_in_all_parts(shape: tuple[int, ...]) -> None:
    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.time = nn.Parameter(torch.full(shape, 0.5)), nn.Linear(1, 1)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.weight * x + self.time(t.float().reshape(-1, 1) / 1000).reshape(-1, *[1] * (x.dim() - 1))

    data = torch.rand(4, *shape)
    mon = Monitor(Denoiser(Scales(), NoiseSchedule.vp(), shape), data=data, levels=3, rules=[])
    found = mon.read(0)
    assert not found.problems and np.isfinite(found.arrays["time/gain"]).all()


def test_losses_of_a_reading_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    plain = DenoiserWatch._losses_of

    def noted(self: DenoiserWatch, name: str, *rest: Any) -> Any:
        asked.append(name)
        return plain(self, name, *rest)

    monkeypatch.setattr(DenoiserWatch, "_losses_of", noted)
    classes = torch.arange(6) % 3
    found = watch(net(classes=3), conditioning={"class_labels": classes}, groups=classes)
    for _ in range(2):
        for part in found.parts().values():
            part()
    assert sorted(asked) == ["losses", "losses", "swapped", "swapped"]


def test_parameters_that_are_replaced_are_followed_and_ones_that_are_gone_are_said() -> None:
    module = net()
    mon = Monitor(denoiser(module), data=images(), images_per_level=3, levels=LEVELS, max_overhead=None)
    mon.read(0)
    state = {name: value + 0.25 for name, value in module.state_dict().items()}
    module.load_state_dict(state, assign=True)
    moved = mon.read(1).arrays["weights/moved"]
    assert np.allclose(moved, 0.25)
    first = next(iter(dict(module.named_parameters())))
    owner = module.get_submodule(first.rpartition(".")[0])
    delattr(owner, first.rpartition(".")[2])
    assert f"no parameter '{first}' any more" in mon.read(2).problems[0].message


@pytest.mark.parametrize("data", [255 * images(), 2 * images() - 1])
def test_images_in_another_range_are_refused(data: Tensor) -> None:
    with pytest.raises(InputError, match=r"have to be in \[0, 1\], and these go from"):
        Monitor(denoiser(net()), data=data, images_per_level=3, levels=LEVELS)


@pytest.mark.parametrize("step", [math.nan, math.inf, "abc", "3", [1], object(), 1.5, True])
def test_a_step_is_a_whole_number(step: Any) -> None:
    mon = Monitor(denoiser(net()), data=images(), images_per_level=3, levels=LEVELS)
    with pytest.raises(InputError, match="step= is the number of a training step"):
        mon.step(step)


def test_what_to_watch_has_to_be_clear() -> None:
    half = SimpleNamespace(kind="denoiser", parts=dict, derived=dict, arrays={}, axes={}, modules=[], settings={})
    with pytest.raises(InputError, match="lacks forget"):
        Monitor(half)
    with pytest.raises(InputError, match="not clear what to watch"):
        Monitor(net(), data=images())
    with pytest.raises(InputError, match="no discriminator"):
        Monitor(denoiser(net()), net(), data=images())
    with pytest.raises(InputError, match="every= is a number of steps"):
        Monitor(denoiser(net()), data=images(), every=0)
    assert isinstance(Monitor(net(), schedule=NoiseSchedule.vp(), sample_shape=SHAPE, data=images()).trace, Trace)


def test_what_was_proved_of_a_last_layer_of_zeros_serves_when_it_is_none_any_more() -> None:
    """Diffusion networks begin so: at the first reading no other layer has a gradient."""
    module = net()
    with torch.no_grad():
        module.last.weight.zero_()
    found = watch(module, probes=1)
    read(found, "gradient", "kernel")
    with torch.no_grad():
        module.last.weight.normal_(generator=torch.Generator().manual_seed(5))
    later, fresh = read(found, "gradient", "kernel"), read(watch(module, probes=1), "gradient", "kernel")
    for name in ("gradient/norm", "gradient/cosine", "kernel/level"):
        assert later[name] == pytest.approx(fresh[name], rel=1e-10, abs=1e-12)
