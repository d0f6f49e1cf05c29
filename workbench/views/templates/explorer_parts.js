// What stands on the page: every element of the explorer, without what it does. All text is set as text.
const lensMake = (tag, properties = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) name in element ? (element[name] = value) : element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const lensMeasures = [["kl", "KL"], ["ratio", "KL over noise"], ["entropyBase", "Base entropy"], ["entropyRlvr", "RLVR entropy"], ["entropyChange", "Entropy change"], ["learnt", "Learnt norm"], ["near", "Neighbours changed"], ["overtaken", "Rank shift"], ["change", "Top-1 change"]];
const lensKeys = [["← →", "layer"], ["↑ ↓", "position"], ["n p", "next, previous largest shift"], ["Enter", "pin or unpin the top prediction"], ["o", "overlay on, off"]];

function lensParts(root, data, state) {
  const make = lensMake;
  const radios = (legend, name, options) => {
    const box = make("fieldset", { className: "choice" }, make("legend", { textContent: legend }));
    for (const [value, title] of options) {
      const input = make("input", { type: "radio", name: `${name}-${root.dataset.lens}`, value, checked: state[name] === value });
      box.append(make("label", {}, input, make("span", { textContent: title })));
    }
    return box;
  };
  const select = (name, className, options) => make("select", { className, "aria-label": name }, ...options.map(([value, textContent]) => make("option", { value, textContent })));
  const tick = (name, title) => make("label", { className: "tick" }, make("input", { type: "checkbox", name, checked: state.filter[name] }), title);
  const step = (textContent, name, key) => make("button", { type: "button", className: "plain step", textContent, title: `${name} (key ${key})`, "aria-label": `${name} largest shift` });
  const column = (...content) => make("th", { scope: "col" }, ...content);
  const options = `options-${root.dataset.lens}`;

  const through = make("tbody");
  const head = make("thead", {}, make("tr", {},
    column("Layer"),
    column(make("span", { className: "base", textContent: "● base" }), make("span", { className: "rlvr", textContent: "◆ RLVR" }), ` entropy, nats, and top ${data.topK}`),
    column("KL, nats")));
  const parts = {
    through,
    picker: select("Problem", "picker", data.problems.map((problem, index) => [index, `${index + 1} of ${data.problems.length} · ${problem.id}`])),
    question: make("p", { className: "question" }),
    layerName: make("output", { className: "layer-name" }),
    slider: make("input", { type: "range", min: 0, max: data.layers.length - 1, step: 1, className: "layer", "aria-label": "Layer" }),
    measures: radios("Measure", "measure", lensMeasures),
    scale: select("Colour scale", "scale", [["layer", "scale: this layer"], ["all", "scale: all layers"]]),
    overlay: make("input", { type: "range", min: 0, max: 100, step: 5, value: 100 * state.alpha, className: "alpha", "aria-label": "Strength of the overlay" }),
    legend: make("div", { className: "legend" }),
    views: make("div", { className: "views", hidden: data.problems.every((problem) => !problem.views.length) }),
    words: make("div", { className: "words", role: "group", "aria-label": "Tokens of the prompt" }),
    readout: make("section", { className: "readout", "aria-label": "Predictions at the selected layer" }),
    throughBox: make("div", { className: "through", tabIndex: -1, role: "region", "aria-label": "Predictions at every layer" }, make("table", {}, head, through)),
    search: make("input", { type: "search", placeholder: "Pin a token …", autocomplete: "off", spellcheck: false, role: "combobox",
      "aria-label": "Pin a token of the vocabulary", "aria-expanded": "false", "aria-autocomplete": "list", "aria-controls": options }),
    options: make("ul", { className: "options", role: "listbox", id: options, hidden: true, "aria-label": "Matching tokens" }),
    scales: radios("Scale", "log", [[false, "linear"], [true, "log"]]),
    clear: make("button", { type: "button", className: "plain", textContent: "Clear" }),
    charts: make("div", { className: "charts" }),
    pinned: make("span", { className: "muted pinned" }),
    wordScale: make("span", { className: "muted" }),
    previous: step("‹", "Previous", "p"),
    next: step("›", "Next", "n"),
    filters: make("div", { className: "row filters" }, select("Kind of token", "", [["all", "all tokens"], ["visual", "visual only"], ["text", "text only"], ...(data.problems.some(({ kinds }) => kinds.includes(3)) ? [["response", "response only"]] : [])]), tick("last", "last layer too"), tick("once", "one per position")),
    ranking: make("ol", { className: "ranking", tabIndex: -1, "aria-label": "Cells with the largest KL" }),
    heard: make("div", { className: "heard", "aria-live": "polite" }),
  };
  const help = make("p", { className: "help" },
    ...lensKeys.map(([keys, what]) => make("span", {}, ...keys.split(" ").map((key) => make("kbd", { textContent: key })), what)),
    make("span", {}, make("span", { className: "alone" }, make("span", { className: "text", textContent: "word" })), "in that model's list only"));
  root.append(
    make("div", { className: "head" }, parts.picker, parts.question),
    make("div", { className: "toolbar" },
      make("label", { className: "slider" }, parts.layerName, parts.slider),
      parts.measures, parts.legend),
    help,
    make("div", { className: "columns" },
      make("div", { className: "left" }, parts.views,
        make("div", { className: "row shade" }, parts.scale, make("label", { className: "strength", hidden: parts.views.hidden }, "overlay", parts.overlay)),
        make("section", { className: "prompt" }, make("div", { className: "row" }, make("h3", { textContent: "Prompt" }), parts.wordScale), parts.words),
        make("section", { className: "jumps" },
          make("div", { className: "row" }, make("h3", { textContent: "Largest shifts" }), parts.previous, parts.next), parts.filters, parts.ranking)),
      make("div", { className: "right" }, parts.readout, parts.throughBox,
        make("section", { className: "pins", "aria-label": "Pinned tokens" },
          make("div", { className: "row" }, make("h3", { textContent: "Pinned tokens" }), parts.pinned, make("span", { className: "search" }, parts.search, parts.options), parts.scales, parts.clear), parts.charts))),
    parts.heard);
  root.tabIndex = -1;
  return parts;
}
