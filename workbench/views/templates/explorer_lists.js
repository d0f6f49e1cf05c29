// Both models' predictions at one position: the selected layer in full, and every layer in a row of its own.
function lensBoth(cells, layer, at) {
  const lists = Object.fromEntries(cells.models.map(([model]) => [model, cells.predictions(model, layer, at)]));
  for (const [model, other] of [["base", "rlvr"], ["rlvr", "base"]])
    for (const entry of lists[model]) entry.alone = !lists[other].some(({ word }) => word === entry.word);
  return lists;
}

function lensWord(cells, state, name, { word, chance, alone }, className, shown) {
  const text = cells.data.vocabulary[word];
  const only = alone ? `, only in the ${name} list` : "";
  const pinned = state.pins.includes(word);
  const button = lensMake("button",
    { type: "button", className: `${className}${alone ? " alone" : ""}${pinned ? " pinned" : ""}`, title: `${text} · ${lensNumber(chance)}${only}` },
    lensMake("span", { className: "text", textContent: text }), lensMake("span", { className: "p", textContent: shown }));
  if (className === "top") {
    button.ariaLabel = `${text}, probability ${lensNumber(chance)}${only}; pin it`;
    button.ariaPressed = pinned;
  } else button.tabIndex = -1; // the selected layer's words are for keys, these for the pointer
  button.dataset.word = word;
  button.style.setProperty("--p", chance.toFixed(4));
  return button;
}

function lensReadout(cells, state, at) {
  const { raw, data } = cells;
  const lists = lensBoth(cells, state.layer, at);
  const tops = cells.models.map(([model, name]) => lensMake("div", { className: `tops ${model}` },
    lensMake("h4", {},
      lensMake("span", { className: model, textContent: `${lensSymbols[model]} ${name}` }),
      lensMake("span", { className: "entropy", textContent: `entropy ${lensNumber(cells.entropy(model, state.layer, at))} nats` })),
    lensMake("ol", {}, ...lists[model].map((entry) => lensMake("li", {}, lensWord(cells, state, name, entry, "top", lensNumber(entry.chance)))))));
  const facts = [`position ${at}`, lensKinds[raw.kinds[at]], ...(raw.places[at] ? [raw.tokens[at]] : []), `layer ${data.layers[state.layer]}${state.layer === cells.last ? " (last)" : ""}`];
  return [
    lensMake("div", { className: "where" },
      lensMake("strong", { textContent: (raw.places[at] ? "▦ " : "") + cells.describe(at) }),
      lensMake("span", {}, lensMake("span", { className: "kl", textContent: `KL ${lensNumber(cells.value("kl", state.layer, at))} nats` }),
      ...(cells.klNull ? [lensMake("span", { className: "ratio", title: "KL over that of matched noise", textContent: `${lensNumber(cells.value("ratio", state.layer, at))} × noise` })] : []),
      ...(cells.learnt?.[at] ? [lensMake("span", { className: "ratio", textContent: `learnt token, norm ${lensNumber(cells.learnt[at])}` })] : []))),
    lensMake("p", { className: "muted", textContent: facts.join(" · ") }),
    lensMake("div", { className: "both" }, ...tops),
    ...(cells.near ? lensNearest(cells, state.layer, at) : []),
  ];
}

function lensRows(cells, state, at) {
  const shifts = cells.data.layers.map((_, layer) => cells.value("kl", layer, at));
  const most = Math.max(...shifts, 1e-12);
  return cells.data.layers.map((number, layer) => {
    const lists = lensBoth(cells, layer, at);
    const lines = cells.models.map(([model, name]) => lensMake("div", { className: `line ${model}` },
      lensMake("span", { className: "entropy", title: `entropy of ${name}, nats`, textContent: lensNumber(cells.entropy(model, layer, at)) }),
      ...lists[model].map((entry) => lensWord(cells, state, name, entry, "chip", entry.chance >= 0.995 ? "1" : entry.chance.toFixed(2).slice(1)))));
    const meter = lensMake("span", { className: "meter" });
    meter.style.width = `${(100 * shifts[layer]) / most}%`;
    const row = lensMake("tr", { className: `${layer === state.layer ? "now" : ""}${layer === cells.last ? " last" : ""}` },
      lensMake("th", { scope: "row" },
        lensMake("button", { type: "button", className: "plain", tabIndex: -1, textContent: number, "aria-label": `Go to layer ${number}` }),
        ...(layer === cells.last ? [lensMake("small", { textContent: "last" })] : [])),
      lensMake("td", {}, lensMake("div", { className: "lines" }, ...lines)),
      lensMake("td", { className: "shift" }, lensMake("span", { textContent: lensNumber(shifts[layer]) }), lensMake("span", { className: "track" }, meter)));
    row.dataset.layer = layer;
    if (layer === state.layer) row.setAttribute("aria-current", "true");
    return row;
  });
}
