"""What stands beside the figures and numbers of a classifier's kernel (THEORY §8)."""

from __future__ import annotations

from genkernel.report.captions import Caption, Section

SECTIONS = (
    Section(
        "classes",
        "Does the kernel know the classes?",
        "A gradient step on one sample moves the logits of another by their kernel. Where the kernel is large within "
        "classes and small between them, samples teach those of their own class.",
        ("class_blocks", "kernel", "plane"),
    ),
    Section(
        "controls",
        "What is it due to?",
        "Classes that look different to begin with are apart in any kernel, and more parameters than samples separate "
        "anything in-sample. What training made of it is the difference to the untrained network.",
        ("controls", "layers", "course"),
    ),
    Section(
        "new",
        "How far does it reach?",
        "What a network has learned reaches samples that are similar to those of its training. The projection distance "
        "says how much of a tangent feature lies outside of what they span.",
        ("reach", "new_classes"),
    ),
)

CAPTIONS = {
    "class_blocks": Caption(
        "Similarity within and between classes",
        "Mean cosines of tangent features over pairs of different samples. A network that keeps classes apart has a "
        "bright diagonal; one colour everywhere is a direction that all samples share.",
        "Centred measures (CKA) do not see that common direction; these blocks do.",
        "Heat maps of mean cosine, class against class.",
    ),
    "kernel": Caption(
        "All samples",
        "The normalised kernel, sorted by class. Single samples that do not look like their class are rows that differ "
        "from their block.",
        "",
        "Heat map of the normalised kernel between samples.",
    ),
    "plane": Caption(
        "Samples in the plane",
        "The two directions in tangent space in which the samples vary most (kernel PCA of cosines). Rings: samples "
        "that the network answers wrongly.",
        "Two directions are a part of what there is: see the shares at the axes.",
        "Scatter of samples in two kernel principal components, coloured by class.",
    ),
    "controls": Caption(
        "Beside what it has to be held against",
        "Within − between: difference of mean cosines. CKA: alignment with the labels, centred and unbiased. "
        "Neighbours: share of the nearest with the same label, of no more than the smallest class has others. SVM: "
        "accuracy of a linear classifier on tangent features of samples that it was not fitted to.",
        "The logits of a network with a linear last layer lie in the span of its tangent features, so a network that "
        "is right is separable by construction: look at the kernel without that layer. Samples that the network was "
        "trained on are separable for that reason alone.",
        "Four panels of dots, one row for each kernel.",
    ),
    "layers": Caption(
        "Layer by layer",
        "The alignment of each layer's own kernel with the labels, and how much of the whole kernel it makes up. The "
        "whole is the sum of the layers.",
        "A layer with a large alignment and a small share has little say.",
        "Line of CKA over layers, with bars of their share of the trace.",
    ),
    "course": Caption(
        "Earlier checkpoints",
        "Accuracy at the same samples, alignment with the labels, the difference of mean cosines within and between "
        "classes, and how alike the kernel of each checkpoint is to the last one.",
        "Distances along the axis are not those of the training.",
        "Lines over checkpoints.",
    ),
    "reach": Caption(
        "New samples beside held-out ones",
        "Left: the share of tangent features outside of the training span, sorted. Right: mean cosine to the class "
        "that is most similar. Curves that lie apart are kinds of samples that the kernel tells apart.",
        "Distances shrink with more training samples: compare with held-out ones only. Without these, distances say "
        "little.",
        "Cumulative distributions of projection distance and of similarity.",
    ),
    "new_classes": Caption(
        "Classes of new samples",
        "Left: mean cosine of new samples of each class to training samples of each. Right: classes whose new samples "
        "are similar to their training samples should be answered rightly.",
        "As many points as there are classes: a rank correlation of few points is a hint.",
        "Heat map of new against training classes, and scatter of accuracy over similarity.",
    ),
}

LIMITS = (
    "All numbers are of the samples that were evaluated. Samples that the network was trained on carry their labels in "
    "its weights: for statements about other samples, evaluate those.",
    "The kernel says what a small gradient step would do from these weights on. How the network came to them is a "
    "matter of its path (genkernel path).",
    "A similarity that goes along with accuracy does not explain it: the confidence of the softmax often does as well.",
)

TERMS = (
    ("Tangent feature", "The gradient of an output in all parameters; the kernel is the inner product of two of them."),
    ("Cosine", "The kernel of two samples over the root of both own values: 1 where their gradients are parallel."),
    ("CKA", "Centred kernel alignment with the matrix that is 1 for two samples of one class; unbiased: 0 by chance."),
    ("Projection distance", "The share of a tangent feature's length outside of the span of the training features."),
    ("Untrained", "The same network with weights drawn afresh."),
    ("Permuted labels", "The same kernel with labels dealt out anew: what chance gives."),
)
