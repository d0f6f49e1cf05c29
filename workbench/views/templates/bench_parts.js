// What a bench adds to the explorer: answers, tools of selecting and acting, and the list of trials. All text is set as text.
const benchWho = [["base", "Base", "●"], ["rlvr", "RLVR", "◆"], ["action", "With action", "▲"]];
const benchActs = [ // title, what the kernel is told, and the settings that a value gives
  ["scale", "Scale by", 0.5, (value) => ["scale", { factor: value }]],
  ["mlp", "Remove the MLP of layer", 0, (value) => ["remove", { layer: value }]],
  ["cross", "RLVR's draw into base where divergence ≥", 0.1, (value) => ["cross-sample", { host: "base", threshold: value }]],
  ["cross-back", "Base's draw into RLVR where divergence ≥", 0.1, (value) => ["cross-sample", { host: "rlvr", threshold: value }]],
  ["extrapolate", "Extrapolate beyond RLVR by", 0.5, (value) => ["extrapolate", { gamma: value }]],
];

function lensBenchParts(root, host, explorer) {
  const make = lensMake;
  const { depth, heads, adapter } = host.state;
  const button = (name, textContent, title, className = "act") => make("button", { type: "button", name, className, textContent, title });
  const number = (name, label, value, more) => make("input", { type: "number", name, className: "number", "aria-label": label, title: label, value, ...more });
  const select = (name, label, options) => make("select", { name, "aria-label": label, title: label }, ...options.map(([value, textContent]) => make("option", { value, textContent })));
  const radios = (legend, name, options, chosen) => make("fieldset", { className: `choice ${name}` }, make("legend", { textContent: legend }),
    ...options.map(([value, title]) => make("label", {}, make("input", { type: "radio", name: `${name}-${root.dataset.lens}`, value, checked: value === chosen }), make("span", { textContent: title }))));
  const acts = [...benchActs.map(([value, title]) => [value, title]), ...Array.from({ length: heads }, (_, head) => [`head ${head}`, `Remove head ${head} of layer`])];

  const parts = {
    answers: make("section", { className: "answers", "aria-label": "Answers" }),
    alternatives: make("section", { className: "alternatives", "aria-label": "What both models would say there", hidden: true }),
    tool: radios("Pointer", "tool", [["look", "Look"], ["rectangle", "Rectangle"], ["paint", "Paint"]], host.send ? "rectangle" : "look"),
    how: select("how", "What a selection does", [["set", "select anew"], ["add", "add"], ["remove", "take away"]]),
    first: number("first", "First layer of the selection", 0, { min: 0, max: depth - 1 }),
    final: number("final", "Last layer of the selection", depth - 1, { min: 0, max: depth - 1 }),
    word: make("input", { type: "search", name: "word", placeholder: "word of the prompt", "aria-label": "Select a word of the prompt", autocomplete: "off" }),
    stratum: select("stratum", "Stratum of the base's entropy", [["low", "low entropy"], ["high", "high entropy"], ["random", "as many at random"]]),
    tau: number("tau", "Tau: low is at most this share of the layer's largest entropy", 0.4, { min: 0, max: 1, step: 0.05 }),
    invert: button("invert", "Invert", "Select what is not selected, in the same layers (key i)", "plain"),
    clear: button("clear", "Clear", "Select nothing", "plain"),
    take: button("take", "Select", "Select this stratum", "plain"),
    count: make("output", { className: "count" }),
    undo: button("undo", "↶ Undo", "Undo (Ctrl+Z)", "plain"),
    redo: button("redo", "↷ Redo", "Redo (Ctrl+Shift+Z)", "plain"),
    patch: button("patch", "Patch base → RLVR", "Write the base's activations into RLVR at the selection"),
    back: button("back", "Patch RLVR → base", "Write RLVR's activations into the base at the selection"),
    replay: button("replay", "Replay", "Learn tokens at the selected positions that bring RLVR back to the base"),
    zero: button("zero", "Zero", "Take the selected cells away"),
    adapter: button("adapter", "Adapter", "Tokens that the bundled adapter predicts"),
    more: select("more", "Other actions", acts),
    value: number("value", "Value of the action", benchActs[0][2], { step: "any" }),
    other: button("other", "Do it", "Act with this value"),
    samples: number("samples", "Answers to draw of each, at temperature 1", 8, { min: 2, max: 64 }),
    draw: button("draw", "Draw samples", "Draw so many answers of base, RLVR and the action, besides the greedy ones"),
    asPatch: button("asPatch", "as Patch", "The selection as a Patch in code, to copy", "plain"),
    asReplay: button("asReplay", "as Replay", "The selection as a Replay in code, to copy", "plain"),
    status: make("p", { className: "status", role: "status" }),
    cancel: button("cancel", "Cancel", "Stop what is being computed (Esc)"),
    after: radios("Lens", "after", [["before", "both models"], ["after", "before and after the action"]], "before"),
    trials: make("ol", { className: "trials", "aria-label": "What was tried" }),
    code: make("textarea", { className: "code", readOnly: true, rows: 6, spellcheck: false, "aria-label": "Python that does what is shown" }),
    copy: button("copy", "Copy code", "Copy it into a cell of a notebook", "plain"),
    page: button("page", "Page", "Download a page of its own, which needs no kernel", "plain"),
    json: button("json", "JSON", "Download what was tried, to be reopened", "plain"),
    reopen: make("input", { type: "file", accept: ".json", "aria-label": "Reopen a bench from JSON", className: "file" }),
    cases: select("cases", "Prepared cases", [["", "Examples …"], ...(host.cases ?? []).map(({ name, title }) => [name, title])]),
    question: make("input", { type: "text", name: "question", placeholder: "a question of your own", "aria-label": "A question of your own" }),
    picture: make("input", { type: "file", accept: "image/*", "aria-label": "Its picture", className: "file" }),
    ask: button("ask", "Ask", "Open this question", "plain"),
  };
  if (!adapter) parts.adapter.hidden = true;
  parts.cases.hidden = !host.cases?.length;
  const group = (name, ...content) => make("div", { className: "row group", role: "group", "aria-label": name }, make("h3", { textContent: name }), ...content);
  const label = (text, ...controls) => make("label", { className: "tick" }, text, ...controls);
  parts.tools = make("section", { className: "tools", "aria-label": "Bench" },
    group("Select", parts.tool, parts.how, make("span", { className: "tick" }, "layers", parts.first, "to", parts.final), parts.word,
      make("span", { className: "tick" }, parts.stratum, parts.tau, parts.take), parts.invert, parts.clear, parts.count, parts.undo, parts.redo),
    group("Act", parts.patch, parts.back, parts.replay, parts.zero, parts.adapter, make("span", { className: "tick" }, parts.more, parts.value, parts.other), make("span", { className: "tick" }, parts.samples, parts.draw), parts.cancel, parts.status));
  const opens = make("div", { className: "row opens" }, parts.cases, make("span", { className: "tick" }, parts.question, parts.picture, parts.ask));
  if (host.send) root.querySelector(".head").before(opens);
  root.querySelector(".head").after(parts.answers, parts.alternatives, parts.tools);
  root.querySelector(".toolbar").append(parts.after);
  root.querySelector(".columns").after(make("div", { className: "below" },
    make("section", { className: "tried" }, make("div", { className: "row" }, make("h3", { textContent: "Tried" })), parts.trials),
    make("section", { className: "export" }, make("div", { className: "row" }, make("h3", { textContent: "Export" }), parts.copy, parts.page, parts.json, label("reopen", parts.reopen)),
      make("div", { className: "row" }, make("span", { className: "muted", textContent: "selection" }), parts.asPatch, parts.asReplay), parts.code)));
  if (!host.send) {
    for (const control of [...parts.tools.querySelectorAll("button, input, select"), parts.page, parts.json, parts.reopen, parts.asPatch, parts.asReplay]) control.disabled = true;
    parts.cancel.hidden = true;
    parts.status.textContent = "This page has no kernel: open the bench in Jupyter to act.";
  }
  return parts;
}

