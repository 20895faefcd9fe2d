"""The page in a real browser: nothing sticks out of a phone's screen, and nothing is fetched."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from genkernel.gan.verdict import Verdict
from genkernel.plots import diffusion_figures, gan_figures, to_bytes
from genkernel.report import diffusion_page, gan_page
from genkernel.runs import Provenance
from tests.diffusion.fake_result import fake_result
from tests.gan.fake_result import planar_result
from tests.report.test_gan_page import evidence, judged

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--virtual-time-budget=5000", "--window-size=1300,900"),
]

# a frame is as narrow as it is told to be; the browser's own window is not
FRAME = """<body><p id="found"></p><iframe src="page.html" style="width:{width}px;height:3000px;border:0"></iframe>
<script>addEventListener("message", event => document.getElementById("found").textContent = event.data)</script>
</body>"""
PROBE = """<script>addEventListener("load", () => parent.postMessage([
  document.documentElement.scrollWidth, innerWidth, [...document.images].filter(i => i.naturalWidth == 0).length,
  performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length].join(" "), "*"))</script>"""

pytestmark = [pytest.mark.browser, pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome")]


@pytest.fixture(scope="module")
def diffusion() -> str:
    result = fake_result()
    result.layers[0].name = "a_very_long_layer_name." * 8
    result.meta["notes"] = ["x" * 300]
    figures = {name: to_bytes(draw(), "png") for name, draw in diffusion_figures(result).items()}
    return diffusion_page(result, Provenance(arguments={"levels": 12}).complete().to_json(), figures)


@pytest.fixture(scope="module")
def gan() -> str:
    figures = {name: to_bytes(draw(), "png") for name, draw in gan_figures(planar_result()).items()}
    result = copy.deepcopy(planar_result())
    result.clusters.names[0] = "a_very_long_class_name." * 8
    result.meta["generator"]["notes"] = result.missing = ["x" * 300]
    found = [evidence("an_indicator_with_a_long_name " * 3, source="a long sentence on where it is from " * 4)] * 3
    verdict = Verdict("watch", ["y" * 300], found)
    return gan_page(judged(result, verdict), Provenance(arguments={"latents": 12}).complete().to_json(), figures)


@pytest.mark.parametrize("width", [360, 380, 768, 1200])
@pytest.mark.parametrize("kind", ["diffusion", "gan"])
def test_page_fits_and_fetches_nothing(request: pytest.FixtureRequest, tmp_path: Path, kind: str, width: int) -> None:
    page: str = request.getfixturevalue(kind)
    (tmp_path / "page.html").write_text(page.replace("</body>", PROBE + "</body>"))
    (tmp_path / "frame.html").write_text(FRAME.format(width=width))
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    dom = subprocess.run(
        [*command, (tmp_path / "frame.html").as_uri()], capture_output=True, text=True, timeout=120
    ).stdout
    found = re.search(r'id="found">(\d+) (\d+) (\d+) (\d+)<', dom)
    assert found, dom[:300]
    needed, seen, broken, fetched = map(int, found.groups())
    assert seen == width and needed <= width
    assert broken == 0 and fetched == 0
