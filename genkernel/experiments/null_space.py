"""Where the residual of a finished training lies: Theorem 3.8 of Guo, He, Morel, on training sets and populations.

At stationarity of the squared loss Jᵀr ≈ 0, so on the training set the theorem is the stationarity condition itself:

    1 - E_null(τ) ≤ ρ_K / τ²                         the modes with σ > τ σ_1 hold at most that share of the residual

Its proof takes the drift of the training, which is over the training set, for the operator of the population. So three
studies: one training set, to stationarity; fresh samples in every step beside finite sets that are used again, with the
residual on the population; and a network on digits with more parameters than training samples.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genkernel.experiments.outcome import Claim, Outcome, Table, verdict
from genkernel.experiments.rank_gap import above, around, pair

Array = NDArray[np.float64]

UNITS = 6
PARAMETERS = 3 * UNITS + 1
SAMPLES = 60
NOISE = 0.3
ROUGH = 0.5  # amplitude of the part of the target that six units cannot learn
MOMENTUM = 0.95  # heavy ball: stationarity is the same, and comes twenty times sooner
POLISHED = "Levenberg-Marquardt"  # the last entry of the first study
REACHED = 1e-4  # |∇L| at which a network counts as stationary
EVALUATIONS = 600  # of the residual in that iteration
TAUS = tuple(10.0**-k for k in np.arange(0.5, 12.1, 0.5))
TWO_TAUS = (1e-1, 1e-2)  # at which statements on populations are put to the test, beside the curves
ONE_TAU = TWO_TAUS[-1]
EXACT = 1e-4  # the tolerance of THEORY's figure at stationarity
NEARLY = 0.99  # of the energy: all but rounding and what training has not yet come to
FRESH = "fresh"
BATCH = 50  # images of one step


@dataclass(frozen=True)
class Setting:
    """What decides a run, beside the images.

    Attributes:
        seeds: of samples and networks on the line.
        steps: of gradient descent on one training set, at which curves are drawn.
        rate: of it.
        sizes: of training sets that are used again.
        passes: steps of each training of the second study, in batches of 60 where samples are fresh.
        population: fresh points on which its residuals are read.
        size, width: of images and of the network on them.
        images: sizes of its training sets.
        image_steps: of its trainings, in batches of 50 without repetition where samples are fresh.
        held: images of the population sample.
        image_seeds: trainings on images.
        lanczos: steps of the one curve that is read matrix-free beside the exact one.
    """

    seeds: int = 12
    steps: tuple[int, ...] = (0, 100, 1000, 10_000, 50_000)
    rate: float = 0.02
    sizes: tuple[int, ...] = (20, 60, 200, 1000)
    passes: int = 30_000
    population: int = 2000
    size: int = 10
    width: int = 12
    images: tuple[int, ...] = (50, 500, 5000)
    image_steps: int = 1000
    held: int = 300
    image_seeds: int = 5
    lanczos: int = 60


QUICK = Setting(
    seeds=4, steps=(0, 100, 1000, 5000), sizes=(20, 200), passes=2000, population=500, size=7, width=8,
    images=(30, 300), image_steps=300, held=100, image_seeds=2, lanczos=40,
)  # fmt: skip


def run(
    *,
    quick: bool = False,
    seed: int = 0,
    progress: bool = True,
    data: str | Path | None = None,
    setting: Setting | None = None,
) -> Outcome:
    """Energies of residuals in null spaces.

    Args:
        data: a folder with ``mnist.npz``; without it nothing is said about images.
        setting: sizes.

    Raises:
        MissingError: the folder does not hold it.
    """
    from tqdm.auto import tqdm

    from genkernel.experiments.shrunk_images import require

    if data is not None:
        require(data, "mnist")
    setting = setting or (QUICK if quick else Setting())
    outcome = Outcome("null-space", asdict(setting) | {"quick": quick, "seed": seed, "data": data is not None})
    cases: list[int | None] = [*setting.sizes, None]
    digit_cases: list[tuple[int | None, int]] = []
    if data is not None:
        digit_cases = [(n, k) for n in (*setting.images, None) for k in range(setting.image_seeds)]
    with tqdm(total=2 + len(cases) + len(digit_cases), disable=not progress, desc="null-space") as bar:
        course = to_stationarity(setting, seed)
        bar.update()
        found = []
        for n in cases:
            found.append(on_population(n, setting, seed))
            bar.update()
        fitted = on_population(None, setting, seed, rough=0.0)
        bar.update()
        images = []
        for n, k in digit_cases:
            images.append(digits(data or "", n, setting, seed + k, bounded=n is None and k == 0))
            bar.update()
    _one_set(outcome, course, setting)
    _population(outcome, found, fitted, setting)
    _images(outcome, images, setting)
    from genkernel.plots.null_space import null_curves

    meta = {"seed": seed, "dtype": "float64"}
    outcome.figures["null-space"] = null_curves(TAUS, course, found, images, SAMPLES, meta)
    return outcome


# ------------------------------------------------------------------------ networks on a line


def target(x: Tensor, rough: float = ROUGH) -> Tensor:
    """E[y | x]: a part that six units learn, and one that they cannot, so that a residual is left."""
    return (4 * x).sin() + rough * (20 * x).sin()


def start(seeds: int, draw: torch.Generator) -> Tensor:
    """Weights of several networks Σ_j a_j tanh(w_j x + c_j) + d ``[seeds, 19]``, in the order a, w, c, d."""
    a = torch.randn(seeds, UNITS, generator=draw, dtype=torch.float64) / UNITS**0.5
    w = 2 * torch.randn(seeds, UNITS, generator=draw, dtype=torch.float64)
    c = torch.randn(seeds, UNITS, generator=draw, dtype=torch.float64)
    return torch.cat([a, w, c, torch.zeros(seeds, 1, dtype=torch.float64)], 1)


def evaluate(theta: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs ``[seeds, n]`` and tangent features ``[seeds, n, 19]`` at x ``[seeds, n]``."""
    a, w, c, d = theta.split([UNITS, UNITS, UNITS, 1], 1)
    h = (x[:, :, None] * w[:, None] + c[:, None]).tanh()
    inner = a[:, None] * (1 - h.square())
    J = torch.cat([h, inner * x[:, :, None], inner, torch.ones_like(x)[:, :, None]], 2)
    return (h * a[:, None]).sum(2) + d, J


