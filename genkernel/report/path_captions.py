"""What stands beside the figures and numbers of a path run, and what a contribution is not (THEORY §2, §3.2)."""

from __future__ import annotations

from genkernel.report.captions import Caption, Section

IS = (
    "The change of f that the gradients of one group of samples made, step by step, along the path that training took: "
    "through the optimizer's momentum, preconditioner and learning rate as they were.",
    "Additive: f before training, plus all contributions, is f after it, up to the gap. Groups can be merged, and "
    "their contributions add up.",
    "Signed along a direction. Along the change of f, a helper moved it the way it went in the end, and an opponent "
    "moved it back; along one output, parts raise or lower it.",
)

IS_NOT = (
    "Not what would change if the group were deleted. Without it, training would take another path, with other "
    "gradients of all other groups.",
    "Conditional on the path and on the preconditioner. Adam's and RMSprop's second moments are made of all groups "
    "together, and count as given here: how a group changed them is in nobody's contribution.",
    "Not certified by the gap. A small gap says that the sum is right. How the sum is split depends on the path: "
    "merging steps, for one, leaves the sum and moves the parts.",
)

# a figure of a further query has that query's number at the end of its name
SECTIONS = (
    Section(
        "path",
        "From the start to the end",
        "What f was before training, what every source added to it or took from it, and what it is now.",
        ("waterfall", "over_time"),
    ),
    Section(
        "time",
        "Who, and when",
        "The same contributions resolved in time. Early steps are often large and shared; late ones settle between "
        "groups that pull in opposite directions.",
        ("contributions", "contributions_mean"),
    ),
    Section(
        "shares",
        "How much is left of what was done",
        "Three sizes that differ where contributions cancel. Net: what is left at the end. Gross: the summed sizes of "
        "all steps, to and fro. Signed: the part of the change itself; the only one of the three that adds up, to "
        "100 %.",
        ("shares",),
    ),
    Section(
        "layers",
        "Through which layers",
        "A step moves all layers, and each of them moves f. Contributions add up over layers too.",
        ("layers",),
    ),
    Section(
        "maps",
        "From which to which",
        "Rows are groups of queries, columns the groups of training samples that moved them. Gross maps show who was "
        "at work, net maps what was left of it, and only the signed map adds up: every row to 100 %, up to the gap.",
        ("map_gross", "map_net", "map_signed"),
    ),
    Section("queries", "Every query", "What moved each of them most, either way.", ()),
)

CAPTIONS = {
    "waterfall": Caption(
        "Source by source",
        "Every bar starts where the one above it ends. Blue and red say which way a source worked (see the line below "
        "the figure); grey bars are not data: weight decay, momentum from before the recording, rounding, running "
        "statistics.",
        "Bars much longer than the whole change are contributions that cancel between sources: read them together, "
        "not one by one.",
        "Waterfall of the contributions of sources, from the output before training to the output after it.",
    ),
    "over_time": Caption(
        "Contributions over training",
        "Cumulative contributions of the largest sources. The black line is f itself, measured at the recorded steps, "
        "and the white dashes in it the sum of all contributions; their difference is below, on a scale of its own.",
        "A line that falls does not say that its samples became harmful: they may only hold f where it is, against "
        "others.",
        "Lines of cumulative contributions over training steps, with the output itself.",
    ),
    "contributions": Caption(
        "Source by window of time",
        "Each cell is what one source did in one window of steps; on the right its sum, above the sum over sources. "
        "Rows that change colour are sources that worked one way early and the other way late.",
        "Cells are sums over a window, so longer windows have larger ones.",
        "Heat map of contributions by source and window of training steps.",
    ),
    "contributions_mean": Caption(
        "The mean over all queries",
        "The same for all queries, each along its own direction. Groups that help only queries of their own kind are "
        "pale here.",
        "Queries with a large change weigh more.",
        "Heat map of contributions by source and window of training steps, averaged over queries.",
    ),
    "map_gross": Caption(
        "Who was at work (gross)",
        "Every row is divided by its sum. A bright diagonal says that groups moved queries of their own kind most.",
        "Sizes of steps that cancel later count here as much as those that stay.",
        "Maps of gross contributions from groups of training samples to groups of queries, by stretch of training.",
    ),
    "map_net": Caption(
        "What was left of it (net)",
        "The same of the sums over time. Where the gross map is local and this one is not, most of the local work went "
        "to and fro.",
        "Sizes: a group that worked against a query is as bright as one that worked for it.",
        "Maps of net contributions from groups of training samples to groups of queries, by stretch of training.",
    ),
    "map_signed": Caption(
        "Along the change (signed)",
        "The part of each query's change that every group made, averaged over the queries of a row.",
        "Of a stretch in which a query hardly changed the shares are large and cancel.",
        "Map of signed shares of groups of training samples in the change of groups of queries.",
    ),
    "shares": Caption(
        "Net, gross and signed share",
        "Bars: means over the queries; lines: the range over them. On the right, net over gross of every source: 1 "
        "where it always pushed one way, near 0 where almost all of it cancelled along the way.",
        "Shares of sizes do not add up like contributions do. Where layers are resolved the gross part sums over them "
        "too, so net over gross is smaller.",
        "Bars of net, gross and signed shares by source, and their ratio of net to gross.",
    ),
    "layers": Caption(
        "Source by layer",
        "Each cell is what one source did to f through one layer; above, the sum over sources.",
        "It says where the steps acted, not where knowledge is stored: layers with large gradients move f most.",
        "Heat map of contributions by source and layer.",
    ),
}

TERMS = (
    ("Source", "a group of samples, or what is not data: weight decay, momentum from before the recording, rounding of "
     "the gradients, running statistics (buffers)."),
    ("Contribution", "what the increments that a source made did to f: C = Σ over steps of J Δθ of that source."),
    ("Along the change", "the part of it in the direction of f after training minus f before it."),
    ("Net, gross", "the size of a source's sum, and the sum of its sizes over the recorded steps."),
    ("Signed share", "⟨C, change⟩ / ‖change‖²; sums to 100 % over sources, up to the gap."),
    ("Gap", "f after training − f before it − the sum of all contributions; relative to the largest change."),
    ("Rule", "how the change of f within one step is integrated: left (first order), trapezoid and midpoint (second "
     "order), Gauss (exact to rounding on smooth networks)."),
)  # fmt: skip
