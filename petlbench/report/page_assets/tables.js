// Tables and sections of the page: what a suite, backbone and protocol has to show, under the filters chosen.

const COSTS = {
  params_trainable: "trainable parameters",
  queries: "images sent per run",
  contexts: "contexts sent per run",
  train_seconds: "seconds of training",
  run_memory_mb: "MB of memory that a run adds",
};

const SHADES = "; the stronger the shade, the nearer to the best of the column";
const INTERVAL = {
  key: "interval",
  label: "95 % interval",
  value: (row) => row.interval?.[0] ?? null,
  show: (row) => (row.interval ? row.interval.map(percent).join(" – ") : MISSING),
};

/** The published row a method stands beside: on the same backbone if there is one, then with as many shots, on most tasks, from the paper itself. */
function reference(part, row) {
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

// Columns: a heading, the value a row is sorted by, what its cell shows, and whether the lower value is the better one.

/** Points ahead of the published number; null where one is missing or was measured on another backbone or with other shots. */
function difference(row, value) {
  const isComparable = row.reference?.is_same_backbone && row.reference.is_same_shots;
  const [ours, theirs] = [value(row), isComparable ? value(row.reference) : null];
  return ours === null || theirs === null ? null : ours - theirs;
}

function cost(key, label, format) {
  return { key, label, value: (row) => row[key], show: (row) => format(row[key]), isLowBetter: true };
}

/** One of a part's averages; it is withheld where a result is missing, and says how many there are. */
function average(part, i, key, label, rowOf = (row) => row) {
  const value = (row) => rowOf(row)?.averages[i] ?? null;
  const found = (row) => part.averages[i].tasks.filter((task) => rowOf(row).cells[task] !== null).length;
  const withheld = (row) => element("span", { class: "withheld" }, `${found(row)} of ${part.averages[i].tasks.length} tasks`);
  const show = (row) => (rowOf(row) && value(row) === null ? withheld(row) : percent(value(row)));
  return { key, label, value, show };
}

const METHOD = { key: "method", label: "method", value: (row) => row.method.toLowerCase(), show: methodCell, isText: true };

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

/** Names a row also after the page was written again, when parts may stand in another order. */
function rowKey(part, row) {
  return JSON.stringify([
    part.suite,
    row.method,
    ...(row.is_published ? [row.paper, row.table, row.backbone, row.shots, row.is_oracle] : [row.access, part.backbone, part.protocol]),
  ]);
}

function summaryColumns(part, rows) {
  const label = part.averages.length > 1 ? `mean of ${part.averages[0].tasks.length}` : "mean";
  const [mean, ...others] = part.averages.map(({ name }, k) => (k ? average(part, k, name, name) : average(part, 0, "mean", label)));
  if (state.show === "published") return [METHOD, mean, ...others];
  const compared = state.show === "both" && rows.some((row) => row.reference) ? publishedColumns(part) : [];
  return [cost("rank", "#", (rank) => rank ?? MISSING), METHOD, mean, INTERVAL, ...others, ...compared, ...costColumns(rows)];
}

function publishedColumns(part) {
  const theirs = average(part, 0, "published", "published", (row) => row.reference);
  const ahead = (row) => difference(row, (one) => one.mean);
  return [
    { ...theirs, show: (row) => [theirs.show(row), row.reference ? element("small", {}, originOf(row.reference)) : null] },
    { key: "difference", label: "points ahead", value: ahead, show: (row) => signed(ahead(row)) },
  ];
}

function costColumns(rows) {
  const costs = [
    cost("params_trainable", "trainable", count),
    cost("run_memory_mb", "memory MB", count),
    cost("peak_memory_mb", "process MB", count),
    cost("train_seconds", "train s", (seconds) => (seconds === null ? MISSING : seconds.toFixed(seconds < 100 ? 1 : 0))),
    cost("queries", "queries", count),
    cost("contexts", "contexts", count),
  ];
  return [
    {
      key: "access",
      label: "access",
      value: (row) => data.rungs.findIndex(({ name }) => name === row.access),
      show: accessCell,
      isText: true,
    },
    ...costs.filter((column) => rows.some((row) => column.value(row) !== null)),
    { key: "seeds", label: "seeds", value: (row) => row.seeds.split(",").length, show: (row) => row.seeds },
  ];
}

function accessCell(row) {
  return [row.access, row.access_seen && row.access_seen !== row.access ? element("small", {}, `made use of ${row.access_seen}`) : null];
}

function taskColumns(part, rows) {
  const tasks = part.labels.map((label, i) => ({
    key: `task:${part.tasks[i]}`,
    label,
    value: (row) => row.cells[i],
    show: (row) => taskCell(row, i),
  }));
  const columns = [average(part, 0, "mean", "mean"), ...tasks];
  if (state.show === "published") return [METHOD, ...columns]; // papers differ in protocol: the best of them would say nothing
  return [METHOD, ...columns.map((column) => ({ ...column, best: Math.max(...rows.map((row) => column.value(row) ?? -Infinity)) }))];
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
    return element("th", { scope: "col", class: column.isText ? "text" : null, "aria-sort": isSorted ? order : null }, button);
  });
  const body = rows.map((row) => {
    const cells = columns.map((column) => {
      const isName = column.key === "method";
      const cell = element(isName ? "th" : "td", { scope: isName ? "row" : null, class: column.isText ? "text" : null }, column.show(row));
      if (column.best !== undefined) shade(cell, column.value(row), column.best);
      return cell;
    });
    const open = (event) => event.target.closest("button") || getSelection().toString() || openDetails(row.key);
    return element("tr", { onclick: open }, ...cells);
  });
  const content = element(
    "table",
    { class: kind },
    element("caption", {}, element("span", {}, caption)),
    element("thead", {}, element("tr", {}, ...head)),
    element("tbody", {}, ...body),
  );
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, content);
}

