// Asks for ever, while the page is seen.

const ASK_EVERY_MS = 1000;

function pause(milliseconds) {
  return new Promise((go) => setTimeout(go, milliseconds));
}

/** Waits until the page is seen. */
async function seen() {
  while (document.hidden) {
    await new Promise((go) => document.addEventListener("visibilitychange", go, { once: true }));
  }
}

/** When the daemon answered last; null: not yet, or it has not answered since. */
let lastAnswer = null;
let goneSince = null;
let onAnswer = [];

/** Waits until the page is seen and the daemon has answered. */
async function answered() {
  await seen();
  while (lastAnswer === null) await new Promise((go) => onAnswer.push(go));
}

function isHere(status) {
  lastAnswer = Date.now();
  goneSince = null;
  get("gone").hidden = get("gone-for").hidden = get("unlock").hidden = true;
  get("shown").hidden = false;
  get("forget").hidden = token === null;
  get("shown").classList.remove("stale");
  takeSample(status);
  show(status);
  onAnswer.splice(0).forEach((go) => go());
}

function isGone(error) {
  if (goneSince === null) {
    goneSince = lastAnswer ?? Date.now();
    lastAnswer = null;
    const why = error instanceof TypeError || error.name === "TimeoutError" ? "" : ` (${error.message})`;
    setText(get("gone"), `The daemon has not answered since ${clock(goneSince)}${why}. This page asks again every second.`);
    get("gone").hidden = get("gone-for").hidden = false;
    get("trouble").hidden = true;
    get("shown").classList.add("stale");
    showState("no answer", "bad");
  }
  const shown = get("shown").hidden ? "" : " What is below is from then.";
  setText(get("gone-for"), `That is ${duration((Date.now() - goneSince) / 1000)} ago.${shown}`);
  if (!get("shown").hidden) drawPlots();
}

/** Asks for a token, and waits until one is given. */
async function unlock(why) {
  lastAnswer = null;
  goneSince = null;
  keepToken(null);
  get("gone").hidden = get("gone-for").hidden = get("trouble").hidden = get("shown").hidden = true;
  get("forget").hidden = true;
  get("unlock").hidden = false;
  setText(get("version"), "");
  setText(get("where"), "");
  setText(get("unlock-why"), why);
  showState("locked", "warn");
  get("token").focus();
  await new Promise((go) => {
    get("unlock").addEventListener("submit", (event) => {
      event.preventDefault();
      keepToken(get("token").value.trim());
      get("token").value = "";
      go();
    }, { once: true });
  });
}

get("forget").addEventListener("click", () => {
  keepToken(null);
  samples = [];
  latest = [];
  location.reload();
});

async function followStatus() {
  let needsHistory = true;
  document.addEventListener("visibilitychange", () => { needsHistory = true; });
  for (;;) {
    await seen();
    try {
      const status = await askJson("status");
      if (needsHistory || goneSince !== null) {
        takeHistory(await askJson("history"));
        needsHistory = false;
      }
      isHere(status);
    } catch (error) {
      if (error instanceof Locked) await unlock(error.message);
      else isGone(error);
    }
    await pause(ASK_EVERY_MS);
  }
}

followStatus();
followTail();
setInterval(showLatest, SHOW_EVERY_MS);
