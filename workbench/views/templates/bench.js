// The bench: an explorer in which cells are selected and acted on. host has data, state and effect, says when one of them changes
// (on), and carries messages to the kernel (send; null where there is none).
function lensBench(root, host) {
  const explorer = lensExplorer(root, host.data);
  const parts = lensBenchParts(root, host, explorer);
  let state = host.state, effect = host.effect, selected = new Map(), after = null, open = null, gone = null;
  const send = (message) => host.send?.(message);
  const raw = () => explorer.plain().raw;
  const layers = () => [Number(parts.first.value), Number(parts.final.value)];
  const tool = () => parts.tool.querySelector(":checked").value;
  const choose = (where, how = parts.how.value) => send({ do: "select", where: { layers: layers(), ...where }, how });

  // ---- the selection on the picture and the words ----------------------------------------------------------------

  function unpackMask() {
    selected = new Map(); // position -> layers
    for (const [layer, spans] of Object.entries(state.mask))
      for (const [first, stop] of spans)
        for (let at = first; at < stop; at++) {
          if (!selected.has(at)) selected.set(at, new Set());
          selected.get(at).add(Number(layer));
        }
  }
  function showMask() {
    const layer = explorer.data.layers[explorer.state.layer];
    const marks = explorer.marks();
    for (const group of root.querySelectorAll(".picked")) group.remove();
    const groups = new Map();
    for (const [position, mark] of marks) {
      const here = selected.get(position);
      if (mark.tagName === "BUTTON") {
        mark.classList.toggle("selected", Boolean(here));
        mark.classList.toggle("elsewhere", Boolean(here) && !here.has(layer));
        mark.ariaPressed = host.send ? String(Boolean(here)) : null;
        continue;
      }
      if (!here) continue;
      const svg = mark.parentNode;
      if (!groups.has(svg)) groups.set(svg, lensSvg("g", { class: "picked" }));
      const box = { x: mark.getAttribute("x"), y: mark.getAttribute("y"), width: 1, height: 1 };
      const faint = here.has(layer) ? "" : " elsewhere";
      groups.get(svg).append(lensSvg("rect", { ...box, class: `outer${faint}` }), lensSvg("rect", { ...box, class: `inner${faint}` }));
    }
    for (const [svg, group] of groups) svg.querySelector(".ring").before(group);
    const { size } = explorer.plain();
    parts.count.textContent = state.count ? `${state.count} cells: ${selected.size} of ${size} positions, layers ${benchRanges(Object.keys(state.mask).map(Number))}` : "nothing selected";
  }
  explorer.heardBy.marks = showMask;

  function cellAt(svg, event) {
    const box = svg.getBoundingClientRect(), { width, height } = svg.viewBox.baseVal;
    const within = (value, most) => Math.min(Math.max(Math.floor(value), 0), most - 1);
    return [within(((event.clientY - box.top) / box.height) * height, height), within(((event.clientX - box.left) / box.width) * width, width)];
  }
  function positionsIn(svg, [top, left], [bottom, right]) {
    const figures = [...explorer.parts.views.querySelectorAll(".view")];
    const view = figures.indexOf(svg.closest(".view"));
    const frame = explorer.state.frames[explorer.state.problem][view];
    const inside = (value, a, b) => value >= Math.min(a, b) && value <= Math.max(a, b);
    return raw().places.flatMap((place, at) => (place && place[0] === view && place[1] === frame && inside(place[2], top, bottom) && inside(place[3], left, right) ? [at] : []));
  }
  let drag = null;
  const ofEvent = (event) => (event.shiftKey ? "add" : event.altKey ? "remove" : parts.how.value);
  explorer.parts.views.addEventListener("pointerdown", (event) => {
    const svg = event.target.closest(".overlay");
    if (!svg || !host.send || event.button || (tool() === "look" && !event.shiftKey)) return;
    const start = cellAt(svg, event);
    drag = { svg, start, end: start, painted: new Set(positionsIn(svg, start, start)), how: ofEvent(event) };
    svg.setPointerCapture(event.pointerId);
    rubber();
  });
  explorer.parts.views.addEventListener("pointermove", (event) => {
    if (!drag) return;
    drag.end = cellAt(drag.svg, event);
    for (const at of positionsIn(drag.svg, drag.end, drag.end)) drag.painted.add(at);
    rubber();
  });
  explorer.parts.views.addEventListener("pointerup", () => {
    if (!drag) return;
    const { svg, start, end, painted, how } = drag;
    drag = null;
    svg.querySelector(".rubber")?.remove();
    choose({ positions: tool() === "paint" ? [...painted] : positionsIn(svg, start, end) }, how);
  });
  function rubber() {
    drag.svg.querySelector(".rubber")?.remove();
    const group = lensSvg("g", { class: "rubber" });
    const one = ([row, column], [last, right]) => group.append(lensSvg("rect", { x: Math.min(column, right), y: Math.min(row, last), width: Math.abs(right - column) + 1, height: Math.abs(last - row) + 1 }));
    if (tool() !== "paint") one(drag.start, drag.end);
    else for (const at of drag.painted) { const [, , row, column] = raw().places[at]; one([row, column], [row, column]); }
    drag.svg.append(group);
  }
  explorer.parts.words.addEventListener("click", (event) => {
    const button = event.target.closest("[data-position]");
    if (button && host.send && (tool() !== "look" || event.shiftKey)) choose({ positions: [Number(button.dataset.position)] }, ofEvent(event));
  });
  const toggle = () => choose({ positions: [explorer.chosen()] }, selected.has(explorer.chosen()) ? "remove" : "add");

  // ---- answers -----------------------------------------------------------------------------------------------------

  function showAnswers() {
    const said = benchWho.filter(([who]) => state.answers[who]).map((who) => benchAnswer(who, state.answers[who[0]], state.answeredBy));
    const note = state.shown ? `#${state.shown}  ${state.title}` : "The models as they are. Select cells in the picture or the prompt, then act.";
    parts.answers.replaceChildren(lensMake("p", { className: "muted title", textContent: note }), lensMake("div", { className: "sides" }, ...said));
    if (open && !state.answers[open.who]?.tokens[open.at]) open = null;
    showAlternatives();
  }
  function showAlternatives() {
    parts.alternatives.hidden = !open;
    for (const token of parts.answers.querySelectorAll(".strip button")) {
      const here = open && token.dataset.who === open.who && Number(token.dataset.at) === open.at;
      token.setAttribute("aria-expanded", String(Boolean(here)));
    }
    if (!open) return;
    const [, text, divergence, ...tops] = state.answers[open.who].tokens[open.at];
    const close = lensMake("button", { type: "button", className: "plain", textContent: "✕", "aria-label": "Close" });
    close.addEventListener("click", () => { open = null; showAlternatives(); });
    const lists = ["base", "rlvr"].map((model, index) => lensMake("div", { className: `tops ${model}` },
      lensMake("h4", {}, lensMake("span", { className: model, textContent: `${lensSymbols[model]} ${lensModels[index][1]}` })),
      lensMake("ol", {}, ...tops[index].map(([id, word, chance]) => {
        const button = lensMake("button", { type: "button", className: "top", title: `go on with ${word}`, "aria-label": `${word}, probability ${lensNumber(chance)}; take it and go on from there` , disabled: !host.send },
          lensMake("span", { className: "text", textContent: word }), lensMake("span", { className: "p", textContent: lensNumber(chance) }));
        button.style.setProperty("--p", chance.toFixed(4));
        button.addEventListener("click", () => send({ do: "go_on", who: open.who, position: open.at, token: id }));
        return lensMake("li", {}, button);
      }))));
    parts.alternatives.replaceChildren(
      lensMake("div", { className: "row" }, lensMake("strong", { textContent: `Token ${open.at + 1}: ${text}` }), lensMake("span", { className: "muted", textContent: `divergence ${lensNumber(divergence)} nats. Take one of these, and the answers go on from there.` }), close),
      lensMake("div", { className: "both" }, ...lists));
  }
  parts.answers.addEventListener("click", ({ target }) => {
    const token = target.closest("[data-at]");
    if (!token) return;
    const next = { who: token.dataset.who, at: Number(token.dataset.at) };
    open = open && open.who === next.who && open.at === next.at ? null : next;
    showAlternatives();
  });
  parts.answers.addEventListener("keydown", (event) => {
    const token = event.target.closest("[data-at]");
    const to = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
    if (!token || !to) return;
    event.preventDefault();
    event.stopPropagation();
    const next = token[to];
    if (!next) return;
    token.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });

  // ---- the list of trials, what can be done --------------------------------------------------------------------------

  function showTrials() {
    parts.trials.replaceChildren(...state.trials.map((trial) => {
      const facts = trial.number ? [trial.cells ? `${trial.cells} cells` : "", `${trial.changed} tokens changed`, trial.lens ? `lens up to ${lensNumber(trial.lens)} nats` : ""].filter(Boolean).join(" · ") : "";
      const row = lensMake("button", { type: "button", disabled: !host.send, title: trial.text },
        lensMake("span", { className: "muted", textContent: `#${trial.number}` }), lensMake("b", { textContent: trial.title }),
        lensMake("span", { textContent: trial.right === null ? "" : trial.right ? "✓ right" : "✗ wrong" }), lensMake("span", { className: "muted", textContent: facts }), lensMake("span", { className: "text", textContent: trial.text }));
      if (trial.number === state.shown) row.setAttribute("aria-current", "true");
      row.addEventListener("click", () => send({ do: "show", number: trial.number }));
      return lensMake("li", {}, row);
    }));
    parts.trials.scrollTop = parts.trials.scrollHeight;
  }
  function showStatus() {
    if (!host.send) return;
    const busy = Boolean(state.busy) && !gone;
    root.classList.toggle("busy", busy);
    root.setAttribute("aria-busy", String(busy));
    parts.status.classList.toggle("wrong", Boolean(gone || state.error));
    parts.status.textContent = gone ?? (busy ? `working: ${state.busy} …` : state.error ?? "");
    parts.cancel.hidden = !busy;
    for (const one of [parts.patch, parts.back, parts.replay, parts.zero, parts.adapter, parts.other, parts.ask, parts.draw]) one.disabled = busy || Boolean(gone);
    for (const one of [parts.patch, parts.back, parts.replay, parts.zero]) one.disabled ||= !state.count;
    for (const one of [parts.asPatch, parts.asReplay]) one.disabled = !state.count || Boolean(gone);
    parts.undo.disabled = !state.undo || Boolean(gone);
    parts.redo.disabled = !state.redo || Boolean(gone);
  }
  function showAfter() { // the lens of the model that was changed, before and after
    after = effect.kl && effect.trial === state.shown ? benchAfter(explorer.plain(), effect, state.answeredBy) : null;
    parts.after.hidden = !after;
    const wanted = after && parts.after.querySelector(":checked").value === "after";
    for (const cells of [explorer.plain(), ...(after ? [after] : [])]) cells.learnt = (effect.trial === state.shown && effect.norms) || null;
    if (after) after.noiseLater = Boolean(host.send) && !after.klNull;
    explorer.look(wanted ? after : null);
    explorer.heardBy.measure();
  }
  parts.after.addEventListener("change", showAfter);
  explorer.heardBy.measure = () => { // noise beside an action is drawn when it is asked for: it takes as long as all else
    if (explorer.state.measure === "ratio" && explorer.cells().noiseLater && !state.busy) send({ do: "noise" });
  };

  function showAll() {
    unpackMask();
    showMask();
    showAnswers();
    showTrials();
    showStatus();
    parts.code.value = state.code ?? "# long: press Copy code";
  }
  host.on("state", (next) => { state = next; showAll(); if (effect.trial === state.shown) showAfter(); });
  host.on("effect", (next) => { effect = next; showAfter(); });
  host.on("gone", (words) => { gone = words; showStatus(); });
  host.on("message", ({ file, code }) => {
    if (code) copy(code);
    if (file) download(file);
  });
  function copy(code) { // shown, selected and, where the browser lets it, on the clipboard
    parts.code.value = code;
    parts.code.focus();
    parts.code.select();
    navigator.clipboard?.writeText(code).catch(() => {});
  }
  function download({ name, type, content }) {
    const link = lensMake("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // ---- controls --------------------------------------------------------------------------------------------------------

  const act = (name, settings = {}) => send({ do: "act", name, settings });
  const other = () => {
    const value = Number(parts.value.value);
    const known = benchActs.find(([name]) => name === parts.more.value);
    act(...(known ? known[3](value) : ["remove", { layer: value, head: Number(parts.more.value.split(" ")[1]) }]));
  };
  const clicks = {
    invert: () => send({ do: "invert" }), clear: () => send({ do: "clear" }), undo: () => send({ do: "undo" }), redo: () => send({ do: "redo" }),
    take: () => choose({ stratum: parts.stratum.value, tau: Number(parts.tau.value) }),
    patch: () => act("patch"), back: () => act("patch", { source: "rlvr" }), replay: () => act("replay"), zero: () => act("scale", { factor: 0 }),
    adapter: () => act("adapter"), other, cancel: () => send({ do: "cancel" }),
    page: () => send({ do: "save", kind: "html" }), json: () => send({ do: "save", kind: "json" }),
    copy: () => (state.code === null ? send({ do: "code" }) : copy(state.code)),
    asPatch: () => send({ do: "code", name: "patch" }), asReplay: () => send({ do: "code", name: "replay" }),
    draw: () => send({ do: "sample", samples: Number(parts.samples.value) }),
    ask: () => benchFile(parts.picture.files[0], (picture) => send({ do: "ask", question: parts.question.value, picture })),
  };
  root.addEventListener("click", ({ target }) => clicks[target.closest("button")?.name]?.());
  parts.word.addEventListener("keydown", (event) => { if (event.key === "Enter" && parts.word.value.trim()) choose({ word: parts.word.value }); });
  parts.more.addEventListener("change", () => { parts.value.value = benchActs.find(([name]) => name === parts.more.value)?.[2] ?? explorer.state.layer; });
  parts.cases.addEventListener("change", () => { if (parts.cases.value) send({ do: "case", name: parts.cases.value }); });
  parts.reopen.addEventListener("change", async () => { const [file] = parts.reopen.files; if (file) send({ do: "reopen", content: await file.text() }); });
  root.addEventListener("keydown", (event) => {
    if (!host.send || event.target.matches("input[type=search], input[type=text], textarea")) return;
    const key = event.key.toLowerCase(), control = event.ctrlKey || event.metaKey;
    const moves = { ArrowUp: -1, ArrowDown: 1 };
    if (control && key === "z") send({ do: event.shiftKey ? "redo" : "undo" });
    else if (control) return;
    else if (key === "x") toggle();
    else if (key === "i") send({ do: "invert" });
    else if (key === "escape" && state.busy) send({ do: "cancel" });
    else if (event.shiftKey && moves[event.key] && !event.target.matches("input, select")) { explorer.walk(moves[event.key]); choose({ positions: [explorer.chosen()] }, "add"); }
    else return;
    event.preventDefault();
    event.stopPropagation();
  }, true);
  if (host.send) root.querySelector(".help").append(...[["x", "select, unselect"], ["⇧↑ ⇧↓", "add to the selection"], ["i", "invert"], ["Esc", "cancel"]].map(([keys, what]) => lensMake("span", {}, ...keys.split(" ").map((key) => lensMake("kbd", { textContent: key })), what)));

  showAll();
  showAfter();
}

const benchRanges = (numbers) => { // 2, 3, 4, 7 -> "2–4, 7"
  const runs = [];
  for (const n of [...numbers].sort((a, b) => a - b)) n === runs.at(-1)?.[1] + 1 ? (runs.at(-1)[1] = n) : runs.push([n, n]);
  return runs.map(([a, b]) => (a === b ? `${a}` : `${a}–${b}`)).join(", ");
};

// Answers as they travel, tokens as indices of words, to (id, text, divergence, alternatives of base and RLVR).
function benchUnpack({ trial, ids, words, ...answers }) {
  const tops = (list) => list.flatMap((word, at) => (at % 2 ? [] : [[ids[word], words[word], list[at + 1]]]));
  return Object.fromEntries(Object.entries(answers).map(([who, answer]) => [who, { ...answer, tokens: answer.tokens.map(([word, divergence, base, rlvr]) => [ids[word], words[word], divergence, tops(base), tops(rlvr)]) }]));
}

function benchFile(file, take) { // a file as a data URI, or null
  if (!file) return take(null);
  const reader = new FileReader();
  reader.addEventListener("load", () => take(reader.result));
  reader.readAsDataURL(file);
}

// The cells of a prompt whose two models are one: as it is, and with an action.
function benchAfter(plain, effect, model) {
  const { data } = plain;
  const decode = (text, type) => new type(Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer);
  const numbers = (text) => (effect.halves ? new Float32Array(Uint32Array.from(decode(text, Uint16Array), (half) => half << 16).buffer) : decode(text, Float32Array));
  const known = new Map(data.ids.map((id, index) => [id, index]));
  const words = effect.ids.map((id, index) => {
    if (!known.has(id)) {
      known.set(id, data.ids.push(id) - 1);
      data.vocabulary.push(effect.vocabulary[index]);
    }
    return known.get(id);
  });
  const { topK } = effect;
  const fewer = (values) => values.filter((_, index) => index % plain.topK < topK); // the first topK of each cell
  const none = new Uint16Array();
  const own = Uint32Array.from(decode(effect.words, effect.wordBytes === 2 ? Uint16Array : Uint32Array), (word) => words[word]);
  return Object.assign(Object.create(LensCells.prototype), plain, {
    models: [["base", model === "base" ? "Base" : "RLVR"], ["rlvr", "With action"]],
    topK, follow: 0, followedWords: none, ranges: new Map(), rankings: new Map(),
    entropyBase: model === "base" ? plain.entropyBase : plain.entropyRlvr,
    entropyRlvr: numbers(effect.entropy),
    kl: numbers(effect.kl),
    klNull: effect.klNull ? numbers(effect.klNull) : null,
    base: { words: fewer(plain[model].words), chances: fewer(plain[model].chances), followed: none },
    rlvr: { words: own, chances: decode(effect.chances, Uint16Array), followed: none },
  });
}