/** Strong at the column's best, gone 30 points below it; the root makes small distances near the best visible. */
function shade(cell, value, best) {
  if (value === null) cell.classList.add("missing");
  else cell.style.setProperty("--strength", String(Math.max(0, 1 - Math.sqrt((best - value) / 30))));
  if (value === best) cell.classList.add("best");
}

function partSection(part, i, width) {
  const found = rowsOf(part);
  const summary = summaryColumns(part, found);
  const tasks = taskColumns(part, found);
  const by = sortColumn([...summary, ...tasks]);
  const rows = sorted(found, by);
  const isPublished = state.show === "published";
  const shots = part.shots === "full" ? "all training images" : `${part.shots} shots`;
  const facts = [`protocol ${part.protocol}`, shots, `selection ${part.selection.join(", ")}`, `petlbench ${part.code.join(", ")}`];
  const nothing = isPublished && !part.published.length ? "No published numbers on these tasks." : "No method passes the filters.";
  const tables = [
    table(i, "summary", `Test accuracy in percent, means over ${isPublished ? "tasks" : "tasks and seeds"}`, summary, rows, by),
    rows.some((row) => row.reference) && state.show === "both"
      ? element(
          "p",
          { class: "note" },
          "Published means are recomputed from the printed cells. Differences are shown where the published number was measured on the same backbone with as many shots; the protocol may still be another.",
        )
      : null,
    isPublished ? null : element("div", { class: "figures" }, costFigure(rows, i, width), rankFigure(part, width)),
    table(i, "tasks", `Test accuracy per task in percent${isPublished ? "" : SHADES}`, tasks, rows, by),
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
        : [facts.join(" · "), kindsOf(part)],
    ),
    ...(rows.length ? tables : [element("p", {}, nothing)]),
  );
}

/** Which mark stands for which kind of access. */
function kindsOf(part) {
  const present = [...new Set(part.rows.map((row) => row.box))].sort();
  return element("span", { class: "kinds" }, ...present.map((box) => element("span", {}, icon(box), ` ${box}`)));
}

function costFigure(rows, i, width) {
  const known = Object.keys(COSTS).filter((cost) => rows.some((row) => row[cost] !== null));
  const cost = known.includes(state.cost) ? state.cost : known[0];
  const drawn = rows.filter((row) => row.mean !== null && row[cost] !== null);
  const choice = element("select", { id: `cost-${i}`, onchange: (event) => update({ cost: event.target.value }) });
  choice.append(...known.map((name) => element("option", { value: name, selected: name === cost }, COSTS[name])));
  const missing = rows.filter((row) => !drawn.includes(row)).map((row) => row.method);
  return element(
    "figure",
    {},
    element("h3", {}, element("label", { for: `cost-${i}` }, "Accuracy against "), choice),
    drawn.length ? scatter(drawn, cost, COSTS[cost], figureWidth(width), (row) => openDetails(row.key)) : null,
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
      ? "Ranks are compared from three methods with results on all of at least two tasks on."
      : `Bars join methods that Nemenyi's test does not tell apart at 5 %. Friedman's test: p ${p < 0.001 ? "< 0.001" : `= ${p.toPrecision(2)}`}.`,
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
