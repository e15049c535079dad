"""An explorer is one small page that needs nothing, and its numbers are the package's."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
import torch

from llama_edu import explorers, sampling
from llama_edu.config import LLAMA_3_1_SCALING, ModelConfig, RopeScaling
from llama_edu.family.releases import RELEASES
from llama_edu.layers import rope_frequencies, rope_table, rotate
from llama_edu.model import Llama

LARGEST = 20_000        # bytes without its data; the page is stored in every notebook that shows it
RNG = torch.Generator().manual_seed(0)
QUERY, KEY = torch.randn(2, 64, generator=RNG)
PIECES = ["<s>", " the", " cat", "\n", "</script>", "<!--<script>"]
WEIGHTS = {f"head {i}": torch.rand(6, 6, generator=RNG).tril().log().softmax(-1) for i in (1, 2, 3)}
LOGITS = {name: torch.randn(49_000, generator=RNG) * scale
          for name, scale in (("sure", 5), ("open", 1))}
CONFIG = ModelConfig(dim=24, n_layers=2, n_heads=1, n_kv_heads=1, hidden_dim=20, norm_eps=1e-2,
                     vocab_size=16, rope_theta=1e4, max_seq_len=32)


def memory_game() -> tuple[Llama, dict[int, torch.Tensor]]:
    """A model with weights that are far from those of its first step, and texts by distance."""
    model, texts = Llama(CONFIG), {}
    for weight in model.parameters():
        size = 1 if weight.dim() == 1 else 2 * weight.shape[1] ** -0.5
        weight.data = size * torch.randn(weight.shape, generator=RNG)
    for distance in (4, 12, 24):
        names, numbers = torch.randint(8, (2, 3, 16), generator=RNG)
        texts[distance] = torch.stack([names, numbers + 8], -1).flatten(1)
    return model, texts


GAME = memory_game()
ROWS = [dict(zip(("shared", "bits", "nats", "answer"), row, strict=True)) for row in (
    ("row", "8", "3.262", "Paris."), ("row", "4", "3.883", "Par</script>is"),
    ("row", "2", "16.572", "???"), ("GPTQ", "4", "3.482", "Paris, a city"), ("x", "1", "9", "no"))]
PAGES = {
    "rope": explorers.rope(),
    "rope of a model": explorers.rope(QUERY, KEY, theta=1e5),
    "attention": explorers.attention(PIECES, WEIGHTS),
    "sampling": explorers.sampling(LOGITS, lambda token: f"<{token}>"),
    "memory": explorers.memory(*GAME, context=8),
    "bits": explorers.bits(ROWS, {"row": "a row", "GPTQ": "by GPTQ"}),
}
each_page = pytest.mark.parametrize("page", [each.page for each in PAGES.values()], ids=list(PAGES))
SHAPES = sorted({(r.config.head_dim, r.config.rope_theta,
                  r.config.rope_scaling.factor if r.config.rope_scaling else 1.0)
                 for r in RELEASES})
DISTANCES = [0, 1, 7, 64, 1000]
# As much of a browser as the pages use.
BROWSER = """
const made = {};
const element = id => made[id] ??= {
  id, value: "", max: "", textContent: "", innerHTML: "", dataset: {}, options: [],
  said: {}, heard: {}, offsetHeight: 100, classList: { toggle() {} },
  add(option) { this.options.push(option); },
  setAttribute(name, words) { this.said[name] = words; },
  addEventListener(name, act) { (this.heard[name] ??= []).push(act); } };
const found = id => { if (!known.has(id)) throw Error(id); return element(id); };
globalThis.document = { getElementById: found,
                        documentElement: element("html"), body: element("body") };
