"""Numbers and tables of a GAN run. Whatever a result does not have is not in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from genkernel.plots.gan_style import estimate, kind, percent
from genkernel.plots.style import number
from genkernel.report.page import Number, Table
from genkernel.report.words import fixed

if TYPE_CHECKING:
    from genkernel.gan.results import GanResult
    from genkernel.gan.verdict import Evidence

TOP_CLUSTERS = 40
GROUPS = ("coverage", "kernel", "drive", "geometry")  # in the order of the table


# ------------------------------------------------------------------------- two views


def coverage_numbers(result: GanResult) -> list[Number]:
    """What the samples cover, without any kernel."""
    found: list[Number] = []
    counted, near, spread = result.coverage.modes, result.coverage.neighbours, result.coverage.diversity
    table = result.clusters
    if counted is not None:
        at_least = f"at least {counted.at_least} good sample{'s' * (counted.at_least > 1)} each"
        found += [
            Number("Modes covered", f"{counted.covered} of {counted.modes}", at_least),
            Number("Good samples", percent(counted.high_quality), counted.rule),
            Number("Effective number of modes", digits(counted.entropy_number), "of the good samples"),
        ]
    else:
        there = int((table.occupancy > 0).sum())
        found.append(Number("Clusters with samples", f"{there} of {len(table.names)}", table.by))
    found.append(
        Number("Occupancy dominance", fixed(occupancy_dominance(result), 3), "0: equal clusters; near 1: all in one")
    )
    if near is not None:
        sizes = f"{near.real:,} real and {near.generated:,} generated, k = {near.k}"
        found += [
            Number("Precision and recall", f"{fixed(near.precision, 2)}, {fixed(near.recall, 2)}", sizes),
            Number("Density and coverage", f"{fixed(near.density, 2)}, {fixed(near.coverage, 2)}", sizes),
        ]
    if math.isfinite(spread.relative):
        found.append(Number("Diversity relative to the data", fixed(spread.relative, 3), "1: as diverse as the data"))
    else:
        found.append(Number("Mean distance of samples", digits(spread.distance), f"in {result.coverage.features}"))
    if math.isfinite(result.coverage.frechet):
        found.append(Number("Fréchet distance", digits(result.coverage.frechet), f"in {result.coverage.features}"))
    if result.drive is not None and math.isfinite(result.drive.separation):
        note = "area under the curve; 0.5: it cannot, 1: always"
        found.append(Number("D tells real from generated", fixed(result.drive.separation, 3), note))
    return found


def kernel_numbers(result: GanResult) -> list[Number]:
    """What the kernel, the drive and the latent Jacobian say."""
    kernel, moved, jacobian = result.kernel, result.transport, result.jacobian
    n = len(kernel.eigenvalues)
    found = [
        Number("Effective rank of the kernel", f"{estimate(kernel.effective_rank, kernel.effective_rank_stderr)}",
               f"of {n} latents; compare at equal n"),
        Number("Mean cosine of the kernel", estimate(kernel.mean_off_diagonal, kernel.mean_off_diagonal_stderr),
               "over pairs of different latents"),
    ]  # fmt: skip
    if moved is not None:
        found += [
            Number("Driving dominance", fixed(moved.driving_dominance, 3),
                   f"beside occupancy dominance {fixed(moved.occupancy_dominance, 3)}, which it repeated in the study"),
            Number("Score: dominance × coherence", fixed(moved.score, 3),
                   f"beside occupancy dominance {fixed(moved.occupancy_dominance, 3)}, which it repeated in the study"),
            Number("Axial coherence of updates", fixed(moved.axial_coherence, 3),
                   f"{fixed(moved.axial_null, 3)} for random directions"),
            Number("Coherence of the drive", fixed(moved.raw_coherence, 3),
                   f"of the updates {fixed(moved.coherence, 3)}; 1: all point the same way"),
            Number("Spread cosine", fixed(moved.spread_cosine, 3), "below 0: the next step contracts the samples"),
        ]  # fmt: skip
    if math.isfinite(result.agreement):
        note = "rank correlation of the kernel with how alike samples move"
        found.append(Number("Agreement", fixed(result.agreement, 3), note))
    latents = f"median over {len(jacobian.latents)} latents"
    condition = np.where(deficient(result), math.inf, jacobian.condition_number)
    found += [
        Number("Condition number of ∂G/∂z", size(float(np.median(condition))), latents),
        Number("Log-volume of ∂G/∂z", volume(float(np.median(jacobian.log_volume))), f"nats, {latents}"),
        Number("Effective rank of ∂G/∂z", digits(float(np.median(jacobian.effective_rank))),
               f"of {jacobian.singular_values.shape[1]}, {latents}"),
    ]  # fmt: skip
    return found


def occupancy_dominance(result: GanResult) -> float:
    from genkernel.gan.measures import dominance

    return dominance(result.clusters.occupancy)


def deficient(result: GanResult) -> np.ndarray:
    """Latents ``[m]`` whose Jacobian has singular values that are rounding; files do not hold their infinities."""
    return result.jacobian.rank < result.jacobian.singular_values.shape[1]


# -------------------------------------------------------------------------- evidence


@dataclass
class EvidenceRow:
    """One indicator as it stands in the table."""

    label: str
    value: str
    healthy: str
    threshold: str
    says: str
    source: str


def evidence_rows(evidence: Sequence[Evidence]) -> list[tuple[str, list[EvidenceRow]]]:
    """Rows under two headings: what the verdict leans on, and what is shown beside."""
    found = []
    for counts, title in ((True, "What the verdict leans on"), (False, "Shown beside it")):
        chosen = [e for e in evidence if e.counts is counts]
        chosen.sort(key=lambda e: GROUPS.index(e.group) if e.group in GROUPS else len(GROUPS))
        if chosen:
            found.append((title, [_row(e) for e in chosen]))
    return found


def _row(evidence: Evidence) -> EvidenceRow:
    bound = evidence.healthy[1] if evidence.worse > 0 else evidence.healthy[0]
    side = "up to" if evidence.worse > 0 else "from"
    beyond = "above" if evidence.worse > 0 else "below"
    return EvidenceRow(
        label=evidence.label,
        value=digits(evidence.value),
        healthy=f"{side} {digits(bound)}" if math.isfinite(bound) else "not known",
        threshold=f"{beyond} {digits(evidence.alarm)}" if math.isfinite(evidence.alarm) else "none",
        says=evidence.says,
        source=evidence.source,
    )


# --------------------------------------------------------------------------- tables


def mode_table(result: GanResult) -> list[Table]:
    """Good samples of every mode or class."""
    counted = result.coverage.modes
    if counted is None:
        return []
    same = len(result.clusters.names) == counted.modes
    names = result.clusters.names if same else [str(k) for k in range(counted.modes)]
    order = np.argsort(-counted.counts, kind="stable")
    shown = order if len(order) <= TOP_CLUSTERS else order[:TOP_CLUSTERS]
    rows = [
        [names[c], str(int(counted.counts[c])), percent(float(counted.occupancy[c])) if counted.counts.any() else "n/a"]
        for c in (sorted(shown) if len(order) <= TOP_CLUSTERS else shown)
    ]
    note = f"Good: {counted.rule}. {counted.samples:,} samples in all."
    if len(shown) < len(order):
        note += f" The {len(shown)} fullest; {len(order) - len(shown)} more are in summary.json."
    word = kind(result) if same else "mode"
    return [Table(f"Good samples by {word}", [word.capitalize(), "good samples", "share of them"], rows, note)]


def drive_table(result: GanResult) -> list[Table]:
    """How the discriminator still drives the generator."""
    from genkernel.gan.game import LEVELS

    drive = result.drive
    if drive is None:
        return []
    rows = [["Logit, generated samples", f"{digits(drive.generated.mean)} ± {digits(drive.generated.std)}"]]
    if drive.real is not None:
        rows.append(["Logit, real samples", f"{digits(drive.real.mean)} ± {digits(drive.real.std)}"])
    if math.isfinite(drive.separation):
        rows.append(["Real above generated", fixed(drive.separation, 3)])
    rows += [
        [f"Saturated: ‖δ‖ below {percent(drive.fraction)} of ‖∇l‖", percent(drive.saturated)],
        ["Flat: ∇l = 0", percent(drive.flat)],
    ]
    for q, strength, slope in zip(LEVELS, drive.drive, drive.gradient, strict=True):
        if q in (0.05, 0.5, 0.95):
            rows.append([f"‖δ‖ and ‖∇l‖, {percent(q)} quantile", f"{digits(strength)} and {digits(slope)}"])
    note = "Logits are mean ± standard deviation over samples. A drive that is saturated or flat moves nothing."
    return [Table("The discriminator", ["Quantity", "value"], rows, note)]


@dataclass(frozen=True)
class _Column:
    head: str
    values: np.ndarray
    form: str = "number"


def cluster_table(result: GanResult) -> list[Table]:
    """Every cluster by itself; columns that are not known are left out."""
    columns = [c for c in _columns(result) if np.isfinite(c.values).any() or np.isinf(c.values).any()]
    count = len(result.clusters.names)
    order = np.arange(count)
    note = f"Clusters: {result.clusters.by}."
    if count > TOP_CLUSTERS:
        order = np.sort(np.argsort(-result.clusters.occupancy, kind="stable")[:TOP_CLUSTERS])
        note += f" The {TOP_CLUSTERS} fullest; {count - TOP_CLUSTERS} more are in summary.json."
    if result.transport is not None:
        note += (
            f" Updates from other clusters: {percent(result.transport.foreign_share)} of all, where equal drives "
            f"would give {percent(result.transport.foreign_baseline)}."
        )
    rows = [[result.clusters.names[c], *(_FORMS[col.form](float(col.values[c])) for col in columns)] for c in order]
    return [Table("Clusters", ["Cluster", *(c.head for c in columns)], rows, note)]


def _columns(result: GanResult) -> list[_Column]:
    count = len(result.clusters.names)
    medians, moved, each = result.jacobian_by_cluster, result.transport, result.per_cluster
    labels = result.clusters.labels[result.jacobian.latents]
    lost = deficient(result)
    singular = np.array([(labels == c).any() and np.median(lost[labels == c]) > 0 for c in range(count)])
    found = [_Column("occupancy", result.clusters.occupancy, "percent")]
    if each is not None:
        found += [
            _Column("recognised as it", each.recognised, "percent"),
            _Column("agreed with the label", each.agreed, "percent"),
            _Column("in real samples", each.real_occupancy, "percent"),
        ]
    if moved is not None:
        found += [
            _Column("share of the drive", moved.share, "percent"),
            _Column("signed share", moved.signed_share, "percent"),
        ]
    if each is not None:
        found += [
            _Column("diversity", each.diversity),
            _Column("relative to real", each.relative_diversity),
            _Column("kernel within", each.kernel_within, "cosine"),
            _Column("kernel to others", each.kernel_between, "cosine"),
            _Column("coherence of the drive", each.raw_coherence, "cosine"),
            _Column("coherence of updates", each.coherence, "cosine"),
        ]
    return [
        *found,
        _Column("log-volume (nats)", medians.log_volume),
        _Column("condition number", np.where(singular, math.inf, medians.condition_number), "size"),
        _Column("effective rank", medians.effective_rank),
    ]


def score_table(result: GanResult) -> list[Table]:
    """The gradient of the logit beside the estimated score difference."""
    score = result.score
    if score is None:
        return []
    known = f"{digits(score.attainable)} ± {digits(score.attainable_std)}"
    bandwidth = digits(score.bandwidth)
    if math.isfinite(score.real_bandwidth):
        bandwidth += f", of the data {digits(score.real_bandwidth)}"
    rows = [
        ["Cosine of ∇l and the score difference", fixed(score.cosine, 3)],
        ["The same, long vectors counting more", fixed(score.pooled, 3)],
        ["What an optimal discriminator would reach", known],
        *(
            [f"Cosine at {number(factor)} × the bandwidth", fixed(float(value), 3)]
            for factor, value in zip(score.sensitivity.factors, score.sensitivity.mean, strict=True)
            if factor != 1
        ),
        ["Mean length of the attraction", digits(score.attraction)],
        ["Mean length of the repulsion", digits(score.repulsion)],
        ["Mean length of ∇l", digits(score.gradient)],
        ["Bandwidth of the estimate", bandwidth + (" (the edge of those tried)" if score.at_edge else "")],
    ]
    note = f"{score.reading} Data: {score.data}. The optimal discriminator’s is the mean over simulations."
    found = [Table("The gradient of the logit and the score difference", ["Quantity", "value"], rows, note)]
    each = score.by_cluster
    if len(result.clusters.names) > 1:
        rows = [
            [name, fixed(float(each.cosine[c]), 3), *(digits(float(v[c])) for v in (each.attraction, each.repulsion))]
            for c, name in list(enumerate(result.clusters.names))[:TOP_CLUSTERS]
        ]
        head = ["Cluster", "cosine", "attraction", "repulsion"]
        found.append(Table("Attraction and repulsion by cluster", head, rows, "Means over the samples of a cluster."))
    return found


def discriminator_table(result: GanResult) -> list[Table]:
    """Whether the discriminator's own gradients tell real samples from generated ones."""
    judged = result.discriminator_kernel
    if judged is None:
        return []
    rows = [
        ["Pairs of real samples", fixed(judged.within_real, 3)],
        ["Pairs of generated samples", fixed(judged.within_generated, 3)],
        ["A real and a generated sample", fixed(judged.between, 3)],
    ]
    note = (
        "Mean cosines of the parameter gradients of the discriminator’s logits. Where the last is as large as the "
        "others, raising the logits of real samples raises those of generated ones as well."
    )
    return [Table("The discriminator’s own kernel", ["Pairs", "mean cosine"], rows, note)]


