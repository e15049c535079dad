"""The book builds without a warning and without a network, and every page reads well.

Every page is opened in headless Chromium, on a desk and at a phone's width, where one is
installed. Only the first test runs elsewhere.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import weave

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"]
MAC_BROWSERS = ["/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"]

# Formulas that MathJax did not draw, or drew as an error, and TeX that never reached it.
UNDRAWN_MATHS = r"""() => {
  const undrawn = [...document.querySelectorAll('.math')]
    .filter(m => !m.querySelector('mjx-container'));
  const errors = [...document.querySelectorAll('mjx-merror')];
  const clone = document.querySelector('.bd-article, body').cloneNode(true);
  clone.querySelectorAll('code, pre, .math, script, style').forEach(e => e.remove());
  const raw = clone.textContent.match(/\$\$|\\(?:frac|sqrt|mathrm|begin|sum|left|text)\b/g) || [];
  return [...undrawn, ...errors].map(e => e.textContent.slice(0, 60)).concat(raw);
}"""
BROKEN_IMAGES = """async () => {
  const images = [...document.images];
  await Promise.all(images.map(i => { i.loading = 'eager'; return i.decode().catch(() => 0); }));
  return images.filter(i => !i.naturalWidth).map(i => i.src);
}"""
IMAGES_WITHOUT_WORDS = """() =>
  [...document.querySelectorAll('.bd-article img')].filter(i => !i.alt).map(i => i.src)"""
# Code of a notebook or of the landing page that a desk would have to wrap, and any block that is
# cut off.
WRAPPED = """() => [...document.querySelectorAll(
    '.bd-article .cell pre, #llama-edu .highlight-default pre, #llama-edu .highlight-python pre'
  )].filter(pre => {
    pre.style.whiteSpace = 'pre';
    const wide = pre.scrollWidth > pre.clientWidth + 1;
    pre.style.whiteSpace = '';
    return wide;
  }).map(pre => pre.textContent.trim().slice(0, 60))"""
CUT = """() => [...document.querySelectorAll('.bd-article pre')]
  .filter(pre => pre.scrollWidth > pre.clientWidth + 1)
  .map(pre => pre.textContent.trim().slice(0, 60))"""
SIDEWAYS = """() =>
  document.documentElement.scrollWidth - document.documentElement.clientWidth"""
# Formulas that fit and have a scroll bar all the same.
BARS = """() => [...document.querySelectorAll('.bd-article .math, .bd-article mjx-container')]
  .filter(m => /auto|scroll/.test(getComputedStyle(m).overflowX) && m.scrollWidth > m.clientWidth)
  .map(m => m.textContent.slice(0, 60))"""
# Figures are drawn with words of 9 points at 120 dots an inch: 15 pixels.
SMALL = """() => [...document.querySelectorAll('.bd-article img')]
  .filter(i => 15 * i.getBoundingClientRect().width / i.naturalWidth < 8)
  .map(i => i.alt.slice(0, 60))"""
BROKEN_NAMES = """() => [...document.querySelectorAll('.bd-article td code')]
  .filter(c => /^\\w+$/.test(c.textContent) && c.getClientRects().length > 1)
  .map(c => c.textContent)"""
# Words in the dark that are hardly darker or lighter than what they stand on.
FAINT = """() => {
  document.documentElement.dataset.theme = 'dark';
  const brush = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const painted = colours => {
    for (const colour of ['#fff', ...colours]) {
      brush.fillStyle = colour;
      brush.fillRect(0, 0, 1, 1);
    }
    const linear = [...brush.getImageData(0, 0, 1, 1).data].slice(0, 3)
      .map(v => v / 255).map(v => v < 0.04 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05;
  };
  const grounds = e => e ? [...grounds(e.parentElement), getComputedStyle(e).backgroundColor] : [];
  const faint = e => {
    const under = grounds(e), ground = painted(under);
    const words = painted([...under, getComputedStyle(e).color]);
    return Math.max(words, ground) / Math.min(words, ground) < 4.5;
  };
  return [...document.querySelectorAll('.bd-article *')]
    .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .filter(e => e.checkVisibility() && !e.closest('.math') && faint(e))
    .map(e => e.textContent.trim().slice(0, 60));
}"""


@pytest.fixture(scope="session")
def book(root, tmp_path_factory) -> Path:
    """The folder of the finished book."""
    out = tmp_path_factory.mktemp("book")
    command = [sys.executable, "-m", "sphinx", "-W", "-n", "--keep-going", "-q", "-c", "book"]
    command += ["-d", str(out / "doctrees"), ".", str(out / "html")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return out / "html"


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, the one that is installed; nothing is downloaded."""
    found = [path for path in map(shutil.which, BROWSERS) if path]
    found += [path for path in MAC_BROWSERS if Path(path).exists()]
    if not found:
        pytest.skip("no Chromium or Chrome is installed, so no page can be looked at")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        flags = ["--disable-gpu", "--disable-quic", "--no-first-run"]
        flags += ["--disable-background-networking", "--disable-component-update"]
        chromium = playwright.chromium.launch(
            executable_path=found[0], args=flags,
            ignore_default_args=["--hide-scrollbars"],  # most desks show them, and they take room
        )  # fmt: skip
        yield chromium
        chromium.close()


def complaints(browser, page_file: Path) -> list[str]:
    """What is wrong with one page: on a desk, and at the width of a phone."""
    wrong = []
    page = browser.new_page(viewport=DESK)
    page.on("console", lambda m: wrong.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))

    def only_from_disk(route):
        if route.request.url.startswith(("file:", "data:", "blob:")):
            return route.continue_()
        wrong.append(f"network: {route.request.url}")
        return route.abort()

    page.route("**/*", only_from_disk)
    page.goto(page_file.as_uri())
    page.evaluate("() => window.MathJax?.startup?.promise")
    wrong += [f"broken image: {source[:80]}" for source in page.evaluate(BROKEN_IMAGES)]
    wrong += [f"image without words: {s[:80]}" for s in page.evaluate(IMAGES_WITHOUT_WORDS)]
    wrong += [f"undrawn maths: {tex}" for tex in page.evaluate(UNDRAWN_MATHS)]
    wrong += [f"code that does not fit: {code}" for code in page.evaluate(WRAPPED)]
    wrong += [f"formula with a scroll bar: {tex}" for tex in page.evaluate(BARS)]
    wrong += [f"faint in the dark: {words}" for words in page.evaluate(FAINT)]
    page.set_viewport_size(PHONE)
    page.evaluate("() => document.querySelectorAll('details').forEach(d => { d.open = true; })")
    wrong += [f"code that is cut off: {code}" for code in page.evaluate(CUT)]
    wrong += [f"figure too small to read: {alt}" for alt in page.evaluate(SMALL)]
    wrong += [f"name broken in a table: {name}" for name in page.evaluate(BROKEN_NAMES)]
    if (sideways := page.evaluate(SIDEWAYS)) > 0:
        wrong.append(f"{sideways} pixels of sideways scroll on a phone")
    page.close()
    return wrong


