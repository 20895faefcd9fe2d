"""Errors of kernel regression and of networks, predicted from eigenvalues alone: how far does it hold?

Five studies after Simon, Dickens, Karkada, DeWeese (2023) and the two figures in the authors' summary: regressions on
Gaussian eigenfunctions, where the theory is at home; inputs of few and of many dimensions; four parities on the boolean
cube with four architectures, as kernel regressions and as trained networks; the conservation of learnability on ten
points of a circle; and labelled images, with a tangent kernel of infinite width and one of a convolutional network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from genkernel.errors import InputError
from genkernel.experiments.eigenlearning import images as images_
from genkernel.experiments.eigenlearning.claims import (
    Conserved,
    Cube,
    function_name,
    of_cubes,
    of_designs,
    of_dimensions,
    of_images,
    of_rings,
)
from genkernel.experiments.eigenlearning.images import DENSE_NAME, Curve, Setting, Sizes
from genkernel.experiments.eigenlearning.kernels import (
    Design,
    boolean_cube,
    circle,
    gaussian_design,
    in_dimensions,
    on_domain,
    parity,
    regress,
    scored,
)
from genkernel.experiments.eigenlearning.networks import RELU_1, RELU_4, TANH_1, TANH_4, Architecture, train
from genkernel.experiments.equivalence import Measured
from genkernel.experiments.outcome import Outcome
from genkernel.spectra import dataset_learnabilities, predict_risk

ARCHITECTURES = (RELU_1, RELU_4, TANH_1, TANH_4)
PARITIES = (0, 1, 3, 8)  # bits: those of Simon et al.
CIRCLE = (3, 6)  # training points of ten on the circle
SPACE_SAMPLES = 40  # training points of the study of dimensions
REPEATED = 100  # training points, with and without replacement

DESIGNS = (Design(40, 0.0, 0.0), Design(40, 1e-2, 0.01), Design(40, 1.0, 0.1), Design(200, 1e-3, 0.0))
SETTINGS = (Setting(0.0, 0.0), Setting(0.0, 0.2), Setting(0.05, 0.2))


@dataclass(frozen=True)
class Scale:
    """What a run costs."""

    runs: int
    draws: int
    reference: int
    dimensions: tuple[int, ...]
    samples: tuple[int, ...]
    network_samples: tuple[int, ...]
    network_draws: int
    width: int
    circle_draws: int
    deep_draws: int
    images: Sizes
    side: int


FULL = Scale(
    runs=400,
    draws=200,
    reference=2000,
    dimensions=(1, 2, 3, 5, 10, 20),
    samples=(2, 4, 8, 16, 32, 64, 96, 128, 160, 192, 224),
    network_samples=(8, 32, 64, 128, 192),
    network_draws=5,
    width=500,
    circle_draws=10,
    deep_draws=5,
    images=Sizes(2000, 1500, 1500, (16, 32, 64, 128, 256, 512), 10, (64, 256), 3, (512, 2048)),
    side=16,
)
QUICK = replace(
    FULL,
    runs=80,
    draws=20,
    reference=500,
    dimensions=(1, 2, 10),
    samples=(4, 16, 32, 128, 192),
    network_samples=(32, 128),
    network_draws=2,
    width=200,
    circle_draws=3,
    deep_draws=2,
    images=Sizes(600, 500, 600, (16, 64, 256), 4, (64,), 2, (128, 512)),
    side=8,
)


def run(*, quick: bool = False, seed: int = 0, progress: bool = True, images: Any = None) -> Outcome:
    """Run the five studies.

    Args:
        quick: fewer draws, narrower networks, smaller images: under a minute.
        seed: of everything that is drawn.
        progress: show a progress bar.
        images: an ``.npz`` with labels, a folder with ``mnist.npz``, or a torchvision data set by name; by default
            the 8×8 digits that come with scikit-learn.

    Raises:
        MissingError: there are no images there.
        InputError: they have no labels, or are too few.
    """
    from tqdm import tqdm

    scale = QUICK if quick else FULL
    data = images_.labelled(images, *_needed(scale, images), seed)
    sizes = _fitting(scale.images, len(data.x))
    with tqdm(total=3 + 2 * len(ARCHITECTURES), disable=not progress, desc="eigenlearning") as bar:
        designs = [gaussian_design(design, 400, scale.runs, seed + k) for k, design in enumerate(DESIGNS)]
        spaces = [in_dimensions(d, SPACE_SAMPLES, scale.reference, scale.draws, seed + d) for d in scale.dimensions]
        bar.update()
        cubes, rings = {}, {}
        for architecture in ARCHITECTURES:
            cubes[architecture] = _cube(architecture, scale, seed)
            bar.update()
            rings[architecture] = _ring(architecture, scale, seed)
            bar.update()
        pairs = images_.kernels(data, sizes.reference, seed)
        curves = {name: images_.curves(data, pair, sizes, list(SETTINGS), seed) for name, pair in pairs.items()}
        middle = sizes.samples[len(sizes.samples) // 2]
        counts = [sizes.reference // k for k in (8, 4, 2, 1) if sizes.reference // k > middle]
        by_reference = {name: images_.by_reference(pair, data, middle, counts) for name, pair in pairs.items()}
        bar.update()
        networks = images_.trained(data, sizes, seed)
        bar.update()
    outcome = Outcome(
        "eigenlearning",
        {
            "quick": quick, "seed": seed, "designs": "λ = i^(-3/2), v ~ N(0, 1) / i, 400 modes", "runs": scale.runs,
            "draws": scale.draws, "network draws": scale.network_draws, "width": scale.width,
            "images": data.source, "side": data.side, "reference images": sizes.reference, "pool": sizes.pool,
            "test images": sizes.test, "image draws": sizes.draws, "dtype of networks": "float32",
        },
    )  # fmt: skip
    of_designs(outcome, designs)
    of_dimensions(outcome, spaces, SPACE_SAMPLES, scale.reference)
    of_cubes(outcome, cubes, PARITIES, scale.width)
    of_rings(outcome, rings, scale.width)
    of_images(outcome, curves, networks, by_reference, counts, middle, sizes)
    _draw(outcome, cubes, rings, curves, networks, scale, sizes, data.source, seed)
    return outcome


def _needed(scale: Scale, images: Any) -> tuple[int, int]:
    return scale.images.reference + scale.images.pool + scale.images.test, scale.side


def _fitting(sizes: Sizes, count: int) -> Sizes:
    """The same shares of fewer images.

    Raises:
        InputError: they are too few for anything.
    """
    wanted = sizes.reference + sizes.pool + sizes.test
    if count >= wanted:
        return sizes
    reference, pool = sizes.reference * count // wanted, sizes.pool * count // wanted
    samples, networks = (tuple(n for n in counts if n <= pool // 2) for counts in (sizes.samples, sizes.networks))
    if not samples or not networks:
        raise InputError(f"{count} images are too few to draw training sets from: give some hundreds of them")
    return replace(
        sizes, reference=reference, pool=pool, test=count - reference - pool, samples=samples, networks=networks
    )


# ------------------------------------------------------------------------------------ parts


def _cube(architecture: Architecture, scale: Scale, seed: int) -> Cube:
    cube = boolean_cube(8)
    functions = torch.stack([parity(cube, bits) for bits in PARITIES], 1)
    kernel = architecture.kernel(cube)
    grid = np.geomspace(1, 250, 100)
    measured = {n: on_domain(kernel, functions, n, scale.draws, seed + n) for n in scale.samples}
    networks = {}
    count, F = scale.network_draws, len(PARITIES)
    for n in scale.network_samples:
        draw = torch.Generator().manual_seed(seed + n)  # the first training sets of the regressions
        places = torch.stack([torch.randperm(len(cube), generator=draw)[:n] for _ in range(count)])
        x = cube[places].repeat_interleave(F, 0)
        y = functions[places].transpose(1, 2).reshape(count * F, n, 1)
        outputs = train(architecture, scale.width, x, y, cube, seed=seed + n).outputs.reshape(count, F, -1)
        scores = [scored(functions, one.T) for one in outputs]
        networks[n] = Measured.of([s[0] for s in scores]), Measured.of([s[1] for s in scores])
    return Cube(
        smooth=[predict_risk(kernel, functions[:, k], grid) for k in range(F)],
        predicted=[predict_risk(kernel, functions[:, k], scale.samples) for k in range(F)],
        measured=measured,
        networks=networks,
        repeated=(
            on_domain(kernel, functions, REPEATED, scale.draws, seed),
            on_domain(kernel, functions, REPEATED, scale.draws, seed, replacement=True),
        ),
        foreseen=[predict_risk(kernel, functions[:, k], REPEATED).test_mse for k in range(F)],
    )


def _ring(architecture: Architecture, scale: Scale, seed: int) -> dict[int, Conserved]:
    x, modes, _ = circle(10)
    kernel = architecture.kernel(x)
    draws = scale.deep_draws if architecture.depth > 1 else scale.circle_draws
    found = {}
    for n in CIRCLE:
        draw = torch.Generator().manual_seed(seed + n)
        by_kernel, by_network, off = [], [], 0.0
        for one in range(draws):
            places = torch.randperm(len(x), generator=draw)[:n]
            by_kernel.append(scored(modes, regress(kernel, modes, places))[1])
            off = max(off, abs(float(dataset_learnabilities(kernel, places).sum()) - n))
            y = modes[places].T[:, :, None]
            run = train(architecture, scale.width, x[places].expand(len(y), -1, -1), y, x, seed=seed + 100 * n + one)
            by_network.append(scored(modes, run.outputs[:, :, 0].T)[1])
        sums = Measured.of(np.array(by_network).sum(1))
        found[n] = Conserved(np.mean(by_kernel, 0), np.mean(by_network, 0), sums, off)
    return found


def _draw(
    outcome: Outcome,
    cubes: dict[Architecture, Cube],
    rings: dict[Architecture, dict[int, Conserved]],
    curves: dict[str, dict[Setting, Curve]],
    networks: dict[tuple[int, int], tuple[Measured, int]],
    scale: Scale,
    sizes: Sizes,
    source: str,
    seed: int,
) -> None:
    from genkernel.plots import eigenlearning as plots

    meta = {"seed": seed}
    panels = {
        architecture.name: {
            function_name(bits): plots.Panel(
                smooth=(cube.smooth[k].samples, cube.smooth[k].test_mse, cube.smooth[k].learnability),
                kernels=[
                    (n, m.mse.mean[k], m.mse.stderr[k], m.learnability.mean[k], m.learnability.stderr[k])
                    for n, m in cube.measured.items()
                ],
                networks=[
                    (n, mse.mean[k], mse.stderr[k], learned.mean[k], learned.stderr[k])
                    for n, (mse, learned) in cube.networks.items()
                ],
            )
            for k, bits in enumerate(PARITIES)
        }
        for architecture, cube in cubes.items()
    }
    outcome.figures["eigenlearning"] = plots.boolean_functions(
        panels, meta, f"2⁸ cube, whole domain scored · kernel: {scale.draws} draws · networks: width {scale.width}, "
        f"{scale.network_draws} draws, float32 · bars: 2 s.e.",
    )  # fmt: skip
    names = circle(10)[2]
    bars = {
        n: {a.name: (found[n].kernel, found[n].network, float(found[n].sums.stderr)) for a, found in rings.items()}
        for n in CIRCLE
    }
    outcome.figures["eigenlearning-conservation"] = plots.conservation(
        bars, names, meta, f"10 points of a circle · networks: width {scale.width}, {scale.circle_draws} training sets "
        f"({scale.deep_draws} with 4 hidden layers), float32 · bars: 2 s.e. of the sum",
    )  # fmt: skip
    outcome.figures["eigenlearning-images"] = _images_drawn(curves, networks, sizes, source, meta)


def _images_drawn(
    curves: dict[str, dict[Setting, Curve]],
    networks: dict[tuple[int, int], tuple[Measured, int]],
    sizes: Sizes,
    source: str,
    meta: dict[str, Any],
) -> Any:
    from genkernel.plots import eigenlearning as plots

    lines = {
        name: {
            setting.name: plots.Line(
                smooth=(curve.smooth.samples, curve.smooth.test_mse),
                corrected=(curve.smooth_corrected.samples, curve.smooth_corrected.test_mse),
                measured=[
                    (n, float(m.mean), float(m.stderr)) for n, m in zip(sizes.samples, curve.measured, strict=True)
                ],
            )
            for setting, curve in each.items()
        }
        for name, each in curves.items()
    }
    trained = {
        f"networks, width {width}": [
            (n, float(m.mean), float(m.stderr)) for (w, n), (m, _) in networks.items() if w == width
        ]
        for width in sizes.widths
    }
    return plots.image_curves(
        lines, {DENSE_NAME: trained}, meta, f"{source} · m = {sizes.reference}, {sizes.draws} draws, "
        f"{sizes.test} test images · bars: 2 s.e. · k̄: mean of k(x, x)",
    )  # fmt: skip
