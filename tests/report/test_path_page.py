"""The page of a path run: what moved f, whether the parts add up, and what a contribution is not; self-contained."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

import pytest

from genkernel.paths import PathDecomposition
from genkernel.plots import to_bytes
from genkernel.plots.paths import path_figures
from genkernel.report.path import (
    gap_verdict,
    headline,
    key_numbers,
    part_tables,
    path_page,
    path_warnings,
    query_table,
    source_table,
)
from genkernel.report.path_captions import CAPTIONS, SECTIONS
from genkernel.runs import Provenance
from tests.paths.fake_parts import fake_parts, unmoved_parts
from tests.report.test_diffusion_page import Page

NAMES = ["cats", "dogs", "birds", "frogs", "cars", "ships"]


def made() -> PathDecomposition:
    return fake_parts(layers=2, names=NAMES, windows=4, queries=2)


def provenance() -> dict[str, object]:
    record = Provenance(arguments={"query": [0]}, checkpoint={"name": "runs/mine", "sha256": "c" * 64})
    return record.complete().to_json()


@pytest.fixture(scope="module")
def drawn() -> dict[str, bytes]:
    return {name: to_bytes(draw(), "png") for name, draw in path_figures(made(), [0, 1]).items()}


@pytest.fixture(scope="module")
def text(drawn: dict[str, bytes]) -> str:
    return path_page(made(), provenance(), drawn, queries=[0, 1])


def test_page_fetches_nothing_and_links_lead_somewhere(text: str) -> None:
    page = Page(text)
    assert page.fetched and all(url.startswith("data:") for url in page.fetched) and page.scripts == 0
    assert not re.search(r"@import|url\((?!data:)", text) and len(text.encode()) < 3e6
    for link in page.links:
        assert (link.startswith("#") and link[1:] in page.ids) or re.fullmatch(r"figures/\w+\.(png|svg)", link), link


def test_every_figure_is_there_once_with_a_caption(text: str, drawn: dict[str, bytes]) -> None:
    inside = [base64.b64decode((image["src"] or "").split(",")[1]) for image in Page(text).images]
    assert len(inside) == len(drawn) and set(inside) == set(drawn.values())
    placed = [name for section in SECTIONS for name in section.figures]
    assert len(placed) == len(set(placed)) == len(CAPTIONS)
    assert all(caption.read and caption.alt and caption.caveat for caption in CAPTIONS.values())
    assert "Source by source: query 1" in text and "Further figures" not in text
    assert "Further figures" in path_page(made(), {}, {"brand_new": drawn["shares"]})


def test_the_reading_comes_first_then_what_a_contribution_is_not_then_the_gap(text: str) -> None:
    order = [
        text.index(words)
        for words in (
            "moved query 0 most", "moved query 1 most", "A contribution is<", "A contribution is not<",
            "if the group were deleted", "Conditional on the path and on the preconditioner",
            "Not certified by the gap", "✓</span> complete", "Helpers of query 0", "Opponents of query 1", "<figure",
        )
    ]  # fmt: skip
    assert order == sorted(order)


def test_headlines_name_the_largest_groups_of_data() -> None:
    parts = made()
    helpers, opponents = parts.top(0, None, 1)
    said = headline(parts, 0, None)
    assert said.startswith(f"In 400 Adam steps, “{helpers[0].source}” moved query 0 most along its change (+")
    assert f"“{opponents[0].source}” was most against it (−" in said
    assert "Output 1 of query 0 changed by" in headline(parts, 0, 1) and "raised it most" in headline(parts, 0, 1)
    assert "Nothing in 400 Adam steps changed" in headline(unmoved_parts(), 0, None)
    assert "no group was against it" in headline(fake_parts(2, 4), 0, None)
    assert "group 0" in headline(fake_parts(1, 4), 0, None)


@pytest.mark.parametrize(
    ("rule", "advice"),
    [
        ("left", 'rule="trapezoid"'),
        ("trapezoid", 'rule="midpoint" halves'),
        ("midpoint", "gauss4"),
        ("adaptive", "adaptive32"),
        ("gauss4", "ReLU"),
    ],
)
def test_an_incomplete_path_says_how_to_come_nearer(rule: str, advice: str) -> None:
    verdict = gap_verdict(fake_parts(gap=0.05, rule=rule))
    assert (verdict.label, verdict.level) == ("incomplete", "watch") and "% of the largest change" in verdict.meaning
    assert advice in verdict.advice[0] and "shorter windows do not" in verdict.advice[1]


def test_a_small_gap_is_complete_and_no_change_has_no_measure() -> None:
    assert gap_verdict(fake_parts(gap=0.009)).label == "complete" and not gap_verdict(fake_parts()).advice
    assert gap_verdict(unmoved_parts()).label == "unknown"


@pytest.mark.parametrize("rule", ["left", "trapezoid", "gauss4"])
def test_outputs_that_do_not_depend_on_the_parameters_are_said_not_to(rule: str) -> None:
    parts = fake_parts(rule=rule)
    parts.net.zero_()
    parts.gross.zero_()
    verdict = gap_verdict(parts)
    assert verdict.label == "incomplete" and "exactly zero" in verdict.meaning
    assert len(verdict.advice) == 1 and "no_grad or a detach in query_call" in verdict.advice[0]
    page = path_page(parts, {}, {})
    assert "gauss4&#34;: they" not in page and "Every source" not in page and page.count("none above the gap") == 6


def test_what_makes_the_parts_hard_to_read_is_said() -> None:
    assert path_warnings(fake_parts(), [0], None) == []
    parts = made()
    other = replace(
        parts,
        net=parts.net.clone(),
        gross=parts.gross.clone(),
        meta={
            **parts.meta,
            "stopped": "it diverged",
            "skipped": 3,
            "joint_batches": True,
            "average": True,
            "autocast": True,
        },
    )
    other.net[:, 0] += 50 * parts.net[:, 0]
    other.net[:, 1] -= 50 * parts.net[:, 0]
    other.gross[:, 1] += 5000 * parts.gross[:, 0]
    other.gross[:, -1] += 5000 * parts.gross[:, 0]
    said = " ".join(path_warnings(other, [0], None))
    for words in (
        "stopped before the training did: it diverged.", "cancel between sources", "is left of “dogs”",
        "“rounding” is", "3 steps were not taken", "share statistics", "(dropout)", "rounded to 16 bits",
        "averaged weights",
    ):  # fmt: skip
        assert words in said, words


def test_tables_have_the_numbers_of_the_decomposition() -> None:
    parts = made()
    helpers, opponents = part_tables(parts, 0, None, 2)
    assert len(helpers.rows) == 2 and helpers.rows[0][0] == parts.top(0, None, 1)[0][0].source
    assert len(opponents.rows) <= 2 and all(row[1].startswith("−") for row in opponents.rows)
    assert part_tables(parts, 0, 1, 2)[0].title == "Raised output 1 of query 0"
    assert part_tables(fake_parts(2, 4, others=()), 0, None, 2)[1].rows[0][0] == "none"
    assert part_tables(unmoved_parts(), 0, None, 2) == []
    every = source_table(parts)
    assert {row[0] for row in every.rows} == {*NAMES, "weight decay", "rounding"}
    assert len(query_table(parts, None).rows) == 2 and len(query_table(fake_parts(queries=50), None).rows) == 40
    numbers = {number.name: number.value for number in key_numbers(parts)}
    assert numbers["Time of the training loop"] == "1.8 ×" and numbers["Groups of samples"] == "6"


@pytest.mark.parametrize("overhead", [None, float("nan"), float("inf"), -2.0])
def test_an_overhead_that_was_not_measured_has_no_tile(overhead: float | None) -> None:
    assert "Time of the training loop" not in [n.name for n in key_numbers(fake_parts(overhead=overhead))]


def test_parts_below_the_gap_of_their_query_are_not_named() -> None:
    parts = fake_parts(2, 4, gap=0.0)
    parts.net[:, 2:] *= 0
    parts.net[:, 2] -= 1e-9 * parts.net[:, :2].sum((0, 1, 2))
    parts.outputs[1:] = parts.initial + parts.net.sum((1, 2)).cumsum(0)
    assert "weight decay (−" in " ".join(query_table(parts, None).rows[0])
    parts.outputs[-1, 0] *= 1.01
    assert query_table(parts, None).rows[0][3] == "none above the gap"
    assert "weight decay (−" in " ".join(query_table(parts, None).rows[1])  # another query, whose gap is smaller
    parts.net[:, 1] = parts.net[:, 2]
    assert "no group was against it by more than the gap" in headline(parts, 0, None)


def test_one_window_and_no_meta_and_no_change_make_a_page_too() -> None:
    for parts in (fake_parts(windows=1, queries=1), replace(fake_parts(), meta={}), unmoved_parts()):
        page = path_page(parts, {}, {})
        Page(page)
        assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", page[page.index("<main>") :].lower())
    assert "recorded in one window" in path_page(
        fake_parts(windows=1), {}, {"contributions": to_bytes(path_figures(fake_parts(windows=1))["shares"](), "png")}
    )


def test_names_from_outside_are_escaped() -> None:
    parts = fake_parts(2, names=["<script>alert(1)</script>", "a<b>&c"], stopped="<img src=http://x>")
    page = path_page(parts, {"checkpoint": {"name": "<b>"}}, {})
    assert Page(page).scripts == 0 and "<img src=http" not in page and "a&lt;b&gt;&amp;c" in page