def test_the_book_builds_and_holds_every_notebook_and_module(book, root):
    for folder in ("chapters", "solutions"):
        for notebook in root.glob(f"{folder}/*.ipynb"):
            assert (book / folder / f"{notebook.stem}.html").exists()
    for module in root.glob("llama_edu/[a-z]*.py"):
        assert (book / "book" / "reference" / f"{module.stem}.html").exists()


def read_page(book: Path, name: str) -> str:
    return (book / name).read_text(encoding="utf-8")


def test_a_chapter_and_what_it_builds_lead_to_each_other(book):
    chapter = read_page(book, "chapters/01_rmsnorm.html")
    assert 'href="../book/reference/layers.html#llama_edu.layers.RMSNorm"' in chapter
    reference = read_page(book, "book/reference/layers.html")
    assert 'href="../../chapters/01_rmsnorm.html"' in reference
    assert "[source]" in reference


def test_the_first_use_of_a_word_leads_to_the_glossary(book):
    chapter = read_page(book, "chapters/01_rmsnorm.html")
    assert chapter.count('href="../book/glossary.html#layernorm"') == 1
    assert 'id="layernorm"' in read_page(book, "book/glossary.html")


def test_a_search_finds_chapters_and_not_their_solved_copies(book):
    index = json.loads(read_page(book, "searchindex.js").removeprefix("Search.setIndex(")[:-1])
    places = index["terms"]["layernorm"]
    found = {index["docnames"][i] for i in (places if isinstance(places, list) else [places])}
    assert "chapters/01_rmsnorm" in found
    assert not any(name.startswith("solutions/") for name in found)


