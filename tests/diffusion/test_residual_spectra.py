"""Residuals over eigenvalues, against the kernel written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import genkernel as gk
from genkernel.diffusion.pairs import grid
from genkernel.diffusion.residual_spectra import TOLERANCES, residual_spectra
from genkernel.errors import InputError
from genkernel.spectra import solve_kappa
from tests.diffusion.tiny import tiny_denoiser, tiny_images

ROWS = 4 * 16  # four images of 16 outputs behind each kernel


def test_energies_are_those_of_the_eigenvectors():
    den, images = tiny_denoiser(), tiny_images(8)
    found = residual_spectra(den, images, [200.0], steps=ROWS, seed=3)
    expected: dict[str, list] = {"null": [], "rayleigh": [], "target": [], "loss": []}
    for half in range(2):
        pairs = grid(den, images[4 * half : 4 * half + 4], [200.0], 3, draw=half)
        batch = pairs.loss_batch(den)
        target = batch.pop("target").double().reshape(-1)
        batch.pop("weight")
        K = gk.kernel(den.tangent, batch, cotangents=gk.blocks()).values.permute(0, 2, 1, 3).reshape(ROWS, ROWS)
        values, vectors = torch.linalg.eigh((K + K.T) / 2)
        r = den.tangent.forward(batch).double().reshape(-1) - target
        share = (vectors.T @ r).square() / r.square().sum()
        expected["null"].append([float(share[values <= t**2 * values[-1]].sum()) for t in TOLERANCES])
        expected["rayleigh"].append(float(r @ K @ r / (values[-1] * r.square().sum())))
        expected["loss"].append(float(r.square().mean()))
        of_target = (vectors.T @ target).square() / target.square().sum()
        # one image of four: 16 of 64 equations
        kappa = solve_kappa((values / ROWS).clamp_min(0), 16)
        expected["target"].append(float((of_target * values / (values + ROWS * kappa)).sum()))
    assert np.allclose(found.residual[0], np.mean(expected["null"], 0), atol=1e-6)
    assert found.rayleigh[0] == pytest.approx(np.mean(expected["rayleigh"]), rel=1e-6)
    assert found.loss[0] == pytest.approx(np.mean(expected["loss"]), rel=1e-12)
    # the number of effective equations is estimated from three random vectors
    assert found.target[0, 0] == pytest.approx(np.mean(expected["target"]), abs=0.05)
    assert found.images.tolist() == [1] and found.chance[0, 0] == pytest.approx(0.25, abs=1e-9)


def test_curves_fall_with_the_tolerance_and_are_shares():
    den, images = tiny_denoiser(), tiny_images(8)
    found = residual_spectra(den, images, [100.0, 900.0], steps=20)
    assert found.residual.shape == found.random.shape == (2, len(TOLERANCES))
    for curve in (*found.residual, *found.random):
        known = curve[np.isfinite(curve)]
        assert (np.diff(known) <= 1e-9).all() and known.min() >= 0 and known.max() <= 1
    assert (found.target >= 0).all() and (found.target <= 1).all()
    assert found.log_snr[0] > found.log_snr[1] and found.evaluated == 4 and found.rows == ROWS


def test_too_few_images_are_refused():
    with pytest.raises(InputError, match="at least 4"):
        residual_spectra(tiny_denoiser(), tiny_images(3), [100.0])
