"""What stands beside each figure: what is drawn, how to read it, and what it does not say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Caption:
    title: str
    read: str
    caveat: str = ""
    alt: str = ""


@dataclass(frozen=True)
class Section:
    anchor: str
    title: str
    lead: str
    figures: tuple[str, ...]


SECTIONS = (
    Section(
        "kernel",
        "How local is the kernel?",
        "Two noisy inputs are related when the same parameters move the network's output at both. The tangent kernel "
        "measures that with the inner product of their parameter gradients; normalised, it is a cosine.",
        ("kernel", "profile", "levels"),
    ),
    Section(
        "controls",
        "What carries it?",
        "Each control replaces one factor and leaves the rest as it is. Locality is carried by the timestep embedding "
        "only if “embedding only” keeps the decay and “input only” loses it; it comes from training only if the "
        "untrained network shows less of it.",
        ("controls", "control_profiles", "control_maps", "embedding", "interpolation"),
    ),
    Section(
        "layers",
        "Which layers?",
        "Kernels add over layers, so every layer has a share of the whole and a locality of its own.",
        ("layers",),
    ),
    Section(
        "interference",
        "Does training one level help the others?",
        "The kernel says where a gradient step can act; the gradients of the loss say in which direction it does. A "
        "step on level b lowers the loss at level t when the two loss gradients point the same way.",
        ("interference", "interference_preconditioned", "weighting", "stages", "loss"),
    ),
)

CAPTIONS = {
    "kernel": Caption(
        "The kernel between noise levels",
        "Each cell is the mean cosine between the gradients at two noise levels, over pairs of different images with "
        "independent noise. A bright ridge on the diagonal and a dark background mean that what is learned at one "
        "level acts on nearby levels and hardly elsewhere. The dashed lines enclose the window that the locality "
        "index counts as local.",
        "The diagonal is not 1: even at one level, different images share only a part of their gradients.",
        "Heat map of the normalised tangent kernel, timestep against timestep, on a scale from 0 to 1.",
    ),
    "profile": Caption(
        "Decay with distance",
        "The same cosines averaged over all pairs of levels at one distance, in timesteps and in log-SNR. The floor "
        "(dashed, over the lags it averages) is what is left between the most distant levels; the half-width is the "
        "distance at which the curve has fallen "
        "half way from its start to that floor.",
        "Levels that are evenly spaced in time are not evenly spaced in log-SNR, so the two half-widths answer two "
        "questions. Errors of neighbouring points are correlated, because they share images and probes.",
        "Mean kernel cosine against the distance between noise levels, with error bands, floor and half-width.",
    ),
    "levels": Caption(
        "Locality level by level",
        "The locality index of each row of the map, and the half-width of the decay around each level. Where no value "
        "is given, the decay around that level is not larger than two standard errors.",
        "At the first and the last level the decay is seen from one side only.",
        "Locality index and half-widths for each noise level.",
    ),
    "controls": Caption(
        "The indices side by side",
        "The locality index of the kernel (shaded: its 95 % interval), of its variants above the line, and of each "
        "control below it. Zero is a kernel that does not care about the distance of the levels.",
        "Removing the floor or the normalisation changes the index a lot: compare like with like. The error bars of "
        "the rows are correlated, so a difference can be clearer than two overlapping intervals suggest; the paired "
        "differences are in the table below.",
        "Locality index with intervals for the kernel and each control.",
    ),
    "control_profiles": Caption(
        "Decay under each control",
        "Each panel repeats the decay over |Δt| with one factor held fixed or broken, beside the kernel's own curve "
        "(dashed). A flat curve means that the factor that was removed had carried the decay.",
        "The height of a curve and its decay are different things: the same image on both sides lifts the whole curve. "
        "A floor averages the largest lags of its own curve: floors of curves that end at different lags do not "
        "compare.",
        "Small panels with the mean cosine against the timestep distance for every control.",
    ),
    "control_maps": Caption(
        "The controls as maps",
        "The whole matrices behind the curves, on one scale. Structure that a curve averages away, such as blocks or "
        "a dependence on one side only, shows here.",
        "",
        "Small heat maps of the kernel and of every control.",
    ),
    "embedding": Caption(
        "The conditioning beside the kernel",
        "Cosines between the timestep embeddings as they enter the network and after the time MLP, beside the kernel. "
        "If the kernel were a mere image of its conditioning, its curve would have the shape of one of the others; the "
        "rank correlation over pairs of levels says how close it comes.",
        "Sinusoidal embeddings never decorrelate completely, and similar order does not prove cause: the controls do "
        "that better.",
        "Cosine maps of the raw timestep embedding, of the time MLP output and of the kernel, and their decay.",
    ),
    "interpolation": Caption(
        "Only the embedding moves",
        "Left: the inputs stay at one level while the embedding moves in a straight line to that of another level; the "
        "curves are the cosine with its start and with its end. Right: inputs x and embeddings e of two levels in all "
        "four combinations. If the embedding decides, cells with equal e are alike whatever x is.",
        "An interpolated embedding is not one the network was trained on.",
        "Kernel cosine along an interpolated embedding, and for swapped inputs and embeddings.",
    ),
    "layers": Caption(
        "Share and locality by layer",
        "Left: each layer's share of the kernel's trace. Right: the locality index of that layer's own kernel. A layer "
        "with a large share and an index near zero is common ground for all levels; a local layer with a large share "
        "is where levels are kept apart.",
        "A share says how strongly the outputs react to a layer's parameters, not how far training moves them. Which "
        "layers belong to the timestep path is told by their names.",
        "Bars of layer shares and points of layer locality.",
    ),
    "interference": Caption(
        "Help and conflict between levels",
        "The cosine between the mean loss gradients of two levels at this checkpoint. Blue: a small gradient step on "
        "level b also lowers the loss at level t; red: it raises it. Dots mark pairs below zero by two standard "
        "errors, pale cells may be zero, black lines are the stages found in the kernel.",
        "This is a first-order statement about one step at this checkpoint. Near a minimum the gradients are mostly "
        "sampling noise, and some dots are expected by chance (how many stands among the numbers at the top); the "
        "figure says at how many levels the expected gradient is distinguishable from zero, and elsewhere the cosines "
        "describe the evaluated samples only.",
        "Heat map of the cosine between loss gradients of noise levels, from minus one to one.",
    ),
    "interference_preconditioned": Caption(
        "The same under the optimizer's preconditioner",
        "As above, with each gradient scaled as the optimizer would scale it. Signs can differ from the plain map, and "
        "these are the ones that training with that optimizer follows.",
        "The optimizer's state belongs to one moment of training.",
        "Heat map of the preconditioned gradient cosines between noise levels.",
    ),
    "weighting": Caption(
        "What other loss weights would do",
        "Above: the weight each scheme gives to each level. Below: the first-order change of each level's loss for one "
        "step under that scheme, all steps having the same gradient norm. Below zero is an improvement; a scheme "
        "that sinks one end and lifts the other trades levels against each other.",
        "A prediction for a single small step, not for a training run.",
        "Loss weights per level and the predicted change of each level's loss for several weighting schemes.",
    ),
    "stages": Caption(
        "Stages",
        "Contiguous groups of levels whose rows of the kernel are alike, and the criterion that chose their number, "
        "beside its value for a kernel that decays equally everywhere and has no stages.",
        "A smooth ridge can always be cut; trust a boundary only if the criterion clearly exceeds that of the kernel "
        "without stages.",
        "Kernel with stage boundaries, and the clustering criterion against the number of stages.",
    ),
    "loss": Caption(
        "The plain baseline",
        "The mean squared error of the network's raw prediction at each level, and the norm of the mean loss gradient. "
        "Nothing here needs a kernel: look at it before anything else is explained by one.",
        "Losses at different levels are errors of different targets and are not comparable as such.",
        "Loss and gradient norm per noise level.",
    ),
}

# what the whole report does not say, whatever the numbers are
LIMITS = (
    "Locality of the normalised kernel is not locality of learning: how much is learned at a level also depends on the "
    "size of the gradients (unnormalised kernel) and on the loss (interference).",
    "One checkpoint is one draw: its standard errors cover the images, the noise and the probes, not another "
    "training run with another seed.",
    "The noisy input itself reveals its noise level, so “embedding only” and “input only” separate two routes "
    "of the same information, not two kinds of information.",
    "Standard errors come from a bootstrap over images and a jackknife over probes; with few images they are "
    "themselves uncertain.",
)

TERMS = (
    ("Kernel", "inner product of the parameter gradients of the network's raw output for two noisy inputs, summed over "
     "the outputs (a trace, estimated with random probes that all samples share)."),
    ("Cosine", "the kernel divided by the norms of both gradients, so that the size of the output does not count."),
    ("Locality index", "share of each row's positive mass within the window around the diagonal, measured against the "
     "share an unstructured row would have there: 0 is no locality, 1 is everything inside the window."),
    ("Half-width", "distance of two levels at which the mean cosine has fallen half way to its floor; none if the "
     "decay is below two standard errors."),
    ("log-SNR", "ln(α²/σ²) of x = α·image + σ·noise: the schedule's own measure of the noise level, in nats."),
    ("Conflicting pair", "two levels whose mean loss gradients have a cosine below zero by two standard errors."),
)  # fmt: skip

COMPARISON = ("compare_indices", "compare_profiles", "compare_half_widths", "compare_map")

CAPTIONS |= {
    "compare_indices": Caption(
        "Indices",
        "The locality index of the kernel and of every control that both runs have, with 95 % intervals. The column on "
        "the right is the difference B − A with its standard error.",
        "An index depends on its window: compare runs with the same levels and the same window.",
        "Locality indices of two runs with error bars.",
    ),
    "compare_profiles": Caption(
        "Decay",
        "The mean cosine against the distance of two levels, in time and in log-SNR, for both runs; the dashed lines "
        "are their half-widths.",
        "Between networks with different schedules only the axis in log-SNR is common.",
        "Decay curves of two runs.",
    ),
    "compare_half_widths": Caption(
        "Half-widths by level",
        "How far the kernel reaches around each level, against the level's log-SNR.",
        "",
        "Half-widths per level of two runs.",
    ),
    "compare_map": Caption(
        "Where the kernels differ",
        "B − A for every pair of levels: red where B's cosine is larger, blue where A's is. Dots mark differences of "
        "more than two standard errors.",
        "With many pairs, about one in twenty is dotted by chance, and errors of neighbouring cells are correlated.",
        "Difference of two kernels between noise levels.",
    ),
}
