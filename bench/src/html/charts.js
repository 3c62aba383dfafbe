// Line charts as SVG: axes, legend, and a cross that tells the values under the pointer. Knows nothing of benchmarks.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

/** Makes an element: attributes by name, children as nodes or text. Text is never read as HTML. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function draw(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** 1234567 -> "1.23 M"; what an axis or a figure shows. */
function short(value) {
  const size = Math.abs(value);
  for (const [limit, unit] of [[1e9, " G"], [1e6, " M"], [1e4, " k"]]) {
    if (size >= limit) {
      const scaled = value / (limit === 1e4 ? 1e3 : limit);
      return String(Number(scaled.toPrecision(3))) + unit;
    }
  }
  return size >= 1000 ? Math.round(value).toLocaleString("en-US") : String(Number(value.toPrecision(3)));
}

/** Microseconds in the unit that reads best. */
function time(us) {
  if (us >= 1e6) return Number((us / 1e6).toPrecision(3)) + " s";
  if (us >= 1000) return Number((us / 1000).toPrecision(3)) + " ms";
  return Number(us.toPrecision(3)) + " µs";
}

/** Round numbers from low to high, about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / Math.max(count, 1) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) found.push(Number(at.toPrecision(12)));
  return found;
}

/** Scales: from values to pixels, with the ticks of the axis. */
const scales = {
  linear(low, high) {
    const span = high - low || 1;
    return { at: (value) => (value - low) / span, ticks: (count) => ticks(low, high, count) };
  },
  log(low, high) {
    const [from, to] = [Math.log10(low), Math.log10(high)];
    const span = to - from || 1;
    const wanted = () => {
      const found = [];
      const factors = to - from > 2.4 ? [1] : [1, 2, 5];
      for (let power = Math.floor(from); power <= to; power++)
        for (const factor of factors) {
          const value = factor * 10 ** power;
          if (value >= low * 0.999 && value <= high * 1.001) found.push(value);
        }
      return found;
    };
    return { at: (value) => (Math.log10(Math.max(value, low)) - from) / span, ticks: wanted };
  },
  /** Shares of all: the distance to 1 shrinks by ten from tick to tick. */
  nines(_, high) {
    const nines = (share) => -Math.log10(Math.max(1 - share, 1e-9));
    const span = nines(high) || 1;
    const all = [0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999];
    return { at: (share) => Math.min(nines(share), span) / span, ticks: () => all.filter((share) => share <= high) };
  },
};

/**
 * A chart in a card.
 * spec: {title, note, x: {scale, format, label}, y: {scale, format, label}, lines: [{name, color, dash, points: [[x, y]]}]}
 */
function chart(spec) {
  const lines = spec.lines.filter((line) => line.points.length > 0);
  if (lines.length === 0) return null;
  const plot = make("div", { class: "plot" });
  const legend = make("div", { class: "legend" });
  for (const line of lines) {
    const key = make("i");
    key.style.background = `var(--${line.color})`;
    legend.append(make("span", {}, key, line.name));
  }
  const card = make("section", { class: "card chart" }, make("h2", {}, spec.title), make("p", { class: "note" }, spec.note || ""),
    lines.length > 1 ? legend : null, plot);
  const render = () => renderPlot(plot, spec, lines);
  new ResizeObserver(render).observe(plot);
  return card;
}

function bounds(lines, which, kind) {
  const values = lines.flatMap((line) => line.points.map((point) => point[which])).filter((value) => kind !== "log" || value > 0);
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (kind === "linear" && which === 1) [low, high] = [0, high * 1.08 || 1];
  if (kind === "log") {
    const step = (value, round) => {
      const power = 10 ** Math.floor(Math.log10(value));
      const found = [1, 2, 5, 10].map((factor) => factor * power);
      return round === "down" ? found.findLast((candidate) => candidate <= value * 1.0001) : found.find((candidate) => candidate >= value * 0.9999);
    };
    [low, high] = [step(low, "down"), step(high, "up")];
    if (low === high) high = low * 10;
  }
  if (kind === "nines") [low, high] = [0, Math.min(Math.max(...values.filter((value) => value < 1), 0.9), 0.999999)];
  return [low, high];
}

