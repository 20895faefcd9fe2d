"""Figures of a spectrum: what is shown of rounding, of values beyond the scale, of few samples, of what is unsolved."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import genkernel as gk
from genkernel.plots.spectrum import BELOW, spectrum_figures
from genkernel.report.spectrum import key_numbers, residual_tables
from genkernel.spectra.results import SpectrumResult
from genkernel.spectra.spectrum import analyze
from tests.spectra.test_reading import residual, spectrum

pytestmark = pytest.mark.usefixtures("one_thread")


def test_rounding_takes_little_of_the_height() -> None:
    one = spectrum(12)
    one.floor = 1e-12
    one.eigenvalues = np.geomspace(1, 1e-24, 12)
    (left, _) = spectrum_figures(SpectrumResult(one))["eigenvalues"]().axes
    assert left.get_ylim()[0] == pytest.approx(one.floor / BELOW)
    one.eigenvalues = np.geomspace(1, 1e-3, 12)
    (left, _) = spectrum_figures(SpectrumResult(one))["eigenvalues"]().axes
    assert left.get_ylim()[0] > 1e-4  # the floor is too far below to be drawn


@pytest.mark.parametrize(
    ("n", "labels"), [(3, ["1", "2", "3"]), (12, ["1", "2", "5", "10"]), (120, ["1", "10", "100"])]
)
def test_modes_are_counted_in_whole_numbers(n: int, labels: list[str]) -> None:
    found = spectrum_figures(SpectrumResult(spectrum(n)))["eigenvalues"]()
    found.draw_without_rendering()
    for axes in found.axes:
        assert [tick.get_text() for tick in axes.get_xticklabels()] == labels
        assert not any(tick.get_text() for tick in axes.get_xticklabels(minor=True))


def test_overlaps_beyond_the_scale_have_an_arrow_and_single_cells_no_figure() -> None:
    one = spectrum(48, groups=np.arange(48) // 12)
    assert one.groups is not None
    for largest, extend in ((1.75, "max"), (1.0, "neither")):
        one.groups.relative = np.full((4, 4), largest)
        bar = spectrum_figures(SpectrumResult(one))["overlap"]().axes[1]
        assert bar._colorbar.extend == extend  # type: ignore[attr-defined]
        assert ("largest: 1.75" in bar.get_ylabel()) == (extend == "max")
    one.groups.relative = np.where(np.eye(4) > 0, 1.0, np.nan)
    assert "overlap" not in spectrum_figures(SpectrumResult(one))


def test_levels_that_did_not_converge_are_open_points_and_named_in_the_table() -> None:
    result = SpectrumResult(spectrum(8), residual=residual([0.01, 1.1], [0.2, -0.3]))
    axes = spectrum_figures(result)["learnability"]().axes[0]
    assert axes.get_legend_handles_labels()[1][-1] == "not converged"
    hollow = [np.asarray(line.get_xdata()) for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [places.tolist() for places in hollow if len(places)] == [[100.0]] * 3
    (table,) = residual_tables(result)
    assert [row[-1] for row in table.rows] == ["0.01", "1.1, not converged"] and "10 steps" in table.note
    assert result.to_summary()["residual"]["converged"] == [True, False]
    fine = SpectrumResult(spectrum(8), residual=residual([0.01, 0.1], [0.2, -0.3]))
    assert "not converged" not in spectrum_figures(fine)["learnability"]().axes[0].get_legend_handles_labels()[1]


def test_cards_have_numbers() -> None:
    net = torch.nn.Linear(2, 1).double()
    x = torch.tensor([[1.0, 0.0], [0.3, 1.0], [-1.0, 0.4]], dtype=torch.float64)
    cards = key_numbers(SpectrumResult(analyze(gk.kernel(net, x, cotangents=gk.total()), targets=x[:, 0], ridge=0.1)))
    assert not any("nan" in card.value for card in cards)
    named = {card.name: card for card in cards}
    assert named["Alignment with targets"].note.startswith("KTA") and "1 sample;" in named["Predicted error"].note
