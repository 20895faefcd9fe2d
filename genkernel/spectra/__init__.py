"""What a kernel says about generalization: spectra, ranks, null spaces, novelty, alignment, learnability."""

from genkernel.spectra.alignment import cka, kernel_target_alignment
from genkernel.spectra.effective_gram import EffectiveGram, effective_gram_matrix
from genkernel.spectra.eigenlearning import Risk, expected_risk, learnabilities, measured_learnability, solve_kappa
from genkernel.spectra.embedding import Embedding, embed
from genkernel.spectra.groups import GroupSpectra, group_spectra
from genkernel.spectra.infinite_width import infinite_width_nngp, infinite_width_ntk, ntk_mlp
from genkernel.spectra.lazy import FrozenKernel, kernel_drift
from genkernel.spectra.leave_one_out import LeaveOneOut, leave_one_out_gap, pooled_contraction, predicted_gap
from genkernel.spectra.mercer import Mercer, mercer_decomposition
from genkernel.spectra.neighbours import NeighbourAgreement, knn_label_agreement
from genkernel.spectra.novelty import Auroc, Novelty, auroc, novelty
from genkernel.spectra.null_space import NullEnergy, null_space_energy
from genkernel.spectra.predicted_risk import LearningCurve, dataset_learnabilities, predict_risk
from genkernel.spectra.ranks import Rank, RankGap, numerical_rank, projection_distance, tangent_rank_gap
from genkernel.spectra.residual_alignment import ResidualAlignment, residual_alignment
from genkernel.spectra.separability import Separability, tangent_linear_separability, without_layers

__all__ = [
    "Auroc",
    "EffectiveGram",
    "Embedding",
    "FrozenKernel",
    "GroupSpectra",
    "LearningCurve",
    "LeaveOneOut",
    "Mercer",
    "NeighbourAgreement",
    "Novelty",
    "NullEnergy",
    "Rank",
    "RankGap",
    "ResidualAlignment",
    "Risk",
    "Separability",
    "auroc",
    "cka",
    "dataset_learnabilities",
    "effective_gram_matrix",
    "embed",
    "expected_risk",
    "group_spectra",
    "infinite_width_nngp",
    "infinite_width_ntk",
    "kernel_drift",
    "kernel_target_alignment",
    "knn_label_agreement",
    "learnabilities",
    "leave_one_out_gap",
    "measured_learnability",
    "mercer_decomposition",
    "novelty",
    "ntk_mlp",
    "null_space_energy",
    "numerical_rank",
    "pooled_contraction",
    "predict_risk",
    "predicted_gap",
    "projection_distance",
    "residual_alignment",
    "solve_kappa",
    "tangent_linear_separability",
    "tangent_rank_gap",
    "without_layers",
]
