"""What a kernel says about generalization: spectra, ranks, null spaces, novelty, alignment, learnability."""

from genkernel.spectra.alignment import cka, kernel_target_alignment
from genkernel.spectra.effective_gram import EffectiveGram, effective_gram_matrix
from genkernel.spectra.eigenlearning import Risk, expected_risk, learnabilities, solve_kappa
from genkernel.spectra.mercer import Mercer, mercer_decomposition
from genkernel.spectra.novelty import Auroc, Novelty, auroc, novelty
from genkernel.spectra.null_space import NullEnergy, null_space_energy
from genkernel.spectra.ranks import Rank, RankGap, numerical_rank, tangent_rank_gap

__all__ = [
    "Auroc",
    "EffectiveGram",
    "Mercer",
    "Novelty",
    "NullEnergy",
    "Rank",
    "RankGap",
    "Risk",
    "auroc",
    "cka",
    "effective_gram_matrix",
    "expected_risk",
    "kernel_target_alignment",
    "learnabilities",
    "mercer_decomposition",
    "novelty",
    "null_space_energy",
    "numerical_rank",
    "solve_kappa",
    "tangent_rank_gap",
]
