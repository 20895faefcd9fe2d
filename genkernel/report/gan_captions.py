"""What stands beside the figures and numbers of a GAN run, and what they do not say (THEORY §7)."""

from __future__ import annotations

from genkernel.report.captions import Caption, Section

# figures that are not named here stand in the last section
SECTIONS = (
    Section(
        "coverage",
        "What the samples cover",
        "The plain question that no kernel answers. It comes first, because the shares of the drive, and every score "
        "that is made of them, mostly repeat how the samples are spread over the clusters.",
        ("samples", "occupancy", "coverage"),
    ),
    Section(
        "kernel",
        "Which latents learn together?",
        "A gradient step that corrects the sample of one latent z′ moves the samples of other latents as well: the "
        "tangent kernel K(z, z′) says which, and how far. Normalised, it is the cosine between the parameter "
        "gradients of two samples.",
        ("kernel", "kernel_spectrum"),
    ),
    Section(
        "drive",
        "Whose drive moves whom?",
        "The gradient δ of the generator's loss at the samples of one cluster becomes a step of the parameters, and "
        "the kernel carries that step to all latents. So the update U of a sample, per unit of learning rate, is a "
        "sum of one part for each cluster: what the drive of that cluster alone does to it.",
        ("amplification", "transport"),
    ),
    Section(
        "score",
        "Attraction and repulsion",
        "At the optimal discriminator the gradient of its logit l is ∇ log p of the data minus ∇ log p of the samples: "
        "samples are drawn to the data and pushed away from each other. Here both are estimated, and held against the "
        "actual gradient.",
        ("score", "score_field", "scores", "attraction", "attraction_repulsion"),
    ),
    Section(
        "geometry",
        "How is latent space stretched?",
        "The singular values of ∂G/∂z say how far a sample moves for a small step of its latent, direction by "
        "direction. They look at the generator alone, whoever drives it.",
        ("spectrum",),
    ),
    Section(
        "clusters",
        "Cluster by cluster",
        "A class can collapse within itself while all classes are there, so every cluster is also looked at by itself.",
        ("per_cluster", "clusters"),
    ),
    Section(
        "check",
        "Does the kernel predict a real step?",
        "The network is copied, a torch optimizer makes its step on the same loss, and what the samples have moved by "
        "is compared with the update that the kernel predicts.",
        ("one_step",),
    ),
    Section(
        "game",
        "The game of both players",
        "Eigenvalues of the Jacobian of simultaneous gradient descent. They are no verdict: on trained networks the "
        "field is hardly ever zero, and their largest real part is positive in healthy and in collapsing runs alike.",
        ("game",),
    ),
)

CAPTIONS = {
    "samples": Caption(
        "Some samples of each cluster",
        "The first samples of each cluster, as they were drawn, and the cluster's share of the latents. Rows that look "
        "alike are clusters of one mode; images that repeat within a row are a cluster that has collapsed.",
        "A sheet shows a hundred samples or so: a mode with a share below one percent is easily not on it.",
        "A row of sample images for each cluster.",
    ),
    "occupancy": Caption(
        "Where the samples are, and who drives",
        "Bars: the share of the latents whose samples belong to each cluster. Filled marks: the cluster's share of the "
        "drive, and rings the same on latents that the drive did not come from. Crosses are clusters without a single "
        "sample: of known modes or classes these are missing.",
        "Marks that follow the bars say no more than the bars do: a cluster with more samples drives more. Only marks "
        "that leave the bars are news of the kernel. Clusters found by k-means are never empty, so they cannot show "
        "a missing mode.",
        "Bars of the occupancy of each cluster, with marks for its share of the drive.",
    ),
    "kernel": Caption(
        "The kernel over latents",
        "Each cell is the cosine of the parameter gradients at two latents, ordered by cluster; beside it the mean "
        "between clusters. Dark blocks on the diagonal and pale cells elsewhere: clusters learn by themselves. One "
        "dark square: whatever moves one sample moves all of them.",
        "A cosine says in which parameters two latents are corrected together, not in which direction their samples "
        "then move. Compare mean cosines and effective ranks only between runs with equally many latents.",
        "Heat map of the normalised tangent kernel over latents ordered by cluster, and its means between clusters.",
    ),
    "kernel_spectrum": Caption(
        "Eigenvalues of the kernel",
        "How many independent directions the latents have in the space of parameter gradients. The effective rank is "
        "e to the entropy of the eigenvalues: n where every latent learns by itself (dashed), 1 where all learn as "
        "one. It needs no clusters, and was smaller in the collapsed runs of the study.",
        "The effective rank grows with the number of latents. With random probes the small eigenvalues are noise, "
        "which makes it too large; the error given is that of the probes alone.",
        "Eigenvalues of the kernel on logarithmic axes, and their cumulative sum.",
    ),
    "amplification": Caption(
        "Drivers and receivers",
        "A row is a driving cluster, a column a receiving one, and a cell how far the drive of the one moves the "
        "samples of the other in a small step. Bright rows are clusters that move all others; a bright diagonal means "
        "that clusters are moved by their own drive. The bars on the right are the shares of the drive, and the ticks "
        "on them the shares of the samples.",
        "A cluster with many latents has a bright row for that reason alone. Driving dominance, and the score "
        "(dominance times axial coherence), told collapsed from healthy runs through occupancy, which is therefore "
        "printed next to them.",
        "Matrix of update lengths from driving to receiving clusters, with shares.",
    ),
    "transport": Caption(
        "One step in the plane",
        "Above: the samples and where one small step moves them. Below: the same for the drive of one cluster at a "
        "time, which is coloured. Long arrows far from the coloured samples are corrections of one mode that are "
        "carried to others.",
        "Arrows are first-order updates for one step of gradient descent on these latents, drawn at a common scale, "
        "not a path: another step has another kernel and another discriminator.",
        "Arrows of the update at each sample in the plane, in total and by driving cluster.",
    ),
    "score": Caption(
        "What the discriminator shows of both",
        "Attraction and repulsion at each sample, their difference, and the direction in which the loss falls by the "
        "actual discriminator. The histogram has the cosine of the actual gradient and the difference, sample by "
        "sample, beside what an optimal discriminator would reach with estimates of this quality.",
        "The densities are estimates and depend on their bandwidth, most of all where attraction and repulsion nearly "
        "cancel. For critics the gradient is no score difference, and a low cosine is no error.",
        "Arrows of attraction, repulsion, their difference and the actual gradient, and a histogram of cosines.",
    ),
    "spectrum": Caption(
        "Singular values of ∂G/∂z",
        "Left: singular values over latents (bands) and the medians of the clusters. Right: the condition number and "
        "the log-volume of each cluster. A generator that makes nearly the same sample of different latents has "
        "small singular values, so a small log-volume; one that keeps few directions has a steep fan and a large "
        "condition number. Neither depends on how full the clusters are.",
        "Between two modes a generator has to be steep, so single latents with large singular values are no fault. "
        "The log-volume has the units of the samples: compare it between generators of the same data and the same "
        "latents only.",
        "Singular values of the latent Jacobian by index, and condition number and log-volume by cluster.",
    ),
    "one_step": Caption(
        "Error of the first order",
        "Relative difference between the real movement and the prediction, against the step size. A line parallel to "
        "the dotted one (half the error for half the step) shows that the kernel predicts what small steps do; the "
        "error at the step size of the training says how far such a step is from small.",
        "One step only: nothing here says what a hundred steps do. Kinks of ReLU networks bend the line. In training "
        "mode batch normalisation also moves its running statistics, whatever the step size (dashed, where it has "
        "any).",
        "Relative error of the predicted update against the step size, for SGD and Adam.",
    ),
}