def sample(seeds: int, n: int, draw: torch.Generator, rough: float = ROUGH) -> tuple[Tensor, Tensor]:
    """Points on [-2, 2] and noisy answers ``[seeds, n]``."""
    x = 4 * torch.rand(seeds, n, generator=draw, dtype=torch.float64) - 2
    return x, target(x, rough) + NOISE * torch.randn(seeds, n, generator=draw, dtype=torch.float64)


def descend(theta: Tensor, velocity: Tensor, x: Tensor, y: Tensor, rate: float) -> tuple[Tensor, Tensor]:
    """One step of heavy-ball gradient descent on half the mean squared error: weights, velocity."""
    f, J = evaluate(theta, x)
    velocity = MOMENTUM * velocity - rate / x.shape[1] * (J.transpose(1, 2) @ (f - y)[:, :, None])[:, :, 0]
    return theta + velocity, velocity


@dataclass(frozen=True)
class Reading:
    """Residuals of several networks, in null spaces.

    Attributes:
        energy: E_null(τ) ``[seeds, τ]``.
        ranks: of U_τ, likewise.
        machine: E_null at the noise floor ``[seeds]``.
        rayleigh: ρ_K ``[seeds]``.
        gradient: ‖Jᵀr‖ / n ``[seeds]``.
        error: mean r² ``[seeds]``.
    """

    energy: Array
    ranks: Array
    machine: Array
    rayleigh: Array
    gradient: Array
    error: Array


def read(theta: Tensor, x: Tensor, to: Tensor) -> Reading:
    """The residual f - to at x, for every network."""
    from genkernel.spectra import null_space_energy

    f, J = evaluate(theta, x)
    r = f - to
    floor = max(J.shape[1:]) * torch.finfo(torch.float64).eps
    found = [null_space_energy(one, res, [*TAUS, floor]) for one, res in zip(J, r, strict=True)]
    energy = np.stack([one.energy.numpy() for one in found])
    return Reading(
        energy=energy[:, :-1],
        ranks=np.stack([one.ranks.numpy() for one in found if one.ranks is not None])[:, :-1],
        machine=energy[:, -1],
        rayleigh=np.array([one.rayleigh for one in found]),
        gradient=(J.transpose(1, 2) @ r[:, :, None]).norm(dim=(1, 2)).numpy() / x.shape[1],
        error=r.square().mean(1).numpy(),
    )


