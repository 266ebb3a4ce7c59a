// The page itself: state, filters, the details of a row, theme and refresh. What is chosen stands in the address behind #, and so survives a reload.

const data = JSON.parse(document.getElementById("data").textContent);
const DEFAULTS = {
  suite: data.parts[0]?.suite ?? "",
  backbone: "",
  protocol: "",
  q: "",
  without: "",
  show: data.parts.some((part) => part.published.length) ? "both" : "ours",
  sort: "mean",
  up: "",
  cost: "params_trainable",
  open: "",
};
const THEMES = ["auto", "light", "dark"];
const state = { ...DEFAULTS, ...fromAddress() };
let drawnWidth = 0;

function byId(id) {
  return document.getElementById(id);
}

function fromAddress() {
  return Object.fromEntries([...new URLSearchParams(location.hash.slice(1))].filter(([key]) => key in DEFAULTS));
}

function update(changes) {
  Object.assign(state, changes);
  render();
}

function remember() {
  const changed = Object.entries(state).filter(([key, value]) => value !== DEFAULTS[key]);
  history.replaceState(null, "", `#${new URLSearchParams(changed)}`);
}

/** The parts that pass the filters; published numbers depend on the suite only and stand once. */
function shownParts() {
  if (state.show !== "published") return data.parts.filter((part) => ["suite", "backbone", "protocol"].every((key) => matches(part, key)));
  return data.parts.filter((part, i) => matches(part, "suite") && data.parts.findIndex((other) => other.suite === part.suite) === i);
}

function render(width = byId("parts").clientWidth) {
  drawnWidth = width;
  fillFilters();
  remember();
  const focused = document.activeElement?.id;
  const scrolled = [...document.querySelectorAll(".scroll")].map((region) => region.scrollLeft);
  byId("parts").replaceChildren(...shownParts().map((part, i) => partSection(part, i, width)));
  document.querySelectorAll(".scroll").forEach((region, i) => (region.scrollLeft = scrolled[i] ?? 0));
  if (focused) byId(focused)?.focus();
  const shown = document.querySelectorAll("table.summary tbody tr").length;
  const heading = document.querySelector("th[aria-sort]");
  const order = heading ? `, sorted by ${heading.textContent}, ${heading.getAttribute("aria-sort")}` : "";
  byId("status").textContent = data.parts.length ? `${shown} ${shown === 1 ? "row" : "rows"}${order}` : "No finished run yet.";
  showDetails();
}

// Filters

function fillFilters() {
  const isOffered = { suite: () => true, backbone: (part) => matches(part, "suite"), protocol: (part) => matches(part, "suite") && matches(part, "backbone") };
  for (const [key, isPart] of Object.entries(isOffered)) {
    const values = [...new Set(data.parts.filter(isPart).map((part) => part[key]))];
    if (!values.includes(state[key])) state[key] = "";
    byId(key).replaceChildren(...["", ...values].map((value) => element("option", { value, selected: value === state[key] }, value || "all")));
  }
  for (const key of ["backbone", "protocol"]) byId(key).disabled = state.show === "published";
  if (byId("search").value !== state.q) byId("search").value = state.q;
  for (const box of byId("access").querySelectorAll("input")) box.checked = !state.without.split(",").includes(box.value);
  for (const choice of byId("show").querySelectorAll("input")) choice.checked = choice.value === state.show;
}

function matches(part, key) {
  return state[key] === "" || part[key] === state[key];
}

