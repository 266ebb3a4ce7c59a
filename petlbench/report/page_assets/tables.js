// Tables and sections of the page: what a suite, backbone and protocol has to show, under the filters chosen.

const RUNGS = ["SCORES", "CONTEXT", "FEATURES", "GRADIENTS", "WEIGHTS"];
const COSTS = {
  params_trainable: "trainable parameters",
  queries: "images sent per run",
  contexts: "contexts sent per run",
  train_seconds: "seconds of training",
  peak_memory_mb: "MB of memory",
};

/** The published row a method is compared with: with as many shots if there is one, on most tasks, read in the paper itself. */
function reference(part, row) {
  const worth = (one) => [one.shots === part.shots, one.cells.filter((cell) => cell !== null).length, one.kinds.includes("primary")].map(Number);
  const better = (one, other) => worth(one).map((value, i) => value - worth(other)[i]).find((difference) => difference) ?? 0;
  return part.published.filter((one) => one.our_method === row.published_as && one.is_oracle === row.is_oracle).reduce((best, one) => (best && better(best, one) >= 0 ? best : one), null);
}

/** The rows that pass the filters: ours, or those of papers. */
function rowsOf(part) {
  const ours = () => part.rows.map((row) => ({ ...row, reference: reference(part, row) }));
  const published = () => part.published.map((row) => ({ ...row, is_published: true, box: "published", access: "" }));
  const without = state.without.split(",").filter(Boolean);
  const isShown = (row) => !without.includes(row.access) && `${row.method} ${row.paper ?? ""}`.toLowerCase().includes(state.q.toLowerCase());
  return (state.show === "published" ? published() : ours()).filter(isShown);
}

// Columns: a heading, the value a row is sorted by, what its cell shows, and whether the lower value is the better one.

function difference(ours, theirs) {
  return ours === null || theirs === null || theirs === undefined ? null : ours - theirs;
}

function number(key, label, format, isLowBetter = true) {
  return { key, label, value: (row) => row[key] ?? null, show: (row) => format(row[key] ?? null), isLowBetter };
}

function average(part, key, label, value) {
  const show = (row) => (value(row) === null ? missingTasks(part, row) : percent(value(row)));
  return { key, label, value, show, isAccuracy: true };
}

function missingTasks(part, row) {
  const found = row.cells.filter((cell) => cell !== null).length;
  return element("span", { class: "withheld", title: "a mean is withheld where a result is missing" }, `${found} of ${part.tasks.length} tasks`);
}

function methodColumn(i) {
  return { key: "method", label: "method", value: (row) => row.method.toLowerCase(), show: (row) => methodCell(i, row), isText: true };
}

function methodCell(i, row) {
  const open = () => openDetails(rowKey(i, row));
  const name = element("button", { type: "button", class: "row", "aria-haspopup": "dialog", onclick: open }, breakable(row.method));
  const icon = svg("svg", { width: 14, height: 14, viewBox: "0 0 14 14", "aria-hidden": "true" }, mark(row.box, 7, 7, 4.5));
  const oracle = row.is_oracle ? element("span", { class: "flag", title: "the epoch was chosen by its test accuracy" }, "chosen on test") : null;
  return [icon, name, oracle, row.is_published ? element("small", {}, `${row.paper}, ${row.backbone}${row.shots ? `, ${row.shots}` : ""}`) : null];
}

function rowKey(i, row) {
  return JSON.stringify([i, row.method, ...(row.is_published ? [row.paper, row.table, row.backbone, row.shots, row.is_oracle] : [row.access])]);
}

function summaryColumns(part, i, rows) {
  const isPublished = state.show === "published";
  const hasReference = rows.some((row) => row.reference);
  const columns = [
    ...(isPublished ? [] : [number("rank", "#", (rank) => String(rank ?? MISSING))]),
    methodColumn(i),
    average(part, "mean", part.averages.length ? `mean of ${part.tasks.length}` : "mean", (row) => row.mean),
    ...part.averages.map((name, i) => average(part, `average:${name}`, name, (row) => row.averages[i])),
  ];
  if (isPublished) return columns;
  columns.splice(3, 0, {
    key: "interval",
    label: "95 % interval",
    value: (row) => row.interval?.[0] ?? null,
    show: (row) => (row.interval ? row.interval.map(percent).join(" – ") : MISSING),
  });
  if (state.show === "both" && hasReference) {
    columns.push({ ...average(part, "published", "published", (row) => row.reference?.mean ?? null), show: publishedMean });
    columns.push({ key: "difference", label: "ours − theirs", value: (row) => difference(row.mean, row.reference?.mean), show: (row) => signed(difference(row.mean, row.reference?.mean)) });
  }
  const costs = [
    number("params_trainable", "trainable", count),
    number("peak_memory_mb", "memory MB", count),
    number("train_seconds", "train s", (seconds) => (seconds === null ? MISSING : seconds.toFixed(seconds < 100 ? 1 : 0))),
    number("queries", "queries", count),
    number("contexts", "contexts", count),
  ];
  return [
    ...columns,
    { key: "access", label: "access", value: (row) => RUNGS.indexOf(row.access), show: accessCell, isLowBetter: true, isText: true },
    ...costs.filter((column) => rows.some((row) => column.value(row) !== null)),
    { key: "seeds", label: "seeds", value: (row) => row.seeds.split(",").length, show: (row) => row.seeds },
  ];
}