def to_stationarity(setting: Setting, seed: int) -> dict[str, Reading]:
    """Step → residuals on the one training set of 60 samples, under full-batch descent; then nearer to stationarity.

    Descent alone leaves gradients of 5e-4 after tens of thousands of steps, so the last of it is Levenberg and
    Marquardt's iteration, from where the descent ended. Weights of some networks grow without an end: they have no
    stationary point, and ``gradient`` says which.
    """
    draw = torch.Generator().manual_seed(seed)
    theta, (x, y) = start(setting.seeds, draw), sample(setting.seeds, SAMPLES, draw)
    velocity = torch.zeros_like(theta)
    found: dict[str, Reading] = {}
    for step in range(setting.steps[-1] + 1):
        if step in setting.steps:
            found[str(step)] = read(theta, x, y)
        theta, velocity = descend(theta, velocity, x, y, setting.rate)
    found[POLISHED] = read(torch.stack([polish(*one) for one in zip(theta, x, y, strict=True)]), x, y)
    return found


def polish(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Where Levenberg and Marquardt's iteration comes to from here ``[19]``."""
    from scipy.optimize import least_squares

    def residual(w: Array) -> Array:
        return (evaluate(torch.from_numpy(w)[None], x[None])[0][0] - y).numpy()

    def jacobian(w: Array) -> Array:
        return evaluate(torch.from_numpy(w)[None], x[None])[1][0].numpy()

    tight = 1e-15
    end = least_squares(
        residual, theta.numpy(), jacobian, method="lm", xtol=tight, ftol=tight, gtol=tight, max_nfev=EVALUATIONS
    )
    return torch.from_numpy(end.x)


@dataclass(frozen=True)
class Case:
    """Trainings on sets of one size, or on fresh samples.

    Attributes:
        name: the size, or "fresh".
        trained: residuals on the training set at the end; None for fresh samples.
        before, after: residuals E[f - y | x] on the population, at the start and at the end.
    """

    name: str
    trained: Reading | None
    before: Reading
    after: Reading


def on_population(n: int | None, setting: Setting, seed: int, rough: float = ROUGH) -> Case:
    """The same networks on a set of n samples in every step, or on 60 fresh ones; rates fall linearly to 0."""
    draw = torch.Generator().manual_seed(seed)
    theta = start(setting.seeds, draw)
    at = 4 * torch.rand(setting.seeds, setting.population, generator=draw, dtype=torch.float64) - 2
    before = read(theta, at, target(at, rough))
    data = sample(setting.seeds, n, draw, rough) if n is not None else None
    velocity = torch.zeros_like(theta)
    for step in range(setting.passes):
        x, y = data if data is not None else sample(setting.seeds, SAMPLES, draw, rough)
        theta, velocity = descend(theta, velocity, x, y, setting.rate * (1 - step / setting.passes))
    trained = read(theta, *data) if data is not None else None
    name = FRESH if n is None else str(n)
    return Case(
        name if rough else f"{name}, without the rough part", trained, before, read(theta, at, target(at, rough))
    )


# -------------------------------------------------------------------------------- on digits


@dataclass(frozen=True)
class Digits:
    """One training of a tanh network on one-hot digits, squared loss.

    Attributes:
        name: images of the training set, or "fresh": each of them in one step.
        seed: of it.
        parameters, rows: of the network, and of the population sample.
        error: mean ‖r‖² on the training set (nan for fresh samples) and on held-out images.
        stationarity: ‖Jᵀr‖ / (σ_1 ‖r‖) on the training set (nan for fresh samples).
        energy: E_null(τ) of the residual on held-out images ``[τ]``.
        random: the same of random residuals.
        union: E_null(τ) on held-out images and as many of the training set together; nan for fresh samples.
        start: E_null(τ) on held-out images before the training.
        rayleigh, rayleigh_start: on held-out images.
        low, high: bounds of the energy from products of the kernel alone, where they were asked for.
        floor: tolerances below it are rounding in those.
    """

    name: str
    seed: int
    parameters: int
    rows: int
    error: tuple[float, float]
    stationarity: float
    energy: list[float]
    random: list[float]
    union: list[float]
    start: list[float]
    rayleigh: float
    rayleigh_start: float
    low: list[float] | None
    high: list[float] | None
    floor: float | None


def digits(folder: str | Path, n: int | None, setting: Setting, seed: int, *, bounded: bool = False) -> Digits:
    """Adam on a set of n images in batches of 50, or on images none of which comes twice."""
    from genkernel.experiments.rank_gap import network
    from genkernel.experiments.shrunk_images import shrunk
    from genkernel.spectra import null_space_energy
    from genkernel.tangent import operator, tangent_features

    count = BATCH * setting.image_steps if n is None else n
    x, label = shrunk(folder, "mnist", setting.size, count, split="train", seed=seed)
    at, truth = shrunk(folder, "mnist", setting.size, setting.held, split="test", seed=seed)
    y, to = (nn.functional.one_hot(labels, 10).double() for labels in (label, truth))
    net = network(x.shape[1], setting.width, 10, seed)

    def residual(images: Tensor, answers: Tensor) -> Tensor:
        with torch.no_grad():
            found: Tensor = net(images) - answers
        return found

    def curve(images: Tensor, answers: Tensor) -> Any:
        return null_space_energy(tangent_features(net, images), residual(images, answers), TAUS)

    start = curve(at, to)
    _train(net, x, y, setting.image_steps, seed)
    end = curve(at, to)
    union, stationarity, error = [math.nan] * len(TAUS), math.nan, math.nan
    if n is not None:
        r = residual(x, y)
        own = operator(net, x)
        error = float(r.square().sum(1).mean())
        stationarity = float(own.vjp(r, flat=True).norm() / (own.eigsh(1).values[0].sqrt() * r.norm()))
        few = min(n, setting.held)
        union = curve(torch.cat([x[:few], at]), torch.cat([y[:few], to])).energy.tolist()
    free = None
    if bounded:
        free = null_space_energy(operator(net, at), residual(at, to), TAUS, steps=setting.lanczos, probes=2, seed=seed)
    return Digits(
        name=FRESH if n is None else str(n),
        seed=seed,
        parameters=sum(p.numel() for p in net.parameters()),
        rows=10 * setting.held,
        error=(error, float(residual(at, to).square().sum(1).mean())),
        stationarity=stationarity,
        energy=end.energy.tolist(),
        random=end.random.tolist(),
        union=union,
        start=start.energy.tolist(),
        rayleigh=end.rayleigh,
        rayleigh_start=start.rayleigh,
        low=None if free is None else free.low.tolist(),
        high=None if free is None else free.high.tolist(),
        floor=None if free is None else free.floor,
    )


def _train(net: nn.Module, x: Tensor, y: Tensor, steps: int, seed: int) -> None:
    """Adam on half the squared error, in batches without repetition until all samples were seen; rates fall to 0."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / steps)
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=draw)
    for _ in range(steps):
        if len(order) < min(BATCH, len(x)):
            order = torch.randperm(len(x), generator=draw)
        chosen, order = order[:BATCH], order[BATCH:]
        loss = (net(x[chosen]) - y[chosen]).square().sum(1).mean() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()


# ------------------------------------------------------------------------------- what they say


def at_tau(energy: Any, tau: float) -> Any:
    """E_null at one of the tolerances, of curves along the last axis."""
    return np.asarray(energy)[..., int(np.argmin(np.abs(np.log10(TAUS) - math.log10(tau))))]


def _plain(reading: Reading | None) -> Any:
    return None if reading is None else {name: value.tolist() for name, value in vars(reading).items()}


def _one_set(outcome: Outcome, course: dict[str, Reading], setting: Setting) -> None:
    first, descended, last = (course[str(one)] for one in (setting.steps[0], setting.steps[-1], POLISHED))
    table = Table(
        f"One training set: {SAMPLES} samples, {PARAMETERS} parameters, {setting.seeds} networks (mean ± standard "
        "error; geometric means of |∇L| and ρ_K)",
        ("step", "|∇L|", "ρ_K", "E_null(10⁻²)", "E_null(10⁻⁴)", "E_null(10⁻⁶)", "E_null at machine tolerance",
         "rank at machine tolerance, random residual"),
        [],
    )  # fmt: skip
    for step, one in course.items():
        rank = float(np.mean(one.ranks[:, -1]))
        table.rows.append((
            step, _geometric(one.gradient), _geometric(one.rayleigh),
            *(pair(at_tau(one.energy, t)) for t in (1e-2, 1e-4, 1e-6)), pair(one.machine),
            f"{rank:.4g}, {1 - rank / SAMPLES:.3f}",
        ))  # fmt: skip
    outcome.tables.append(table)
    outcome.numbers |= {"tolerances": list(TAUS), "one_set": {step: _plain(one) for step, one in course.items()}}
    excess = max(
        float(((1 - one.energy) - one.rayleigh[:, None] / np.square(TAUS)[None]).max()) for one in course.values()
    )
    there = last.gradient <= REACHED
    ends, machine = at_tau(last.energy, EXACT)[there], last.machine[there]
    outcome.claims += [
        Claim(
            "near stationarity the residual on the training set is in the null space (Guo, He, Morel, theorem 3.8)",
            f"{there.sum()} of {len(there)} networks come to |∇L| ≤ {REACHED:g}: at τ = {EXACT:g} their E_null is "
            f"{pair(ends)}, the least {ends.min(initial=1):.4f}; of all {pair(at_tau(first.energy, EXACT))} at the "
            f"start and {pair(at_tau(descended.energy, EXACT))} after {setting.steps[-1]} steps (|∇L| "
            f"{_geometric(descended.gradient):.0e})",
            verdict(end > NEARLY for end in ends),
        ),
        Claim(
            "it is so at machine tolerance as well: no mode above rounding is left",
            f"E_null {pair(machine)}, the least {machine.min(initial=1):.3f}; a random residual has "
            f"{1 - float(np.mean(last.ranks[:, -1])) / SAMPLES:.3f}",
            verdict(end > NEARLY for end in machine),
        ),
        Claim(
            "on the training set that is the stationarity condition itself: 1 - E_null(τ) ≤ ρ_K/τ² (ours)",
            f"largest excess of the left side over all steps, networks and tolerances: {excess:.0e}",
            verdict([excess <= 1e-12]),
        ),
    ]


def _geometric(values: Any) -> float:
    return float(np.exp(np.log(np.maximum(np.asarray(values, dtype=np.float64), 1e-300)).mean()))


def _population(outcome: Outcome, found: list[Case], fitted: Case, setting: Setting) -> None:
    table = Table(
        f"Residual on the population ({setting.population} fresh points) after {setting.passes} steps, {setting.seeds} "
        "networks (mean ± standard error; geometric means of √ρ_K)",
        ("training samples", "√ρ_K on them", "mean r² on them", "E (f - E[y|x])²", "√ρ_K on the population",
         "before the training", "E_null(10⁻¹)", "E_null(10⁻²)", "E_null(10⁻³)", "before: E_null(10⁻²)"),
        [],
    )  # fmt: skip
    for one in (*found, fitted):
        own = one.trained
        table.rows.append((
            one.name,
            None if own is None else _geometric(own.rayleigh) ** 0.5,
            None if own is None else pair(own.error),
            pair(one.after.error), _geometric(one.after.rayleigh) ** 0.5, _geometric(one.before.rayleigh) ** 0.5,
            *(pair(at_tau(one.after.energy, t)) for t in (1e-1, 1e-2, 1e-3)), pair(at_tau(one.before.energy, ONE_TAU)),
        ))  # fmt: skip
    outcome.tables.append(table)
    outcome.numbers["population"] = {
        one.name: {what: _plain(getattr(one, what)) for what in ("trained", "before", "after")}
        for one in (*found, fitted)
    }
    fresh, *reused = found[-1], *found[:-1]
    held = at_tau(fresh.after.energy, ONE_TAU)

    def share(case: Case) -> str:
        return ", ".join(
            f"{pair(at_tau(case.after.energy, tau))} at τ = {tau:g} ({pair(at_tau(case.before.energy, tau))} before)"
            for tau in TWO_TAUS
        )

    def there(case: Case) -> str:
        return verdict(bool(at_tau(case.after.energy, tau).mean() > NEARLY) for tau in TWO_TAUS)

    few = _trained(reused[0])
    outcome.claims += [
        Claim(
            "with fresh samples in every step the population residual is in the null space at the end (mean E_null "
            f"above {NEARLY} at both tolerances)",
            f"E_null {share(fresh)}; √ρ_K {_geometric(fresh.before.rayleigh) ** 0.5:.1e} before, "
            f"{_geometric(fresh.after.rayleigh) ** 0.5:.1e} after",
            there(fresh),
        ),
        Claim(
            "so it is where the network fits its target (fresh samples, without the part that six units cannot learn)",
            f"E (f - E[y|x])² {pair(fitted.after.error)}; E_null {share(fitted)}; √ρ_K "
            f"{_geometric(fitted.after.rayleigh) ** 0.5:.1e} after",
            there(fitted),
        ),
        Claim(
            f"so it is with a set of {reused[0].name} samples that is used again until it is stationary there",
            f"E_null {share(reused[0])}; √ρ_K {_geometric(few.rayleigh) ** 0.5:.1e} on the training set, "
            f"{_geometric(reused[0].after.rayleigh) ** 0.5:.1e} on the population",
            there(reused[0]),
        ),
        Claim(
            f"reused sets leave less of the population residual in the null space (ours; E_null({ONE_TAU:g}) with "
            "fresh samples minus with reused ones)",
            ", ".join(f"{pair(held - at_tau(one.after.energy, ONE_TAU))} for {one.name}" for one in reused),
            above(*(around(held - at_tau(one.after.energy, ONE_TAU)) for one in reused)),
        ),
    ]


def _trained(case: Case) -> Reading:
    if case.trained is None:
        raise AssertionError("fresh samples have no training set")
    return case.trained


def _images(outcome: Outcome, found: list[Digits], setting: Setting) -> None:
    texts = (
        "a network with more parameters than training rows leaves a held-out residual in the null space of the "
        f"population (E_null({ONE_TAU:g}) above {NEARLY})",
        "training moves the held-out residual towards the null space at all (E_null at the end minus at the start)",
        "less so the fewer the images (fresh minus reused)",
        "products of the kernel alone bound the curve (ours; exact by SVD beside them, above the noise floor)",
    )
    outcome.numbers["images"] = [asdict(one) for one in found]
    if not found:
        missing = "not measured: data= names a folder with mnist.npz"
        outcome.claims += [Claim(text, missing, "undecided") for text in texts]
        return
    groups = {name: [one for one in found if one.name == name] for name in dict.fromkeys(one.name for one in found)}
    table = Table(
        f"Digits, squared loss, {found[0].parameters} parameters; residuals on {found[0].rows} held-out rows (mean ± "
        f"standard error over {setting.image_seeds} trainings; geometric means of √ρ_K; E_null at τ = {ONE_TAU:g})",
        ("training images", "rows", "‖r‖² on them", "√ρ_K on them", "‖r‖² held out", "√ρ_K held out", "before",
         "E_null held out", "before", "random residual", "with the training set"),
        [],
    )  # fmt: skip
    for name, many in groups.items():
        fresh = name == FRESH
        table.rows.append((
            name, None if fresh else 10 * int(name),
            None if fresh else pair([one.error[0] for one in many]),
            None if fresh else _geometric([one.stationarity for one in many]), pair([one.error[1] for one in many]),
            _geometric([one.rayleigh for one in many]) ** 0.5, _geometric([one.rayleigh_start for one in many]) ** 0.5,
            pair(_each(many, "energy")), pair(_each(many, "start")), pair(_each(many, "random")),
            None if fresh else pair(_each(many, "union")),
        ))  # fmt: skip
    outcome.tables.append(table)
    few = groups[str(min(setting.images))]
    held = _each(few, "energy")
    gains = {name: _each(many, "energy") - _each(many, "start") for name, many in groups.items()}
    fresh_energy = _each(groups[FRESH], "energy")
    less = {name: fresh_energy - _each(many, "energy") for name, many in groups.items() if name != FRESH}
    inside, resolved = _bounds(found)
    measured = (
        f"{few[0].name} images, {10 * int(few[0].name)} rows, {few[0].parameters} parameters: E_null "
        f"{pair(_each(few, 'start'))} before, {pair(held)} after, {pair(_each(few, 'random'))} for random residuals",
        ", ".join(f"{pair(gain)} ({name})" for name, gain in gains.items()),
        ", ".join(f"{pair(gap)} ({name})" for name, gap in less.items()),
        f"{sum(inside)} of {len(inside)} tolerances; at {resolved} the bounds are within 0.1 of one another "
        f"({setting.lanczos} steps)",
    )
    holds = (
        verdict(one > NEARLY for one in held),
        above(*(around(gain) for gain in gains.values())),
        above(*(around(gap) for gap in less.values())),
        verdict(inside),
    )
    outcome.claims += [Claim(*one) for one in zip(texts, measured, holds, strict=True)]


def _bounds(found: list[Digits]) -> tuple[list[bool], int]:
    """Whether matrix-free bounds hold the exact energy, per tolerance above their floor; how many are close."""
    inside, close = [], 0
    for one in found:
        if one.low is None or one.high is None or one.floor is None:
            continue
        for tau, low, exact, high in zip(TAUS, one.low, one.energy, one.high, strict=True):
            if tau > one.floor:
                inside.append(low - 1e-9 <= exact <= high + 1e-9)
                close += high - low <= 0.1
    return inside, close


def _each(many: list[Digits], what: str) -> Array:
    found: Array = np.array([at_tau(getattr(one, what), ONE_TAU) for one in many])
    return found
