"""Sizes of the study of filling segments of a line, full and quick."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """What decides a run.

    Attributes:
        sizes: lengths of sequences that networks are trained on from random weights, powers of two.
        ones: nonzero coordinates of training sequences, as parts of the length.
        other_sizes: lengths for the exact structure with other non-linearities, GELU and |x|.
        wide_sizes: lengths for a structure with a wider first convolution.
        detailed: the length at which starts and structures are compared.
        noises: standard deviations of what is added to the weights of the exact network.
        channels: of the two convolutions in between, in the larger structure.
        replicates: starts of each case, trained side by side; no start is in two cases.
        batch: sequences per step, of every start its own.
        steps: of Adam.
        rate: its step size at the start; it falls to 0 along half a cosine.
        tested: sequences of each number of nonzero coordinates that networks are tested on.
        verified: lengths at which the exact network is compared with the formula on all inputs.
    """

    sizes: tuple[int, ...] = (2, 4, 8, 16, 32)
    ones: tuple[float, ...] = (0.25, 0.5)
    other_sizes: tuple[int, ...] = (2, 4, 8)
    wide_sizes: tuple[int, ...] = (2, 4, 8, 16)
    detailed: int = 16
    noises: tuple[float, ...] = (0.01, 0.1, 0.3, 1.0)
    channels: int = 8
    replicates: int = 20
    batch: int = 32
    steps: int = 1000
    rate: float = 1e-2
    tested: int = 50
    verified: tuple[int, ...] = (2, 4, 8, 16)


QUICK = Setting(
    sizes=(2, 4, 8), ones=(0.5,), other_sizes=(4,), wide_sizes=(4, 8), detailed=8, noises=(0.1, 1.0), replicates=8,
    steps=300, tested=20, verified=(2, 4, 8),
)  # fmt: skip
