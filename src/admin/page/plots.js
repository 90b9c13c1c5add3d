// Lag and rates of the last ten minutes: kept here, and begun with what the daemon has kept.

const KEPT_MS = 600_000;
/** A rate is measured over so long at least. */
const RATE_OVER_MS = 1900;
/** Between two samples that are further apart nothing is known. */
const HOLE_MS = 7000;

/** Samples, oldest first: when (milliseconds), lag, totals and what waits. */
let samples = [];

/** Takes what the daemon has kept: what is there is of the same daemon, or of one before it. */
function takeHistory(history) {
  const now = Date.now();
  const told = history.age_seconds.map((age, at) => ({
    at: now - age * 1000,
    lagSeconds: history.lag_seconds[at],
    lagBytes: history.lag_bytes[at],
    changes: history.changes[at],
    done: history.done[at],
    waiting: history.waiting[at],
  }));
  const first = told.length > 0 ? told[0].at : now;
  samples = samples.filter((sample) => sample.at < first).concat(told);
  rate();
}

function takeSample(status) {
  const sum = (list, of) => list.reduce((total, one) => total + of(one), 0);
  samples.push({
    at: Date.now(),
    lagSeconds: status.postgres.lag_seconds,
    lagBytes: status.postgres.lag_bytes,
    changes: sum(status.rules, (rule) => sum(Object.values(rule.changes), (number) => number)),
    done: sum(status.sinks, (sink) => sink.done),
    waiting: sum(status.sinks, (sink) => sink.waiting),
  });
  samples = samples.filter((sample) => sample.at > Date.now() - KEPT_MS);
  rate();
}

/** Works out the rates that are missing. */
function rate() {
  let before = 0;
  samples.forEach((sample, at) => {
    while (before + 1 < at && samples[before + 1].at <= sample.at - RATE_OVER_MS) before += 1;
    if (sample.changeRate !== undefined) return;
    const since = samples[before];
    const isKnown = at > 0 && sample.at - since.at <= HOLE_MS && sample.at > since.at;
    const of = (key) => {
      // Totals that shrink are another process's.
      const grown = sample[key] - since[key];
      return isKnown && grown >= 0 ? (grown * 1000) / (sample.at - since.at) : null;
    };
    sample.changeRate = of("changes");
    sample.doneRate = of("done");
  });
}

const PLOTS = [
  { name: "Lag", series: [["lagSeconds", "", ""]], write: duration, steps: [1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400] },
  { name: "Log not done", series: [["lagBytes", "", ""]], write: bytes, steps: Array.from({ length: 32 }, (_, at) => 1024 * 2 ** at) },
  { name: "Rate", series: [["changeRate", "changes", ""], ["doneRate", "actions done", "second"]], write: perSecond, steps: decimals() },
  { name: "Waiting actions", series: [["waiting", "", ""]], write: count, steps: decimals() },
];

function decimals() {
  return Array.from({ length: 10 }, (_, at) => [1, 2, 5].map((step) => step * 10 ** at)).flat();
}

const WIDTH = 600;
const HEIGHT = 100;

function drawn(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** Makes a figure. The drawing is for the eye; its caption says the numbers. */
function makePlot(plot) {
  plot.caption = element("span", { class: "muted" });
  plot.top = element("span", {});
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false" });
  svg.append(drawn("line", { x1: 0, x2: WIDTH, y1: HEIGHT / 2, y2: HEIGHT / 2 }));
  plot.area = drawn("path", { class: "area" });
  plot.paths = plot.series.map(([, , kind]) => drawn("path", { class: kind }));
  svg.append(...(plot.series.length === 1 ? [plot.area] : []), ...plot.paths);
  const named = plot.series.filter(([, name]) => name !== "");
  const keys = named.map(([, name, kind]) => element("span", { class: `key ${kind}` }, ` ${kind ? "╌╌" : "──"} ${name} `));
  const caption = element("figcaption", {}, element("span", {}, element("b", {}, plot.name), ...keys), plot.caption);
  const axis = element("div", { class: "axis", "aria-hidden": "true" }, element("span", {}, "10 min ago"), element("span", {}, "now"));
  const top = element("div", { class: "axis", "aria-hidden": "true" }, plot.top);
  get("plots").append(element("figure", {}, caption, top, svg, axis));
}

/** Runs of samples of which the value is known, as points. */
function runs(key, top, now) {
  const found = [];
  let last = -Infinity;
  for (const sample of samples) {
    const value = sample[key];
    if (value === null) continue;
    if (sample.at - last > HOLE_MS) found.push([]);
    last = sample.at;
    const x = (WIDTH * (sample.at - now + KEPT_MS)) / KEPT_MS;
    const y = HEIGHT - (HEIGHT * 0.96 * Math.min(value, top)) / top;
    found.at(-1).push(`${x.toFixed(1)},${y.toFixed(2)}`);
  }
  return found;
}

function drawPlots() {
  const now = Date.now();
  for (const plot of PLOTS) {
    if (!plot.caption) makePlot(plot);
    const values = plot.series.map(([key]) => samples.map((sample) => sample[key]).filter((value) => value !== null));
    const most = Math.max(0, ...values.flat());
    const top = plot.steps.find((step) => step >= most) ?? most;
    setText(plot.top, plot.write(top));
    const ofEach = (of) => plot.series.map(([key], at) => plot.write(of(key, at))).join(" and ");
    const highest = ofEach((_, at) => (values[at].length > 0 ? Math.max(...values[at]) : null));
    setText(plot.caption, `${ofEach((key) => samples.at(-1)?.[key] ?? null)} now, at most ${highest}`);
    plot.series.forEach(([key], at) => {
      const parts = runs(key, top, now);
      plot.paths[at].setAttribute("d", parts.map((points) => `M${points.join("L")}`).join(""));
      const ground = (points) => `M${points[0].split(",")[0]},${HEIGHT}L${points.join("L")}L${points.at(-1).split(",")[0]},${HEIGHT}Z`;
      if (plot.series.length === 1) plot.area.setAttribute("d", parts.map(ground).join(""));
    });
  }
  if (get("minutes").open) fillMinutes(now);
}

/** The same in numbers, the latest minute first. */
function fillMinutes(now) {
  const rows = [];
  for (let end = now; end > now - KEPT_MS; end -= 60_000) {
    const within = samples.filter((sample) => sample.at > end - 60_000 && sample.at <= end);
    if (within.length === 0) continue;
    const most = (key) => within.reduce((most, sample) => (sample[key] === null ? most : Math.max(most ?? 0, sample[key])), null);
    const mean = (key) => {
      const known = within.map((sample) => sample[key]).filter((value) => value !== null);
      return known.length === 0 ? null : known.reduce((total, value) => total + value, 0) / known.length;
    };
    rows.push([
      `until ${clock(end)}`, duration(most("lagSeconds")), bytes(most("lagBytes")),
      perSecond(mean("changeRate")), perSecond(mean("doneRate")), count(most("waiting")),
    ]);
  }
  fillTable(get("minute-rows"), rows);
}