globalThis.window = { frameElement: null };
globalThis.Option = class { constructor(text, value) { this.text = text; this.value = value; } };
globalThis.ResizeObserver = class { observe() {} };
globalThis.setTimeout = act => act();
globalThis.matchMedia = () => ({ matches: false, addEventListener() {} });
const move = (id, value) => {
  element(id).value = String(value);
  for (const name of ["input", "change"]) for (const act of element(id).heard[name] ?? []) act({});
};
"""
CHROMIUM_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                  "--disable-background-networking", "--disable-component-update",
                  "--disable-sync", "--virtual-time-budget=2000"]


def formulas(name: str) -> str:
    return re.search(r'<script id="formulas">(.*?)</script>', PAGES[name].page, re.S)[1]


def in_node(script: str, value: str):
    """The value of a JavaScript expression after a script has run."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the page's script cannot be run")
    run = subprocess.run([node, "-"], input=f"{script}\nconsole.log(JSON.stringify({value}))",
                         capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr[-500:]
    return json.loads(run.stdout)


def opened(name: str, *moves: tuple[str, object], value: str = 'element("said").textContent'):
    """A value after the whole page was opened and controls were moved, in a browser of ours."""
    page = PAGES[name].page
    ids = re.findall(r'\bid="([\w-]+)"', page)
    start = [f'element("{id}").value = "{held}";' for id, held in
             re.findall(r'<input[^>]*\bid="(\w+)"[^>]*\bvalue="(\d+)"', page)]
    start += [f'element("{id}").value = "{held}";' for id, held in
              re.findall(r'<select[^>]*\bid="(\w+)"[^>]*>\s*<option value="(\w*)"', page)]
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page, re.S)
    moved = [f"move({json.dumps(id)}, {json.dumps(to)});" for id, to in moves]
    return in_node("\n".join([f"const known = new Set({json.dumps(ids)});", BROWSER, *start,
                              *scripts, *moved]), value)


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
    theirs = in_node(formulas("rope"), f"{json.dumps(SHAPES)}.map(shape => frequencies(...shape))")
    for (head_dim, theta, factor), row in zip(SHAPES, theirs, strict=True):
        # rtol: the package works in float32 and takes the power of numbers up to 1e6, which costs
        # about fourteen roundings of 6e-8; the page works in float64
        torch.testing.assert_close(torch.tensor(row), rope_frequencies(
            head_dim, theta, scaling(factor)), rtol=2e-6, atol=0)


def test_the_rope_explorers_bands_are_those_of_the_chapter():
    counts = in_node(formulas("rope"), "[128, 64].map(d => ['kept', 'blended', 'divided'].map("
                     "name => bands(d, 5e5).filter(each => each === name).length))")
    assert counts == [[29, 6, 29], [15, 3, 14]]


def test_the_rope_explorers_score_is_that_of_a_rotated_pair_of_equal_vectors():
    theirs = in_node(formulas("rope"),
                     f"{DISTANCES}.map(d => meanScore(frequencies(128, 5e5, 8), d))")
    x = torch.tensor([1.0, 0.0] * 64)
    away = rotate(x.expand(1, 1, len(DISTANCES), 128), *rope_table(
        rope_frequencies(128, 5e5, LLAMA_3_1_SCALING), torch.tensor(DISTANCES)))
    # atol: a float32 angle of 1000 radians is rounded by 3e-5
    torch.testing.assert_close(torch.tensor(theirs), (away[0, 0] @ x) / 64, rtol=0, atol=1e-4)


