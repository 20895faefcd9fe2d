"""What the sentences of a spectrum say, and what they leave out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import genkernel as gk
from genkernel.spectra.reading import read
from genkernel.spectra.results import UNSOLVED, ResidualSpectra, SpectrumResult
from genkernel.spectra.spectrum import Spectrum, TargetSpectrum, analyze

pytestmark = pytest.mark.usefixtures("one_thread")


def spectrum(n: int = 24, **options: Any) -> Spectrum:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(6, 40), torch.nn.ReLU(), torch.nn.Linear(40, 3)).double()
        x = torch.randn(n, 6, dtype=torch.float64)
    return analyze(gk.kernel(net, x, cotangents=gk.exact_trace()), **options)


def with_targets(
    learnability: list[float], error: list[float], rank: int = 1000, shuffled: tuple[float, float] = (-0.1, 0.04)
) -> SpectrumResult:
    sizes = np.array([4.0, 8.0, 16.0])[-len(error) :]
    one = spectrum(8)
    one.rank, one.samples = rank, 1000
    one.targets = TargetSpectrum(
        kind="values", outputs=1, alignment=0.1, alignment_shuffled=0.0, alignment_cka=0.3, power=np.ones(8) / 8,
        samples=sizes, learnability=np.array(learnability), shuffled=np.array(shuffled), test_mse=np.array(error),
        test_mse_stderr=np.zeros(len(error)), kappa=np.ones(len(error)), notes=[],
    )  # fmt: skip
    return SpectrumResult(one)


def residual(unsolved: list[float], rest: list[float]) -> ResidualSpectra:
    levels = len(rest)
    zeros, table = np.zeros(levels), np.full((levels, 1), 0.5)
    return ResidualSpectra(
        timesteps=100 * np.arange(levels, dtype=np.float64), log_snr=zeros, tolerances=np.array([0.1]), residual=table,
        residual_stderr=table / 10, random=table, rayleigh=zeros + 0.1, rayleigh_stderr=zeros, rayleigh_random=zeros,
        loss=zeros, top=zeros, target=np.array(rest) / 2, target_stderr=zeros, output=zeros, output_stderr=zeros,
        rest=np.array(rest), rest_stderr=zeros + 0.01, ridge=1e-3, unsolved=np.array(unsolved), evaluated=4, rows=64,
        steps=10,
    )  # fmt: skip


def test_what_is_learned_stands_beside_the_error() -> None:
    said = " ".join(read(with_targets([0.2, 0.5, 0.68], [0.9, 0.8, 0.4])))
    assert (
        "16 samples is expected to learn 68% of the targets (of shuffled ones nothing to 4%), with an error of 0.4"
        in said
    )
    assert "worse" not in said and "ridge" not in said
    said = " ".join(read(with_targets([0.2, 0.5, 0.68], [0.9, 0.8, 4.74])))
    assert "with an error of 4.7 times their variance: worse than predicting their mean" in said
    assert "the least predicted error is 0.8, at n = 8" in said


def test_nothing_is_learned_where_the_share_is_not_positive() -> None:
    said = " ".join(read(with_targets([-0.13], [1.2], shuffled=(-0.2, -0.1))))
    assert (
        "learn nothing of the targets (of shuffled ones nothing), with" in said and "%" not in said.split("Kernel")[1]
    )
    assert "least predicted" not in said


@pytest.mark.parametrize(
    ("rank", "ridge", "near"), [(18, 0.0, True), (14, 0.0, True), (40, 0.0, False), (18, 0.1, False)]
)
def test_as_many_samples_as_modes_are_warned_of_without_a_ridge(rank: int, ridge: float, near: bool) -> None:
    result = with_targets([0.5], [0.9], rank=rank)
    result.meta["ridge"] = ridge
    assert any("near to" in one for one in read(result)) == near


def test_alignment_that_does_not_exist_is_not_said() -> None:
    result = with_targets([0.5], [0.9])
    assert any("unbiased CKA 0.300, KTA 0.100" in one for one in read(result))
    assert result.spectrum.targets is not None
    result.spectrum.targets.alignment_cka = float("nan")
    said = " ".join(read(result))
    assert "CKA" not in said and "nan" not in said and "KTA 0.100" in said


@pytest.mark.parametrize(("large", "why"), [(20, "8 samples or more"), (24, "nothing")])
def test_overlaps_that_cannot_be_compared_are_not_nan(large: int, why: str) -> None:
    small = 27 - large if large < 24 else 24
    labels = [0] * large + [1] * small
    said = " ".join(read(SpectrumResult(spectrum(len(labels), groups=labels))))
    assert "nan" not in said
    assert ("relative to that" in said) == (large == 24) and (why in said) == (large == 20)


def test_regressions_that_did_not_converge_are_left_out_and_named() -> None:
    both = read(SpectrumResult(spectrum(8), residual=residual([0.01, UNSOLVED, 1.1], [0.2, 0.3, -0.8])))
    assert any(
        "of 0.10 to 0.15 for the target and of 0.20 to 0.30" in one and "at 2 of 2 levels" in one for one in both
    )
    assert both[-1].startswith("Not converged after 10 steps: the regressions at t = 200 (1.1);")
    none = " ".join(read(SpectrumResult(spectrum(8), residual=residual([0.5, 0.2], [0.2, 0.3]))))
    assert "R² of" not in none and "t = 0 (0.5), 100 (0.2)" in none
    fine = " ".join(read(SpectrumResult(spectrum(8), residual=residual([0.01, 0.02], [0.2, -0.3]))))
    assert "onverged" not in fine and "-0.30 to 0.20 for the residual" in fine


def test_one_sample_is_one() -> None:
    assert read(SpectrumResult(spectrum(1)))[0].startswith("1 sample has an effective rank of 1;")
