"""The page of a run: self-contained, escaped, small, and nothing on it that is not in the result."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from genkernel.diffusion.results import DiffusionResult
from genkernel.plots import diffusion_figures, to_bytes
from genkernel.report import diffusion_page
from genkernel.report.captions import CAPTIONS, SECTIONS
from genkernel.report.diffusion import TOP_LAYERS, TOP_PAIRS, interference_tables, key_numbers, layer_table, level_table
from genkernel.runs import Provenance
from tests.diffusion.fake_result import fake_result

VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """Checks that tags are balanced and collects what a browser would fetch."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.images: list[dict[str, str | None]] = []
        self.scripts = 0
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.fetched += [v for k, v in attrs if k in ("src", "srcset", "poster", "data") and v]
        if tag == "link" and found.get("href"):
            self.fetched.append(found["href"] or "")
        if tag == "a":
            self.links.append(found["href"] or "")
        if tag == "img":
            self.images.append(found)
        if found.get("id"):
            self.ids.add(found["id"] or "")
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes <{self.open[-1] if self.open else None}>"
        self.open.pop()


@pytest.fixture(scope="module")
def drawn() -> dict[str, bytes]:
    return {name: to_bytes(draw(), "png") for name, draw in diffusion_figures(fake_result()).items()}


def provenance() -> dict[str, object]:
    return (
        Provenance(
            arguments={"levels": 12, "checkpoint": "runs/ddpm"},
            seed=0,
            checkpoint={"name": "runs/ddpm", "sha256": "c" * 64},
            data={"source": "x.npz:x", "description": "8 images", "sha256": "d" * 64, "conversions": ["grey repeated"]},
        )
        .complete()
        .to_json()
    )


@pytest.fixture(scope="module")
def text(drawn: dict[str, bytes]) -> str:
    return diffusion_page(fake_result(), provenance(), drawn)


def test_page_fetches_nothing(text: str) -> None:
    page = Page(text)
    assert page.fetched and all(url.startswith("data:") for url in page.fetched)
    assert page.scripts == 0
    assert not re.search(r"@import|url\((?!data:)", text)


def test_links_lead_to_the_page_or_to_files_beside_it(text: str) -> None:
    page = Page(text)
    for link in page.links:
        assert (link.startswith("#") and link[1:] in page.ids) or re.fullmatch(r"figures/\w+\.(png|svg)", link), link


def test_page_is_small_and_fits_a_phone(text: str) -> None:
    assert len(text.encode()) < 3e6
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert "prefers-color-scheme: dark" in text


def test_every_figure_is_there_once_with_text_and_size(text: str, drawn: dict[str, bytes]) -> None:
    page = Page(text)
    assert len(page.images) == len(drawn)
    for image in page.images:
        assert image["alt"] and int(image["width"] or 0) > 0 and int(image["height"] or 0) > 0
    inside = {base64.b64decode((image["src"] or "").split(",")[1]) for image in page.images}
    assert inside == set(drawn.values())


def test_every_figure_belongs_to_a_section_and_has_a_caption(drawn: dict[str, bytes]) -> None:
    placed = [name for section in SECTIONS for name in section.figures]
    assert sorted(placed) == sorted(drawn)
    assert all(CAPTIONS[name].read and CAPTIONS[name].alt for name in placed)


def test_the_reading_comes_first(text: str) -> None:
    sentence = fake_result().meta["reading"][0].replace(" ± ", "\u00a0±\u00a0").replace("'", "&#39;")
    assert -1 < text.index(sentence) < text.index("<figure") and text.index(sentence) < text.index('class="numbers"')


def test_notes_conversions_provenance_and_citation(text: str) -> None:
    for words in (
        "arrived in train mode; evaluated in eval mode",
        "Images: grey repeated",
        "c" * 64,
        "d" * 64,
        "@software{genkernel",
        "How to cite",
        "What it does not say",
        "68 parameter uses captured",
    ):
        assert words in text, words


def test_names_from_outside_are_escaped(drawn: dict[str, bytes]) -> None:
    result = fake_result()
    result.meta["notes"] = ["<script>alert(1)</script>"]
    result.layers[0].name = "a<b>&c"
    record = provenance() | {"checkpoint": {"name": "<img src=http://x>", "sha256": None}}
    text = diffusion_page(result, record, drawn)
    assert Page(text).scripts == 0 and "<img src=http" not in text and "a&lt;b&gt;&amp;c" in text


def test_bare_result_makes_a_page(drawn: dict[str, bytes]) -> None:
    result = fake_result(controls=False)
    result.interference = result.weighting = result.stages = None
    result.layers = []
    result.meta = {}
    few = {name: drawn[name] for name in ("kernel", "profile")}
    text = diffusion_page(result, {}, few)
    assert "states no reading" in text and len(Page(text).images) == 2


# ------------------------------------------------------------------------- numbers


def values(result: DiffusionResult) -> dict[str, str]:
    return {item.name: item.value for item in key_numbers(result)}


def test_key_numbers_are_those_of_the_result() -> None:
    result = fake_result()
    result.locality.index, result.locality.index_stderr = 0.3123, 0.0213
    result.locality.by_timestep.half_width = None
    found = values(result)
    assert found["Locality index, cosine kernel"] == "0.312 ± 0.021"
    assert found["Half-width (timesteps)"] == "none"
    assert result.interference is not None
    assert found["Conflicting pairs of levels"] == f"{len(result.interference.conflicting)} of 66"
    assert found["Stages"] == "3"


def test_level_table_has_a_row_per_level_and_says_none() -> None:
    table = level_table(fake_result())
    assert len(table.rows) == 12 and all(len(row) == len(table.head) for row in table.rows)
    assert table.rows[-1][4:6] == ["none", "none"]


def test_long_tables_are_cut_and_say_so() -> None:
    result = fake_result(24)
    result.layers = [result.layers[0]] * 40
    assert len(layer_table(result).rows) == TOP_LAYERS and "25 further layers" in layer_table(result).note
    conflicts, what_if = interference_tables(result)
    assert result.interference is not None and len(result.interference.conflicting) > TOP_PAIRS
    assert len(conflicts.rows) == TOP_PAIRS and "more are in summary.json" in conflicts.note
    worst = min(value for _, _, value, _ in result.interference.conflicting)
    assert conflicts.rows[0][2].startswith(f"{worst:.2f}".replace("-", "−"))
    assert len(what_if.rows) == 24 and what_if.head == ["t", "uniform", "min-SNR-5", "P2"]


def test_missing_values_read_as_words() -> None:
    result = fake_result()
    result.loss_mean[0], result.locality.index_rows = np.nan, None
    row = level_table(result).rows[0]
    assert row[2] == "n/a" and row[3] == "n/a"
