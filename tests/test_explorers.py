"""An explorer is one small page that needs nothing, and its numbers are the package's."""

import json
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
import torch

from llama_edu import explorers
from llama_edu.config import LLAMA_3_1_SCALING, RopeScaling
from llama_edu.family.releases import RELEASES
from llama_edu.layers import rope_frequencies, rope_table, rotate

LARGEST = 20_000        # bytes; the page is stored in every notebook that shows it
PAGE = explorers.show("rope").page
FORMULAS = re.search(r'<script id="formulas">(.*?)</script>', PAGE, re.S)[1]
SHAPES = sorted({(r.config.head_dim, r.config.rope_theta,
                  r.config.rope_scaling.factor if r.config.rope_scaling else 1.0)
                 for r in RELEASES})
DISTANCES = [0, 1, 7, 64, 1000]
CHROMIUM_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                  "--disable-background-networking", "--disable-component-update",
                  "--disable-sync", "--virtual-time-budget=2000"]


def in_node(expression: str):
    """The value of a JavaScript expression over the page's own formulas."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the page's formulas cannot be run")
    run = subprocess.run([node, "-e", f"{FORMULAS}\nconsole.log(JSON.stringify({expression}))"],
                         capture_output=True, text=True, check=True, timeout=60)
    return json.loads(run.stdout)


def in_chromium(page: str, folder: Path) -> str:
    """The page's HTML after its scripts have run."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None or sys.platform != "linux":
        pytest.skip("chromium is not installed: the page cannot be opened")
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    run = subprocess.run([browser, *CHROMIUM_FLAGS, f"--user-data-dir={folder / 'profile'}",
                          "--dump-dom", file.as_uri()],
                         capture_output=True, text=True, check=True, timeout=120)
    return run.stdout


def scaling(factor: float) -> RopeScaling | None:
    return None if factor == 1 else RopeScaling(
        factor, low_freq_factor=LLAMA_3_1_SCALING.low_freq_factor,
        high_freq_factor=LLAMA_3_1_SCALING.high_freq_factor,
        original_context=LLAMA_3_1_SCALING.original_context)


def test_the_rope_explorers_frequencies_are_the_packages():
    assert len(SHAPES) >= 6
    theirs = in_node(f"{json.dumps(SHAPES)}.map(shape => frequencies(...shape))")
    for (head_dim, theta, factor), row in zip(SHAPES, theirs, strict=True):
        # rtol: the package works in float32 and takes the power of numbers up to 1e6, which costs
        # about fourteen roundings of 6e-8; the page works in float64
        torch.testing.assert_close(torch.tensor(row), rope_frequencies(
            head_dim, theta, scaling(factor)), rtol=2e-6, atol=0)


def test_the_rope_explorers_bands_are_those_of_the_chapter():
    counts = in_node("[128, 64].map(d => ['kept', 'blended', 'divided'].map("
                     "name => bands(d, 5e5).filter(each => each === name).length))")
    assert counts == [[29, 6, 29], [15, 3, 14]]


def test_the_rope_explorers_score_is_that_of_a_rotated_pair_of_equal_vectors():
    theirs = in_node(f"{DISTANCES}.map(d => meanScore(frequencies(128, 5e5, 8), d))")
    x = torch.tensor([1.0, 0.0] * 64)
    away = rotate(x.expand(1, 1, len(DISTANCES), 128), *rope_table(
        rope_frequencies(128, 5e5, LLAMA_3_1_SCALING), torch.tensor(DISTANCES)))
    # atol: a float32 angle of 1000 radians is rounded by 3e-5
    torch.testing.assert_close(torch.tensor(theirs), (away[0, 0] @ x) / 64, rtol=0, atol=1e-4)


def test_the_rope_explorer_starts_on_llama_3_1_and_draws_without_an_error(tmp_path):
    watched = PAGE.replace("<head>", "<head><script>addEventListener('error', e => "
                           "document.documentElement.dataset.error = e.message);</script>")
    dom = in_chromium(watched, tmp_path)
    assert "data-error" not in dom
    said = unescape(re.search(r'<p id="said"[^>]*>(.*?)</p>', dom, re.S)[1])
    frequency = rope_frequencies(128, 5e5, LLAMA_3_1_SCALING)[20].item()
    assert f"turns {frequency:.3g} radians per token" in said
    assert "kept by the 3.1 rule" in said
    for chart in ("clock", "scores", "waves"):
        drawn = re.search(rf'<svg id="{chart}".*?</svg>', dom, re.S)[0]
        assert "NaN" not in drawn
        assert drawn.count("<text") >= 4


@pytest.mark.parametrize("error", ["nosuchfunction();", "throw new Error('broken');"])
def test_an_error_on_the_page_would_be_seen(tmp_path, error):
    watched = ("<html><head><script>addEventListener('error', e => "
               "document.documentElement.dataset.error = e.message);</script></head>"
               f"<body><script>{error}</script></body></html>")
    assert "data-error" in in_chromium(watched, tmp_path)


def test_a_page_is_small_and_asks_the_network_for_nothing():
    assert len(PAGE.encode()) <= LARGEST
    assert re.findall(r"https?:|\bsrc=|@import|url\(|<link|fetch\(|\bimport\b", PAGE) == []


def test_every_control_of_a_page_has_a_label_and_the_values_are_announced():
    controls = re.findall(r'<(?:input|select)[^>]*\bid="(\w+)"', PAGE)
    assert len(controls) == 6
    assert sorted(re.findall(r'<label for="(\w+)"', PAGE)) == sorted(controls)
    assert 'aria-live="polite"' in PAGE
    assert "<noscript>" in PAGE


def test_a_notebook_gets_the_whole_page_in_a_frame_of_its_own():
    shown = explorers.show("rope")._repr_html_()
    assert unescape(re.search(r'srcdoc="(.*?)"', shown, re.S)[1]) == PAGE
    assert not shown.startswith("<iframe")      # IPython warns of outputs that begin so
    assert "0x" not in repr(explorers.show("rope"))


def test_an_unknown_explorer_is_an_error_that_names_those_there_are():
    with pytest.raises(KeyError, match="no explorer is called 'rop'.*Known are: .*rope"):
        explorers.show("rop")
