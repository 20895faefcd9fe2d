"""What the studies of eigenlearning come to: tables, and claims with the criteria that decide them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genkernel.experiments.eigenlearning.images import DENSE_NAME, Curve, Setting, Sizes
from genkernel.experiments.eigenlearning.kernels import COEFFICIENTS, DesignResult, InDimensions, OnDomain
from genkernel.experiments.eigenlearning.networks import Architecture
from genkernel.experiments.equivalence import (
    NORMAL,
    TOLERANCE,
    Agreement,
    Measured,
    above,
    agreement,
    equivalent,
    pooled,
    student,
)
from genkernel.experiments.outcome import Claim, Outcome, Table
from genkernel.plots.style import pair
from genkernel.spectra import LearningCurve
from genkernel.spectra.eigenlearning import Risk

Array = NDArray[np.float64]

FLOOR = 0.05  # of a target of mean square 1: what is below counts as this where something is relative to it
NEAR = 0.05  # sums of learnabilities of networks, relative to n
EXACT = 1e-8  # sums of learnabilities of kernel regression (THEORY §14)
YES_NO = "yes / no / undecided within 10 % (95 % intervals)"
SHOWN = 128  # n of the table of the cube


@dataclass
class Cube:
    """Everything about one architecture on the boolean cube; entries per function last.

    Attributes:
        smooth: predictions for many n, one curve per function.
        predicted: at the n of the regressions.
        measured: kernel regressions, per n.
        networks: trained networks, n → (mean squared error, learnability).
        repeated: regressions with training points drawn without and with replacement.
        foreseen: predicted for those without, per function.
    """

    smooth: list[LearningCurve]
    predicted: list[LearningCurve]
    measured: dict[int, OnDomain]
    networks: dict[int, tuple[Measured, Measured]]
    repeated: tuple[OnDomain, OnDomain]
    foreseen: list[float]


@dataclass(frozen=True)
class Conserved:
    """Learnabilities of all modes of the circle with one architecture and n, summed or not.

    Attributes:
        kernel, network: mean learnability of every mode ``[M]``.
        sums: of the networks, over draws.
        exact: largest |Σ L - n| of kernel regression over draws, as the library's ``dataset_learnabilities`` has it.
    """

    kernel: Array
    network: Array
    sums: Measured
    exact: float


def function_name(bits: int) -> str:
    """A parity in words."""
    return {0: "constant", 1: "one bit"}.get(bits, f"parity of {bits}")


def of_designs(outcome: Outcome, designs: list[DesignResult]) -> None:
    """Regressions on Gaussian eigenfunctions."""
    each = [_coefficients([d]) for d in designs]
    outcome.tables.append(
        Table(
            "Gaussian eigenfunctions: predicted and simulated (± standard error)",
            ("n", "δ", "ε²", "test MSE predicted", "simulated", "train MSE predicted", "train MSE simulated",
             "ten E v̂: yes / no / undecided", "Σ Var v̂ simulated / predicted"),
            [
                (d.design.samples, d.design.ridge, d.design.noise, d.risk.test_mse, _said(d.test), d.risk.train_mse,
                 _said(d.train), means.counts, _said(d.variance_ratio))
                for d, means in zip(designs, each, strict=True)
            ],
        )
    )  # fmt: skip
    tests = _agreement([d.risk.test_mse for d in designs], [d.test for d in designs])
    means = _coefficients(designs)
    variances = _agreement([1.0] * len(designs), [d.variance_ratio for d in designs])
    ratios = [float(d.variance_ratio.mean) for d in designs]
    outcome.claims.append(
        Claim(
            "eigenvalues and coefficients alone give the test error of kernel regression, and mean and variance of "
            "every learned coefficient (Simon et al.), where eigenfunctions are independent and Gaussian",
            f"test MSE: {tests}; means of ten coefficients each: {means}; variances {min(ratios):.2f} to "
            f"{max(ratios):.2f} times the predicted: {variances.counts}; {YES_NO}",
            pooled([tests, means, variances]),
        )
    )
    outcome.numbers["designs"] = [
        {
            "samples": d.design.samples, "ridge": d.design.ridge, "noise": d.design.noise,
            "test predicted": d.risk.test_mse, "test": float(d.test.mean), "test stderr": float(d.test.stderr),
            "train predicted": d.risk.train_mse, "train": float(d.train.mean),
            "coefficients predicted": d.risk.mean[:COEFFICIENTS].tolist(),
            "coefficients": d.learned.mean.tolist(), "coefficients stderr": d.learned.stderr.tolist(),
            "variance ratio": float(d.variance_ratio.mean), "variance ratio stderr": float(d.variance_ratio.stderr),
            "draws": d.test.count,
        }
        for d in designs
    ]  # fmt: skip


def of_dimensions(outcome: Outcome, found: Sequence[InDimensions], samples: int, reference: int) -> None:
    """Regressions of inputs in few and in many dimensions."""
    halves = [_half(d.measured, d.reference_stderr) for d in found]
    each = [
        equivalent(float(d.measured.mean) - d.predicted, half, TOLERANCE * d.predicted)
        for d, half in zip(found, halves, strict=True)
    ]
    outcome.tables.append(
        Table(
            f"sin 2x₁ of normal inputs, Gaussian kernel, n = {samples}, m = {reference}: test MSE (± standard error)",
            ("dimensions", "predicted", "measured", "measured / predicted (95 % interval)", "within 10 %"),
            [
                (d.dimensions, d.predicted, _said(d.measured), _ratio(d.measured, d.predicted, half), verdict)
                for d, half, verdict in zip(found, halves, each, strict=True)
            ],
        )
    )
    outcome.claims.append(
        Claim(
            "the predictions hold in few dimensions as in many (eigenfunctions are taken as independent and Gaussian)",
            "measured / predicted: "
            + ", ".join(
                f"{_ratio(d.measured, d.predicted, half)} in {d.dimensions} ({verdict})"
                for d, half, verdict in zip(found, halves, each, strict=True)
            )
            + "; 95 % intervals, within 10 %",
            pooled(each),
        )
    )
    outcome.numbers["dimensions"] = [
        {
            "dimensions": d.dimensions, "predicted": d.predicted, "reference stderr": d.reference_stderr,
            "measured": float(d.measured.mean), "stderr": float(d.measured.stderr),
            "test points stderr": float(d.measured.shared), "draws": d.measured.count,
        }
        for d in found
    ]  # fmt: skip


def of_cubes(outcome: Outcome, cubes: Mapping[Architecture, Cube], parities: Sequence[int], width: int) -> None:
    """Parities on the boolean cube."""
    rows = [
        (a.name, function_name(bits), cube.predicted[k].test_mse[list(cube.measured).index(SHOWN)].item(),
         _said(cube.measured[SHOWN].mse, k), _said(cube.networks[SHOWN][0], k),
         float(cube.measured[SHOWN].mse.mean[k]) * 256 / (256 - SHOWN))
        for a, cube in cubes.items()
        for k, bits in enumerate(parities)
    ]  # fmt: skip
    outcome.tables.append(
        Table(
            f"Boolean cube 2⁸, n = {SHOWN} without replacement: MSE over the whole domain (± standard error; networks "
            f"of width {width})",
            ("architecture", "function", "predicted", "kernel regression", "networks", "kernel, off the training set"),
            rows,
        )
    )
    kernels = {a: _on_cube(c, {n: (m.mse, m.learnability) for n, m in c.measured.items()}) for a, c in cubes.items()}
    networks = {a: _on_cube(c, c.networks) for a, c in cubes.items()}
    beside = {a: _beside(c) for a, c in cubes.items()}
    outcome.tables.append(
        Table(
            f"Boolean cube: how many numbers are where they were predicted, over all n and functions: {YES_NO}",
            ("architecture", "kernel: MSE", "kernel: learnability", "networks: MSE", "networks: learnability",
             "networks' MSE against the kernels'"),
            [(a.name, *map(str, (*kernels[a], *networks[a], beside[a]))) for a in cubes],
        )
    )  # fmt: skip
    for what, found in (
        ("kernel regression with the tangent kernel of infinite width", kernels),
        (f"trained networks of width {width}", networks),
    ):
        parts = [each for both in found.values() for each in both]
        outcome.claims.append(
            Claim(
                f"MSE and learnability of {what} are predicted over n, for four parities of 8 bits and four "
                "architectures (Simon et al., figure 1 of their summary)",
                "; ".join(
                    f"{a.name}: MSEs {mse.counts}, learnabilities {learned.counts}"
                    for a, (mse, learned) in found.items()
                )
                + f"; {YES_NO}",
                pooled(parts),
            )
        )
    _of_repeats(outcome, cubes, parities)
    outcome.numbers["cube"] = {
        a.name: {
            function_name(bits): {
                "samples": list(c.measured),
                "predicted": c.predicted[k].test_mse.tolist(),
                "kernel": [float(m.mse.mean[k]) for m in c.measured.values()],
                "kernel stderr": [float(m.mse.stderr[k]) for m in c.measured.values()],
                "learnability predicted": c.predicted[k].learnability.tolist(),
                "learnability kernel": [float(m.learnability.mean[k]) for m in c.measured.values()],
                "learnability kernel stderr": [float(m.learnability.stderr[k]) for m in c.measured.values()],
                "network samples": list(c.networks),
                "network": [float(mse.mean[k]) for mse, _ in c.networks.values()],
                "network stderr": [float(mse.stderr[k]) for mse, _ in c.networks.values()],
                "learnability network": [float(learned.mean[k]) for _, learned in c.networks.values()],
                "learnability network stderr": [float(learned.stderr[k]) for _, learned in c.networks.values()],
            }
            for k, bits in enumerate(parities)
        }
        for a, c in cubes.items()
    }


def _of_repeats(outcome: Outcome, cubes: Mapping[Architecture, Cube], parities: Sequence[int]) -> None:
    k = list(parities).index(3)
    rows, worse, each = [], [], []
    for a, cube in cubes.items():
        plain, repeated = cube.repeated
        foreseen = cube.foreseen[k]
        rows.append(
            (a.name, foreseen, _said(plain.mse, k), _said(repeated.mse, k), repeated.distinct,
             float(plain.mse.mean[k]) * 256 / 156)
        )  # fmt: skip
        factors = [_factor(one.mse.mean[k], foreseen) for one in (plain, repeated)]
        half = math.hypot(*(float(one.mse.half[k] / one.mse.mean[k]) for one in (plain, repeated)))
        worse.append((factors[0], factors[1]))
        each.append(above(math.log(factors[1] / factors[0]), half))
    outcome.tables.append(
        Table(
            "Parity of 3 on the cube, n = 100: which sampling, and which MSE (± standard error)",
            ("architecture", "predicted", "without replacement", "with replacement", "distinct of these",
             "without replacement, off the training set"),
            rows,
        )
    )  # fmt: skip
    outcome.claims.append(
        Claim(
            "on a finite domain the predictions are of sampling without replacement: repeated points teach nothing "
            "(THEORY §9)",
            f"parity of 3, n = 100: off by factors of {min(w for w, _ in worse):.2f} to {max(w for w, _ in worse):.2f} "
            f"without replacement, {min(w for _, w in worse):.2f} to {max(w for _, w in worse):.2f} with it; "
            "further off with it: " + ", ".join(f"{a.name}: {one}" for a, one in zip(cubes, each, strict=True)),
            pooled(each),
        )
    )
    outcome.numbers["replacement"] = {a.name: [float(v) for v in w] for a, w in zip(cubes, worse, strict=True)}


def of_rings(outcome: Outcome, rings: Mapping[Architecture, Mapping[int, Conserved]], width: int) -> None:
    """The conservation of learnability."""
    cases = [(a, n, one) for a, found in rings.items() for n, one in found.items()]
    outcome.tables.append(
        Table(
            f"Σ of learnabilities of all ten modes of the circle (± standard error; networks of width {width})",
            ("architecture", "n", "kernel regression: largest |Σ - n|", "networks"),
            [(a.name, n, f"{one.exact:.0e}", _said(one.sums)) for a, n, one in cases],
        )
    )
    outcome.claims.append(
        Claim(
            "the learnabilities of all modes sum to the number of training points, exactly for kernel regression "
            "without a ridge (Simon et al., conservation law)",
            f"largest deviation {max(one.exact for *_, one in cases):.0e}",
            pooled(["yes" if one.exact < EXACT else "no" for *_, one in cases]),
        )
    )
    near = [equivalent(float(one.sums.mean) - n, float(one.sums.half), NEAR * n) for _, n, one in cases]
    outcome.claims.append(
        Claim(
            f"and approximately for trained networks (width {width}; within {NEAR:.0%} of n)",
            f"sums {min(float(one.sums.mean) / n for _, n, one in cases):.3f} n to "
            f"{max(float(one.sums.mean) / n for _, n, one in cases):.3f} n in the mean over training sets; "
            f"95 % intervals within {NEAR:.0%}: {', '.join(near)}",
            pooled(near),
        )
    )
    outcome.numbers["conservation"] = [
        {
            "architecture": a.name, "n": n, "kernel": one.kernel.tolist(), "network": one.network.tolist(),
            "sum": float(one.sums.mean), "stderr": float(one.sums.stderr), "exact": one.exact,
            "draws": one.sums.count,
        }
        for a, n, one in cases
    ]  # fmt: skip


def of_images(
    outcome: Outcome,
    curves: Mapping[str, Mapping[Setting, Curve]],
    networks: Mapping[tuple[int, int], tuple[Measured, int]],
    by_reference: Mapping[str, Sequence[tuple[Risk, Risk]]],
    counts: Sequence[int],
    middle: int,
    sizes: Sizes,
) -> None:
    """Kernel regression and networks on labelled images."""
    outcome.tables.append(
        Table(
            f"Labelled images, m = {sizes.reference} reference images: MSE predicted with these as the density / as a "
            "sample of it / measured (± standard error)",
            ("kernel", "setting", *(f"n = {n}" for n in sizes.samples)),
            [
                (name, setting.name, *(
                    f"{p:.3f} / {c:.3f} / {_said(m)}"
                    for p, c, m in zip(
                        curve.predicted.test_mse, curve.corrected.test_mse, curve.measured, strict=True
                    )
                ))
                for name, each in curves.items()
                for setting, curve in each.items()
            ],
        )
    )  # fmt: skip
    verdicts = []
    for which, how in (("predicted", ""), ("corrected", ", taken as a sample of the density (Jacot et al., 2020),")):
        found = {
            name: {s: _curve_agreement(curve, getattr(curve, which)) for s, curve in each.items()}
            for name, each in curves.items()
        }
        outcome.claims.append(
            Claim(
                f"with real images and tangent kernels too, eigenvalues from m = {sizes.reference} reference images"
                f"{how} predict the test error of kernel regression, with and without ridge and label noise",
                "; ".join(
                    f"{name}: {', '.join(f'{s.name}: {one.counts}' for s, one in each.items())}"
                    for name, each in found.items()
                )
                + f"; {YES_NO}",
                pooled([one for each in found.values() for one in each.values()]),
            )
        )
        verdicts.append(found)
    outcome.tables.append(
        Table(
            f"Labelled images: at how many of {len(sizes.samples)} n the predicted error is measured: {YES_NO}",
            ("kernel", "setting", "reference images as the density", "as a sample"),
            [
                (name, setting.name, str(verdicts[0][name][setting]), str(verdicts[1][name][setting]))
                for name, each in curves.items()
                for setting in each
            ],
        )
    )
    plain = {name: next(iter(each.values())) for name, each in curves.items()}
    place = list(sizes.samples).index(middle)
    outcome.tables.append(
        Table(
            f"How many reference images it takes: predicted MSE for n = {middle}, no ridge and no noise",
            ("kernel", "reference images as", *(f"m = {m}" for m in counts), "measured"),
            [
                (
                    name,
                    how,
                    *(pair(r.test_mse, r.stderr) if r.stderr > 0 else r.test_mse for r in risks),
                    _said(plain[name].measured[place]),
                )
                for name, row in by_reference.items()
                for how, risks in zip(("the density", "a sample"), zip(*row, strict=True), strict=True)
            ],
        )
    )
    _of_image_networks(outcome, plain[DENSE_NAME], networks, sizes)
    outcome.numbers["images"] = {
        name: {
            setting.name: {
                "samples": list(sizes.samples),
                "predicted": curve.predicted.test_mse.tolist(),
                "corrected": curve.corrected.test_mse.tolist(),
                "corrected stderr": curve.corrected.stderr.tolist(),
                "measured": [float(m.mean) for m in curve.measured],
                "stderr": [float(m.stderr) for m in curve.measured],
                "test images stderr": [float(m.shared) for m in curve.measured],
                "draws": curve.measured[0].count,
            }
            for setting, curve in each.items()
        }
        for name, each in curves.items()
    }
    outcome.numbers["reference images"] = {
        "m": list(counts),
        "n": middle,
        "predicted": {name: [plain.test_mse for plain, _ in row] for name, row in by_reference.items()},
        "corrected": {name: [one.test_mse for _, one in row] for name, row in by_reference.items()},
        "corrected stderr": {name: [one.stderr for _, one in row] for name, row in by_reference.items()},
    }


def _of_image_networks(
    outcome: Outcome, curve: Curve, networks: Mapping[tuple[int, int], tuple[Measured, int]], sizes: Sizes
) -> None:
    rows, ratios, said, each = [], {}, [], []
    for (width, n), (m, steps) in networks.items():
        k = list(sizes.samples).index(n)
        predicted = float(curve.predicted.test_mse[k])
        half = _half(m, float(curve.corrected.stderr[k]))
        ratios[width, n] = float(m.mean) / predicted
        each.append(equivalent(float(m.mean) - predicted, half, TOLERANCE * predicted))
        said.append(f"width {width}, n = {n}: {_ratio(m, predicted, half)} times ({each[-1]})")
        rows.append(
            (
                width,
                n,
                predicted,
                float(curve.corrected.test_mse[k]),
                _said(curve.measured[k]),
                _said(m),
                each[-1],
                steps,
            )
        )
    outcome.tables.append(
        Table(
            "Labelled images: trained networks with ReLU and 3 hidden layers (test MSE ± standard error)",
            ("width", "n", "predicted", "reference images as a sample", "kernel regression, infinite width",
             "networks", "within 10 % of predicted", "steps"),
            rows,
        )
    )  # fmt: skip
    outcome.claims.append(
        Claim(
            "trained networks on images have the error that is predicted for their kernel of infinite width",
            f"{', '.join(said)} the predicted MSE; 95 % intervals, within 10 %",
            pooled(each),
        )
    )
    narrow, wide = min(sizes.widths), max(sizes.widths)
    nearer = [_nearer(networks[narrow, n][0], networks[wide, n][0], float(curve.predicted.test_mse[
        list(sizes.samples).index(n)])) for n in sizes.networks]  # fmt: skip
    outcome.claims.append(
        Claim(
            f"they come nearer to it as they get wider (from {narrow} to {wide})",
            ", ".join(f"n = {n}: {one}" for n, one in zip(sizes.networks, nearer, strict=True)),
            pooled(nearer),
        )
    )
    outcome.numbers["image networks"] = [
        {
            "width": w, "n": n, "mse": float(m.mean), "stderr": float(m.stderr), "test images stderr": float(m.shared),
            "draws": m.count, "steps": steps, "ratio": ratios[w, n],
        }
        for (w, n), (m, steps) in networks.items()
    ]  # fmt: skip


# ------------------------------------------------------------------------------------ parts


def _half(measured: Measured, reference: float = 0.0) -> float:
    """Half the interval of a measured number, with the standard error of its prediction."""
    return math.hypot(float(measured.half), NORMAL * reference)


def _agreement(predicted: Sequence[float], measured: Sequence[Measured], floor: float = 0.0) -> Agreement:
    return agreement(predicted, [float(m.mean) for m in measured], [_half(m) for m in measured], floor)


def _coefficients(designs: Sequence[DesignResult]) -> Agreement:
    """Mean learned coefficients of the leading modes; each may be off by a tenth of itself."""
    return agreement(
        [float(v) for d in designs for v in d.risk.mean[:COEFFICIENTS]],
        [float(v) for d in designs for v in d.learned.mean],
        [float(v) for d in designs for v in d.learned.half],
    )


def _on_cube(cube: Cube, found: Mapping[int, tuple[Measured, Measured]]) -> tuple[Agreement, Agreement]:
    """Of MSE and of learnability, over all n and functions."""
    places = [list(cube.measured).index(n) for n in found]
    both = []
    for which, name in ((0, "test_mse"), (1, "learnability")):
        predicted = [float(getattr(curve, name)[place]) for curve in cube.predicted for place in places]
        mean = [float(pair[which].mean[k]) for k in range(len(cube.predicted)) for pair in found.values()]
        half = [float(pair[which].half[k]) for k in range(len(cube.predicted)) for pair in found.values()]
        both.append(agreement(predicted, mean, half, FLOOR if name == "test_mse" else 1.0))
    return both[0], both[1]


def _beside(cube: Cube) -> Agreement:
    """MSEs of networks, taking those of the kernel regressions as the prediction."""
    F = range(len(cube.predicted))
    return agreement(
        [float(cube.measured[n].mse.mean[k]) for k in F for n in cube.networks],
        [float(mse.mean[k]) for k in F for mse, _ in cube.networks.values()],
        [math.hypot(float(mse.half[k]), float(cube.measured[n].mse.half[k]))
         for k in F for n, (mse, _) in cube.networks.items()],
        FLOOR,
    )  # fmt: skip


def _curve_agreement(curve: Curve, predicted: LearningCurve) -> Agreement:
    """With the error of the reference images, as stated where they are taken as a sample."""
    return agreement(
        predicted.test_mse,
        [float(m.mean) for m in curve.measured],
        [_half(m, float(error)) for m, error in zip(curve.measured, curve.corrected.stderr, strict=True)],
    )


def _nearer(narrow: Measured, wide: Measured, predicted: float) -> str:
    """Whether wide networks are nearer to the prediction; both are scored on the same points, so these cancel."""
    gain = abs(float(narrow.mean) - predicted) - abs(float(wide.mean) - predicted)
    half = math.hypot(*(float(student(m.count) * m.stderr) for m in (narrow, wide)))
    return above(gain, half)


def _ratio(measured: Measured, predicted: float, half: float) -> str:
    """Measured over predicted, with its interval."""
    mean = float(measured.mean)
    return f"{mean / predicted:.2f} ({(mean - half) / predicted:.2f} to {(mean + half) / predicted:.2f})"


def _factor(measured: float, predicted: float) -> float:
    return math.exp(abs(math.log(float(measured) / predicted)))


def _said(measured: Measured, k: int | None = None) -> str:
    mean, stderr = (measured.mean, measured.stderr) if k is None else (measured.mean[k], measured.stderr[k])
    if abs(float(mean)) < 1e-20:  # rounding
        return "0"
    if abs(float(mean)) < 1e-2:
        return f"{float(mean):.2e} ± {float(stderr):.0e}"
    return pair(float(mean), float(stderr))
