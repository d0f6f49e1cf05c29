// The explorer itself: what the parts show, and what they do. It fills a .lens element. What it returns is for a live bench,
// which shows selections in it (onMarks), follows where it looks (onGo), and puts a lens after an action in the lens's place.
function lensExplorer(root, data) {
  const SHOWN = 100; // cells in the list of largest shifts
  const PINS = 12;
  const CHANGED = "#d55e00";
  const text = (word) => data.vocabulary[word] ?? "–";
  const unpacked = [];
  const state = {
    problem: 0, layer: 0, measure: "kl", scale: "layer", alpha: 0.7, log: false, pins: [],
    filter: { kind: "all", last: false, once: false },
    chosen: data.problems.map(() => null), frames: data.problems.map((problem) => problem.views.map(() => 0)),
  };
  let cells, frames, marks = new Map(), hovered = null;
  const heardBy = { go() {}, marks() {}, measure() {} };

  const parts = lensParts(root, data, state);
  const { picker, question, layerName, slider, scale, overlay, legend, views, words, readout, through, throughBox, charts, clear, ranking, heard } = parts;

  // ---- colours ---------------------------------------------------------------------------------------------

  const ramp = (name) => (amount) => {
    const colours = data.colours[name];
    const place = Math.min(Math.max(amount, 0), 1) * (colours.length - 1);
    const i = Math.min(Math.floor(place), colours.length - 2);
    return `rgb(${colours[i].map((c, k) => Math.round(c + (place - i) * (colours[i + 1][k] - c))).join(",")})`;
  };
  const colour = () => ramp(state.measure === "entropyChange" ? "change" : "magnitude");
  const unit = () => lensUnits[state.measure] ?? "nats";
  const range = (words = false) => cells.range(state.measure, state.scale === "all" ? null : state.layer, words);

  function paint() { // everything that depends on layer, measure and scale, but not on the position
    const fill = colour();
    const on = state.alpha > 0, change = state.measure === "change";
    const spans = { false: range(), true: range(true) }; // words have a scale of their own: theirs are other magnitudes
    for (const [position, mark] of marks) {
      const value = cells.value(state.measure, state.layer, position);
      const { low, high } = spans[mark.tagName === "BUTTON"];
      const found = change ? (value ? CHANGED : null) : Number.isFinite(value) ? fill(high > low ? (value - low) / (high - low) : 0) : null;
      if (mark.tagName === "BUTTON") mark.style.borderBottomColor = found ?? "transparent";
      else {
        mark.setAttribute("fill", found ?? "#000");
        mark.setAttribute("fill-opacity", !on ? 0 : found ? state.alpha : 0.05);
        mark.classList.toggle("changed", change && value > 0); // outlined, whatever the overlay's strength
      }
    }
    parts.wordScale.textContent = change || !(spans.true.high > spans.true.low) ? "" : `bars: ${lensNumber(spans.true.low)} to ${lensNumber(spans.true.high)} ${unit()}`;
    views.classList.toggle("covered", on);
    showLegend();
    heardBy.marks();
    const layer = data.layers[state.layer];
    layerName.textContent = `Layer ${layer}${state.layer === cells.last ? " (last)" : ""}`;
    slider.value = state.layer;
    slider.setAttribute("aria-valuetext", layerName.textContent);
  }
  function offer() { // measures that this lens does not have are not shown
    const has = { ratio: Boolean(cells.klNull || cells.noiseLater), learnt: Boolean(cells.learnt), near: Boolean(cells.near), overtaken: Boolean(cells.near) };
    for (const [measure, there] of Object.entries(has)) parts.measures.querySelector(`[value=${measure}]`).parentNode.hidden = !there;
    if (has[state.measure] === false) {
      state.measure = "kl";
      parts.measures.querySelector("[value=kl]").checked = true;
    }
  }
  function showLegend() {
    if (state.measure === "change") {
      let changed = 0, all = 0;
      for (let i = 0; i < cells.size; i++)
        if (!cells.visual || cells.raw.places[i]) { all += 1; changed += cells.value("change", state.layer, i); }
      const swatch = lensMake("span", { className: "swatch" });
      swatch.style.background = CHANGED;
      legend.replaceChildren(swatch, `changed: ${changed} of ${all}${cells.visual ? " visual" : ""} tokens`);
      return;
    }
    const { low, high, cutLow, cutHigh } = range();
    const bar = lensMake("span", { className: "gradient" });
    bar.style.background = `linear-gradient(90deg, ${[...Array(9).keys()].map((i) => colour()(i / 8)).join(", ")})`;
    legend.replaceChildren((cutLow ? "≤ " : "") + lensNumber(low), bar, `${cutHigh ? "≥ " : ""}${lensNumber(high)} ${unit()}`);
  }

  // ---- a problem: its pictures and its words -----------------------------------------------------------------

  function showProblem(index) {
    state.problem = index;
    cells = unpacked[index] ??= new LensCells(data, data.problems[index]);
    frames = state.frames[index];
    picker.value = index;
    const raw = cells.raw;
    const answer = raw.answer === null ? [] : [lensMake("span", { className: "answer" }, lensMake("span", { className: "muted", textContent: "answer " }), raw.answer)];
    const answers = lensModels.filter(([model]) => raw.answers[model]).map(([model, name]) => {
      const { answer, text, right } = raw.answers[model];
      const mark = right === null ? "" : right ? " ✓" : " ✗";
      return lensMake("span", { className: `answer ${model}`, title: text }, lensMake("span", { className: "who", textContent: `${lensSymbols[model]} ${name} ` }), answer + mark);
    });
    question.replaceChildren(raw.question || "", " ", ...answer, ...answers);
    if (state.chosen[index] === null) {
      const kind = cells.visual ? "visual" : "all"; // what the page is about
      const first = cells.ranked({ ...state.filter, kind, last: false })[0] ?? { layer: 0, position: cells.size - 1 };
      state.chosen[index] = first.position;
      if (unpacked.filter(Boolean).length === 1) {
        state.layer = first.layer;
        state.pins = [...new Set(["base", "rlvr"].map((model) => cells.top(model, first.layer, first.position)))];
      }
    }
    raw.views.length ? views.replaceChildren(...raw.views.map(makeView)) : views.replaceChildren(lensMake("p", { className: "muted", textContent: "No image in this prompt." }));
    offer();
    layOut();
    showRanking();
  }
  function makeView(view, index) {
    const [moments, rows, columns] = view.grid;
    const frame = lensMake("div", { className: view.small ? "frame small" : "frame" });
    frame.style.aspectRatio = `${view.width} / ${view.height}`;
    if (view.image) frame.append(lensMake("img", { src: view.image, alt: `${view.name} of ${cells.raw.id}` }));
    const svg = lensSvg("svg", { class: "overlay", viewBox: `0 0 ${columns} ${rows}`, preserveAspectRatio: "none", tabindex: 0, role: "group", "aria-label": `Visual tokens of ${view.name}, ${rows} rows by ${columns} columns` });
    frame.append(svg);
    const caption = lensMake("figcaption", {}, `${view.name} · ${rows} × ${columns} visual tokens`);
    // Beside the overlay, which hides colours that a question may be about, the picture as it is.
    if (view.image) caption.append(lensMake("img", { className: "plainly", src: view.image, alt: `${view.name} in its own colours` }));
    if (moments > 1) {
      const moment = lensMake("input", { type: "range", min: 0, max: moments - 1, step: 1, className: "moment", "aria-label": `Frame of ${view.name}` });
      moment.addEventListener("input", () => { frames[index] = Number(moment.value); layOut(); });
      caption.append(lensMake("label", { className: "moments" }, lensMake("output"), moment), view.frames.length ? (view.span > 1 ? `picture: the first of its ${view.span} frames` : "") : view.image ? "picture: first frame" : "");
    }
    return lensMake("figure", { className: "view" }, frame, caption);
  }
  function layOut() { // marks of the shown frames and of the words
    marks = new Map();
    const raw = cells.raw;
    [...views.querySelectorAll(".view")].forEach((figure, view) => {
      const svg = figure.querySelector(".overlay");
      const ring = lensSvg("g", { class: "ring" });
      ring.append(lensSvg("rect", { class: "outer" }), lensSvg("rect", { class: "inner" }));
      svg.replaceChildren();
      raw.places.forEach((place, position) => {
        if (!place || place[0] !== view || place[1] !== frames[view]) return;
        const rect = lensSvg("rect", { x: place[3], y: place[2], width: 1, height: 1, "data-position": position });
        svg.append(rect);
        marks.set(position, rect);
      });
      svg.append(ring);
      const moment = figure.querySelector(".moment");
      if (moment) {
        moment.value = frames[view];
        const seen = raw.views[view].frames[frames[view]];
        if (seen) for (const image of figure.querySelectorAll("img")) image.src = seen;
        figure.querySelector(".moments output").textContent = `frame ${frames[view] + 1} of ${raw.views[view].grid[0]}`;
      }
    });
    const chips = [];
    for (let i = 0; i < cells.size; i++) {
      if (raw.kinds[i] === 1) {
        let end = i;
        while (end + 1 < cells.size && raw.kinds[end + 1] === 1) end += 1;
        chips.push(lensMake("span", { className: "run", textContent: `▦ ${end - i + 1} visual tokens` }));
        i = end;
        continue;
      }
      const button = lensMake("button", { type: "button", textContent: raw.tokens[i], className: { 2: "special", 3: "response" }[raw.kinds[i]] ?? "", "aria-label": `position ${i}: ${raw.tokens[i]}` });
      button.dataset.position = i;
      chips.push(button);
      marks.set(i, button);
    }
    words.replaceChildren(...chips);
    paint();
    point();
    show();
  }
  function point() { // the ring around the chosen position
    const chosen = state.chosen[state.problem];
    const place = cells.raw.places[chosen];
    const target = marks.get(chosen);
    for (const ring of views.querySelectorAll(".ring")) {
      const here = target && ring.parentNode === target.parentNode;
      ring.setAttribute("visibility", here ? "visible" : "hidden");
      if (!here) continue;
      for (const rect of ring.children) for (const [name, value] of Object.entries({ x: place[3], y: place[2], width: 1, height: 1 })) rect.setAttribute(name, value);
    }
    const first = words.querySelector("button");
    for (const button of words.querySelectorAll("button")) {
      const here = button === target;
      button.classList.toggle("chosen", here);
      here ? button.setAttribute("aria-current", "true") : button.removeAttribute("aria-current");
      button.tabIndex = here || (target?.tagName !== "BUTTON" && button === first) ? 0 : -1; // one stop for Tab, arrows go on
    }
    if (target?.tagName === "BUTTON") reveal(words, target);
    else if (target) reveal(views, target.closest(".view"));
    const wanted = `${state.layer} ${chosen}`;
    for (const row of ranking.querySelectorAll("button")) {
      const here = row.dataset.cell === wanted;
      here ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current");
      row.tabIndex = here ? 0 : -1;
      if (here) reveal(ranking, row);
    }
  }
  function reveal(box, item) { // scroll inside the box alone, never the page; the box is positioned, so offsets count from it
    if (item.offsetTop < box.scrollTop) box.scrollTop = item.offsetTop - 2;
    else if (item.offsetTop + item.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = item.offsetTop + item.offsetHeight - box.clientHeight + 2;
  }

  // ---- predictions -------------------------------------------------------------------------------------------

  const position = () => hovered ?? state.chosen[state.problem];
  function show() {
    readout.replaceChildren(...lensReadout(cells, state, position()));
    through.replaceChildren(...lensRows(cells, state, position()));
    showPins();
  }
  function keepLayerInSight() {
    const row = through.querySelector(".now");
    const room = throughBox.clientHeight, header = throughBox.querySelector("thead").offsetHeight;
    if (row.offsetTop - header < throughBox.scrollTop || row.offsetTop + row.offsetHeight > throughBox.scrollTop + room)
      throughBox.scrollTop = row.offsetTop - (room - row.offsetHeight) / 2;
  }

  // ---- pins ----------------------------------------------------------------------------------------------------

  function showPins() {
    const at = position();
    const curves = state.pins.map((word) => Object.fromEntries(lensModels.map(([model]) => [model, data.layers.map((_, layer) => cells.chance(model, layer, at, word))])));
    const span = curves.length ? lensSpan(curves, state.log) : null;
    clear.hidden = !state.pins.length;
    if (!curves.length) {
      charts.replaceChildren(lensMake("p", { className: "muted", textContent: "Click a prediction, press Enter, or search for a token, to follow its probability over the layers in both models." }));
      return;
    }
    const figures = curves.map((curve, index) => {
      const word = state.pins[index];
      const remove = lensMake("button", { type: "button", className: "plain unpin", textContent: "✕", "aria-label": `Unpin ${text(word)}`, title: "Unpin" });
      remove.addEventListener("click", () => togglePin(word));
      const values = cells.models.map(([model]) => lensMake("span", { className: model, textContent: `${lensSymbols[model]} ${lensChance(curve[model][state.layer])}` }));
      const figure = lensMake("figure", { className: "pin" }, lensMake("figcaption", {}, lensMake("b", { textContent: text(word), title: `${text(word)} (token ${data.ids[word]})` }), ...values, remove), lensChart(data, curve, span, state.layer, text(word), cells.models));
      figure.dataset.word = word;
      return figure;
    });
    const bounds = curves.some((curve) => lensModels.some(([model]) => curve[model].some(({ exact }) => !exact)));
    const note = bounds ? "Hollow: not stored there, so at most this much (the least likely prediction listed)." : "Exact at every layer.";
    charts.replaceChildren(...figures, lensMake("p", { className: "muted about", textContent: `Probability by layer at ${cells.describe(at)}. ${note}` }));
  }
  function togglePin(word) {
    state.pins = state.pins.includes(word) ? state.pins.filter((pin) => pin !== word) : [...state.pins, word].slice(-PINS);
    const focused = root.contains(document.activeElement) && document.activeElement.dataset.word;
    const list = document.activeElement.closest?.(".tops");
    show();
    if (focused && list) readout.querySelector(`.tops.${list.classList[1]} [data-word="${focused}"]`)?.focus({ preventScroll: true });
  }
  function pinTop() { // both models' top predictions; both go if both are there already
    const at = state.chosen[state.problem];
    const tops = [...new Set(lensModels.map(([model]) => cells.top(model, state.layer, at)))];
    const all = tops.every((word) => state.pins.includes(word));
    state.pins = all ? state.pins.filter((pin) => !tops.includes(pin)) : [...state.pins.filter((pin) => !tops.includes(pin)), ...tops].slice(-PINS);
    parts.pinned.textContent = `${all ? "unpinned" : "pinned"}: ${tops.map(text).join(", ")}`;
    heard.textContent = parts.pinned.textContent;
    show();
  }
  parts.scales.addEventListener("change", ({ target }) => { state.log = target.value === "true"; showPins(); });
  clear.addEventListener("click", () => { state.pins = []; show(); });

  lensSearch(parts, data, () => new Set(cells.known(state.chosen[state.problem])), (word) => {
    if (!state.pins.includes(word)) togglePin(word);
  });

  // ---- the largest shifts ------------------------------------------------------------------------------------

  const listed = () => cells.ranked(state.filter).slice(0, SHOWN);
  function showRanking() {
    const items = listed().map(({ layer, position, kl }, index) => {
      const [base, rlvr] = ["base", "rlvr"].map((model) => text(cells.top(model, layer, position)));
      const parts = [["rank", index + 1], ["layer", lensMake("i", { textContent: "layer " }), data.layers[layer]], ["place", cells.short(position)], ["kl", lensNumber(kl)], ["tops", base === rlvr ? base : `${base} → ${rlvr}`]];
      const button = lensMake("button", { type: "button", tabIndex: index ? -1 : 0, title: `layer ${data.layers[layer]}, ${cells.describe(position)}: KL ${lensNumber(kl)} nats, ${base} → ${rlvr}` }, ...parts.map(([className, ...parts]) => lensMake("span", { className }, ...parts)));
      button.dataset.cell = `${layer} ${position}`;
      return lensMake("li", {}, button);
    });
    ranking.replaceChildren(...(items.length ? items : [lensMake("li", { className: "muted", textContent: "No such cells." })]));
    ranking.scrollTop = 0;
    point();
  }
  function jump(by) {
    const cells = listed();
    const chosen = state.chosen[state.problem];
    const here = cells.findIndex(({ layer, position }) => layer === state.layer && position === chosen);
    const next = cells[here < 0 ? 0 : Math.min(Math.max(here + by, 0), cells.length - 1)];
    if (next) go(next.layer, next.position);
  }
  parts.filters.addEventListener("change", ({ target }) => {
    if (target.type === "checkbox") state.filter[target.name] = target.checked;
    else state.filter.kind = target.value;
    showRanking();
  });
  parts.previous.addEventListener("click", () => jump(-1));
  parts.next.addEventListener("click", () => jump(1));

  // ---- moving about ------------------------------------------------------------------------------------------

  function go(layer, at) {
    parts.pinned.textContent = "";
    const moved = layer !== state.layer;
    state.layer = Math.min(Math.max(layer, 0), data.layers.length - 1);
    state.chosen[state.problem] = at;
    hovered = null;
    const place = cells.raw.places[at];
    if (place && frames[place[0]] !== place[1]) {
      frames[place[0]] = place[1];
      layOut();
    } else {
      if (moved) paint();
      point();
      show();
    }
    keepLayerInSight();
    heardBy.go();
    const now = state.layer * cells.size + at;
    const tops = cells.models.map(([model, title]) => `${title} ${text(cells.top(model, state.layer, at))}`);
    heard.textContent = `Layer ${data.layers[state.layer]}, ${cells.describe(at)}: ${tops.join(", ")}, KL ${lensNumber(cells.kl[now])} nats`;
  }
  const setLayer = (layer) => go(layer, state.chosen[state.problem]);
  slider.addEventListener("input", () => setLayer(Number(slider.value)));
  parts.measures.addEventListener("change", ({ target }) => { state.measure = target.value; paint(); heardBy.measure(); });
  scale.addEventListener("change", () => { state.scale = scale.value; paint(); });
  overlay.addEventListener("input", () => { state.alpha = Number(overlay.value) / 100; paint(); });
  picker.addEventListener("change", () => { showProblem(Number(picker.value)); keepLayerInSight(); });

  root.addEventListener("click", (event) => {
    const target = event.target.closest("[data-position], [data-word], [data-cell], [data-layer]");
    if (!target || target.closest(".options, .unpin")) return;
    const { position, word, cell, layer } = target.dataset;
    if (position !== undefined) go(state.layer, Number(position));
    else if (cell !== undefined) go(...cell.split(" ").map(Number));
    else if (layer !== undefined) setLayer(Number(layer));
    else if (target.matches("button")) togglePin(Number(word));
  });
  const preview = (next) => {
    if (hovered === next) return;
    hovered = next;
    show();
  };
  let pointer = ""; // browsers report a pointer at rest, too, when what lies under it is replaced
  for (const box of [views, words]) {
    box.addEventListener("mousemove", (event) => {
      const here = `${event.clientX} ${event.clientY}`;
      if (here === pointer) return;
      pointer = here;
      const target = event.target.closest("[data-position]");
      preview(target ? Number(target.dataset.position) : null);
    });
    box.addEventListener("mouseleave", () => preview(null));
  }
  function walk(by) {
    const at = Math.min(Math.max(state.chosen[state.problem] + by, 0), cells.size - 1);
    const follow = views.contains(document.activeElement) || words.contains(document.activeElement);
    go(state.layer, at);
    const mark = marks.get(at);
    if (follow && mark) (mark.tagName === "BUTTON" ? mark : mark.parentNode).focus({ preventScroll: true });
  }
  const acts = {
    n: () => jump(1), p: () => jump(-1),
    o: () => { state.alpha = state.alpha > 0 ? 0 : 0.7; overlay.value = 100 * state.alpha; paint(); },
    ArrowLeft: () => setLayer(state.layer - 1), ArrowRight: () => setLayer(state.layer + 1),
    ArrowUp: () => walk(-1), ArrowDown: () => walk(1), Enter: pinTop, " ": pinTop,
  };
  const alone = document.body.classList.contains("lens-page"); // then keys need no focus in the explorer
  (alone ? document : root).addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (!acts[key] || event.ctrlKey || event.metaKey || event.altKey || target.matches("select, textarea, input[type=search], input[type=text], input[type=number]")) return;
    if (target.closest(".strip")) return; // its arrows go from token to token
    if (key.length > 1 || key === " ") { // arrows, Enter and space mean something to other controls
      if (target.matches("input, a, summary")) return;
      if (key[0] !== "A" && target.matches("button:not([data-position])")) return;
    }
    event.preventDefault();
    if (!alone) event.stopPropagation(); // a notebook around has keys of its own
    acts[key]();
  });

  showProblem(0);
  keepLayerInSight();
  return {
    data, state, parts, heardBy, go, walk,
    plain: () => unpacked[state.problem],
    cells: () => cells,
    marks: () => marks,
    chosen: () => state.chosen[state.problem],
    look(other) { // at the same prompt through another lens, or the problem's own where there is none
      cells = other ?? unpacked[state.problem];
      for (const [model, name] of cells.models) {
        throughBox.querySelector(`thead .${model}`).textContent = `${lensSymbols[model]} ${other ? name : { base: "base", rlvr: "RLVR" }[model]}`;
        parts.measures.querySelector(`[value=${model === "base" ? "entropyBase" : "entropyRlvr"}] + span`).textContent = `${name} entropy`;
      }
      offer();
      paint();
      point();
      show();
      showRanking();
    },
  };
}
