// The details of a row: its seeds, how it compares, its records and their configuration.

function openDetails(key) {
  state.open = key;
  remember();
  showDetails();
}

function showDetails() {
  const dialog = byId("details");
  const rows = state.open ? views.flatMap(({ part, rows }) => rows.map((row) => ({ part, row }))) : [];
  const found = rows.find(({ row }) => row.key === state.open);
  if (!found) {
    state.open = "";
    if (dialog.open) dialog.close();
    return;
  }
  dialog.open || dialog.showModal(); // it has a width from then on
  const close = element("button", { type: "button", class: "close", onclick: () => dialog.close() }, "Close");
  const contents = found.row.is_published
    ? publishedDetails(found.part, found.row)
    : ourDetails(found.part, found.row, dialog.clientWidth - 40);
  dialog.replaceChildren(close, element("h2", { id: "details_title" }, found.row.method), ...contents);
  close.focus();
  dialog.scrollTop = 0;
}

function ourDetails(part, row, width) {
  const reference = state.show === "both" ? row.reference : null;
  const interval = row.interval ? `, 95 % interval ${row.interval.map(percent).join(" to ")}` : "";
  const numbers = [
    `${row.box}: ${row.access}`,
    `mean ${row.mean === null ? "withheld" : `${percent(row.mean)} %`}${interval}`,
    ...part.columns.map(({ name, heading }) => `${heading} ${row.texts[name]}`),
  ];
  return [
    element("p", {}, numbers.join(" · ")),
    row.is_oracle
      ? element("p", { class: "flag" }, "The epoch was chosen by its test accuracy; compare only with numbers that were made so.")
      : null,
    element("h3", {}, "Seeds"),
    element(
      "p",
      { class: "note" },
      `One mark per run, a stroke at the mean of a task${reference ? ", a ring at the published value" : ""}.`,
    ),
    seedDots(part, row, reference, width),
    ...(reference ? [element("h3", {}, "Published"), ...publishedDetails(part, reference)] : []),
    ...againstOthers(part, row),
    element("h3", {}, "Records"),
    recordTable(part, row),
    element("h3", {}, "Configuration"),
    ...configurations(part, row),
  ].filter(Boolean);
}

function publishedDetails(part, row) {
  return [
    element(
      "p",
      {},
      [row.paper, row.table, row.backbone, row.shots && `shots: ${row.shots}`, row.kinds.join(", ")].filter(Boolean).join(" · "),
    ),
    simpleTable(
      "Published accuracy",
      ["task", "%"],
      part.labels.map((label, i) => [label, percent(row.cells[i])]),
    ),
    row.note ? element("p", { class: "note" }, `Of the method: ${row.note}`) : null,
    ...row.sources.map((source) => element("p", { class: "note" }, `Source: ${source}`)),
  ];
}

function againstOthers(part, row) {
  const lines = part.comparison.pairs
    .filter((pair) => pair.slice(0, 2).includes(row.compared_as))
    .map(([method, other, difference, low, high, wins, ties, losses, p]) => {
      const isFirst = method === row.compared_as;
      const [points, from, to] = isFirst ? [difference, low, high] : [-difference, -high, -low];
      const counts = isFirst ? [wins, ties, losses] : [losses, ties, wins];
      return [
        isFirst ? other : method,
        `${signed(points)} (${signed(from)} to ${signed(to)})`,
        counts.join(" / "),
        p < 0.001 ? "< 0.001" : p.toFixed(3),
      ];
    });
  const headings = ["method", "points ahead (95 % interval)", "tasks won / tied / lost", "p"];
  const caption = "Means over seeds, task by task; p is Wilcoxon's, corrected by Holm for all pairs";
  return lines.length ? [element("h3", {}, "Against the others"), simpleTable(caption, headings, lines)] : [];
}

function recordTable(part, row) {
  const lines = row.runs.map((run) => [
    part.labels[run.task],
    String(run.seed),
    `${percent(run.accuracy)} ± ${percent(run.standard_error)}`,
    run.train_seconds,
    run.status,
    run.code,
    run.created.replace("T", " ").replace(/\+00:00$|Z$/, ""),
    run.file ? element("a", { href: run.file }, run.id) : run.id,
  ]);
  return simpleTable(
    "Records; ± is the binomial standard error of one run",
    ["task", "seed", "accuracy", data.columns.train_seconds.heading, "status", "petlbench", "UTC", "record"],
    lines,
  );
}

/** Settings that all runs of the row share, and below them those that differ between tasks. */
function configurations(part, row) {
  const used = [...new Set(row.runs.map((run) => run.config))];
  const flats = used.map((index) => flat(data.configs[index]));
  const names = [...new Set(flats.flatMap((one) => Object.keys(one)))].sort();
  const isShared = (name) => flats.every((one) => one[name] === flats[0][name]);
  const varied = names.filter((name) => !isShared(name));
  const tasksOf = (index) => [...new Set(row.runs.filter((run) => run.config === index).map((run) => part.labels[run.task]))].join(", ");
  const tables = [
    simpleTable(
      "Settings of all its runs",
      ["setting", "value"],
      names.filter(isShared).map((name) => [name, flats[0][name]]),
    ),
  ];
  if (varied.length) {
    const lines = used.map((index, i) => [tasksOf(index), ...varied.map((name) => flats[i][name] ?? "absent")]);
    tables.unshift(simpleTable("Settings that differ", ["tasks", ...varied], lines));
  }
  return tables;
}

function flat(settings, prefix = "") {
  const pairs = Object.entries(settings).map(([key, value]) => {
    const isSection = value !== null && typeof value === "object" && !Array.isArray(value);
    return isSection ? flat(value, `${prefix}${key}.`) : { [prefix + key]: JSON.stringify(value) };
  });
  return Object.assign({}, ...pairs);
}

function simpleTable(caption, headings, lines) {
  const head = element("tr", {}, ...headings.map((heading) => element("th", { scope: "col", class: "text" }, heading)));
  const line = (cells) => element("tr", {}, ...cells.map((cell) => element("td", { class: "text" }, cell)));
  return pagedTable(caption, null, head, lines, line);
}

const AT_ONCE = 100; // rows that become nodes; a button brings the next

/** A table of many rows, of which only those that were asked for are made. `line(row)`: the element of a row. */
function pagedTable(caption, kind, head, rows, line) {
  const body = element("tbody");
  const more = element("button", { type: "button", class: "more", onclick: () => show() });
  const show = () => {
    const from = body.children.length;
    body.append(...rows.slice(from, from + AT_ONCE).map(line));
    const left = rows.length - body.children.length;
    more.textContent = `Show ${Math.min(left, AT_ONCE)} more of ${left}`;
    more.hidden = !left;
  };
  show();
  const content = element("table", { class: kind }, element("caption", {}, element("span", {}, caption)), element("thead", {}, head), body);
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, content, more);
}
