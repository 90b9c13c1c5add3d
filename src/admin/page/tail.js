// Follows single invalidations, as /tail tells them.

const LATEST_MAX = 25;
/** The daemon tells no more a second: nobody reads more. */
const LINES_A_SECOND = 25;
const SHOW_EVERY_MS = 500;

/** Rows of the table, the newest first. */
let latest = [];
let missed = 0;
let isPaused = false;
let isTailed = false;
let refused = "";
let isNews = true;

function takeLine(text) {
  if (text === "") return;
  const line = JSON.parse(text);
  isNews = true;
  if (line.missed !== undefined) {
    missed += line.missed;
    return;
  }
  if (isPaused) {
    missed += 1;
    return;
  }
  const action = line.fallback === undefined ? line.action : `${line.action}\nfallback: ${line.fallback}`;
  latest.unshift([
    [clock(Date.now()), "number plain"], line.rule ?? "(no rule)", line.table ?? "", line.op ?? "", action,
    [line.value, "mono"], line.sinks.join(", "), [line.commit_lsn ?? "", "mono"],
  ]);
  latest.length = Math.min(latest.length, LATEST_MAX);
}

function showLatest() {
  if (!isNews) return;
  isNews = false;
  fillTable(get("latest"), latest);
  get("latest-table").hidden = latest.length === 0;
  const said = [];
  if (isPaused) said.push("Paused.");
  else if (!isTailed) said.push(refused === "" ? "Not connected." : `Not connected: ${refused}.`);
  else if (latest.length === 0) said.push("None since this page was opened.");
  else said.push(`The latest ${latest.length === 1 ? "one" : count(latest.length)}, since this page was opened; each when it is asked for, a little before it is done.`);
  if (missed > 0) said.push(`${count(missed)} more are not shown.`);
  setText(get("heard"), said.join(" "));
}

/** Reads one answer of /tail to its end. */
async function readTail(signal) {
  const answer = await ask(`tail?limit=${LINES_A_SECOND}`, signal);
  isTailed = isNews = true;
  refused = "";
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    lines.forEach(takeLine);
  }
}

/** Follows for as long as the page is seen and the daemon is there. */
async function followTail() {
  for (;;) {
    await answered();
    const stop = new AbortController();
    const whenHidden = () => document.hidden && stop.abort();
    document.addEventListener("visibilitychange", whenHidden);
    try {
      await readTail(stop.signal);
    } catch (error) {
      const isTold = !(error instanceof Locked) && !(error instanceof TypeError) && error.name !== "AbortError";
      refused = isTold ? error.message : "";
    }
    document.removeEventListener("visibilitychange", whenHidden);
    isTailed = false;
    isNews = true;
    await pause(1000);
  }
}

get("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  isNews = true;
  get("pause").setAttribute("aria-pressed", String(isPaused));
  showLatest();
});