function startFilters() {
  byId("access").append(...presentRungs().map((rung) => element("label", {}, element("input", { type: "checkbox", value: rung }), rung)));
  byId("show").hidden = DEFAULTS.show === "ours";
  for (const key of ["suite", "backbone", "protocol"]) byId(key).addEventListener("change", (event) => update({ [key]: event.target.value }));
  byId("search").addEventListener("input", (event) => update({ q: event.target.value }));
  byId("show").addEventListener("change", (event) => update({ show: event.target.value }));
  byId("access").addEventListener("change", () => {
    const without = [...byId("access").querySelectorAll("input:not(:checked)")].map((box) => box.value);
    update({ without: without.join(",") });
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("reset").addEventListener("click", () => update(DEFAULTS));
}

// The details of a row

function openDetails(key) {
  state.open = key;
  remember();
  showDetails();
}

function showDetails() {
  const dialog = byId("details");
  const parts = shownParts();
  const found = parts.flatMap((part, i) => rowsOf(part).map((row) => ({ part, row, key: rowKey(i, row) }))).find(({ key }) => key === state.open);
  if (!found) {
    state.open = "";
    if (dialog.open) dialog.close();
    return;
  }
  dialog.open || dialog.showModal(); // it has a width from then on
  const close = element("button", { type: "button", class: "close", onclick: () => dialog.close() }, "Close");
  const contents = found.row.is_published ? publishedDetails(found.part, found.row) : ourDetails(found.part, found.row, dialog.clientWidth - 40);
  dialog.replaceChildren(close, element("h2", { id: "details_title" }, found.row.method), ...contents);
  close.focus();
  dialog.scrollTop = 0;
}

function ourDetails(part, row, width) {
  const reference = state.show === "both" ? row.reference : null;
  const facts = [
    `${row.box}: ${row.access}${row.access_seen && row.access_seen !== row.access ? `, of which ${row.access_seen} was made use of` : ""}`,
    `mean ${row.mean === null ? "withheld" : `${percent(row.mean)} %`}${row.interval ? `, 95 % interval ${row.interval.map(percent).join(" to ")}` : ""}`,
    `seeds ${row.seeds}`,
    `${count(row.params_trainable)} trainable parameters, head ${count(row.params_head)}`,
  ];
  return [
    element("p", {}, facts.join(" · ")),
    row.is_oracle ? element("p", { class: "flag" }, "The epoch was chosen by its test accuracy; compare only with numbers that were made so.") : null,
    element("h3", {}, "Seeds"),
    element("p", { class: "note" }, `One mark per run, a stroke at the mean of a task${reference ? ", a ring at the published value" : ""}.`),
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
    element("p", {}, [row.paper, row.backbone, row.shots ? `shots: ${row.shots}` : "", row.kinds.join(", ")].filter(Boolean).join(" · ")),
    simpleTable("Published accuracy", ["task", "%"], part.labels.map((label, i) => [label, percent(row.cells[i])])),
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
      return [isFirst ? other : method, `${signed(points)} (${signed(from)} to ${signed(to)})`, counts.join(" / "), p < 0.001 ? "< 0.001" : p.toFixed(3)];
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
    run.train_seconds.toFixed(1),
    run.status,
    run.code,
    run.created.replace("T", " ").replace(/\+00:00$|Z$/, ""),
    element("a", { href: run.file }, run.id),
  ]);
  return simpleTable("Records; ± is the binomial standard error of one run", ["task", "seed", "accuracy", "train s", "status", "petlbench", "UTC", "record"], lines);
}

/** Settings that all runs of the row share, and below them those that differ between tasks. */
function configurations(part, row) {
  const used = [...new Set(row.runs.map((run) => run.config))];
  const flats = used.map((index) => flat(data.configs[index]));
  const names = [...new Set(flats.flatMap((one) => Object.keys(one)))].sort();
  const isShared = (name) => flats.every((one) => one[name] === flats[0][name]);
  const varied = names.filter((name) => !isShared(name));
  const tasksOf = (index) => [...new Set(row.runs.filter((run) => run.config === index).map((run) => part.labels[run.task]))].join(", ");
  const tables = [simpleTable("Settings of all its runs", ["setting", "value"], names.filter(isShared).map((name) => [name, flats[0][name]]))];
  if (varied.length) {
    const lines = used.map((index, i) => [tasksOf(index), ...varied.map((name) => flats[i][name] ?? "absent")]);
    tables.unshift(simpleTable("Settings that differ", ["tasks", ...varied], lines));
  }
  return tables;
}

function flat(settings, prefix = "") {
  return Object.entries(settings).reduce((found, [key, value]) => {
    const isSection = value !== null && typeof value === "object" && !Array.isArray(value);
    return { ...found, ...(isSection ? flat(value, `${prefix}${key}.`) : { [prefix + key]: JSON.stringify(value) }) };
  }, {});
}

function simpleTable(caption, headings, lines) {
  const head = element("tr", {}, ...headings.map((heading) => element("th", { scope: "col", class: "text" }, heading)));
  const body = lines.map((line) => element("tr", {}, ...line.map((cell) => element("td", { class: "text" }, cell))));
  const content = element("table", {}, element("caption", {}, caption), element("thead", {}, head), element("tbody", {}, ...body));
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, content);
}

// Runs that are not in the tables

function listLeftOut() {
  const lines = data.unfinished.map((run) => [run.method, run.task, run.backbone, String(run.seed), run.status, run.error, element("a", { href: run.file }, "record")]);
  const contents = [
    lines.length ? simpleTable("Runs without a result", ["method", "task", "backbone", "seed", "status", "error", ""], lines) : null,
    data.unlisted.length ? element("p", {}, `No suite lists these tasks: ${data.unlisted.join(", ")}.`) : null,
  ].filter(Boolean);
  if (contents.length) byId("left_out").append(element("h2", {}, "Not in the tables"), ...contents);
}

// Theme and refresh

function startTheme() {
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme;
    byId("theme").textContent = `Theme: ${theme}`;
  };
  apply(THEMES.find((theme) => theme === localStorage.getItem("petlbench-theme")) ?? "auto");
  byId("theme").addEventListener("click", () => {
    const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
    localStorage.setItem("petlbench-theme", next);
    apply(next);
  });
}

function startRefresh() {
  byId("written").textContent = `written ${data.written.replace("T", " ").replace("+00:00", " UTC")}`;
  if (!data.refresh) return;
  const [told, button] = byId("refresh").children;
  let timer = null;
  const toggle = () => {
    timer = timer ? clearInterval(timer) : setInterval(() => location.reload(), 1000 * data.refresh);
    told.textContent = timer ? `loads again every ${data.refresh} s` : "paused";
    button.textContent = timer ? "Pause" : "Continue";
  };
  button.addEventListener("click", toggle);
  byId("refresh").hidden = false;
  toggle();
}

startTheme();
startFilters();
startRefresh();
listLeftOut();
render();
byId("details").addEventListener("close", () => {
  state.open = "";
  remember();
});
addEventListener("hashchange", () => update({ ...DEFAULTS, ...fromAddress() }));
addEventListener("resize", () => byId("parts").clientWidth === drawnWidth || render());
addEventListener("beforeprint", () => render(1010));
addEventListener("afterprint", () => render());