def test_a_page_says_what_it_is_about(book):
    page = read_page(book, "chapters/01_rmsnorm.html")
    assert '<meta name="description" content="A network of eighty layers works only if' in page
    assert 'property="og:image"' in page
    assert "favicon.svg" in page


def test_every_command_is_documented_by_its_own_help(book):
    page = read_page(book, "book/reference/commands.html")
    for name in ("info", "generate", "chat", "convert", "train", "progress", "check-claims"):
        assert f"llama-edu {name}" in page


def test_every_word_of_the_glossary_is_a_word_of_the_chapters(root):
    chapters = " ".join(path.read_text(encoding="utf-8").lower()
                        for path in root.glob("chapters/src/*.py"))  # fmt: skip
    words = weave.words()
    assert len(words) > 50
    used = {to for word, to in words.items() if word.lower() in chapters}
    assert {*words.values()} - used == set()


def test_every_page_reads_well_on_a_desk_and_on_a_phone(book, browser):
    # _modules holds the package's own source lines, as Sphinx prints them.
    pages = sorted(path for path in book.rglob("*.html")
                   if not {"_static", "_modules"} & {*path.parts})
    assert len(pages) > 5
    wrong = {page.relative_to(book).as_posix(): complaints(browser, page) for page in pages}
    assert {page: found for page, found in wrong.items() if found} == {}


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ('<img src="nowhere.png" alt="A line.">', "broken image"),
        ('<article class="bd-article"><img alt="" src="data:,"></article>', "image without words"),
        ('<span class="math">\\(x\\)</span>', "undrawn maths"),
        ("<p>the root \\sqrt{x} of it</p>", "undrawn maths"),
        ("<p>$$x$$</p>", "undrawn maths"),
        ("<script>throw new Error('no')</script>", "script: no"),
        ("<script>console.error('bad')</script>", "console: bad"),
        ('<script src="https://example.org/x.js"></script>', "network: https://example.org/x.js"),
        ('<div style="width: 500px">wide</div>', "pixels of sideways scroll"),
        ('<article class="bd-article" style="width: 600px; overflow: hidden"><div class="cell">'
         f'<pre>{"x" * 200}</pre></div></article>', "code that does not fit: xxx"),
        (f'<article class="bd-article"><pre style="overflow: hidden">{"x" * 200}</pre></article>',
         "code that is cut off: xxx"),
        (f'<section id="llama-edu"><div class="highlight-default"><pre>{"x" * 300}</pre></div>'
         "</section>", "code that does not fit: xxx"),
        ('<article class="bd-article"><span class="math" style="display: inline-block; width: 9px; '
         'overflow: auto">long<mjx-container></mjx-container></span></article>',
         "formula with a scroll bar: long"),
        ('<article class="bd-article"><p style="color: #ccc">pale</p></article>',
         "faint in the dark: pale"),
        ('<article class="bd-article"><img alt="A line." width="350" src="data:image/svg+xml,'
         "%3Csvg xmlns='http://www.w3.org/2000/svg' width='781' height='9'/%3E\"></article>",
         "figure too small to read: A line."),
        ('<article class="bd-article"><table><td style="width: 9px; overflow-wrap: anywhere"><code>'
         "n_kv_heads</code></table></article>", "name broken in a table: n_kv_heads"),
    ],
)
def test_a_page_that_reads_badly_is_found(browser, tmp_path, body, complaint):
    page = tmp_path / "page.html"
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    page.write_text(f"<!doctype html>{head}<body>{body}</body>", encoding="utf-8")
    assert any(wrong.startswith(complaint) or complaint in wrong
               for wrong in complaints(browser, page))
    assert complaints(browser, page)


def test_a_page_that_reads_well_passes(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><meta charset='utf-8'><p>Well.</p>", encoding="utf-8")
    assert complaints(browser, page) == []
