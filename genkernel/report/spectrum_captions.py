"""What stands beside the figures and numbers of a spectrum (THEORY §5, §8, §9)."""

from __future__ import annotations

from genkernel.report.captions import Caption, Section

SECTIONS = (
    Section(
        "spectrum",
        "How many directions?",
        "Eigenvectors of the kernel are patterns over the samples that move together; eigenvalues say how fast "
        "gradient "
        "descent moves them.",
        ("eigenvalues",),
    ),
    Section(
        "groups",
        "Who shares them?",
        "Groups whose leading directions coincide are taught by the same parameters: what is learned on one moves the "
        "other.",
        ("effective_ranks", "mode_shares", "overlap"),
    ),
    Section(
        "targets",
        "What can be learned along them?",
        "A target is easy where it lies in modes of large eigenvalues. Eigenlearning turns that into the error that "
        "kernel regression on n samples is expected to make.",
        ("targets",),
    ),
    Section(
        "residual",
        "What is left to learn, and what is out of reach?",
        "The residual of the denoiser on images that it was not trained on, spread over the eigenvalues of its own "
        "kernel at each noise level.",
        ("residual", "learnability"),
    ),
)

CAPTIONS = {
    "eigenvalues": Caption(
        "The spectrum",
        "Left: eigenvalues of K/n by number, with a band of ±1.96 standard errors over probes where the kernel was "
        "estimated. Below the dashed line is rounding, which is not shown to its end; without one all are far above. "
        "Right: the share of the trace that the first modes hold; the "
        "effective rank is the number of equal eigenvalues with the same entropy.",
        "The effective rank grows with the number of samples: compare at equal n. Probe noise spreads the small "
        "eigenvalues of estimated kernels.",
        "Eigenvalues on logarithmic axes, and their cumulative share of the trace.",
    ),
    "effective_ranks": Caption(
        "Directions within one group",
        "The effective rank of the kernel of each group alone, at the same number of samples: larger groups by "
        "random parts "
        "of themselves. At most that number; 1 where all samples have the same gradient up to a factor.",
        "",
        "Effective rank by group.",
    ),
    "mode_shares": Caption(
        "Modes and groups",
        "Each row is a mode of the whole kernel, largest eigenvalue first; cells say how much of its energy lies in "
        "each "
        "group. A mode that lights up in one cell is one group's own. The number at the right is the effective "
        "number of "
        "groups it is shared by.",
        "",
        "Heat map of modes against groups.",
    ),
    "overlap": Caption(
        "Overlap of leading directions",
        "The mean squared cosine between the leading directions of two groups in parameter space, between halves of "
        "different samples, relative to what two halves of one and the same group have in common.",
        "From few samples directions are badly known: where halves of one group share little themselves (see the "
        "table), "
        "cells are uncertain, and can exceed 1: the arrow at the scale says so.",
        "Heat map of overlaps, group against group, from 0 to 1.",
    ),
    "targets": Caption(
        "Targets in the modes",
        "Left: the share of the targets' variance in the first modes, beside targets of random direction. Right: what "
        "kernel regression on n samples is expected to learn of them, and its error relative to their variance.",
        "The samples are taken as a sample of all that there are, so predictions stop at half their number. They are "
        "of kernel regression with this kernel, not of further training. Without a ridge the error has a peak where "
        "there are as many samples as modes, whatever is learned.",
        "Cumulative share of variance by mode, and learnability by number of samples.",
    ),
    "residual": Caption(
        "The residual in the kernel's modes",
        "Left: the share of the residual in modes with λ ≤ τ² λ₁, which gradient descent hardly moves. Dashed: vectors "
        "of random direction. Above the dashed line what is left is what the kernel cannot learn; below it, the "
        "residual still leans towards what it could. Right: the Rayleigh quotient, which needs no tolerance.",
        "Points that Lanczos steps do not resolve are left out. On images that were trained on a small value is what "
        "training means.",
        "Energy of the residual out of reach, and its Rayleigh quotient, by timestep.",
    ),
    "learnability": Caption(
        "What some images teach about others",
        "Kernel ridge regression with the kernel at this noise level, from one half of the images to the other and "
        "back: "
        "R² of the target, of the network's own output, and of the residual. Above zero for the residual means that "
        "the "
        "kernel as it is could still learn from these images what helps at others.",
        "From few images. The iteration is stopped after a number of steps. Open points have not converged by then "
        "(see the table): they say nothing of the kernel, and take more steps.",
        "R² at other images by timestep.",
    ),
}

LIMITS = (
    "A spectrum is of the samples that were evaluated. Other samples, or more of them, have other eigenvalues.",
    "What the kernel can learn is what small steps from these weights can do. Training moves the kernel too.",
)

TERMS = (
    ("Mode", "An eigenvector of the kernel over the samples: a pattern that a gradient step moves as a whole."),
    ("Effective rank", "e to the entropy of the eigenvalues: how many equal ones would be as spread out."),
    ("Overlap", "Mean squared cosine between leading directions in parameter space: 0 none in common, 1 the same."),
    (
        "Learnability",
        "The share of a target that kernel regression is expected to learn; over all modes it adds up to n.",
    ),
    ("Out of reach", "In modes whose eigenvalue is below τ² times the largest."),
)