// One answer, token by token: the deeper the tint, the further both models are apart there; what an action changed is underlined.
function benchAnswer([who, name, symbol], answer, answeredBy) {
  const mark = answer.right === null ? "" : answer.right ? " ✓ right" : " ✗ wrong";
  const changed = new Set(answer.changed);
  const strip = lensMake("div", { className: "strip", role: "group", "aria-label": `Tokens of the answer: ${name}` });
  answer.tokens.forEach(([, text, divergence], at) => {
    const told = `token ${at + 1}: ${text}, divergence ${lensNumber(divergence)} nats${changed.has(at) ? ", changed" : ""}`;
    const token = lensMake("button", { type: "button", textContent: text, title: told, "aria-label": told, tabIndex: at ? -1 : 0, className: changed.has(at) ? "changed" : "" });
    token.dataset.who = who;
    token.dataset.at = at;
    token.style.setProperty("--depth", Math.sqrt(Math.max(divergence, 0) / Math.LN2).toFixed(3));
    strip.append(token);
  });
  if (!answer.tokens.length) strip.append(lensMake("span", { textContent: answer.text }));
  const of = who === "action" ? ` (${answeredBy === "base" ? "base" : "RLVR"})` : "";
  const head = lensMake("h4", {}, lensMake("span", { className: who, textContent: `${symbol} ${name}${of}` }), lensMake("span", { className: "muted", textContent: mark + (answer.finished ? "" : " · cut off") }));
  if (answer.more) strip.append(lensMake("span", { className: "muted", textContent: ` … ${answer.more} more tokens` }));
  const drawn = answer.samples.reduce((sum, [, count]) => sum + count, 0);
  const right = answer.rightSamples === null ? "" : `, ${answer.rightSamples} right`;
  const several = drawn ? [lensMake("p", { className: "muted drawn", textContent: `${drawn} samples${right}` }),
    lensMake("ul", { className: "samples", tabIndex: 0, "aria-label": `Samples: ${name}` }, ...answer.samples.map(([text, count]) => lensMake("li", {}, lensMake("b", { textContent: `${count} × ` }), text)))] : [];
  return lensMake("div", { className: `said ${who}` }, head, strip, ...several);
}
