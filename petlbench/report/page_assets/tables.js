// Tables and sections of the page, one section per suite, backbone and protocol. Headings, help and texts of leaderboard columns come with the data.

const SHADES = "; the stronger the shade, the nearer to the best of the column";
const INTERVAL = {
  key: "interval",
  label: "95 % interval",
  help: "Bootstrap interval of the mean over tasks and seeds.",
  value: (row) => row.interval?.[0] ?? null,
  show: (row) => (row.interval ? row.interval.map(percent).join(" – ") : MISSING),
};

const references = new Map(); // our row -> the published one, found once

/** The published row a method stands beside: on the same backbone if there is one, then with as many shots, on most tasks, from the paper itself. */
function reference(part, row) {
  if (!references.has(row)) references.set(row, findReference(part, row));
  return references.get(row);
}

function findReference(part, row) {
  const known = (one) => one.cells.filter((cell) => cell !== null).length;
  const worth = (one) => [one.is_same_backbone, one.is_same_shots, known(one), one.kinds.includes("primary")].map(Number);
  const compare = (one, other) =>
    worth(one)
      .map((value, i) => worth(other)[i] - value)
      .find((difference) => difference) ?? 0;
  return part.published.filter((one) => one.our_method === row.published_as && one.is_oracle === row.is_oracle).sort(compare)[0] ?? null;
}

/** The rows that pass the filters: ours, or those of papers, which know the kind of access but not the rung. */
function rowsOf(part) {
  const ours = (row) => ({ ...row, rungs: [row.access], reference: reference(part, row) });
  const printed = (row) => ({
    ...row,
    rungs: presentRungs()
      .filter((rung) => rung.published_as === row.access)
      .map(({ name }) => name),
    is_published: true,
    box: "published",
  });
  const without = state.without.split(",");
  const isNamed = (row) => `${row.method} ${row.paper ?? ""}`.toLowerCase().includes(state.q.toLowerCase());
  const isGranted = (row) => !row.rungs.length || row.rungs.some((rung) => !without.includes(rung));
  const rows = state.show === "published" ? part.published.map(printed) : part.rows.map(ours);
  return rows.filter((row) => isNamed(row) && isGranted(row)).map((row) => ({ ...row, key: rowKey(part, row) }));
}

/** The rungs of our rows, lowest first. */
function presentRungs() {
  return data.rungs.filter(({ name }) => data.parts.some((part) => part.rows.some((row) => row.access === name)));
}

// Columns: heading, help, the value that sorts rows, the content of a cell, and whether lower is better.

/** Points ahead of the published number; null where one is missing or was measured on another backbone or with other shots. */
function difference(row, value) {
  const isComparable = row.reference?.is_same_backbone && row.reference.is_same_shots;
  const [ours, theirs] = [value(row), isComparable ? value(row.reference) : null];
  return ours === null || theirs === null ? null : ours - theirs;
}

/** A column of the leaderboard, as the data describe it. */
function described({ name, heading, help, is_text }, value, show) {
  return { key: name, label: heading, help, isText: is_text, value, show };
}

function runsColumn(column) {
  const { name, is_text } = column;
  return {
    ...described(
      column,
      (row) => row.values[name],
      (row) => row.texts[name],
    ),
    isLowBetter: !is_text,
  };
}

/** One of a part's averages; where a result is missing the cell gives the number of results instead. */
function average(part, i, rowOf = (row) => row) {
  const value = (row) => rowOf(row)?.averages[i] ?? null;
  const found = (row) => part.averages[i].tasks.filter((task) => rowOf(row).cells[task] !== null).length;
  const withheld = (row) => element("span", { class: "withheld" }, `${found(row)} of ${part.averages[i].tasks.length} tasks`);
  return described(part.averages[i], value, (row) => (rowOf(row) && value(row) === null ? withheld(row) : percent(value(row))));
}

function methodColumn() {
  return described(data.columns.method, (row) => row.method.toLowerCase(), methodCell);
}

function rankColumn() {
  const show = (row) => row.rank_text;
  return { ...described(data.columns.rank, (row) => row.rank, show), isLowBetter: true };
}

function accessColumn() {
  const rung = (row) => data.rungs.findIndex(({ name }) => name === row.access);
  return described(data.columns.access, rung, (row) => row.access);
}

function methodCell(row) {
  const open = () => openDetails(row.key);
  const name = element("button", { type: "button", class: "row", "aria-haspopup": "dialog", onclick: open }, breakable(row.method));
  const oracle = row.is_oracle
    ? element("span", { class: "flag", title: "the epoch was chosen by its test accuracy" }, "chosen on test")
    : null;
  return [icon(row.box), name, oracle, row.is_published ? element("small", {}, `${row.paper}, ${originOf(row)}`) : null];
}

