"""The page of a GAN run: the verdict first, self-contained, and nothing on it that is not in the result."""

from __future__ import annotations

import base64
import copy
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from genkernel.gan.results import GanResult
from genkernel.gan.verdict import Evidence, Label, Verdict
from genkernel.plots import gan_figures, to_bytes
from genkernel.report import gan_page
from genkernel.report.gan_captions import CAPTIONS, SECTIONS
from genkernel.report.gan_tables import (
    TOP_CLUSTERS,
    cluster_table,
    coverage_numbers,
    evidence_rows,
    kernel_numbers,
    mode_table,
)
from genkernel.runs import Provenance
from tests.gan.fake_result import alone_result, collapsed_result, image_result, many_result, planar_result
from tests.report.test_diffusion_page import Page


def evidence(name: str, says: Label = "ok", counts: bool = True, value: float = 0.5, **change: object) -> Evidence:
    made = Evidence(name, name.replace("_", " "), "kernel", value, (0.1, 0.4), 0.6, 1, says, counts, "24 healthy runs")
    return replace(made, **change)  # type: ignore[arg-type]


VERDICT = Verdict(
    "collapsing",
    ["The kernel has an effective rank of 2.1 ± 0.2.", "Two modes of eight are left."],
    [
        evidence("kernel_mean", "collapsing"),
        evidence("recall", "watch", group="coverage", value=0.05, healthy=(0.6, 0.9), alarm=0.3, worse=-1),
        evidence("score", "ok", counts=False, alarm=math.nan, healthy=(math.nan, math.nan)),
        evidence("separation", "unknown", counts=False, value=math.nan),
    ],
)


def judged(result: GanResult, verdict: Verdict | None = VERDICT) -> GanResult:
    return replace(result, verdict=verdict)


def provenance() -> dict[str, object]:
    return (
        Provenance(
            arguments={"latents": 48, "checkpoint": "runs/ring"},
            seed=0,
            checkpoint={"name": "runs/ring", "sha256": "c" * 64, "discriminator": {"name": "D", "sha256": "e" * 64}},
            data={"source": "x.npz:x", "description": "48 real", "sha256": "d" * 64, "conversions": ["grey repeated"]},
        )
        .complete()
        .to_json()
    )


@pytest.fixture(scope="module")
def drawn() -> dict[str, bytes]:
    return {name: to_bytes(draw(), "png") for name, draw in gan_figures(planar_result()).items()}


@pytest.fixture(scope="module")
def text(drawn: dict[str, bytes]) -> str:
    return gan_page(judged(planar_result()), provenance(), drawn)


def test_page_fetches_nothing_and_is_small(text: str) -> None:
    page = Page(text)
    assert page.fetched and all(url.startswith("data:") for url in page.fetched) and page.scripts == 0
    assert not re.search(r"@import|url\((?!data:)", text) and len(text.encode()) < 3e6


def test_links_lead_to_the_page_or_to_files_beside_it(text: str) -> None:
    page = Page(text)
    for link in page.links:
        assert (link.startswith("#") and link[1:] in page.ids) or re.fullmatch(r"figures/\w+\.(png|svg)", link), link


def test_every_figure_is_there_once_in_a_section_of_its_own_with_a_caption(text: str, drawn: dict[str, bytes]) -> None:
    inside = [base64.b64decode((image["src"] or "").split(",")[1]) for image in Page(text).images]
    assert len(inside) == len(drawn) and set(inside) == set(drawn.values())
    placed = [name for section in SECTIONS for name in section.figures]
    assert len(placed) == len(set(placed)) and set(drawn) <= set(placed) and set(drawn) <= set(CAPTIONS)
    assert all(CAPTIONS[name].read and CAPTIONS[name].alt and CAPTIONS[name].caveat for name in drawn)


def test_a_figure_that_no_section_names_is_shown_all_the_same(drawn: dict[str, bytes]) -> None:
    page = gan_page(planar_result(), {}, {"kernel": drawn["kernel"], "brand_new": drawn["occupancy"]})
    assert "Further figures" in page and "Brand new" in page


def test_the_verdict_comes_first_then_both_views_then_the_evidence(text: str) -> None:
    order = [
        text.index(words)
        for words in (
            "The verdict", "collapsing</span>", "2.1\u00a0±\u00a00.2", "What the samples cover <small>",
            "What the kernel says", 'id="evidence"', "<figure",
        )
    ]  # fmt: skip
    assert order == sorted(order)


