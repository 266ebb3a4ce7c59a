"use strict";
// Charts of the page, drawn from its data as SVG. Text goes into text nodes only, never into markup.

const MISSING = "–";

function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function percent(value) {
  return value === null ? MISSING : value.toFixed(1);
}

function signed(value) {
  return value === null ? MISSING : (value.toFixed(1) >= 0 ? "+" : "−") + Math.abs(value).toFixed(1);
}

/** A count in three or four digits: 0, 950, 12.3k, 147k, 21.7M. */
function count(value) {
  if (value === null) return MISSING;
  const [divisor, suffix] = value < 999.5 ? [1, ""] : value < 999500 ? [1e3, "k"] : value < 999.5e6 ? [1e6, "M"] : [1e9, "G"];
  const scaled = value / divisor;
  return (suffix && scaled < 99.95 ? scaled.toFixed(1).replace(/\.0$/, "") : scaled.toFixed(0)) + suffix;
}

/** Outlines of markers, by matplotlib's letters, around (x, y) with a radius r. */
const OUTLINES = {
  o: (x, y, r) => `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0z`,
  D: (x, y, r) => `M${x},${y - 1.25 * r}l${1.25 * r},${1.25 * r}l${-1.25 * r},${1.25 * r}l${-1.25 * r},${-1.25 * r}z`,
  "^": (x, y, r) => `M${x},${y - 1.2 * r}l${1.2 * r},${2.1 * r}h${-2.4 * r}z`,
};

/** The mark of a box, the same as in the other plots; a ring for published numbers. */
function mark(box, x, y, radius = 5) {
  const outline = OUTLINES[box === "published" ? "o" : data.markers[box]];
  return svg("path", { d: outline(x, y, radius), class: `mark ${box.replace(" ", "-")}` });
}

/** A mark in a line of text. */
function icon(box) {
  return svg("svg", { class: "icon", width: 14, height: 14, viewBox: "0 0 14 14", "aria-hidden": "true" }, mark(box, 7, 7, 4.5));
}

/** Round numbers from below the lowest to above the highest value, at least two. */
function ticksOver(low, high, most) {
  const rough = Math.max(high - low, 1) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.floor(low / step);
  return Array.from({ length: Math.max(Math.ceil(high / step) - first, 1) + 1 }, (_, i) => (first + i) * step);
}

function chart(width, height, label, ...children) {
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": label }, ...children);
}

function text(x, y, content, attributes = {}) {
  return svg("text", { x, y, ...attributes }, content);
}

/** Text with line breaks allowed after underscores. */
function breakable(content) {
  return content.split(/(?<=_)/).flatMap((piece, i) => (i ? [element("wbr"), piece] : [piece]));
}

function shortened(name, most) {
  return name.length <= most ? name : `${name.slice(0, most - 1)}…`;
}

