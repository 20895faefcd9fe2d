"""What a kernel says about generalization: ranks, null spaces, alignment, learnability."""

from genkernel.spectra.alignment import cka, kernel_target_alignment
from genkernel.spectra.eigenlearning import Prediction, learnabilities, predict, solve_kappa
from genkernel.spectra.null_space import NullEnergy, null_space_energy
from genkernel.spectra.ranks import Rank, RankGap, numerical_rank, tangent_rank_gap

__all__ = [
    "NullEnergy",
    "Prediction",
    "Rank",
    "RankGap",
    "cka",
    "kernel_target_alignment",
    "learnabilities",
    "null_space_energy",
    "numerical_rank",
    "predict",
    "solve_kappa",
    "tangent_rank_gap",
]
