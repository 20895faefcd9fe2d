"""Residuals over eigenvalues, against the kernel written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import genkernel as gk
from genkernel.diffusion.pairs import grid
from genkernel.diffusion.residual_spectra import RIDGE, TOLERANCES, residual_spectra
from genkernel.errors import InputError
from tests.diffusion.tiny import tiny_denoiser, tiny_images

ROWS = 4 * 16  # four images of 16 outputs behind each kernel


def test_energies_and_regressions_are_those_of_the_matrix():
    den, images = tiny_denoiser(), tiny_images(8)
    found = residual_spectra(den, images, [200.0], steps=3 * ROWS, seed=3)
    batches, targets, residuals, expected = [], [], [], []
    for half in range(2):
        batch = grid(den, images[4 * half : 4 * half + 4], [200.0], 3, draw=half).loss_batch(den)
        targets.append(batch.pop("target").double().reshape(-1))
        batch.pop("weight")
        batches.append(batch)
        residuals.append(den.tangent.forward(batch).double().reshape(-1) - targets[-1])
        values, vectors = torch.linalg.eigh(matrix(den, batch, batch))
        share = (vectors.T @ residuals[-1]).square() / residuals[-1].square().sum()
        null = [float(share[values <= t**2 * values[-1]].sum()) for t in TOLERANCES]
        expected.append((null, float((share * values).sum() / values[-1]), float(residuals[-1].square().mean())))
    assert np.allclose(found.residual[0], np.mean([one[0] for one in expected], 0), atol=1e-6)
    assert found.rayleigh[0] == pytest.approx(np.mean([one[1] for one in expected]), rel=1e-6)
    assert found.loss[0] == pytest.approx(np.mean([one[2] for one in expected]), rel=1e-12)
    explained = []
    for a, b in ((0, 1), (1, 0)):
        K, cross = matrix(den, batches[a], batches[a]), matrix(den, batches[b], batches[a])
        ridge = RIDGE * float(torch.linalg.eigvalsh(K)[-1])
        row = []
        for of in (residuals, targets):
            predicted = cross @ torch.linalg.solve(K + ridge * torch.eye(ROWS, dtype=torch.float64), of[a])
            row.append(1 - float((of[b] - predicted).square().sum() / of[b].square().sum()))
        explained.append(row)
    assert found.unsolved[0] < 1e-9
    assert found.rest[0] == pytest.approx(np.mean([row[0] for row in explained]), rel=1e-6)
    assert found.target[0] == pytest.approx(np.mean([row[1] for row in explained]), rel=1e-6)
    assert found.rest_stderr[0] == pytest.approx(abs(explained[0][0] - explained[1][0]) / 2, rel=1e-6)


@pytest.mark.slow
def test_random_directions_are_spread_as_the_trace_is():
    """E z zᵀ = I: in the mean their Rayleigh quotient is tr K / (rows λ_1), and their energy counts eigenvalues."""
    den, images = tiny_denoiser(), tiny_images(8)
    found = residual_spectra(den, images, [200.0] * 4, steps=ROWS, seed=3)
    quotients, counts = [], []
    for half in range(2):
        batch = grid(den, images[4 * half : 4 * half + 4], [200.0], 3, draw=half).loss_batch(den)
        batch.pop("target")
        batch.pop("weight")
        values = torch.linalg.eigvalsh(matrix(den, batch, batch))
        quotients.append(float(values.sum() / (ROWS * values[-1])))
        counts.append([float((values <= t**2 * values[-1]).double().mean()) for t in TOLERANCES])
    assert found.rayleigh_random.mean() == pytest.approx(np.mean(quotients), rel=0.15)
    assert np.allclose(found.random.mean(0), np.mean(counts, 0), atol=0.06)
    assert (np.abs(found.random - found.residual).max(1) > 1e-3).all()
    assert (np.abs(found.output - found.target) > 1e-3).all()


def matrix(den, x, y) -> torch.Tensor:
    K = gk.kernel(den.tangent, x, y, cotangents=gk.blocks()).values
    return K.permute(0, 2, 1, 3).reshape(ROWS, ROWS)


def test_curves_fall_with_the_tolerance_and_are_shares():
    den, images = tiny_denoiser(), tiny_images(8)
    found = residual_spectra(den, images, [100.0, 900.0], steps=20)
    assert found.residual.shape == found.random.shape == (2, len(TOLERANCES))
    for curve in (*found.residual, *found.random):
        known = curve[np.isfinite(curve)]
        assert (np.diff(known) <= 1e-9).all() and known.min() >= 0 and known.max() <= 1
    assert (found.target <= 1).all() and (found.unsolved >= 0).all()
    assert found.log_snr[0] > found.log_snr[1] and found.evaluated == 4 and found.rows == ROWS


def test_too_few_images_are_refused():
    with pytest.raises(InputError, match="at least 4"):
        residual_spectra(tiny_denoiser(), tiny_images(3), [100.0])
