"use strict";
// What stands in the text whose states lie nearest to a cell, where the page has a LatentLens beside the logit lens.
class LensNeighbours {
  constructor(data, raw, size) {
    const { k, scale, idBytes } = data.neighbours;
    Object.assign(this, { k, scale, size, states: data.neighbours.states });
    const ids = idBytes === 2 ? Uint16Array : Uint32Array;
    for (const model of ["base", "rlvr"]) this[model] = { ids: lensDecode(raw[model].ids, ids), cosines: lensDecode(raw[model].cosines, Int16Array) };
    this.rank = lensDecode(raw.rank, Uint32Array);
  }
  ids(model, layer, position) {
    const start = (layer * this.size + position) * this.k;
    return this[model].ids.subarray(start, start + this.k);
  }
  changed(layer, position) { // share of the base's nearest that are not among RLVR's
    const theirs = this.ids("rlvr", layer, position);
    return this.ids("base", layer, position).reduce((count, id) => count + !theirs.includes(id), 0) / this.k;
  }
  overtaken(layer, position) { // states that are nearer to RLVR's residual than the one nearest to the base's
    return this.rank[layer * this.size + position];
  }
  list(model, layer, position) {
    const other = this.ids(model === "base" ? "rlvr" : "base", layer, position);
    const start = (layer * this.size + position) * this.k;
    return [...this.ids(model, layer, position)].map((id, place) => {
      const [word, of, before, after] = this.states[id];
      return { word, of, before, after, cosine: this[model].cosines[start + place] / this.scale, alone: !other.includes(id) };
    });
  }
}

function lensNearest(cells, layer, at) { // both models' lists, and what they say of the shift
  const near = cells.near;
  const lists = cells.models.map(([model, name]) => lensMake("div", { className: `tops near ${model}` },
    lensMake("h4", {}, lensMake("span", { className: model, textContent: `${lensSymbols[model]} ${name}` })),
    lensMake("ol", {}, ...near.list(model, layer, at).map(({ word, of, before, after, cosine, alone }) => lensMake("li",
      { className: alone ? "alone" : "", title: `${before}${word}${after} · layer ${of} · cosine ${lensNumber(cosine)}${alone ? `, only in the ${name} list` : ""}` },
      lensMake("span", { className: "passage" }, lensMake("span", { className: "muted", textContent: before }), lensMake("b", { className: "text", textContent: word }), lensMake("span", { className: "muted", textContent: after })),
      lensMake("span", { className: "p", textContent: `${cosine.toFixed(2)} · ${of}` }))))));
  const overtaken = near.overtaken(layer, at);
  const says = `${lensNumber(100 * near.changed(layer, at))}% changed; ${overtaken ? `${overtaken} now nearer than the base's first` : "the base's first still leads"}`;
  return [
    lensMake("h3", {}, "Nearest text states ", lensMake("span", { className: "muted", textContent: says })),
    lensMake("div", { className: "both" }, ...lists),
    lensMake("p", { className: "muted", textContent: "Cosine · the layer it is a state of. A word that its text has twice may be shown at the other place." }),
  ];
}