/** Mean accuracy against a column on a logarithmic axis with 0 left of it. `choose(row)` is called when a mark is chosen. */
function scatter(rows, column, width, choose) {
  const cost = (row) => row.values[column.name];
  const height = Math.min(430, Math.max(300, 0.62 * width));
  const [left, right, top, bottom] = [46, width - 16, 14, height - 44];
  const costs = rows.map(cost);
  const positive = costs.filter((value) => value > 0);
  const first = Math.floor(Math.log10(Math.min(...positive, 1e9)));
  const last = Math.max(first + 1, Math.ceil(Math.log10(Math.max(...positive, 10))));
  const from = costs.includes(0) ? left + 46 : left + 8;
  const x = (value) => (value === 0 ? left + 16 : from + ((Math.log10(value) - first) / (last - first)) * (right - from));
  const ticks = ticksOver(Math.min(...rows.map((row) => row.mean)), Math.max(...rows.map((row) => row.mean)), 6);
  const [low, high] = [ticks[0], ticks.at(-1)];
  const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
  const decades = Array.from({ length: last - first + 1 }, (_, i) => 10 ** (first + i));
  const axes = [
    ...ticks.map((tick) => svg("path", { class: "grid", d: `M${left},${y(tick)}H${right}` })),
    ...ticks.map((tick) => text(left - 6, y(tick) + 4, String(+tick.toFixed(6)), { "text-anchor": "end" })),
    ...decades.map((tick) => svg("path", { class: "grid", d: `M${x(tick)},${top}V${bottom}` })),
    ...[...(costs.includes(0) ? [0] : []), ...decades].map((tick) => text(x(tick), bottom + 16, count(tick), { "text-anchor": "middle" })),
    costs.includes(0) ? svg("path", { class: "break", d: `M${from - 20},${bottom + 5}l4,-10m4,0l-4,10` }) : null,
    text((left + right) / 2, height - 8, column.axis, { "text-anchor": "middle" }),
    svg("text", { transform: `translate(11 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, "mean test accuracy (%)"),
  ];
  const points = rows.map((row) => ({ row, x: x(cost(row)), y: y(row.mean) }));
  const front = points.filter((one) => !points.some((other) => isBetter(other.row, one.row, cost))).sort((a, b) => a.x - b.x || a.y - b.y);
  const steps = `${front.map((point, i) => (i ? `H${point.x}V${point.y}` : `M${point.x},${point.y}`)).join("")}H${right}`;
  const labels = placed(points, { left, right, top, bottom });
  return chart(
    width,
    height,
    `Mean accuracy against ${column.axis}`,
    ...axes,
    svg("path", { class: "front", d: steps }),
    ...points.map((point) => {
      const told = `${point.row.method}: ${percent(point.row.mean)} %, ${column.axis} ${point.row.texts[column.name]}`;
      return svg(
        "g",
        {
          class: "point",
          tabindex: 0,
          role: "button",
          "aria-label": told,
          onclick: () => choose(point.row),
          onkeydown: (event) => {
            if (event.key !== "Enter" && event.key !== " ") return;
            event.preventDefault();
            choose(point.row);
          },
        },
        svg("title", {}, told),
        svg("circle", { class: "target", cx: point.x, cy: point.y, r: 11 }),
        mark(point.row.box, point.x, point.y),
      );
    }),
    ...labels,
  );
}

function isBetter(one, other, cost) {
  const isAsGood = one.mean >= other.mean && cost(one) <= cost(other);
  return isAsGood && (one.mean > other.mean || cost(one) < cost(other));
}

const MOST_NAMES = 150; // of a scatter; each is compared with all marks

/** Names beside their points, best first; a name without free space is in the tooltip only. */
function placed(points, frame) {
  const taken = points.map((point) => [point.x - 7, point.y - 7, point.x + 7, point.y + 7]);
  const labels = [];
  for (const point of [...points].sort((a, b) => b.row.mean - a.row.mean).slice(0, MOST_NAMES)) {
    const name = shortened(point.row.method, 26);
    const size = 6.1 * name.length;
    for (const [x, y, anchor] of [
      [9, 4, "start"],
      [-9, 4, "end"],
      [0, -10, "middle"],
      [0, 19, "middle"],
      [8, -8, "start"],
      [8, 15, "start"],
      [-8, -8, "end"],
      [-8, 15, "end"],
    ]) {
      const start = point.x + x - { start: 0, middle: size / 2, end: size }[anchor];
      const box = [start, point.y + y - 10, start + size, point.y + y + 3];
      const isInside = box[0] >= frame.left && box[2] <= frame.right + 14 && box[1] >= 0 && box[3] <= frame.bottom;
      if (!isInside || taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])) continue;
      taken.push(box);
      labels.push(text(point.x + x, point.y + y, name, { "text-anchor": anchor, class: "name", "aria-hidden": "true" }));
      break;
    }
  }
  return labels;
}

/** Demšar's diagram: mean ranks on an axis, bars over methods that Nemenyi's test does not distinguish. */
function rankDiagram(comparison, width) {
  const { methods, mean_ranks: ranks, groups, critical_difference: difference } = comparison;
  const worst = methods.length;
  const side = Math.min(52 + 6.1 * Math.max(...methods.map((method) => method.length)), 0.34 * width);
  const [left, right, axis] = [side, width - side, 62];
  const x = (rank) => left + ((rank - 1) / (worst - 1)) * (right - left);
  const firstRow = axis + 22 + 9 * groups.length;
  const half = Math.ceil(methods.length / 2);
  const height = firstRow + 18 * half;
  const lines = methods.flatMap((method, i) => {
    const isLeft = i < half;
    const row = firstRow + 18 * (isLeft ? i : methods.length - 1 - i);
    const end = isLeft ? left - 8 : right + 8;
    const label = shortened(method, Math.floor((side - 46) / 6.1));
    return [
      svg("path", { class: "line", d: `M${x(ranks[i])},${axis}V${row}H${end}` }),
      svg(
        "text",
        { x: isLeft ? end - 4 : end + 4, y: row + 4, "text-anchor": isLeft ? "end" : "start" },
        svg("title", {}, method),
        isLeft ? `${label} ${ranks[i].toFixed(2)}` : `${ranks[i].toFixed(2)} ${label}`,
      ),
    ];
  });
  const every = Math.ceil(worst / Math.max(2, Math.floor((right - left) / 24)));
  const ticks = Array.from({ length: worst }, (_, i) => i + 1).filter((rank) => (rank - 1) % every === 0 || rank === worst);
  return chart(
    width,
    height,
    `Mean ranks: ${methods.map((method, i) => `${method} ${ranks[i].toFixed(2)}`).join(", ")}. Critical difference ${difference.toFixed(2)}.`,
    svg("path", {
      class: "line",
      d: `M${left},20V28M${left},24H${x(Math.min(worst, 1 + difference))}M${x(Math.min(worst, 1 + difference))},20V28`,
    }),
    text(left, 13, `critical difference ${difference.toFixed(2)}`),
    svg("path", { class: "line", d: `M${left},${axis}H${right}` }),
    ...ticks.map((tick) => svg("path", { class: "line", d: `M${x(tick)},${axis}v-5` })),
    ...ticks.map((tick) => text(x(tick), axis - 9, String(tick), { "text-anchor": "middle" })),
    ...lines,
    ...groups.map((group, i) =>
      svg("path", { class: "bar", d: `M${x(ranks[group[0]]) - 4},${axis + 11 + 9 * i}H${x(ranks[group.at(-1)]) + 4}` }),
    ),
  );
}

/** Every run of a method as a dot, one line per task, a stroke at the mean and a ring at the published value. */
function seedDots(part, row, published, width) {
  const line = 24;
  const names = Math.min(150, 12 + 6.5 * Math.max(...part.labels.map((label) => label.length)));
  const [left, right, bottom] = [names, width - 12, 10 + line * part.tasks.length];
  const values = [...row.runs.map((run) => run.accuracy), ...(published ? published.cells : []).filter((value) => value !== null)];
  const ticks = ticksOver(Math.min(...values), Math.max(...values), width < 500 ? 4 : 8);
  const x = (value) => left + ((value - ticks[0]) / (ticks.at(-1) - ticks[0])) * (right - left);
  const lines = part.labels.flatMap((label, task) => {
    const y = 10 + line * (task + 0.5);
    const runs = row.runs.filter((run) => run.task === task);
    const mean = row.cells[task];
    const reference = published ? published.cells[task] : null;
    return [
      svg("path", { class: "grid", d: `M${left},${y}H${right}` }),
      text(left - 10, y + 4, shortened(label, 21), { "text-anchor": "end" }),
      mean === null ? text(left + 6, y + 4, "no result") : svg("path", { class: "mean", d: `M${x(mean)},${y - 8}v16` }),
      reference === null ? null : svg("g", {}, svg("title", {}, `published ${percent(reference)} %`), mark("published", x(reference), y)),
      ...runs.map((run) =>
        svg("g", {}, svg("title", {}, `seed ${run.seed}: ${percent(run.accuracy)} %`), mark(row.box, x(run.accuracy), y, 4)),
      ),
    ];
  });
  return chart(
    width,
    bottom + 34,
    `Test accuracy of every seed of ${row.method}`,
    ...ticks.map((tick) => svg("path", { class: "grid", d: `M${x(tick)},10V${bottom}` })),
    ...ticks.map((tick) => text(x(tick), bottom + 16, String(+tick.toFixed(6)), { "text-anchor": "middle" })),
    text((left + right) / 2, bottom + 31, "test accuracy (%)", { "text-anchor": "middle" }),
    ...lines,
  );
}
