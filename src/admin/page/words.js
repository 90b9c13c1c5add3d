// How numbers, times and states are written.

const DIGITS = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const FEW_DIGITS = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 3 });

const UNKNOWN = "not known";

/** A number of things. */
function count(number) {
  return number === null || number === undefined ? UNKNOWN : DIGITS.format(number);
}

/** Things a second. */
function perSecond(number) {
  if (number === null) return UNKNOWN;
  return `${number < 100 ? FEW_DIGITS.format(number) : DIGITS.format(number)}/s`;
}

/** Bytes, in units of 1,024. */
function bytes(number) {
  if (number === null || number === undefined) return UNKNOWN;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${FEW_DIGITS.format(number)} ${units[unit]}`;
}

/** A time, from seconds. */
function duration(seconds) {
  if (seconds === null || seconds === undefined) return UNKNOWN;
  if (seconds < 10) return `${Math.max(0, Math.round(seconds * 10) / 10)} s`;
  if (seconds < 120) return `${Math.floor(seconds)} s`;
  const parts = [[86400, "d"], [3600, "h"], [60, "min"]];
  const at = parts.findIndex(([length]) => seconds >= length);
  const [length, name] = parts[at];
  const rest = parts[at + 1];
  const more = rest ? Math.floor((seconds % length) / rest[0]) : 0;
  return `${Math.floor(seconds / length)} ${name}${more > 0 ? ` ${more} ${rest[1]}` : ""}`;
}

/** The reader's time of day, from milliseconds since 1970; with the date if that is another. */
function clock(milliseconds) {
  const time = new Date(milliseconds);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())} `;
  const isToday = time.toDateString() === new Date().toDateString();
  return `${isToday ? "" : day}${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
}

const ROLES = {
  streaming: ["streaming", "good"],
  standby: ["standby", "good"],
  closing_gap: ["closing a gap", "warn"],
  connecting: ["disconnected", "bad"],
};

const SINK_STATES = {
  up: ["✓ up", "good"],
  down: ["✗ down", "bad"],
  refused: ["✗ refused", "bad"],
  held: ["‖ held", "warn"],
  off: ["○ off", "warn"],
  unknown: ["? unknown", "warn"],
};
