"use strict";
// The numbers of one problem, unpacked. A cell is one layer (an index into data.layers) at one position.
const lensKinds = ["text token", "visual token", "special token", "response token"];
const lensModels = [["base", "Base"], ["rlvr", "RLVR"]];
const lensUnits = { ratio: "times noise", learnt: "norm", near: "of the nearest", overtaken: "states" }; // of a measure; nats for all others
const lensSymbols = { base: "●", rlvr: "◆" };
const lensNumber = (value) => { // three significant digits
  if (value === 0 || !Number.isFinite(value)) return value === 0 ? "0" : "–";
  const power = Math.floor(Math.log10(Math.abs(value)));
  return power < -4 ? value.toExponential(1) : value.toFixed(Math.max(0, 2 - power));
};

const lensDecode = (text, type) => {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return new type(bytes.buffer);
};

class LensCells {
  constructor(data, raw) {
    const decode = lensDecode;
    this.models = lensModels; // what the two are called
    const words = data.wordBytes === 2 ? Uint16Array : Uint32Array;
    Object.assign(this, { data, raw, size: raw.tokens.length, layers: data.layers.length, topK: data.topK, follow: data.follow });
    for (const name of ["entropyBase", "entropyRlvr", "kl"]) this[name] = decode(raw[name], Float32Array);
    this.klNull = raw.klNull ? decode(raw.klNull, Float32Array) : null; // of matched noise; null where none was drawn
    this.near = raw.near ? new LensNeighbours(data, raw.near, raw.tokens.length) : null; // nearest text states, where the page has them
    this.learnt = null; // norm of the token learnt at each position, where an action learnt any
    for (const model of ["base", "rlvr"]) {
      this[model] = {
        words: decode(raw[`${model}Words`], words),
        chances: decode(raw[`${model}Chances`], Uint16Array),
        followed: decode(raw[`${model}Followed`], Uint16Array),
      };
    }
    this.followedWords = decode(raw.followedWords, words);
    this.last = data.layers[this.layers - 1] === data.depth - 1 ? this.layers - 1 : -1; // where the decoder's last layer is
    this.visual = raw.places.some(Boolean);
    this.ranges = new Map();
    this.rankings = new Map();
  }

  // ---- measures

  entropy(model, layer, position) {
    return (model === "base" ? this.entropyBase : this.entropyRlvr)[layer * this.size + position];
  }
  value(measure, layer, position) {
    const cell = layer * this.size + position;
    if (measure === "change") return this.top("base", layer, position) === this.top("rlvr", layer, position) ? 0 : 1;
    if (measure === "entropyChange") return this.entropyRlvr[cell] - this.entropyBase[cell];
    if (measure === "ratio") return this.klNull?.[cell] > 0 ? this.kl[cell] / this.klNull[cell] : NaN; // nothing changed: no noise either
    if (measure === "learnt") return this.learnt?.[position] || NaN;
    if (measure === "near") return this.near.changed(layer, position);
    if (measure === "overtaken") return this.near.overtaken(layer, position);
    return this[measure][cell];
  }
  // Colours span the 2nd to the 98th percentile of the visual tokens (of all tokens where there is no image), so that
  // one extreme token does not flatten the rest. KL, its ratio to noise, norms and shifts of neighbours start at 0; an entropy change spans as much on either side of 0.
  range(measure, layer, words = false) { // layer: an index, or null for all layers; words: of the tokens that are not visual
    const key = `${measure} ${layer} ${words}`;
    if (this.ranges.has(key)) return this.ranges.get(key);
    const values = [];
    const span = layer === null ? [...this.data.layers.keys()] : [layer];
    for (const l of span)
      for (let i = 0; i < this.size; i++)
        if (!this.visual || words !== Boolean(this.raw.places[i])) {
          const value = this.value(measure, l, i);
          if (Number.isFinite(value)) values.push(value);
        }
    if (!values.length) values.push(0);
    const signed = measure === "entropyChange";
    const sorted = Float64Array.from(signed ? values.map(Math.abs) : values).sort();
    const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
    const high = at(0.98);
    const low = signed ? -high : ["kl", "ratio", "learnt", "near", "overtaken"].includes(measure) ? 0 : at(0.02);
    const cutHigh = sorted[sorted.length - 1] > high;
    const found = { low, high, cutHigh, cutLow: signed ? cutHigh : low > sorted[0] };
    this.ranges.set(key, found);
    return found;
  }

  // ---- predictions

  top(model, layer, position) {
    return this[model].words[(layer * this.size + position) * this.topK];
  }
  chanceOf(code) { // exact, unless the code says no more than that it is tiny
    return { chance: Math.exp(-code / this.data.steps), exact: code < 65535 };
  }
  predictions(model, layer, position) {
    const start = (layer * this.size + position) * this.topK;
    const { words, chances } = this[model];
    return Array.from({ length: this.topK }, (_, rank) => ({ word: words[start + rank], chance: this.chanceOf(chances[start + rank]).chance }));
  }
  // The probability of a word: exact where it was followed or is among the top predictions, else an upper bound.
  chance(model, layer, position, word) {
    const slot = this.followedWords.subarray(position * this.follow, (position + 1) * this.follow).indexOf(word);
    if (slot >= 0) return this.chanceOf(this[model].followed[(position * this.follow + slot) * this.layers + layer]);
    const start = (layer * this.size + position) * this.topK;
    const rank = this[model].words.subarray(start, start + this.topK).indexOf(word);
    const found = this.chanceOf(this[model].chances[start + (rank < 0 ? this.topK - 1 : rank)]);
    return { chance: found.chance, exact: rank >= 0 && found.exact };
  }
  known(position) { // words whose probability is known there at every layer, likeliest first
    return [...this.followedWords.subarray(position * this.follow, (position + 1) * this.follow)].filter((w) => w < this.data.vocabulary.length);
  }

  // ---- places

  describe(position) {
    const place = this.raw.places[position];
    if (!place) return this.raw.tokens[position];
    const [view, frame, row, column] = place;
    const { name, grid } = this.raw.views[view];
    return `${name}${grid[0] > 1 ? `, frame ${frame + 1}` : ""}, row ${row + 1}, column ${column + 1}`;
  }
  short(position) {
    const place = this.raw.places[position];
    if (!place) return this.raw.tokens[position];
    const [view, frame, row, column] = place;
    const several = this.raw.views.length > 1 ? `view ${view + 1} ` : "";
    const moment = this.raw.views[view].grid[0] > 1 ? `frame ${frame + 1} ` : "";
    return `▦ ${several}${moment}${row + 1}, ${column + 1}`;
  }

  // ---- the cells that shifted most

  ranked({ kind, last, once }) { // kind: "all", "visual", "text" (neither visual nor response) or "response"; once: of each position its largest layer only
    const key = `${kind} ${last} ${once}`;
    if (this.rankings.has(key)) return this.rankings.get(key);
    let cells = [];
    for (let l = 0; l < this.layers; l++) {
      if (!last && l === this.last) continue;
      for (let i = 0; i < this.size; i++) {
        const own = { 1: "visual", 3: "response" }[this.raw.kinds[i]] ?? "text";
        if (kind === "all" || kind === own) cells.push({ layer: l, position: i, kl: this.kl[l * this.size + i] });
      }
    }
    cells.sort((a, b) => b.kl - a.kl || a.position - b.position || a.layer - b.layer);
    if (once) {
      const seen = new Set();
      cells = cells.filter(({ position }) => !seen.has(position) && seen.add(position));
    }
    this.rankings.set(key, cells);
    return cells;
  }
}
