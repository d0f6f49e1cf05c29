// The explorer itself: builds everything inside a .lens element from the JSON in it. All text is set as text.
function lensExplorer(root) {
  const data = JSON.parse(root.querySelector("script").textContent);
  const make = (tag, properties = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) name in element ? (element[name] = value) : element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const MEASURES = [["kl", "KL"], ["entropyBase", "Base entropy"], ["entropyRlvr", "RLVR entropy"], ["entropyChange", "Entropy change"], ["change", "Top-1 change"]];
  const SHOWN = 100; // cells in the list of largest shifts
  const PINS = 12;
  const SUGGESTIONS = 12;
  const CHANGED = "#d55e00";
  const last = data.layers[data.layers.length - 1] === data.depth - 1 ? data.layers.length - 1 : -1;
  const text = (word) => data.vocabulary[word] ?? "–";
  const symbol = { base: "●", rlvr: "◆" };
  const unpacked = [];
  const state = {
    problem: 0, layer: 0, measure: "kl", scale: "layer", alpha: 0.7, log: false, pins: [],
    filter: { kind: "all", last: false, once: false },
    chosen: data.problems.map(() => null), frames: data.problems.map((problem) => problem.views.map(() => 0)),
  };
  let cells, frames, marks = new Map(), hovered = null;

  // ---- what stands on the page -----------------------------------------------------------------------------

  const radios = (legend, name, options, onChange) => {
    const box = make("fieldset", { className: "choice" }, make("legend", { textContent: legend }));
    for (const [value, title] of options) {
      const input = make("input", { type: "radio", name: `${name}-${root.dataset.lens}`, value, checked: state[name] === value });
      input.addEventListener("change", () => onChange(value));
      box.append(make("label", {}, input, make("span", { textContent: title })));
    }
    return box;
  };
  const picker = make("select", { className: "picker", "aria-label": "Problem" });
  data.problems.forEach((problem, index) => picker.append(make("option", { value: index, textContent: `${index + 1} of ${data.problems.length} · ${problem.id}` })));
  const question = make("p", { className: "question" });
  const layerName = make("output", { className: "layer-name" });
  const slider = make("input", { type: "range", min: 0, max: data.layers.length - 1, step: 1, className: "layer", "aria-label": "Layer" });
  const scale = make("select", { "aria-label": "Colour scale", className: "scale" }, make("option", { value: "layer", textContent: "scaled by layer" }), make("option", { value: "all", textContent: "scaled over all layers" }));
  const overlay = make("input", { type: "range", min: 0, max: 100, step: 5, value: 100 * state.alpha, className: "alpha", "aria-label": "Strength of the overlay" });
  const legend = make("div", { className: "legend" });
  const views = make("div", { className: "views" });
  const words = make("div", { className: "words", role: "group", "aria-label": "Tokens of the prompt" });
  const readout = make("section", { className: "readout", "aria-label": "Predictions at the selected layer" });
  const through = make("tbody");
  const throughBox = make("div", { className: "through", tabIndex: -1, role: "region", "aria-label": "Predictions at every layer" },
    make("table", {}, make("thead", {}, make("tr", {},
      make("th", { scope: "col", textContent: "Layer" }),
      make("th", { scope: "col" }, make("span", { className: "base", textContent: "● base" }), make("span", { className: "rlvr", textContent: "◆ RLVR" }), ` entropy, nats, and top ${data.topK}`),
      make("th", { scope: "col", textContent: "KL, nats" }))), through));
  const search = make("input", { type: "search", placeholder: "Pin a token …", autocomplete: "off", spellcheck: false, role: "combobox",
    "aria-label": "Pin a token of the vocabulary", "aria-expanded": "false", "aria-autocomplete": "list", "aria-controls": `options-${root.dataset.lens}` });
  const options = make("ul", { className: "options", role: "listbox", id: `options-${root.dataset.lens}`, hidden: true, "aria-label": "Matching tokens" });
  const clear = make("button", { type: "button", className: "plain", textContent: "Clear" });
  const charts = make("div", { className: "charts" });
  const kinds = make("select", { "aria-label": "Kind of token" }, ...[["all", "all tokens"], ["visual", "visual only"], ["text", "text only"]].map(([value, textContent]) => make("option", { value, textContent })));
  const tick = (name, title) => {
    const input = make("input", { type: "checkbox", name, checked: state.filter[name] });
    input.addEventListener("change", () => { state.filter[name] = input.checked; showRanking(); });
    return make("label", { className: "tick" }, input, title);
  };
  const ranking = make("ol", { className: "ranking", tabIndex: -1, "aria-label": "Cells with the largest KL" });
  const step = (textContent, name, by, key) => {
    const button = make("button", { type: "button", className: "plain step", textContent, title: `${name} (key ${key})`, "aria-label": `${name} largest shift` });
    button.addEventListener("click", () => jump(by));
    return button;
  };
  const heard = make("div", { className: "heard", "aria-live": "polite" });
  const keys = [["← →", "layer"], ["↑ ↓", "position"], ["n p", "next, previous largest shift"], ["Enter", "pin the top prediction"], ["o", "overlay on, off"]];
  const help = make("p", { className: "help" }, ...keys.map(([key, what]) => make("span", {}, ...key.split(" ").map((one) => make("kbd", { textContent: one })), what)),
    make("span", {}, make("span", { className: "alone" }, make("span", { className: "text", textContent: "word" })), "in that model's list only"));

  root.append(
    make("div", { className: "head" }, picker, question),
    make("div", { className: "toolbar" },
      make("label", { className: "slider" }, layerName, slider),
      radios("Measure", "measure", MEASURES, (value) => { state.measure = value; paint(); }),
      legend, scale,
      make("label", { className: "strength" }, "Overlay", overlay)),
    help,
    make("div", { className: "columns" },
      make("div", { className: "left" }, views,
        make("section", { className: "prompt" }, make("h3", { textContent: "Prompt" }), words),
        make("section", { className: "jumps" },
          make("div", { className: "row" }, make("h3", { textContent: "Largest shifts" }), step("‹", "Previous", -1, "p"), step("›", "Next", 1, "n")),
          make("div", { className: "row filters" }, kinds, tick("last", "last layer too"), tick("once", "one per position")), ranking)),
      make("div", { className: "right" }, readout, throughBox,
        make("section", { className: "pins", "aria-label": "Pinned tokens" },
          make("div", { className: "row" }, make("h3", { textContent: "Pinned tokens" }), make("span", { className: "search" }, search, options),
            radios("Scale", "log", [[false, "linear"], [true, "log"]], (value) => { state.log = value; showPins(); }), clear), charts))),
    heard);
  views.hidden = data.problems.every((problem) => !problem.views.length);
  root.tabIndex = -1;

  // ---- colours ---------------------------------------------------------------------------------------------

  const ramp = (name) => (amount) => {
    const colours = data.colours[name];
    const place = Math.min(Math.max(amount, 0), 1) * (colours.length - 1);
    const i = Math.min(Math.floor(place), colours.length - 2);
    return `rgb(${colours[i].map((c, k) => Math.round(c + (place - i) * (colours[i + 1][k] - c))).join(",")})`;
  };
  const colour = () => ramp(state.measure === "entropyChange" ? "change" : "magnitude");
  const range = () => cells.range(state.measure, state.scale === "all" ? null : state.layer);

  function paint() { // everything that depends on layer, measure and scale, but not on the position
    const { low, high } = range();
    const fill = colour();
    const on = state.alpha > 0;
    for (const [position, mark] of marks) {
      const value = cells.value(state.measure, state.layer, position);
      const found = state.measure === "change" ? (value ? CHANGED : null) : fill(high > low ? (value - low) / (high - low) : 0);
      if (mark.tagName === "BUTTON") mark.style.borderBottomColor = found ?? "transparent";
      else {
        mark.setAttribute("fill", found ?? "#000");
        mark.setAttribute("fill-opacity", !on ? 0 : found ? state.alpha : 0.05);
      }
    }
    views.classList.toggle("covered", on);
    showLegend();
    const layer = data.layers[state.layer];
    layerName.textContent = `Layer ${layer}${state.layer === last ? " (last)" : ""}`;
    slider.value = state.layer;
    slider.setAttribute("aria-valuetext", layerName.textContent);
  }
  function showLegend() {
    if (state.measure === "change") {
      let changed = 0, all = 0;
      for (let i = 0; i < cells.size; i++)
        if (!cells.visual || cells.raw.places[i]) { all += 1; changed += cells.value("change", state.layer, i); }
      const swatch = make("span", { className: "swatch" });
      swatch.style.background = CHANGED;
      legend.replaceChildren(swatch, `changed: ${changed} of ${all}${cells.visual ? " visual" : ""} tokens`);
      return;
    }
    const { low, high, cutLow, cutHigh } = range();
    const bar = make("span", { className: "gradient" });
    bar.style.background = `linear-gradient(90deg, ${[...Array(9).keys()].map((i) => colour()(i / 8)).join(", ")})`;
    legend.replaceChildren((cutLow ? "≤ " : "") + lensNumber(low), bar, `${cutHigh ? "≥ " : ""}${lensNumber(high)} nats`);
  }

  // ---- a problem: its pictures and its words -----------------------------------------------------------------

  function showProblem(index) {
    state.problem = index;
    cells = unpacked[index] ??= new LensCells(data, data.problems[index]);
    frames = state.frames[index];
    picker.value = index;
    const raw = cells.raw;
    const answer = raw.answer === null ? [] : [make("span", { className: "answer" }, make("span", { className: "muted", textContent: "answer " }), raw.answer)];
    question.replaceChildren(raw.question || "", " ", ...answer);
    if (state.chosen[index] === null) {
      const first = cells.ranked({ ...state.filter, last: false })[0] ?? { layer: 0, position: cells.size - 1 };
      state.chosen[index] = first.position;
      if (unpacked.filter(Boolean).length === 1) {
        state.layer = first.layer;
        state.pins = [...new Set(["base", "rlvr"].map((model) => cells.top(model, first.layer, first.position)))];
      }
    }
    raw.views.length ? views.replaceChildren(...raw.views.map(makeView)) : views.replaceChildren(make("p", { className: "muted", textContent: "No image in this prompt." }));
    layOut();
    showRanking();
  }
  function makeView(view, index) {
    const [moments, rows, columns] = view.grid;
    const frame = make("div", { className: view.small ? "frame small" : "frame" });
    frame.style.aspectRatio = `${view.width} / ${view.height}`;
    if (view.image) frame.append(make("img", { src: view.image, alt: `${view.name} of ${cells.raw.id}` }));
    const svg = lensSvg("svg", { class: "overlay", viewBox: `0 0 ${columns} ${rows}`, preserveAspectRatio: "none", tabindex: 0, role: "group", "aria-label": `Visual tokens of ${view.name}, ${rows} rows by ${columns} columns` });
    frame.append(svg);
    const caption = make("figcaption", {}, `${view.name} · ${rows} × ${columns} visual tokens`);
    if (moments > 1) {
      const moment = make("input", { type: "range", min: 0, max: moments - 1, step: 1, className: "moment", "aria-label": `Frame of ${view.name}` });
      moment.addEventListener("input", () => { frames[index] = Number(moment.value); layOut(); });
      caption.append(make("label", { className: "moments" }, make("output"), moment), view.image ? "picture: first frame" : "");
    }
    return make("figure", { className: "view" }, frame, caption);
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
        figure.querySelector(".moments output").textContent = `frame ${frames[view] + 1} of ${raw.views[view].grid[0]}`;
      }
    });
    const chips = [];
    for (let i = 0; i < cells.size; i++) {
      if (raw.kinds[i] === 1) {
        let end = i;
        while (end + 1 < cells.size && raw.kinds[end + 1] === 1) end += 1;
        chips.push(make("span", { className: "run", textContent: `▦ ${end - i + 1} visual tokens` }));
        i = end;
        continue;
      }
      const button = make("button", { type: "button", textContent: raw.tokens[i], className: raw.kinds[i] === 2 ? "special" : "", "aria-label": `position ${i}: ${raw.tokens[i]}` });
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
    const wanted = `${state.layer} ${chosen}`;
    for (const row of ranking.querySelectorAll("button")) {
      const here = row.dataset.cell === wanted;
      here ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current");
      row.tabIndex = here ? 0 : -1;
      if (here) reveal(ranking, row);
    }
  }
  function reveal(box, item) { // scroll inside the box alone, never the page
    const top = item.offsetTop - box.offsetTop;
    if (top < box.scrollTop) box.scrollTop = top - 2;
    else if (top + item.offsetHeight > box.scrollTop + box.clientHeight) box.scrollTop = top + item.offsetHeight - box.clientHeight + 2;
  }

  // ---- predictions -------------------------------------------------------------------------------------------

  const position = () => hovered ?? state.chosen[state.problem];
  function wordButton(model, { word, chance }, alone, className, tabIndex) {
    const only = alone ? `, only in the ${model === "base" ? "base" : "RLVR"} list` : "";
    const button = make("button", { type: "button", className: `${className}${alone ? " alone" : ""}${state.pins.includes(word) ? " pinned" : ""}`, tabIndex,
      title: `${text(word)} · ${lensNumber(chance)}${only}`, "aria-label": `${text(word)}, probability ${lensNumber(chance)}${only}; pin it`, "aria-pressed": state.pins.includes(word) });
    button.dataset.word = word;
    button.style.setProperty("--p", chance.toFixed(4));
    return button;
  }
  function bothLists(layer, at) {
    const lists = Object.fromEntries(lensModels.map(([model]) => [model, cells.predictions(model, layer, at)]));
    for (const [model, other] of [["base", "rlvr"], ["rlvr", "base"]])
      for (const entry of lists[model]) entry.alone = !lists[other].some(({ word }) => word === entry.word);
    return lists;
  }
  function show() {
    const at = position();
    const now = state.layer * cells.size + at;
    const place = cells.raw.places[at];
    const lists = bothLists(state.layer, at);
    const tops = lensModels.map(([model, title]) => {
      const entropy = cells[model === "base" ? "entropyBase" : "entropyRlvr"][now];
      const list = make("ol", {});
      for (const entry of lists[model]) {
        const button = wordButton(model, entry, entry.alone, "top", 0);
        button.append(make("span", { className: "text", textContent: text(entry.word) }), make("span", { className: "p", textContent: lensNumber(entry.chance) }));
        list.append(make("li", {}, button));
      }
      return make("div", { className: `tops ${model}` }, make("h4", {}, make("span", { className: model, textContent: `${symbol[model]} ${title}` }), make("span", { className: "entropy", textContent: `entropy ${lensNumber(entropy)} nats` })), list);
    });
    const facts = [`position ${at}`, lensKinds[cells.raw.kinds[at]], ...(place ? [cells.raw.tokens[at]] : [])];
    readout.replaceChildren(
      make("div", { className: "where" }, make("strong", { textContent: (place ? "▦ " : "") + cells.describe(at) }), make("span", { className: "kl", textContent: `KL ${lensNumber(cells.kl[now])} nats` })),
      make("p", { className: "muted", textContent: `${facts.join(" · ")} · layer ${data.layers[state.layer]}${state.layer === last ? " (last)" : ""}` }),
      make("div", { className: "both" }, ...tops));

    const most = Math.max(...data.layers.map((_, l) => cells.kl[l * cells.size + at]), 1e-12);
    const rows = data.layers.map((layer, l) => {
      const cell = l * cells.size + at;
      const both = bothLists(l, at);
      const lines = lensModels.map(([model, title]) => {
        const line = make("div", { className: `line ${model}` }, make("span", { className: "entropy", title: `entropy of ${title}, nats`, textContent: lensNumber(cells[model === "base" ? "entropyBase" : "entropyRlvr"][cell]) }));
        for (const entry of both[model]) {
          const button = wordButton(model, entry, entry.alone, "chip", -1);
          button.append(make("span", { className: "text", textContent: text(entry.word) }), make("span", { className: "p", textContent: entry.chance >= 0.995 ? "1" : entry.chance.toFixed(2).slice(1) }));
          line.append(button);
        }
        return line;
      });
      const meter = make("span", { className: "meter" });
      meter.style.width = `${(100 * cells.kl[cell]) / most}%`;
      const name = make("button", { type: "button", className: "plain", tabIndex: -1, textContent: layer, "aria-label": `Go to layer ${layer}` });
      const row = make("tr", { className: `${l === state.layer ? "now" : ""}${l === last ? " last" : ""}` },
        make("th", { scope: "row" }, name, ...(l === last ? [make("small", { textContent: "last" })] : [])),
        make("td", {}, make("div", { className: "lines" }, ...lines)),
        make("td", { className: "shift" }, make("span", { textContent: lensNumber(cells.kl[cell]) }), make("span", { className: "track" }, meter)));
      row.dataset.layer = l;
      if (l === state.layer) row.setAttribute("aria-current", "true");
      return row;
    });
    through.replaceChildren(...rows);
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
      charts.replaceChildren(make("p", { className: "muted", textContent: "Click a prediction, press Enter, or search for a token, to follow its probability over the layers in both models." }));
      return;
    }
    const figures = curves.map((curve, index) => {
      const word = state.pins[index];
      const remove = make("button", { type: "button", className: "plain unpin", textContent: "✕", "aria-label": `Unpin ${text(word)}`, title: "Unpin" });
      remove.addEventListener("click", () => togglePin(word));
      const values = lensModels.map(([model]) => make("span", { className: model, textContent: `${symbol[model]} ${lensChance(curve[model][state.layer])}` }));
      const figure = make("figure", { className: "pin" }, make("figcaption", {}, make("b", { textContent: text(word), title: `${text(word)} (token ${data.ids[word]})` }), ...values, remove), lensChart(data, curve, span, state.layer, text(word)));
      figure.dataset.word = word;
      return figure;
    });
    const bounds = curves.some((curve) => lensModels.some(([model]) => curve[model].some(({ exact }) => !exact)));
    const note = bounds ? "Hollow: not stored there, so at most this much (the least likely prediction listed)." : "Exact at every layer.";
    charts.replaceChildren(...figures, make("p", { className: "muted about", textContent: `Probability by layer at ${cells.describe(at)}. ${note}` }));
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
    show();
  }
  clear.addEventListener("click", () => { state.pins = []; show(); });

  const plain = (word) => word.replaceAll("␣", " ").trim().toLowerCase();
  let active = 0;
  function suggest() {
    const wanted = plain(search.value);
    const here = new Set(cells.known(state.chosen[state.problem]));
    const found = [];
    if (wanted || search.value) {
      for (let word = 0; word < data.vocabulary.length; word++) {
        const own = plain(data.vocabulary[word]);
        const rank = own === wanted ? 0 : own.startsWith(wanted) ? 1 : own.includes(wanted) ? 2 : 3;
        if (rank < 3) found.push([rank, here.has(word) ? 0 : 1, own.length, word]);
      }
    }
    found.sort((a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2] || a[3] - b[3]);
    const items = found.slice(0, SUGGESTIONS).map(([, , , word], index) => {
      const item = make("li", { role: "option", id: `option-${root.dataset.lens}-${index}`, "aria-selected": index === active },
        make("span", { className: "text", textContent: text(word) }), make("span", { className: "p", textContent: `#${data.ids[word]}${here.has(word) ? " · exact here" : ""}` }));
      item.dataset.word = word;
      return item;
    });
    if (wanted && !items.length) items.push(make("li", { className: "none", textContent: "among no predictions on this page" }));
    options.replaceChildren(...items);
    options.hidden = !items.length;
    search.setAttribute("aria-expanded", String(!options.hidden));
    items[active]?.id ? search.setAttribute("aria-activedescendant", items[active].id) : search.removeAttribute("aria-activedescendant");
  }
  const close = () => { options.hidden = true; search.setAttribute("aria-expanded", "false"); };
  const take = (item) => {
    if (!item?.dataset.word) return;
    const word = Number(item.dataset.word);
    search.value = "";
    close();
    if (!state.pins.includes(word)) togglePin(word);
  };
  search.addEventListener("input", () => { active = 0; suggest(); });
  search.addEventListener("blur", close);
  search.addEventListener("keydown", (event) => {
    const moves = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (moves) {
      const count = Math.max(1, options.querySelectorAll("[data-word]").length);
      active = (active + moves + count) % count;
      suggest();
    } else if (event.key === "Enter") take(options.children[active]);
    else if (event.key === "Escape") { search.value = ""; close(); }
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  options.addEventListener("mousedown", (event) => { event.preventDefault(); take(event.target.closest("li")); });

  // ---- the largest shifts ------------------------------------------------------------------------------------

  const listed = () => cells.ranked(state.filter).slice(0, SHOWN);
  function showRanking() {
    const items = listed().map(({ layer, position, kl }, index) => {
      const [base, rlvr] = ["base", "rlvr"].map((model) => text(cells.top(model, layer, position)));
      const parts = [["rank", index + 1], ["layer", make("i", { textContent: "layer " }), data.layers[layer]], ["place", cells.short(position)], ["kl", lensNumber(kl)], ["tops", base === rlvr ? base : `${base} → ${rlvr}`]];
      const button = make("button", { type: "button", tabIndex: index ? -1 : 0, title: `layer ${data.layers[layer]}, ${cells.describe(position)}: KL ${lensNumber(kl)} nats, ${base} → ${rlvr}` }, ...parts.map(([className, ...parts]) => make("span", { className }, ...parts)));
      button.dataset.cell = `${layer} ${position}`;
      return make("li", {}, button);
    });
    ranking.replaceChildren(...(items.length ? items : [make("li", { className: "muted", textContent: "No such cells." })]));
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
  kinds.addEventListener("change", () => { state.filter.kind = kinds.value; showRanking(); });

  // ---- moving about ------------------------------------------------------------------------------------------

  function go(layer, at) {
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
    const now = state.layer * cells.size + at;
    const tops = lensModels.map(([model, title]) => `${title} ${text(cells.top(model, state.layer, at))}`);
    heard.textContent = `Layer ${data.layers[state.layer]}, ${cells.describe(at)}: ${tops.join(", ")}, KL ${lensNumber(cells.kl[now])} nats`;
  }
  const setLayer = (layer) => go(layer, state.chosen[state.problem]);
  slider.addEventListener("input", () => setLayer(Number(slider.value)));
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
    if (!acts[key] || event.ctrlKey || event.metaKey || event.altKey || target.matches("select, input[type=search]")) return;
    if (key.length > 1 || key === " ") { // arrows, Enter and space mean something to other controls
      if (target.matches("input, a, summary")) return;
      if (key[0] !== "A" && target.matches("button:not([data-position])")) return;
    }
    event.preventDefault();
    acts[key]();
  });

  showProblem(0);
  keepLayerInSight();
}

// JupyterLab has a theme of its own, whatever the system's is: the frame follows the page around it.
function lensTheme() {
  let outside = null;
  try {
    outside = window.frameElement && window.parent.document.body;
  } catch { /* a frame of another origin */ }
  if (!outside) return;
  const follow = () => {
    const light = outside.dataset.jpThemeLight;
    if (light) document.documentElement.dataset.scheme = light === "true" ? "light" : "dark";
  };
  follow();
  new MutationObserver(follow).observe(outside, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
}
lensTheme();
document.querySelectorAll(".lens").forEach((root, index) => {
  root.dataset.lens = index;
  lensExplorer(root);
});