def test_the_evidence_says_what_counts(text: str) -> None:
    table = text[text.index('id="evidence"') : text.index('id="coverage"')]
    rows = [
        "What the verdict leans on", "recall", "0.05", "from 0.6", "below 0.3", "watch", "24 healthy runs",
        "kernel mean", "0.5", "up to 0.4", "above 0.6", "collapsing", "Shown beside it", "score", "not known", "none",
        "separation", "n/a", "unknown",
    ]  # fmt: skip
    at = 0
    for words in rows:
        at = table.index(words, at)
    assert [title for title, _ in evidence_rows([VERDICT.evidence[2]])] == ["Shown beside it"]


@pytest.mark.parametrize("label", ["ok", "watch", "collapsing", "unknown"])
def test_every_verdict_has_words(drawn: dict[str, bytes], label: Label) -> None:
    page = gan_page(judged(planar_result(), Verdict(label, ["Because."])), {}, {})
    assert f'class="verdict {label}"' in page and "Because." in page and "The evidence" not in page


def test_a_run_that_was_not_judged_says_so() -> None:
    page = gan_page(judged(planar_result(), None), {}, {})
    assert 'class="verdict unknown"' in page and "were not judged" in page


def test_honest_readings_stand_beside_the_figures(text: str) -> None:
    for words in (
        "repeat the occupancy",
        "no indicator gave a reliable early warning",
        "is a difference of scores only at an optimal discriminator",
        "One step only",
        "which no kernel says",
        "beside occupancy dominance",
    ):
        assert words in text, words


def test_provenance_of_both_networks_and_of_the_data(text: str) -> None:
    for words in ("c" * 64, "d" * 64, "e" * 64, "Real samples: grey repeated", "@software{genkernel"):
        assert words in text, words


def test_names_from_outside_are_escaped() -> None:
    result = copy.deepcopy(planar_result())
    result.meta["generator"]["name"] = "<img src=http://x>"
    result.clusters.names[0] = "a<b>&c"
    result.missing.append("<script>alert(1)</script>")
    bad = Verdict("ok", ["<b>"], [evidence("x", source="<i>")])
    page = gan_page(judged(result, bad), provenance(), {})
    assert Page(page).scripts == 0 and "<img src=http" not in page and "a&lt;b&gt;&amp;c" in page
    assert "&lt;b&gt;" in page and "&lt;i&gt;" in page


@pytest.mark.parametrize("made", [alone_result, collapsed_result, image_result, many_result])
def test_whatever_is_not_there_is_left_out(made: object) -> None:
    result = made()  # type: ignore[operator]
    page = gan_page(result, {}, {})
    Page(page)
    assert ("Whose drive moves whom?" in page) == (result.drive is not None)
    assert ("What is missing" in page) == bool(result.missing)
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", page[page.index("<main>") :].lower())


def test_a_bare_result_makes_a_page() -> None:
    result = replace(
        alone_result(), per_cluster=None, score=None, game=None, discriminator_kernel=None, one_step=[], missing=[],
        meta={}, verdict=None,
    )  # fmt: skip
    page = gan_page(result, {}, {})
    assert "Is this generator collapsing?" in page and "Cluster by cluster" in page


# ------------------------------------------------------------------------- numbers


def test_numbers_are_those_of_the_result() -> None:
    result = planar_result()
    assert result.coverage.modes is not None and result.transport is not None
    found = {n.name: n for n in coverage_numbers(result) + kernel_numbers(result)}
    assert found["Modes covered"].value == f"{result.coverage.modes.covered} of 8"
    assert found["Driving dominance"].value == f"{result.transport.driving_dominance:.3f}"
    assert f"{result.transport.occupancy_dominance:.3f}" in found["Score: dominance × coherence"].note
    alone = {n.name for n in coverage_numbers(alone_result()) + kernel_numbers(alone_result())}
    assert "Driving dominance" not in alone and "Clusters with samples" in alone


def test_a_singular_jacobian_has_an_infinite_condition_number() -> None:
    result = copy.deepcopy(planar_result())
    result.jacobian.rank[:] = 1
    result.jacobian.condition_number[:] = np.nan  # as read from a file
    result.jacobian_by_cluster.condition_number[:] = np.nan
    values = {n.name: n.value for n in kernel_numbers(result)}
    assert values["Condition number of ∂G/∂z"] == "∞"
    (table,) = cluster_table(result)
    column = table.head.index("condition number")
    cells = {row[column] for row in table.rows}
    assert "∞" in cells and cells <= {"∞", "n/a"}


def test_long_tables_are_cut_and_say_so() -> None:
    (table,) = cluster_table(many_result())
    assert len(table.rows) == TOP_CLUSTERS and "60 more are in summary.json" in table.note
    assert all(len(row) == len(table.head) for row in table.rows)
    (counts,) = mode_table(planar_result())
    assert len(counts.rows) == 8 and not mode_table(alone_result())