/** Backbone and shots of a published row, and how its numbers were seen where that was not in the paper itself. */
function originOf(row) {
  const copies = row.kinds.filter((kind) => kind !== "primary");
  return [row.backbone, row.shots && `shots: ${row.shots}`, ...copies].filter(Boolean).join(", ");
}

/** A key that stays valid when the page is written again and parts change their order. */
function rowKey(part, row) {
  return JSON.stringify([
    part.suite,
    row.method,
    ...(row.is_published ? [row.paper, row.table, row.backbone, row.shots, row.is_oracle] : [row.access, part.backbone, part.protocol]),
  ]);
}

function summaryColumns(part, rows) {
  const [mean, ...others] = part.averages.map((_, i) => average(part, i));
  if (state.show === "published") return [methodColumn(), mean, ...others];
  const compared = state.show === "both" && rows.some((row) => row.reference) ? publishedColumns(part) : [];
  return [rankColumn(), methodColumn(), mean, INTERVAL, ...others, ...compared, accessColumn(), ...part.columns.map(runsColumn)];
}

function publishedColumns(part) {
  const theirs = average(part, 0, (row) => row.reference);
  const ahead = (row) => difference(row, (one) => one.mean);
  return [
    {
      ...theirs,
      key: "published",
      label: "published",
      help: "Mean of the published row, recomputed from its printed cells.",
      show: (row) => [theirs.show(row), row.reference ? element("small", {}, originOf(row.reference)) : null],
    },
    {
      key: "difference",
      label: "points ahead",
      help: "Our mean less the published one, where backbone and shots are the same.",
      value: ahead,
      show: (row) => signed(ahead(row)),
    },
  ];
}

function taskColumns(part, rows) {
  const tasks = part.task_columns.map((column, i) =>
    described(
      column,
      (row) => row.cells[i],
      (row) => taskCell(row, i),
    ),
  );
  const columns = [average(part, 0), ...tasks];
  if (state.show === "published") return [methodColumn(), ...columns]; // papers differ in protocol, so the best of them means nothing
  const best = (column) => Math.max(...rows.map((row) => column.value(row) ?? -Infinity));
  return [methodColumn(), ...columns.map((column) => ({ ...column, best: best(column) }))];
}

function taskCell(row, i) {
  const theirs = state.show === "both" ? (row.reference?.cells[i] ?? null) : null;
  const ahead = difference(row, (one) => one.cells[i]);
  const compared = `${percent(theirs)} ${ahead === null ? "" : signed(ahead)}`;
  return [percent(row.cells[i]), theirs === null ? null : element("small", {}, compared)];
}

/** The column chosen, or the mean where a part has no such column. */
function sortColumn(columns) {
  return columns.find((one) => one.key === state.sort) ?? columns.find((one) => one.key === "mean");
}

function sorted(rows, column) {
  const sign = isUp(column) ? 1 : -1;
  const compare = (a, b) => (a === null) - (b === null) || sign * (typeof a === "string" ? a.localeCompare(b) : a - b) || 0;
  return [...rows].sort((a, b) => compare(column.value(a), column.value(b)));
}

function isUp(column) {
  return state.sort === column.key && state.up !== "" ? state.up === "1" : Boolean(column.isLowBetter || column.isText);
}

function table(i, kind, caption, columns, rows, sortedBy) {
  const head = columns.map((column) => {
    const isSorted = column.key === sortedBy.key;
    const order = isUp(column) ? "ascending" : "descending";
    const sort = () => update({ sort: column.key, up: isSorted ? (isUp(column) ? "0" : "1") : "" });
    const button = element("button", { type: "button", id: `sort-${i}-${kind}-${column.key}`, onclick: sort }, breakable(column.label));
    const attributes = { scope: "col", title: column.help, class: column.isText ? "text" : null, "aria-sort": isSorted ? order : null };
    return element("th", attributes, button);
  });
  const line = (row) => {
    const cells = columns.map((column) => {
      const isName = column.key === "method";
      const cell = element(isName ? "th" : "td", { scope: isName ? "row" : null, class: column.isText ? "text" : null }, column.show(row));
      if (column.best !== undefined) shade(cell, column.value(row), column.best);
      return cell;
    });
    const open = (event) => event.target.closest("button") || getSelection().toString() || openDetails(row.key);
    return element("tr", { onclick: open }, ...cells);
  };
  return pagedTable(caption, kind, element("tr", {}, ...head), rows, line);
}

/** Strong at the column's best, gone 30 points below it; the root makes small distances near the best visible. */
function shade(cell, value, best) {
  if (value === null) cell.classList.add("missing");
  else cell.style.setProperty("--strength", String(Math.max(0, 1 - Math.sqrt((best - value) / 30))));
  if (value === best) cell.classList.add("best");
}

const views = []; // what is drawn: each part with its rows, columns and two tables

