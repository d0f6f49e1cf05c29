// The probability of one pinned word over the layers, in both models, as SVG. Base: solid line, discs; RLVR: dashed,
// diamonds. A bound ("less than this") is hollow and joined to nothing. The last layer stands apart.
const lensSvg = (tag, attributes = {}, text = null) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== null) element.textContent = text;
  return element;
};
const lensChance = ({ chance, exact }) => `${exact ? "" : "< "}${lensNumber(chance)}`;

// The span of y that every chart shares. curves: per pin {base: [{chance, exact}, ...], rlvr: [...]}.
function lensSpan(curves, log) {
  const all = curves.flatMap(({ base, rlvr }) => [...base, ...rlvr]).map(({ chance }) => chance);
  const most = Math.max(...all, 1e-12);
  if (log) {
    const low = Math.floor(Math.log10(Math.max(Math.min(...all), 1e-14)));
    const ticks = [];
    const step = Math.max(1, Math.ceil(-low / 4));
    for (let power = 0; power >= low; power -= step) ticks.push(power);
    return { log, low: Math.min(low, -1), high: 0, ticks: ticks.map((power) => [power, power === 0 ? "1" : power === -1 ? "0.1" : `1e${power}`]) };
  }
  const steps = [1, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05, 0.02, 0.01, 0.001].filter((step) => step >= most);
  const high = steps[steps.length - 1];
  return { log, low: 0, high, ticks: [0, high / 2, high].map((tick) => [tick, `${Number(tick.toPrecision(3))}`]) };
}

function lensChart(data, curve, span, now, name, models) {
  const width = 230, height = 132, left = 32, right = 8, top = 8, bottom = 20;
  const svg = lensSvg("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img" });
  const count = data.layers.length;
  const apart = data.layers[count - 1] === data.depth - 1 && count > 1 ? 0.8 : 0; // layers of room before the last
  const unit = (width - left - right) / Math.max(count - 1 + apart, 1);
  const x = (layer) => left + unit * (layer + (apart && layer === count - 1 ? apart : 0));
  const scaled = (chance) => (span.log ? Math.log10(Math.max(chance, 1e-15)) : chance);
  const y = (value) => top + (height - top - bottom) * (1 - (Math.min(Math.max(value, span.low), span.high) - span.low) / (span.high - span.low));

  for (const [tick, text] of span.ticks) {
    svg.append(lensSvg("line", { x1: left - 4, x2: width - right + 4, y1: y(tick), y2: y(tick), class: "rule" }));
    svg.append(lensSvg("text", { x: left - 7, y: y(tick) + 3, "text-anchor": "end" }, text));
  }
  if (apart) {
    const middle = x(count - 1) - (unit * (1 + apart)) / 2;
    svg.append(lensSvg("line", { x1: middle, x2: middle, y1: top - 4, y2: height - bottom + 3, class: "apart" }));
  }
  svg.append(lensSvg("line", { x1: x(now), x2: x(now), y1: top - 6, y2: height - bottom + 3, class: "now" }));
  const step = Math.ceil(count / 7);
  for (let layer = 0; layer < count; layer++) {
    const end = layer === count - 1;
    if (!end && (layer % step || count - 1 - layer < step)) continue;
    svg.append(lensSvg("text", { x: x(layer), y: height - 5, "text-anchor": end && apart ? "end" : "middle", dx: end && apart ? 6 : 0 }, end && apart ? `${data.layers[layer]} last` : data.layers[layer]));
  }
  const heard = [];
  for (const [model, title] of models) {
    const colour = data.models[model];
    const points = curve[model].map(({ chance, exact }, layer) => ({ px: x(layer), py: y(scaled(chance)), chance, exact, layer }));
    let path = "";
    let pen = false;
    for (const { px, py, exact, layer } of points) {
      if (apart && layer === count - 1) break;
      if (exact) path += `${pen ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`;
      pen = exact;
    }
    svg.append(lensSvg("path", { d: path, class: `curve ${model}`, stroke: colour, "stroke-dasharray": model === "rlvr" ? "5 3" : "none" }));
    const r = count > 16 ? 2 : 3;
    for (const { px, py, chance, exact, layer } of points) {
      const d = model === "base" ? `M${px - r} ${py}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`
        : `M${px} ${py - r - 1}l${r + 1} ${r + 1}l${-r - 1} ${r + 1}l${-r - 1} ${-r - 1}Z`;
      svg.append(lensSvg("path", { d, class: `mark ${model}${exact ? "" : " bound"}`, stroke: colour, fill: exact ? colour : "var(--paper)", "data-p": chance }));
    }
    heard.push(`${title}: ${curve[model].map((point, layer) => `layer ${data.layers[layer]} ${lensChance(point)}`).join(", ")}`);
  }
  for (let layer = 0; layer < count; layer++) { // wide targets: they say the numbers, and a click moves to that layer
    const box = { x: x(layer) - unit / 2, y: 0, width: unit, height: height, class: "target", "data-layer": layer };
    const target = lensSvg("rect", box);
    target.append(lensSvg("title", {}, `layer ${data.layers[layer]} · ` + models.map(([model, title]) => `${title} ${lensChance(curve[model][layer])}`).join(" · ")));
    svg.append(target);
  }
  svg.setAttribute("aria-label", `Probability of ${name} by layer. ${heard.join(". ")}`);
  return svg;
}
