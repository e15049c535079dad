// Filters for the table of claims. Without this script the table stands whole.
(() => {
  const table = document.querySelector("table.fact-check.filtered");
  if (!table) return;
  const rows = [...table.tBodies[0].rows];
  const words = rows.map((row) => row.textContent.toLowerCase());
  const texts = [...document.querySelectorAll("table.writeups tbody tr")].map((row) => [
    row.cells[0].textContent,
    `${row.cells[0].textContent}: ${row.cells[1].firstChild.textContent}`,
  ]);
  const values = (key) => [...new Set(rows.map((row) => row.dataset[key]))].filter(Boolean);

  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const choice = (key, all, pairs) => {
    const options = [["", all], ...pairs].map(([value, text]) => make("option", { value }, text));
    return make("select", { name: key, id: `filter-${key}` }, ...options);
  };
  const labelled = (text, control, className = "") =>
    make("div", { className }, make("label", { htmlFor: control.id }, text), control);

  const search = make("input", { type: "search", name: "text", id: "filter-text" });
  const count = (verdict) => rows.filter((row) => row.dataset.verdict === verdict).length;
  const verdicts = ["right", "wrong", "imprecise", "open"].filter(count);
  const verdict = choice("verdict", "all", verdicts.map((v) => [v, `${v} (${count(v)})`]));
  const writeup = choice("writeup", "all", texts);
  const chapter = choice("chapter", "all",
    values("chapter").sort().map((number) => [number, `Chapter ${number}`]));
  const computed = make("input", { type: "checkbox", name: "computed", id: "filter-computed" });
  const clear = make("button", { type: "button" }, "Clear");
  const shown = make("output", {});
  shown.setAttribute("aria-live", "polite");
  const controls = [search, verdict, writeup, chapter, computed];
  const box = make("label", { className: "check" }, computed, "computed only");
  const form = make("form", { className: "fact-check-filters" },
    labelled("Words", search, "words"), labelled("Verdict", verdict),
    labelled("Write-up", writeup), labelled("Decided in", chapter), box, clear, shown);
  form.setAttribute("role", "search");
  form.setAttribute("aria-label", "Claims");
  table.before(form);

  const wishes = () => {
    const pairs = controls.map((c) => [c.name, c.type === "checkbox" ? (c.checked ? "yes" : "") : c.value]);
    return Object.fromEntries(pairs.filter(([, value]) => value.trim()));
  };
  const filter = () => {
    const { text = "", ...exact } = wishes();
    const sought = text.toLowerCase().split(/\s+/).filter(Boolean);
    let n = 0;
    rows.forEach((row, i) => {
      const fits = sought.every((word) => words[i].includes(word)) &&
        Object.entries(exact).every(([key, value]) => row.dataset[key] === value);
      row.hidden = !fits;
      n += fits;
    });
    shown.value = n === rows.length ? `${n} claims` : `${n} of ${rows.length} claims`;
  };
  const remember = () => {
    const state = new URLSearchParams(wishes()).toString();
    history.replaceState(null, "", state ? `#?${state}` : "#");
  };
  const set = (state) => controls.forEach((c) => {
    if (c.type === "checkbox") c.checked = state.get(c.name) === "yes";
    else c.value = state.get(c.name) || "";
  });
  // A link to a row shows it, whatever the filters say; a link to filters sets them.
  const follow = () => {
    if (location.hash.startsWith("#?")) set(new URLSearchParams(location.hash.slice(2)));
    const target = /^#[a-z]\d+$/.test(location.hash) && document.querySelector(location.hash);
    if (target && target.hidden !== undefined && rows.includes(target)) set(new URLSearchParams());
    filter();
    if (target) target.scrollIntoView();
  };

  form.addEventListener("input", () => { filter(); remember(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  clear.addEventListener("click", () => { set(new URLSearchParams()); filter(); remember(); });
  window.addEventListener("hashchange", follow);
  follow();
})();