function renderPlot(plot, spec, lines) {
  const width = plot.clientWidth;
  if (width === 0) return;
  const height = Math.round(Math.min(320, Math.max(220, width * 0.5)));
  const y = { scale: "linear", format: short, ...spec.y };
  const x = { scale: "linear", format: short, ...spec.x };
  const yScale = scales[y.scale](...bounds(lines, 1, y.scale));
  const xScale = scales[x.scale](...bounds(lines, 0, x.scale));
  const yTicks = yScale.ticks(5);
  const left = 14 + 7 * Math.max(...yTicks.map((tick) => y.format(tick).length));
  const box = { left, right: width - 14, top: 22, bottom: height - 40 };
  const px = (value) => box.left + xScale.at(value) * (box.right - box.left);
  const py = (value) => box.bottom - yScale.at(value) * (box.bottom - box.top);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": spec.title });
  for (const tick of yTicks) {
    svg.append(draw("line", { class: "gridline", x1: box.left, x2: box.right, y1: py(tick), y2: py(tick) }),
      draw("text", { x: box.left - 8, y: py(tick) + 4, "text-anchor": "end" }, y.format(tick)));
  }
  let free = -Infinity;
  for (const tick of xScale.ticks(Math.max(4, Math.floor(width / 90)))) {
    const label = x.format(tick);
    const half = label.length * 3.6;
    if (px(tick) - half < free || px(tick) + half > width + 6) continue;
    free = px(tick) + half + 8;
    svg.append(draw("line", { class: "axis", x1: px(tick), x2: px(tick), y1: box.bottom, y2: box.bottom + 4 }),
      draw("text", { x: px(tick), y: box.bottom + 18, "text-anchor": "middle" }, label));
  }
  svg.append(draw("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
    draw("text", { x: 0, y: 12 }, y.label || ""),
    draw("text", { x: box.right, y: height - 4, "text-anchor": "end" }, x.label || ""));
  for (const line of lines) {
    const points = line.points.filter((point) => y.scale !== "log" || point[1] > 0);
    const path = points.map((point, index) => `${index ? "L" : "M"}${px(point[0]).toFixed(1)} ${py(point[1]).toFixed(1)}`).join("");
    const drawn = draw("path", { class: "line", d: path, "stroke-dasharray": line.dash || "none" });
    drawn.style.stroke = `var(--${line.color})`;
    svg.append(drawn);
    if (points.length < 30 && x.scale !== "nines")
      for (const point of points) {
        const dot = draw("circle", { cx: px(point[0]), cy: py(point[1]), r: points.length < 12 ? 3.5 : 2.2 });
        dot.style.fill = `var(--${line.color})`;
        svg.append(dot);
      }
  }
  plot.replaceChildren(svg);
  addCross(plot, svg, { spec, lines, x, y, px, py, box });
}

/** A line and a note that follow the pointer, or the finger. */
function addCross(plot, svg, { lines, x, y, px, py, box }) {
  const cross = draw("line", { class: "cross", y1: box.top, y2: box.bottom, visibility: "hidden" });
  const tip = make("div", { class: "tip" });
  svg.append(cross);
  plot.append(tip);
  const xs = [...new Set(lines.flatMap((line) => line.points.map((point) => point[0])))];
  const hide = () => {
    cross.setAttribute("visibility", "hidden");
    tip.style.visibility = "hidden";
  };
  const show = (event) => {
    const at = event.clientX - plot.getBoundingClientRect().left;
    const nearest = xs.reduce((best, value) => (Math.abs(px(value) - at) < Math.abs(px(best) - at) ? value : best));
    cross.setAttribute("visibility", "visible");
    cross.setAttribute("x1", px(nearest));
    cross.setAttribute("x2", px(nearest));
    const rows = [];
    for (const line of lines) {
      const point = line.points.reduce((best, one) => (Math.abs(px(one[0]) - px(nearest)) < Math.abs(px(best[0]) - px(nearest)) ? one : best));
      if (Math.abs(px(point[0]) - px(nearest)) > 6) continue;
      const dot = make("i");
      dot.style.background = `var(--${line.color})`;
      rows.push(make("span", {}, dot, line.name, make("em", {}, y.format(point[1]))));
    }
    tip.replaceChildren(make("b", {}, (x.tip || x.format)(nearest)), ...rows);
    tip.style.visibility = "visible";
    const room = plot.clientWidth - tip.offsetWidth;
    tip.style.left = `${Math.max(0, Math.min(room, px(nearest) > plot.clientWidth / 2 ? px(nearest) - tip.offsetWidth - 12 : px(nearest) + 12))}px`;
    tip.style.top = `${box.top}px`;
  };
  svg.addEventListener("pointermove", show);
  svg.addEventListener("pointerdown", show);
  svg.addEventListener("pointerleave", hide);
}
