"use strict";
// Of every explorer: find, write, draw, and fit into the page around.
const at = id => document.getElementById(id);
const value = id => Number(at(id).value);
const whole = n => Math.round(n).toLocaleString("en-US");
const short = n => n === 0 ? "0" : Math.abs(n) < 1e-3 ? n.toExponential(1) : n.toPrecision(3);
const signed = n => n.toFixed(2).replace("-0.00", "0.00").replace("-", "\u2212");

const line = (a, b, c, d, style) => `<line x1="${a}" y1="${b}" x2="${c}" y2="${d}" style="${style}"/>`;
const text = (x, y, words, more = "") => `<text x="${x}" y="${y}" ${more}>${words}</text>`;

// Sets the words beside a control and what a screen reader says of it.
function tell(shown) {
  for (const [id, words] of Object.entries(shown)) {
    at(`${id}-value`).textContent = words;
    at(id).setAttribute("aria-valuetext", words);
  }
}

// Dark where the page around is dark (JupyterLab, the book), as tall as needed.
function page() {
  try { return window.frameElement ? window.parent.document : null; } catch { return null; }
}

function dress() {
  const outer = page();
  const paints = outer ? [outer.body, outer.documentElement] : [];
  const paint = paints.map(e => getComputedStyle(e).backgroundColor.match(/[\d.]+/g).map(Number))
    .find(c => c.length === 3 || c[3] > 0);
  const dark = paint ? paint[0] + paint[1] + paint[2] < 380
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.classList.toggle("dark", dark);
}

function fit() {
  if (page()) window.frameElement.style.height = `${document.body.offsetHeight + 2}px`;
}

// To be called when the first picture is drawn.
function settle() {
  dress();
  fit();
  new ResizeObserver(fit).observe(document.body);
  if (page()) {
    const watch = new MutationObserver(dress);
    for (const e of [page().documentElement, page().body]) watch.observe(e, { attributes: true });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", dress);
}