/** The two tables of a part, sorted. */
function tablesOf({ i, rows, summary, tasks }) {
  const by = sortColumn([...summary, ...tasks]);
  const ordered = sorted(rows, by);
  const isPublished = state.show === "published";
  return [
    table(i, "summary", `Test accuracy in percent, means over ${isPublished ? "tasks" : "tasks and seeds"}`, summary, ordered, by),
    table(i, "tasks", `Test accuracy per task in percent${isPublished ? "" : SHADES}`, tasks, ordered, by),
  ];
}

/** Sort the tables that are drawn; figures and filters stay as they are. */
function sortTables() {
  for (const view of views) {
    if (!view.rows.length) continue;
    const before = view.drawn;
    view.drawn = tablesOf(view);
    for (const [i, region] of before.entries()) region.replaceWith(view.drawn[i]);
  }
}

function partSection(part, i, width) {
  const rows = rowsOf(part);
  const view = { part, i, rows, summary: summaryColumns(part, rows), tasks: taskColumns(part, rows), drawn: [] };
  if (rows.length) view.drawn = tablesOf(view);
  views.push(view);
  const [summary, tasks] = view.drawn;
  const isPublished = state.show === "published";
  const shots = part.shots === "full" ? "all training images" : `${part.shots} shots`;
  const source = [`protocol ${part.protocol}`, shots, `selection ${part.selection.join(", ")}`, `petlbench ${part.code.join(", ")}`];
  const nothing = isPublished && !part.published.length ? "No published numbers on these tasks." : "No method passes the filters.";
  const tables = [
    summary,
    rows.some((row) => row.reference) && state.show === "both"
      ? element(
          "p",
          { class: "note" },
          "Published means are recomputed from the printed cells. Differences are shown where the published number was measured on the same backbone with as many shots; the protocol may still be another.",
        )
      : null,
    isPublished ? null : element("div", { class: "figures" }, costFigure(part, rows, i, width), rankFigure(part, width)),
    tasks,
  ];
  return element(
    "section",
    { class: "part", "aria-labelledby": `part-${i}` },
    element("h2", { id: `part-${i}` }, isPublished ? `${part.suite} as published` : `${part.suite} on ${part.backbone}`),
    element(
      "p",
      { class: "note" },
      isPublished
        ? "Backbone and protocol are those of each paper; means are recomputed from the printed cells."
        : [source.join(" · "), legendOf(part)],
    ),
    ...(rows.length ? tables : [element("p", {}, nothing)]),
  );
}

/** The mark of each box. */
function legendOf(part) {
  const present = [...new Set(part.rows.map((row) => row.box))].sort();
  return element("span", { class: "kinds" }, ...present.map((box) => element("span", {}, icon(box), ` ${box}`)));
}

function costFigure(part, rows, i, width) {
  const known = part.columns.filter(({ name, axis }) => axis && rows.some((row) => row.values[name] !== null));
  const cost = known.find(({ name }) => name === state.cost) ?? known[0];
  const drawn = cost ? rows.filter((row) => row.mean !== null && row.values[cost.name] !== null) : [];
  const choice = element("select", { id: `cost-${i}`, onchange: (event) => update({ cost: event.target.value }) });
  choice.append(...known.map((one) => element("option", { value: one.name, selected: one === cost }, one.axis)));
  const missing = rows.filter((row) => !drawn.includes(row)).map((row) => row.method);
  return element(
    "figure",
    {},
    element("h3", {}, element("label", { for: `cost-${i}` }, "Accuracy against "), choice),
    drawn.length ? scatter(drawn, cost, figureWidth(width), (row) => openDetails(row.key)) : null,
    element(
      "figcaption",
      { class: "note" },
      `The dashed line joins methods that no other beats in both. ${missing.length ? `Not drawn, because a result or the count is missing: ${missing.join(", ")}.` : ""}`,
    ),
  );
}

function rankFigure(part, width) {
  const { methods, critical_difference: critical, friedman_p: p, warnings, left_out: without } = part.comparison;
  const lines = [
    critical === null
      ? "Ranks are compared for three or more methods with results on all tasks, of which there must be two or more."
      : `Bars join methods that Nemenyi's test does not distinguish at 5 %. Friedman's test: p ${p < 0.001 ? "< 0.001" : `= ${p.toPrecision(2)}`}.`,
    ...warnings,
    without.length ? `Left out, because a result is missing: ${without.join(", ")}.` : "",
  ];
  return element(
    "figure",
    {},
    element("h3", {}, `Mean ranks over ${part.averages[0].tasks.length} tasks, ${methods.length} methods`),
    critical === null ? null : rankDiagram(part.comparison, figureWidth(width)),
    ...lines.filter(Boolean).map((line) => element("figcaption", { class: "note" }, line)),
  );
}

/** Two figures stand side by side where the style has room for two columns of 480 and a gap of 24. */
function figureWidth(width) {
  return width >= 984 ? Math.floor((width - 24) / 2) : width;
}
