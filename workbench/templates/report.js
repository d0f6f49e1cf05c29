"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const number = (value) => { // three significant digits
    if (value === 0 || !Number.isFinite(value)) return value === 0 ? "0" : "–";
    const power = Math.floor(Math.log10(Math.abs(value)));
    return power < -4 ? value.toExponential(2) : value.toFixed(Math.max(0, 2 - power));
  };

  // ---- figures -------------------------------------------------------------------------------------------
  const { templates, figures } = read("figures-data");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] };
  const drawn = new Set();
  const theme = (isDark) => templates[isDark ? "dark" : "light"];

  function draw(element, isDark = dark.matches) {
    if (drawn.has(element)) return;
    const { data, layout } = figures[element.dataset.figure];
    Plotly.newPlot(element, data, { ...layout, template: theme(isDark) }, config);
    drawn.add(element);
  }
  function repaint(isDark) {
    for (const element of drawn) Plotly.relayout(element, { template: theme(isDark) });
  }
  // A figure is drawn when it comes near the window: the page opens at once, however many there are.
  const plots = [...document.querySelectorAll(".plot")];
  const watch = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting) draw(target);
  }, { rootMargin: "500px" });
  plots.forEach((element) => watch.observe(element));
  for (const tabs of document.querySelectorAll("[data-tabs]")) {
    tabs.addEventListener("change", (event) => {
      for (const tab of tabs.parentElement.querySelectorAll("[data-tab]")) tab.hidden = tab.dataset.tab !== event.target.value;
    });
  }
  dark.addEventListener("change", () => repaint(dark.matches));
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((details) => (details.open = true));
    plots.filter((element) => !element.closest("[hidden]")).forEach((element) => draw(element, false));
    repaint(false);
  });
  addEventListener("afterprint", () => repaint(dark.matches));

  // ---- explorer ------------------------------------------------------------------------------------------
  const data = read("explorer-data");
  const layers = data.layers.length;
  const KINDS = ["text token", "visual token", "special token"];
  const CIVIDIS = data.colours;
  const CHANGED = "#d55e00";
  const decode = (text, type) => new type(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const wordType = data.wordBytes === 2 ? Uint16Array : Uint32Array;
  const state = { layer: 0, measure: "kl", scale: "layer" };
  const problems = data.problems.map((raw, index) => {
    const article = document.querySelector(`[data-problem="${index}"]`);
    return {
      size: raw.tokens.length,
      tokens: raw.tokens,
      kinds: raw.kinds,
      places: raw.places, // per position: [view, frame, row, column] or null
      views: raw.views,
      entropy: decode(raw.entropy, Float32Array),
      entropyRlvr: decode(raw.entropyRlvr, Float32Array),
      kl: decode(raw.kl, Float32Array),
      words: { base: decode(raw.baseWords, wordType), rlvr: decode(raw.rlvrWords, wordType) },
      chances: { base: decode(raw.baseChances, Uint16Array), rlvr: decode(raw.rlvrChances, Uint16Array) },
      article,
      panel: article.querySelector(".panel"),
      tokenList: article.querySelector(".tokens"),
      figures: [...article.querySelectorAll(".view")],
      frames: raw.views.map(() => 0),
      marks: new Map(), // position -> rect or button
      chosen: 0,
    };
  });

  function value(problem, measure, layer, position) {
    const cell = layer * problem.size + position;
    if (measure !== "change") return problem[measure][cell];
    return problem.words.base[cell * data.topK] === problem.words.rlvr[cell * data.topK] ? 0 : 1;
  }

  // Colours span the 2nd to the 98th percentile of the visual tokens shown (of all tokens where there is no image),
  // so that one extreme token does not flatten the rest; KL starts at 0.
  const ranges = new Map();
  function range() {
    const key = `${state.measure} ${state.scale === "all" ? "all" : state.layer}`;
    if (ranges.has(key)) return ranges.get(key);
    const values = [];
    const visual = problems.some((problem) => problem.places.some(Boolean));
    const span = state.scale === "all" ? [...data.layers.keys()] : [state.layer];
    for (const problem of problems)
      for (const layer of span)
        for (let i = 0; i < problem.size; i++)
          if (!visual || problem.places[i]) values.push(value(problem, state.measure, layer, i));
    const sorted = Float64Array.from(values).sort();
    const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
    const found = {
      low: state.measure === "kl" ? 0 : at(0.02),
      high: at(0.98),
      cutLow: state.measure !== "kl" && sorted[0] < at(0.02),
      cutHigh: sorted[sorted.length - 1] > at(0.98),
    };
    ranges.set(key, found);
    return found;
  }
  function colour(amount) {
    const place = Math.min(Math.max(amount, 0), 1) * (CIVIDIS.length - 1);
    const i = Math.min(Math.floor(place), CIVIDIS.length - 2);
    const mixed = CIVIDIS[i].map((c, k) => Math.round(c + (place - i) * (CIVIDIS[i + 1][k] - c)));
    return `rgb(${mixed.join(",")})`;
  }
  function paint(problem, position) {
    const found = value(problem, state.measure, state.layer, position);
    if (state.measure === "change") return found ? CHANGED : null;
    const { low, high } = range();
    return colour(high > low ? (found - low) / (high - low) : 0);
  }

  function drawLegend() {
    const legend = document.getElementById("legend");
    if (state.measure === "change") {
      let changed = 0, all = 0;
      for (const problem of problems)
        for (let i = 0; i < problem.size; i++)
          if (problem.places[i]) { all += 1; changed += value(problem, "change", state.layer, i); }
      const swatch = make("span", { className: "swatch" });
      swatch.style.background = CHANGED;
      legend.replaceChildren(swatch, `changed: ${changed} of ${all} visual tokens`);
      return;
    }
    const { low, high, cutLow, cutHigh } = range();
    const bar = make("span", { className: "bar" });
    bar.style.background = `linear-gradient(90deg, ${CIVIDIS.map((c) => `rgb(${c.join(",")})`).join(", ")})`;
    legend.replaceChildren((cutLow ? "≤ " : "") + number(low), bar, `${cutHigh ? "≥ " : ""}${number(high)} nats`);
  }

  function describe(problem, position) {
    const place = problem.places[position];
    const at = `position ${position}, layer ${data.layers[state.layer]}`;
    if (!place) return [problem.tokens[position], `${at} · ${KINDS[problem.kinds[position]]}`];
    const [view, frame, row, column] = place;
    const moment = problem.views[view].grid[0] > 1 ? `, frame ${frame + 1}` : "";
    return [`▦ ${problem.views[view].name}${moment}, row ${row + 1}, column ${column + 1}`, `${at} · ${problem.tokens[position]}`];
  }
  function word(problem, model, layer, position, rank) {
    const cell = (layer * problem.size + position) * data.topK + rank;
    return { id: problem.words[model][cell], text: data.vocabulary[problem.words[model][cell]], chance: problem.chances[model][cell] / 65535 };
  }
  function showPanel(problem, position) {
    const cell = state.layer * problem.size + position;
    const [heading, details] = describe(problem, position);
    const facts = make("dl");
    for (const [name, amount] of [["Base entropy", problem.entropy[cell]], ["RLVR entropy", problem.entropyRlvr[cell]], ["KL, nats", problem.kl[cell]]])
      facts.append(make("dt", { textContent: name }), make("dd", { textContent: number(amount) }));

    const ranks = [...Array(data.topK).keys()];
    const lists = { base: ranks.map((r) => word(problem, "base", state.layer, position, r)), rlvr: ranks.map((r) => word(problem, "rlvr", state.layer, position, r)) };
    const body = make("tbody");
    for (const rank of ranks) {
      const row = make("tr");
      for (const [model, other] of [["base", "rlvr"], ["rlvr", "base"]]) {
        const { id, text, chance } = lists[model][rank];
        const alone = !lists[other].some((entry) => entry.id === id);
        const label = make(alone ? "b" : "span", { textContent: text, title: alone ? `${text}: only in this list` : text });
        row.append(make("td", {}, label), make("td", { className: "p", textContent: chance.toFixed(chance < 0.1 ? 3 : 2) }));
      }
      body.append(row);
    }
    const heads = make("tr");
    for (const name of ["Base", "RLVR"]) {
      const head = make("th", { scope: "col", textContent: name });
      heads.append(head, make("td", { className: "p", textContent: "p" }));
    }
    const top = make("table", { className: "top" }, make("thead", {}, heads), body);

    const through = make("tbody");
    const most = Math.max(...data.layers.map((_, l) => problem.kl[l * problem.size + position]), 1e-12);
    data.layers.forEach((layer, l) => {
      const [base, rlvr] = ["base", "rlvr"].map((model) => word(problem, model, l, position, 0));
      const kl = problem.kl[l * problem.size + position];
      const bar = make("span", { className: "meter", title: `${number(kl)} nats` });
      bar.style.width = `${(100 * kl) / most}%`;
      const second = make("td", {}, base.id === rlvr.id ? rlvr.text : make("b", { textContent: rlvr.text }));
      const row = make("tr", { className: l === state.layer ? "now" : "" },
        make("th", { scope: "row", textContent: layer }), make("td", { textContent: base.text }), second, make("td", {}, bar));
      through.append(row);
    });
    const columns = make("tr", {}, make("th", { className: "first", scope: "col", textContent: "Layer" }));
    for (const name of ["Base", "RLVR", "KL"]) columns.append(make("th", { scope: "col", textContent: name }));
    const layersTable = make("div", { className: "layers", tabIndex: 0 }, make("table", {}, make("thead", {}, columns), through));
    layersTable.setAttribute("aria-label", "Top token by layer");

    problem.panel.replaceChildren(
      make("h4", { textContent: heading }),
      make("p", { textContent: details }),
      facts, top, layersTable);
  }
  function scrollPanel(problem) { // apart from the rest, because it makes the browser lay out the page
    const box = problem.panel.querySelector(".layers");
    box.scrollTop = box.querySelector(".now").offsetTop - box.clientHeight / 2; // an offset from the table's top
  }
  function preview(problem, position) {
    showPanel(problem, position);
    scrollPanel(problem);
  }

  const SVG = "http://www.w3.org/2000/svg";
  function layOut(problem) {
    problem.marks.clear();
    problem.figures.forEach((figure, view) => {
      const svg = figure.querySelector(".overlay");
      svg.replaceChildren();
      problem.places.forEach((place, position) => {
        if (!place || place[0] !== view || place[1] !== problem.frames[view]) return;
        const rect = document.createElementNS(SVG, "rect");
        const box = { x: place[3], y: place[2], width: 1, height: 1, "data-position": position };
        for (const [name, amount] of Object.entries(box)) rect.setAttribute(name, amount);
        svg.append(rect);
        problem.marks.set(position, rect);
      });
      const ring = document.createElementNS(SVG, "rect"); // white within the black outline: seen on any colour
      ring.setAttribute("class", "ring");
      svg.append(ring);
    });
    const chips = [];
    for (let i = 0; i < problem.size; i++) {
      if (problem.kinds[i] === 1) {
        let end = i;
        while (end + 1 < problem.size && problem.kinds[end + 1] === 1) end += 1;
        chips.push(make("span", { className: "run", textContent: `▦ ${end - i + 1} visual tokens` }));
        i = end;
        continue;
      }
      const button = make("button", { type: "button", textContent: problem.tokens[i] });
      button.dataset.position = i;
      chips.push(button);
      problem.marks.set(i, button);
    }
    problem.tokenList.replaceChildren(...chips);
  }
  function refresh(problem) {
    for (const [position, mark] of problem.marks) {
      const fill = paint(problem, position);
      mark.classList.toggle("chosen", position === problem.chosen);
      if (mark.tagName === "BUTTON") {
        mark.style.borderBottomColor = fill ?? "";
      } else {
        mark.setAttribute("fill", fill ?? "#000");
        mark.setAttribute("fill-opacity", fill ? 0.84 : 0.04);
      }
    }
    const chosen = problem.marks.get(problem.chosen);
    for (const ring of problem.article.querySelectorAll(".ring")) {
      const here = chosen?.parentNode === ring.parentNode;
      for (const name of ["x", "y", "width", "height"]) ring.setAttribute(name, here ? chosen.getAttribute(name) : 0);
      if (here) ring.before(chosen); // on top of its neighbours, so that the outline shows whole
    }
    showPanel(problem, problem.chosen);
  }
  function refreshAll() {
    const layer = data.layers[state.layer];
    const tag = layer === data.depth - 1 ? " (last)" : "";
    document.getElementById("layer-name").textContent = `${layer}${tag}`;
    drawLegend();
    problems.forEach(refresh);
    problems.forEach(scrollPanel);
  }

  const slider = document.getElementById("layer");
  function setLayer(layer) {
    state.layer = Math.min(Math.max(layer, 0), layers - 1);
    slider.value = state.layer;
    refreshAll();
  }
  slider.addEventListener("input", () => setLayer(Number(slider.value)));
  document.getElementById("scale").addEventListener("change", (event) => { state.scale = event.target.value; refreshAll(); });
  for (const radio of document.querySelectorAll('input[name="measure"]'))
    radio.addEventListener("change", () => { state.measure = radio.value; refreshAll(); });
  document.getElementById("explorer").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
    event.preventDefault();
    setLayer(state.layer + step);
  });

  for (const problem of problems) {
    const pick = (event) => {
      const target = event.target.closest("[data-position]");
      return target && Number(target.dataset.position);
    };
    const choose = (position) => { problem.chosen = position; refresh(problem); scrollPanel(problem); };
    problem.article.addEventListener("click", (event) => {
      const position = pick(event);
      if (position !== null) choose(position);
    });
    problem.article.addEventListener("mouseover", (event) => {
      const position = pick(event);
      if (position !== null) preview(problem, position);
    });
    problem.article.addEventListener("mouseout", (event) => { if (pick(event) !== null) preview(problem, problem.chosen); });
    problem.figures.forEach((figure, view) => {
      figure.querySelector(".overlay").addEventListener("keydown", (event) => {
        const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const here = [...problem.marks.keys()].filter((p) => problem.places[p]?.[0] === view);
        const at = here.indexOf(problem.chosen);
        choose(here[at < 0 ? 0 : (at + step + here.length) % here.length]);
      });
      figure.querySelector(".frame-slider")?.addEventListener("input", (event) => {
        problem.frames[view] = Number(event.target.value);
        event.target.parentElement.querySelector("output").textContent = problem.frames[view] + 1;
        layOut(problem);
        refresh(problem);
      });
    });
    layOut(problem);
  }

  state.layer = Number(slider.value);
  for (const problem of problems) { // start at the visual token that shifted most, or at the end of the prompt
    const visual = problem.places.flatMap((place, position) => (place && place[1] === 0 ? [position] : []));
    const kl = (position) => problem.kl[state.layer * problem.size + position];
    problem.chosen = visual.length ? visual.reduce((a, b) => (kl(b) > kl(a) ? b : a)) : problem.size - 1;
  }
  refreshAll();
})();