# what the whole report does not say, whatever the numbers are
LIMITS = (
    "The verdict is a set of rules with thresholds from a study of small GANs (docs/mode-collapse.md). There, what "
    "looks at samples (recall, diversity, the spread over clusters) told collapsed generators from healthy ones at "
    "least as well as any kernel did. The kernel is a second witness, which sees no data.",
    "It says what is, not what will be. In the study no indicator gave a reliable early warning: most alarms came some "
    "hundred steps after the modes were lost. The conditioning of ∂G/∂z moved first, and only a little.",
    "Modes that are merely thinned out, or half of many, are hardly seen by the kernel: count modes where you can.",
    "The score (driving dominance × axial coherence) and the driving dominance repeat the occupancy: between runs of "
    "equal occupancy they told nothing. So did the coherence of the drive on the runs that thresholds were not from.",
    "The mean cosine and the effective rank of the kernel depend on the architecture and, the rank, on the number of "
    "latents. They are safest compared between checkpoints of one network.",
    "The share of foreign updates depends on how the clusters are filled: compare it with its baseline.",
    "The gradient of a logit is a difference of scores only at an optimal discriminator that was trained as a density "
    "ratio. For critics (Wasserstein, hinge) it is not, however well they are trained. The update U needs no such "
    "reading: it is computed from the actual gradient.",
    "One checkpoint and one step: the kernel says what the next small step does. That the transport of one cluster "
    "causes a collapse was tested by taking it out of every update: at the onset of training it helped a little, and "
    "in healthy runs with a planted fault not at all.",
)

TERMS = (
    ("Drive δ", "gradient of the generator's loss in its sample, given by the discriminator as it is."),
    ("Update U", "first-order change of the samples by one step of the generator, per unit of learning rate."),
    ("Share of the drive", "part of the summed lengths of all updates that one cluster's drive accounts for; the "
     "signed share counts only what points along the whole update, and sums to 1."),
    ("Driving dominance", "1 − (effective number of driving clusters)/M: 0 where all drive alike, near 1 where one "
     "does. The occupancy dominance is the same of the numbers of samples."),
    ("Axial coherence", "largest eigenvalue of the mean of û ûᵀ over update directions û: 1 where all lie on one axis, "
     "whatever the sign; its null is the mean for random directions."),
    ("Signed coherence", "mean cosine over pairs of directions: 1 where all point the same way."),
    ("Spread cosine", "cosine of the samples and their updates, both about their means: below 0 the step contracts."),
    ("Effective rank", "e to the entropy of the normalised eigenvalues, or of the squared singular values."),
    ("Log-volume", "sum of the logarithms of the singular values of ∂G/∂z, in nats."),
    ("Agreement", "rank correlation, over pairs of latents, of the kernel with how alike the two samples move."),
)  # fmt: skip
