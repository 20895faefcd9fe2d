"""What a kernel says about generalization: ranks, null spaces, alignment, learnability."""

from genkernel.spectra.alignment import cka, kernel_target_alignment
from genkernel.spectra.eigenlearning import Risk, expected_risk, learnabilities, solve_kappa
from genkernel.spectra.null_space import NullEnergy, null_space_energy
from genkernel.spectra.ranks import Rank, RankGap, numerical_rank, tangent_rank_gap

__all__ = [
    "NullEnergy",
    "Rank",
    "RankGap",
    "Risk",
    "cka",
    "expected_risk",
    "kernel_target_alignment",
    "learnabilities",
    "null_space_energy",
    "numerical_rank",
    "solve_kappa",
    "tangent_rank_gap",
]