function accessCell(row) {
  return [row.access, row.access_seen && row.access_seen !== row.access ? element("small", {}, `made use of ${row.access_seen}`) : null];
}

function publishedMean(row) {
  const other = row.reference;
  if (!other) return MISSING;
  const found = other.cells.filter((cell) => cell !== null).length;
  return [other.mean === null ? element("span", { class: "withheld" }, `${found} of ${other.cells.length} tasks`) : percent(other.mean), element("small", {}, other.backbone)];
}

function taskColumns(part, i, rows) {
  const tasks = part.labels.map((label, i) => ({
    key: `task:${part.tasks[i]}`,
    label,
    value: (row) => row.cells[i],
    show: (row) => taskCell(row.cells[i], row.reference?.cells[i]),
    best: Math.max(...rows.map((row) => row.cells[i] ?? -Infinity)),
  }));
  const mean = { ...average(part, "mean", "mean", (row) => row.mean), best: Math.max(...rows.map((row) => row.mean ?? -Infinity)) };
  return [methodColumn(i), mean, ...tasks];
}

function taskCell(ours, theirs) {
  const isCompared = state.show === "both" && theirs !== null && theirs !== undefined;
  return [percent(ours), isCompared ? element("small", {}, `${percent(theirs)} ${ours === null ? "" : signed(ours - theirs)}`) : null];
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
    const open = (event) => event.target.closest("button") || getSelection().toString() || openDetails(rowKey(i, row));
    return element("tr", { onclick: open }, ...cells);
  });
  const content = element("table", { class: kind }, element("caption", {}, caption), element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
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
  const summary = summaryColumns(part, i, found);
  const tasks = taskColumns(part, i, found);
  const by = sortColumn([...summary, ...tasks]);
  const rows = sorted(found, by);
  const facts = [`selection ${part.selection.join(", ")}`, part.shots ? `${part.shots} shots` : "", `petlbench ${part.code.join(", ")}`];
  const nothing = state.show === "published" && !part.published.length ? "No published numbers on these tasks." : "No method passes the filters.";
  const tables = [
    table(i, "summary", `Test accuracy in percent, means over ${state.show === "published" ? "tasks" : "tasks and seeds"}`, summary, rows, by),
    rows.some((row) => row.reference) && state.show === "both" ? element("p", { class: "note" }, "Published numbers may come from another backbone or protocol than ours; each is with its backbone.") : null,
    state.show === "published" ? null : element("div", { class: "figures" }, costFigure(rows, i, width), rankFigure(part, width)),
    table(i, "tasks", "Test accuracy per task in percent; the stronger the shade, the nearer to the best of the column", tasks, rows, by),
  ];
  return element(
    "section",
    { class: "part", "aria-labelledby": `part-${i}` },
    element("h2", { id: `part-${i}` }, `${part.suite} on ${part.backbone}`),
    element("p", { class: "note" }, `protocol ${part.protocol} · ${facts.filter(Boolean).join(" · ")}`),
    ...(rows.length ? tables : [element("p", {}, nothing)]),
  );
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
    drawn.length ? scatter(drawn, cost, COSTS[cost], figureWidth(width), (row) => openDetails(rowKey(i, row))) : null,
    element("figcaption", { class: "note" }, `The dashed line joins methods that no other beats in both. ${missing.length ? `Not drawn, because a result or the count is missing: ${missing.join(", ")}.` : ""}`),
  );
}

function rankFigure(part, width) {
  const { methods, critical_difference: critical, friedman_p: p, warnings, left_out: without } = part.comparison;
  const lines = [
    critical === null ? "Ranks are compared from three methods with results on all of at least two tasks on." : `Bars join methods that Nemenyi's test does not tell apart at 5 %. Friedman's test: p ${p < 0.001 ? "< 0.001" : `= ${p.toPrecision(2)}`}.`,
    ...warnings,
    without.length ? `Left out, because a result is missing: ${without.join(", ")}.` : "",
  ];
  return element(
    "figure",
    {},
    element("h3", {}, `Mean ranks over ${part.tasks.length} tasks, ${methods.length} methods`),
    critical === null ? null : rankDiagram(part.comparison, figureWidth(width)),
    ...lines.filter(Boolean).map((line) => element("figcaption", { class: "note" }, line)),
  );
}

function figureWidth(width) {
  return width > 1000 ? Math.floor((width - 24) / 2) : width;
}