def test_the_rope_explorer_starts_on_llama_3_1_and_draws_without_an_error(tmp_path):
    watched = PAGES["rope"].page.replace(
        "<head>", "<head><script>addEventListener('error', e => "
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


@each_page
def test_a_page_is_small_and_asks_the_network_for_nothing(page):
    without_data = re.sub(r"const DATA = .*", "", page)
    assert len(without_data.encode()) <= LARGEST
    assert re.findall(r"https?:|\bsrc=|@import|url\(|<link|fetch\(|\bimport\b", page) == []
    assert "/* common" not in page


@each_page
def test_every_control_of_a_page_has_a_label_and_the_values_are_announced(page):
    controls = re.findall(r'<(?:input|select)[^>]*\bid="(\w+)"', page)
    assert len(controls) >= 2
    assert sorted(re.findall(r'<label for="(\w+)"', page)) == sorted(controls)
    assert 'aria-live="polite"' in page
    assert "<noscript>" in page


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_without_an_error_and_speaks(name):
    assert len(opened(name)) > 60
    for drawn in opened(name, value="Object.values(made).map(each => each.innerHTML)"):
        assert not re.search(r"NaN|undefined|Infinity", drawn)


def test_a_fault_of_a_script_would_be_seen():
    with pytest.raises(AssertionError, match="nosuchfunction"):
        in_node("nosuchfunction();", "1")


# A real query and key


def test_the_score_of_a_real_query_and_key_is_the_packages():
    """At every distance, with the rotations of the model and with scaled ones."""
    for theta, factor in ((1e5, 1), (5e5, 32)):
        theirs = in_node(formulas("rope"), f"{DISTANCES}.map(d => realScore("
                         f"{_data('rope of a model')}, frequencies(64, {theta}, {factor}), d))")
        freqs = rope_frequencies(64, theta, scaling(factor))
        away = rotate(QUERY.expand(1, 1, len(DISTANCES), 64),
                      *rope_table(freqs, torch.tensor(DISTANCES)))
        # atol: the page's products have four decimals, 32 of them; 1000 radians in float32
        torch.testing.assert_close(torch.tensor(theirs), away[0, 0] @ KEY / 8, rtol=0, atol=4e-3)


def test_choosing_the_real_vectors_sets_their_model():
    said = opened("rope of a model", ("vectors", "real"))
    assert "of the score" in said
    assert "(head_dim 64)" in said
    said = opened("rope of a model", ("vectors", "real"), ("preset", "Llama 3"))
    assert "the mean of all pairs" in said      # the vectors do not fit a head of 128


def _data(name: str) -> str:
    return re.search(r"const DATA = (.*);", PAGES[name].page)[1]


# The memory game

HANDS = {
    "as trained": (1e4, None), "larger theta": (1e4 * 4 ** (24 / 22), None),
    "3.1 rule": (1e4, (4.0, 1.0, 4.0)), "interpolated": (1e4, (4.0, 7.75, 8.0)),
    "own": (2e3, (3.0, 0.25, 1.0)),
}


def packed(name: str) -> torch.Tensor:
    """A matrix of the page, as its text says: two digits for a row's scale, then the numbers."""
    held = json.loads(_data("memory"))["matrices"][name]
    digits = torch.tensor([explorers.DIGITS.index(digit) for digit in held["rows"]]).double()
    scales, numbers = digits.view(-1, held["columns"] + 2).split([2, held["columns"]], 1)
    return held["unit"] * (scales @ torch.tensor([64.0, 1.0]).double())[:, None] * (numbers - 31)


def of_the_page(theta: float, rule: tuple | None) -> Llama:
    """The package's model with the page's numbers, under other rotations."""
    scaling = rule and RopeScaling(rule[0], low_freq_factor=rule[1], high_freq_factor=rule[2],
                                   original_context=8)
    model = Llama(replace(CONFIG, rope_theta=theta, rope_scaling=scaling)).double()
    for name, weight in model.named_parameters():
        weight.data.fill_(1) if "norm" in name else weight.data.copy_(torch.eye(*weight.shape))
    one, two = model.layers
    model.tok_embeddings.weight.data = packed("table")
    back = torch.linalg.pinv(one.attention_norm(packed("table")).detach())  # its rows are free
    for part, name in ((one.attention.wq, "queries"), (one.attention.wk, "keys"),
                       (one.attention.wo, "moves")):
        part.weight.data = (back @ packed(name)).T
    for part, name in ((two.attention.wq, "wq"), (two.attention.wk, "wk"),
                       (two.attention.wo, "wov"), (model.output, "output")):
        part.weight.data = packed(name)
    for i, layer in enumerate((one, two), start=1):
        for part, name in (("w1", "gate"), ("w3", "up"), ("w2", "down")):
            getattr(layer.feed_forward, part).weight.data = packed(f"{name}{i}")
    return model


def _with_hands(frequencies: str) -> str:
    """A script in which `m` is the page's model, and `hands` its rotations up to 32 tokens."""
    return (f"const DATA = {_data('memory')};{formulas('memory')}\n"
            f"const m = unpacked(DATA), hands = turned(frequencies({frequencies}), 32);")


@torch.no_grad()
@pytest.mark.parametrize("hands", HANDS.values(), ids=list(HANDS))
def test_the_memory_explorer_answers_as_the_package_does(hands):
    theta, rule = hands
    factor, low, high = rule or (1, 1, 4)
    tokens = GAME[1][4][:, :-1]
    theirs = in_node(
        _with_hands(f"24, {theta}, {factor}, {{ low: {low}, high: {high}, context: 8 }}"),
        "DATA.texts[4].map(text => [...answer("
        "m, firstHead(m, hands), hands, pairs(text).slice(0, -1)).logits])")
    # rtol, atol: the package's angles are float32, and the page's float64
    torch.testing.assert_close(torch.tensor(theirs).double(),
                               of_the_page(theta, rule)(tokens)[:, -1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_memory_explorer_shows_where_the_heads_look():
    """The mean weight of the first head on the token before, of the second on the right number."""
    looks, model = [], of_the_page(*HANDS["3.1 rule"])
    hands = rope_table(rope_frequencies(24, 1e4, model.config.rope_scaling), torch.arange(31))

    def look(part: torch.nn.Module, given: tuple, _: object) -> None:
        q, k = (rotate(w(given[0])[:, None], *hands)[:, 0] for w in (part.wq, part.wk))
        looks.append((q @ k.mT / 24 ** 0.5 - torch.ones(31, 31).triu(1) * 1e9).softmax(-1))

    for layer in model.layers:
        layer.attention.register_forward_hook(look)
    model(GAME[1][12][:, :-1])
    theirs = in_node(
        _with_hands("24, 1e4, 4, { low: 1, high: 4, context: 8 }"),
        "asked(m, firstHead(m, hands), hands, DATA.texts[12], 12)")
    before = looks[0].diagonal(-1, 1, 2)[:, 0::2].mean().item()      # numbers on their names
    assert theirs["before"] == pytest.approx(before, rel=1e-3)
    # the last name is at 30, the same name 12 before at 18, its number at 19
    assert theirs["found"] == pytest.approx(looks[1][:, 30, 19].mean().item(), rel=1e-3)


@torch.no_grad()
def test_the_memory_explorer_counts_right_answers_of_every_length():
    for step, length in ((0, 8), (1, 16), (2, 32)):
        said = opened("memory", ("length", step), ("way", "3.1 rule"))
        model = of_the_page(*HANDS["3.1 rule"])
        for distance, tokens in GAME[1].items():
            if distance < length:
                answers = model(tokens[:, -length:-1])[:, -1].argmax(-1)
                right = int((answers == tokens[:, -1]).sum())
                assert f"{right} at distance {distance}" in said
            else:
                assert f"at distance {distance}" not in said


def test_the_ways_of_the_memory_explorer_set_its_sliders():
    ids = ["theta-value", "factor-value", "low-value", "high-value"]
    shown = f"{ids}.map(id => String(element(id).textContent))"
    assert opened("memory", value=shown) == ["10,000", "4", "1", "4"]
    assert opened("memory", ("way", "larger theta"), value=shown)[:2] == [
        f"{1e4 * 4 ** (24 / 22):,.0f}", "1"]
    said = opened("memory", ("way", "interpolated"))
    assert "hands kept: 0, blended: 0, divided by 4: 12" in said


def test_there_is_always_a_band_between_the_two_bounds():
    held = '[element("low").value, element("high").value].map(Number)'
    assert opened("memory", ("low", 20), value=held) == [20, 21]
    assert opened("memory", ("high", 2), value=held) == [1, 2]
    assert opened("memory", ("low", 20), value='element("way").value') == ""


def test_a_weight_of_the_memory_explorer_is_rounded_by_half_a_step_at_most():
    table = GAME[0].tok_embeddings.weight.double()
    step = table.abs().amax(1, keepdim=True) / explorers.LEVELS
    assert ((packed("table") - table).abs() <= 0.51 * step).all()


def test_a_model_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"1 layers, 1 heads in each, and 16 tokens"):
        explorers.memory(Llama(replace(CONFIG, n_layers=1)), GAME[1], context=8)


# Attention


def test_the_attention_explorer_says_where_the_chosen_token_looks():
    said = opened("attention", ("token", 2), ("two", "head 3"))
    assert said.startswith('From " cat" (2): head 1 gives ')
    row = WEIGHTS["head 3"][2]
    best = int(row.argmax())
    assert f'head 3 gives {100 * row[best]:.0f} % to "{PIECES[best]}" ({best})' in said


def test_a_piece_cannot_break_out_of_the_attention_explorer():
    text = opened("attention", value='element("one-text").innerHTML')
    assert "<s>" not in text
    assert "&#60;/script&#62;" in text
    assert PAGES["attention"].page.count("</script>") == 3


def test_weights_that_do_not_fit_the_pieces_are_refused():
    with pytest.raises(ValueError, match=r"head 1 has weights of shape \(6, 6\); 4 pieces need"):
        explorers.attention(PIECES[:4], WEIGHTS)


# Bits


def test_the_bits_explorer_shows_what_was_recorded():
    assert opened("bits", ("bits", 0)).startswith("8 bits, a row: 3.26 nats a token")
    said = opened("bits", ("bits", 1))
    assert "3.88 nats" in said
    assert "among 49 tokens" in said        # e^3.883 = 48.6
    assert "worse than knowing nothing" in opened("bits", ("bits", 2))
    assert opened("bits", ("bits", 1), value='element("answer").textContent') == "Par</script>is"
    assert "no" not in _data("bits")


def test_the_bits_explorer_keeps_the_bits_where_the_other_has_them():
    assert opened("bits", ("bits", 2), ("shared", "by GPTQ")).startswith("4 bits, by GPTQ: 3.48")
    back = opened("bits", ("shared", "by GPTQ"), ("shared", "a row"))
    assert back.startswith("4 bits, a row: 3.88")


# Sampling


@pytest.mark.parametrize("place", LOGITS)
@pytest.mark.parametrize(("heat", "k", "p", "low"), [
    (1.0, 10**6, 1.0, 0.0), (0.6, 10**6, 0.9, 0.0), (1.5, 50, 1.0, 0.0), (1.0, 10**6, 1.0, 0.1),
    (1.3, 2000, 0.95, 0.02)])
def test_the_sampling_explorer_keeps_what_the_package_keeps(place, heat, k, p, low):
    rules = [sampling.temperature(heat), sampling.top_k(k), sampling.top_p(p)]
    after = LOGITS[place].double()[None]
    for rule in [*rules, sampling.min_p(low)] if low else rules:
        after = rule(after)
    kept = int(after.isfinite().sum())
    groups = f"{_data('sampling')}[{json.dumps(place)}].groups"
    n, best = in_node(formulas("sampling"), f"(g => [count(g), Math.exp(g[0][0])])"
                      f"(ruled({groups}, {heat}, {k}, {p}, {low}, true))")
    # tokens beyond the 60 likeliest are grouped: a tenth of the rank is the width of a group
    assert n == pytest.approx(kept, rel=0 if kept < explorers.NAMED else 0.1)
    assert best == pytest.approx(float(after.softmax(-1).max()), rel=5e-2)


def test_the_order_of_the_rules_matters_in_the_sampling_explorer():
    said = [opened("sampling", ("heat", 40), ("p", 60), ("order", order))
            for order in ("heat", "cuts")]
    kept = [int(re.match(r"[\d,]+", each)[0].replace(",", "")) for each in said]
    assert kept[0] > kept[1]


def test_the_groups_of_a_distribution_hold_all_of_it():
    for place, logits in LOGITS.items():
        groups = json.loads(_data("sampling"))[place]["groups"]
        assert sum(n for _, n in groups) == len(logits)
        total = sum(n * 2.718281828459045**log for log, n in groups)
        assert total == pytest.approx(1, abs=1e-3)      # four decimals of each logarithm


# In a notebook


def test_a_notebook_gets_the_whole_page_in_a_frame_of_its_own():
    shown = PAGES["rope"]._repr_html_()
    assert unescape(re.search(r'srcdoc="(.*?)"', shown, re.S)[1]) == PAGES["rope"].page
    assert not shown.startswith("<iframe")      # IPython warns of outputs that begin so
    assert "0x" not in repr(PAGES["rope"])
