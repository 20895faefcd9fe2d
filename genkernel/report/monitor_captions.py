"""What stands beside the figures and numbers of a monitor's log (THEORY §6, §7, §8)."""

from __future__ import annotations

from collections.abc import Sequence

from genkernel.report.captions import Caption

LEADS = {
    "loss": "On fixed probes with fixed noise, so that readings differ by the weights alone.",
    "gradient": "Gradients of the loss at the probes: their size, what those of different images have in common, and "
    "which noise levels pull against each other.",
    "kernel": "The normalised tangent kernel says which probes move together when the weights do.",
    "rank": "By how many directions held-out samples add to those of the samples that are trained on.",
    "time": "The time that the network has to be told for its loss to be smallest. It is the true one, unless training "
    "tells it another.",
    "conditioning": "What an image's own conditioning is worth, beside that of another class.",
    "samples": "How diverse samples of fixed latents are, and how they are shared out over fixed regions.",
    "discriminator": "How the discriminator judges, and what it sends to the generator.",
    "transport": "What a step would do to the samples, by the region that drives it.",
    "jacobian": "Singular values of ∂G/∂z at fixed latents: medians over them.",
    "ema": "The running average of the weights beside the weights themselves.",
    "weights": "How far every parameter moves from reading to reading, at sampled entries.",
    "drawn": "How often the training says that it draws which noise levels and classes, from reading to reading.",
    "health": "What could not be read, what is not finite, and what the monitor costs.",
}

FIGURES = {
    "kernel_level": Caption(
        "The kernel between noise levels, over time",
        "Mean cosines of the gradients of different images at two noise levels, on the fixed range 0 … 1 (−1 … 1 where "
        "some are clearly negative), so that the first map and the last one compare. A ridge that forms along the "
        "diagonal says that levels come apart.",
        "From few images and probes: single cells are noisy, the pattern is not.",
        "Small heat maps of the kernel between timesteps at several steps of the training.",
    ),
    "gradient_cosine": Caption(
        "Help and conflict between levels, over time",
        "Cosines between the mean loss gradients of two noise levels, on the fixed range −1 … 1. Red: a small step on "
        "one also lowers the loss of the other. Blue: it raises it.",
        "Near a minimum mean gradients are mostly sampling noise, and so are the signs of their cosines.",
        "Small heat maps of gradient cosines between timesteps at several steps of the training.",
    ),
    "kernel_cluster": Caption(
        "The kernel between clusters, over time",
        "Mean cosines between latents of two clusters. Where all cells are bright, one step moves all samples alike.",
        "",
        "Small heat maps of the kernel between clusters at several steps of the training.",
    ),
    "kernel_class": Caption(
        "The kernel between classes, over time",
        "Mean cosines between samples of two classes. A diagonal that stands out says that the network keeps the "
        "classes apart.",
        "",
        "Small heat maps of the kernel between classes at several steps of the training.",
    ),
    "transport_amplification": Caption(
        "Who drives whom, over time",
        "Rows drive, columns receive: mean length of the update at samples of one cluster, by the drive of another, on "
        "one scale. One bright row says that one cluster moves all others. Grey: no latents there.",
        "Lengths per unit of learning rate: they grow with the drive of the discriminator.",
        "Small heat maps of driving against receiving clusters at several steps of the training.",
    ),
    "driving_against_occupancy": Caption(
        "Who drives more than its share",
        "A point per cluster: its share of all update lengths against its share of the samples. Above the dashed line "
        "a cluster drives more than its share. Those far from it are named.",
        "",
        "Scatter plots of driving shares against occupancy at several steps of the training.",
    ),
    "weights_moved": Caption(
        "How fast parameters move",
        "Each row is a parameter, each column a reading: the root mean square of its movement since the reading "
        "before, relative to the median parameter's. A row that changes colour changed its pace: another learning "
        "rate, a thaw, or a gradient that stopped.",
        "At sampled entries. Parameters differ in pace by nature; the change along a row is what counts.",
        "Heat map of relative movement by parameter and step.",
    ),
    "weights_size": Caption(
        "How large parameters are",
        "Root mean square of each parameter's entries, relative to its own median over the readings.",
        "Parameters that begin at zero are blue at first.",
        "Heat map of relative size by parameter and step.",
    ),
    "samples_by_cluster": Caption(
        "Where the samples are",
        "Left: shares of the regions, stacked. Right: the same as a heat map. Regions stay the same for the whole run, "
        "so one that empties is a part of the data, or of what was made before, that is no longer made.",
        "",
        "Stacked areas and heat map of occupancy by cluster over the steps.",
    ),
    "transport_by_cluster": Caption(
        "Who drives",
        "Each region's share of all update lengths, stacked and as a heat map. Compare with the occupancy.",
        "",
        "Stacked areas and heat map of driving shares by cluster over the steps.",
    ),
    "jacobian_by_singular_value": Caption(
        "Singular values of the generator",
        "Medians over latents, largest first. Values that fall away say that samples no longer react to some "
        "directions of the latent space.",
        "",
        "Lines and heat map of singular values over the steps.",
    ),
}

# how to read the figures that every log has
GUIDE = (
    "Series: one panel per number, several where they are read beside each other; logarithmic where it spans more than "
    "a decade. Gaps are readings without it.",
    "Heat maps: on the left a line for each position, in the colours of the strip beside the map. Grey cells hold no "
    "number. Matrices over time show the first reading, some in between and the last, on one scale.",
    "Alerts: shaded, or framed on a map, from where an alert begins to the reading that raised it (▼). Dotted lines "
    "are alerts whose rules do not say which number they are about. Failures are red, warnings orange.",
    "Of more than {longest} readings neighbours are drawn together: medians, with a band from the smallest to the "
    "largest. The footer of a figure says so. The log beside this page has them all.",
)

