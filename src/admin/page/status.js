// Shows what /status says.

/** In a word or two, how the daemon is, and whether that is good. */
function stateOf(status) {
  const [role, kind] = ROLES[status.role] ?? [status.role, "warn"];
  const broken = status.sinks.filter((sink) => ["down", "refused"].includes(sink.state)).length;
  const words = [role];
  if (broken > 0) words.push(broken === 1 ? "1 sink is not working" : `${broken} sinks are not working`);
  if (status.role === "streaming" && status.not_ready !== null) words.push("behind");
  return [words.join(", "), words.length > 1 ? "bad" : kind];
}

/** What went wrong, since when, and what mends it. */
function errorText(error) {
  const lines = [error.message];
  if (error.hint) lines.push(error.hint);
  lines.push(`since ${clock(ourTime(error.since_seconds))} (${duration(daemonSeconds() - error.since_seconds)})`);
  return lines.join("\n");
}

function showState(text, kind) {
  setText(get("state"), text);
  setClass(get("state"), `state ${kind}`);
  document.title = `${text} · walpurge`;
}

function showTrouble(status) {
  const said = [];
  const error = status.postgres.error;
  if (status.not_ready !== null && !(error && status.not_ready.includes(error.message))) said.push(status.not_ready);
  if (error) said.push(errorText(error));
  setText(get("trouble"), said.join("\n"));
  get("trouble").hidden = said.length === 0;
}

function tiles(status) {
  const { postgres, replay } = status;
  const latest = samples.at(-1);
  const since = "the daemon started";
  const left = postgres.wal_left_bytes === null
    ? [postgres.wal_held_bytes === null ? UNKNOWN : "no bound", postgres.wal_held_bytes === null ? "" : "only the disk bounds it"]
    : [bytes(postgres.wal_left_bytes), postgres.wal_left_seconds === null ? "and it does not shrink" : `${duration(postgres.wal_left_seconds)} at this rate`];
  const isTight = postgres.wal_left_seconds !== null && postgres.wal_left_seconds < 3600;
  const isLate = postgres.lag_seconds !== null && postgres.lag_seconds > 60;
  return [
    ["Lag", duration(postgres.lag_seconds), `${bytes(postgres.lag_bytes)} not done`, isLate ? "bad" : ""],
    ["Changes", perSecond(latest?.changeRate ?? null), `${count(latest?.changes)} since ${since}`],
    ["Actions done", perSecond(latest?.doneRate ?? null), `${count(latest?.done)} since then; ${count(latest?.waiting)} wait`],
    ["WAL held", bytes(postgres.wal_held_bytes), `by slot ${postgres.slot}`],
    ["WAL left", left[0], left[1], isTight ? "bad" : ""],
    replay === null
      ? ["Replay horizon", "none", "from the slot's own position only"]
      : ["Replay horizon", duration(replay.horizon_seconds), replay.from_lsn === null ? "" : `from ${replay.from_lsn}`],
    ["Given up", status.parked === null ? "not kept" : count(status.parked), status.parked > 0 ? "walpurge parked list" : "records of actions", status.parked > 0 ? "bad" : ""],
    ["Gaps", count(status.gaps), `since ${since}`, status.gaps > 0 ? "bad" : ""],
    ["Done up to", postgres.confirmed_lsn ?? UNKNOWN, `received ${postgres.received_lsn ?? UNKNOWN}`],
  ];
}

function sinkRow(sink) {
  const [state, kind] = SINK_STATES[sink.state] ?? [sink.state, "warn"];
  let error = "";
  if (sink.error) {
    error = errorText(sink.error);
  } else if (sink.last_error) {
    const { message, since_seconds, until_seconds } = sink.last_error;
    error = `${message}\nover since ${clock(ourTime(until_seconds))}, after ${duration(until_seconds - since_seconds)}`;
  }
  return [
    `${sink.name}\n${sink.kind}`, [state, `number ${kind}`], [count(sink.waiting), "number"], [count(sink.done), "number"],
    [count(sink.retries), "number"], [count(sink.parked), sink.parked > 0 ? "number bad" : "number"],
    [sink.position_lsn ?? UNKNOWN, "mono"], [error, sink.error ? "wide bad" : "wide muted"],
  ];
}

/** Counts by name, the total first. */
function counts(byName) {
  const known = Object.entries(byName).filter(([, number]) => number > 0);
  const total = known.reduce((sum, [, number]) => sum + number, 0);
  if (known.length === 0) return count(0);
  return `${count(total)}\n${known.map(([name, number]) => `${count(number)} ${name}`).join(", ")}`;
}

function ruleRow(rule) {
  return [rule.name, counts(rule.changes), [count(rule.actions), "number"], counts(rule.fallbacks)];
}

function show(status) {
  const { postgres } = status;
  setText(get("version"), status.version);
  setText(get("where"), `slot ${postgres.slot} at ${postgres.target}${postgres.host === null ? "" : ` (${postgres.host})`}`);
  const [state, kind] = stateOf(status);
  showState(state, kind);
  showTrouble(status);
  fillTiles(get("tiles"), tiles(status));
  fillTable(get("sinks"), status.sinks.map(sinkRow));
  fillTable(get("rules"), status.rules.map(ruleRow));
  drawPlots();
}