def game_table(result: GanResult) -> list[Table]:
    """Eigenvalues of the game of both players."""
    game = result.game
    if game is None:
        return []
    rows = [
        ["Largest real part", digits(game.abscissa)],
        ["Largest |Im λ/Re λ|", digits(game.oscillation)],
        ["Largest step size that contracts", digits(game.stable_step) if game.stable_step else "none"],
        ["Field of the generator, of the discriminator",
         f"{digits(game.generator_field)}, {digits(game.discriminator_field)}"],
        ["Eigenvalues", "all" if game.exact else f"the {len(game.eigenvalues)} that iterations found"],
    ]  # fmt: skip
    note = f"{game.parameters:,} parameters of both players, {game.latents} latents and {game.real} real samples."
    return [Table("Eigenvalues of the game", ["Quantity", "value"], rows, note)]


# ------------------------------------------------------------------------- numbers as text


def digits(value: float) -> str:
    """Three significant digits."""
    if math.isinf(value):
        return "∞" if value > 0 else "\N{MINUS SIGN}∞"
    return number(float(f"{value:.3g}")) if math.isfinite(value) else "n/a"


def size(value: float) -> str:
    """A condition number, which may be infinite."""
    return f"{value:,.0f}" if 1000 <= value < math.inf else digits(value)


def volume(value: float) -> str:
    """A log-volume: −∞ of a generator whose sample does not move at all."""
    return digits(value) if math.isinf(value) else fixed(value, 1)


_FORMS = {
    "percent": percent,
    "cosine": lambda value: fixed(value, 2),
    "size": size,
    "number": digits,
}