# what the names of scalars and arrays stand for; others, of a user's own watch for instance, speak for themselves
MEANINGS = {
    "loss/mean": "loss on the probes, over all noise levels or samples",
    "loss/holdout": "the same on samples that are held out",
    "loss/level": "loss by noise level",
    "loss/class": "loss by class",
    "drawn/timesteps": "how many of the timesteps that the training drew are in each part of the schedule",
    "drawn/classes": "how many of the samples that the training drew are of each class",
    "accuracy/mean": "share of the probes whose largest logit is that of their label",
    "accuracy/holdout": "the same of samples that are held out",
    "gradient/norm": "length of the mean gradient",
    "gradient/total": "length of the mean gradient over all levels",
    "gradient/agreement": "share of a gradient that those of different images have in common; 0 where a level has been "
    "learned, as far as these images can tell",
    "gradient/noise_scale": "tr Σ / ‖G‖² (McCandlish et al. 2018); missing where the mean gradient is not "
    "distinguishable from zero",
    "gradient/cosine": "cosine between the mean gradients of two levels",
    "gradient/conflicts": "share of the pairs of levels whose gradients have a negative cosine",
    "gradient/class_agreement": "as agreement, by class",
    "kernel/level": "mean cosine between gradients of different images at two noise levels",
    "kernel/locality": "locality index of that kernel: 0 is none, 1 is everything near the diagonal",
    "kernel/drift": "how far the kernel has moved since the first reading: 1 − cosine",
    "kernel/drift_last": "the same since the reading before",
    "kernel/effective_rank": "how many equal eigenvalues would be as spread out as the kernel's",
    "kernel/mean": "mean cosine between different latents",
    "kernel/cluster": "mean cosine between latents of two clusters",
    "kernel/class": "mean cosine between samples of two classes",
    "kernel/label_alignment": "alignment of the kernel with the labels (unbiased CKA)",
    "kernel/within": "mean cosine between samples of one class",
    "kernel/between": "mean cosine between samples of different classes",
    "kernel/label_disagreement": "share of the samples whose neighbours in the kernel have another label",
    "kernel/suspicion": "share of a sample's neighbours in the kernel that have another label",
    "time/ratio": "told time over true time at which the loss is smallest",
    "time/cost": "what being told another time costs, as a share of the loss",
    "time/gain": "share of the loss that the best told time saves",
    "conditioning/gain": "share by which the loss grows with the conditioning of another class",
    "ema/loss": "loss of the averaged weights",
    "ema/loss_level": "the same by noise level",
    "ema/distance": "of the average from the weights, relative to their size",
    "ema/follows": "how far the average moved since the reading before, relative to the weights; 0 is an average that "
    "stands still",
    "samples/diversity": "mean distance between samples",
    "samples/relative_diversity": "the same relative to real samples",
    "samples/occupancy": "share of the samples in each region",
    "samples/effective_clusters": "e to the entropy of the occupancy",
    "discriminator/gap": "mean logit of real samples less that of generated ones",
    "discriminator/separation": "area under the ROC curve of the logit: 0.5 cannot tell, 1 always tells",
    "drive/norm": "mean length of the gradient of the loss at the samples",
    "drive/coherence": "mean cosine between these gradients at different samples",
    "drive/saturated": "share of the samples at which the loss is saturated",
    "transport/amplification": "mean length of the update at a receiving cluster by the drive of another",
    "transport/driving": "each cluster's share of all update lengths",
    "transport/driving_dominance": "1 − (effective number of driving clusters) / (number of clusters)",
    "transport/occupancy_dominance": "the same of the occupancy",
    "transport/axial_coherence": "largest eigenvalue of the mean of û ûᵀ over update directions",
    "transport/coherence": "mean cosine between updates",
    "transport/spread_gain": "rate of the log variance of the samples per unit of learning rate",
    "jacobian/condition": "log10 of the condition number of ∂G/∂z, median over latents",
    "jacobian/log_volume": "sum of the logs of its singular values, median over latents",
    "jacobian/effective_rank": "of its singular values, median over latents",
    "jacobian/singular": "its singular values, medians over latents",
    "rank/gap": "by how much the tangent rank grows with samples that are held out",
    "rank/share": "the same, of the largest growth there can be",
    "weights/moved": "root mean square of a parameter's movement since the reading before, at sampled entries",
    "weights/size": "root mean square of a parameter's entries",
    "health/nonfinite": "weights that are NaN or infinite",
    "health/problems": "parts of the reading that could not be taken",
    "monitor/overhead": "seconds of readings per second of everything else, since the first step",
}

LIMITS = (
    "Probes are few, so that readings are cheap: the course of a number says more than its value.",
    "An alert says that a number left its course, or that something cannot be chance. It does not say why.",
    "Alerts are those that were raised while the model trained, by the rules of that monitor.",
)


def caption(name: str, title: str, about: Sequence[str]) -> Caption:
    """What stands beside a figure of a log.

    Args:
        name: of the figure.
        title: of one that has no caption of its own.
        about: names of the numbers that it shows.
    """
    if name in FIGURES:
        return FIGURES[name]
    said = [f"{one}: {MEANINGS[one]}" for one in about if one in MEANINGS]
    alt = f"{title}: {', '.join(about)} over the steps of the training."
    return Caption(title, f"{'; '.join(said)}." if said else f"{', '.join(about)}.", "", alt)
