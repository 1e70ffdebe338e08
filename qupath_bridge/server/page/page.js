// The page of a running server: its queue, its progress, its results. Text that comes from the
// server (names of images, errors) enters the document by `textContent` alone.

const KEPT_AS = "pathsegdiff-token";
const SECOND = 1000;
const PATIENCE = 10 * SECOND; // one question of the poll; downloads may take as long as they need
const FIRST_SHOWN = 20;
const FIRST_OPEN = 3;

const at = (id) => document.getElementById(id);
const show = (element, shown) => { element.hidden = !shown; };

// ---- the key: a code in the link is changed for a token at once ----

let token = kept();
let code = null;
let whyLocked = "This page needs a fresh link.";

function kept() {
  try { return sessionStorage.getItem(KEPT_AS); } catch { return null; }
}

function keep(value) {
  token = value;
  try {
    if (value) sessionStorage.setItem(KEPT_AS, value);
    else sessionStorage.removeItem(KEPT_AS);
  } catch { /* a browser that keeps nothing: the token lives as long as the page */ }
}

function takeCode() {
  const found = new URLSearchParams(location.hash.slice(1)).get("code");
  if (!found) return;
  history.replaceState(null, "", location.pathname);
  code = found;
}

async function redeem() {
  try {
    const answer = await ask("/v1/session", { method: "POST", key: code, patience: PATIENCE });
    keep((await answer.json()).token);
    code = null;
  } catch (error) {
    if (!(error instanceof Refused)) throw error; // not answered: the code may still be good
    code = null;
    if (error.status !== 401) throw error;
    whyLocked = "This link has been used already, or has expired.";
  }
}

// ---- asking the server ----

class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

async function ask(path, { method = "GET", accept = "application/json", key = token, patience } = {}) {
  const url = new URL(path, location.origin);
  if (url.origin !== location.origin) throw new Error("The server named an address that is not its own.");
  const headers = { Accept: accept };
  if (key) headers.Authorization = `Bearer ${key}`;
  const signal = patience ? AbortSignal.timeout(patience) : undefined;
  const answer = await fetch(url, { method, headers, signal, cache: "no-store" });
  if (!answer.ok) throw new Refused(answer.status, await sentenceOf(answer));
  return answer;
}

async function sentenceOf(answer) {
  const unexplained = `The server answered ${answer.status} ${answer.statusText}`.trim() + ".";
  try { return (await answer.json()).detail || unexplained; } catch { return unexplained; }
}

const spoken = (error) => error instanceof Refused
  ? error.message : "the server does not answer; try again in a moment";

// ---- words and numbers ----

const grouped = (value, digits = 0) => new Intl.NumberFormat("en", {
  minimumFractionDigits: digits, maximumFractionDigits: digits,
}).format(value).replaceAll(",", "\u202f");

const count = (n, noun) => `${grouped(n)} ${noun}${n === 1 ? "" : "s"}`;
const listed = (names) => names.join(", ");
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function span(seconds) {
  if (seconds < 1) return "less than a second";
  if (seconds < 60) return count(Math.round(seconds), "second");
  if (seconds < 5400) return count(Math.round(seconds / 60), "minute");
  return count(Math.round(seconds / 3600), "hour");
}

function timeLeft(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 10) return "a few seconds left";
  if (seconds < 55) return `about ${Math.ceil(seconds / 10) * 10} seconds left`;
  return `about ${span(Math.max(seconds, 60))} left`;
}

function clock(iso) {
  const when = new Date(iso);
  const today = when.toDateString() === new Date().toDateString();
  const day = today ? {} : { day: "numeric", month: "short" };
  const year = when.getFullYear() === new Date().getFullYear() ? {} : { year: "numeric" };
  return when.toLocaleString("en-GB", { ...day, ...(today ? {} : year), hour: "2-digit", minute: "2-digit" });
}

function time(iso) {
  const element = document.createElement("time");
  element.dateTime = iso;
  element.textContent = clock(iso);
  element.title = new Date(iso).toLocaleString("en-GB", { dateStyle: "full", timeStyle: "long" });
  return element;
}

const STAGES = {
  waiting: "Starting", tiles: "Segmenting", outlines: "Tracing outlines",
  writing: "Writing the results", features: "Computing features",
};

const COUNTED = { tiles: "tiles", features: "images", training: "steps" };

function stageWords(job) {
  if (job.state === "queued") {
    if (!(job.place > 1)) return "Next in the queue";
    return `Waiting, ${job.place === 2 ? "1 job" : `${grouped(job.place - 1)} jobs`} before it`;
  }
  const parts = [STAGES[job.stage] ?? capital(job.stage ?? "Starting")];
  const counted = COUNTED[job.stage];
  if (counted && job.tilesTotal) parts.push(`${grouped(job.tilesDone)} of ${grouped(job.tilesTotal)} ${counted}`);
  const left = timeLeft(job.secondsLeft);
  return (left ? [...parts, left] : parts).join(" · ");
}

const isGoing = (job) => job.state === "queued" || job.state === "running";
const isTraining = (job) => job.kind === "train";
const title = (job) => isTraining(job) ? `Train ${listed(job.heads)}` : job.image?.name ?? "An image";

function areaUnit(rows) {
  const largest = Math.max(...rows.map((row) => row.areaUm2));
  return largest >= 1e5
    ? { name: "Area, mm²", of: (um2) => um2 && um2 < 500 ? "<0.001" : grouped(um2 / 1e6, um2 ? 3 : 0) }
    : { name: "Area, µm²", of: (um2) => grouped(um2) };
}

const share = (percent) => percent > 0 && percent < 0.05 ? "<0.1 %" : `${grouped(percent, percent ? 1 : 0)} %`;

// ---- one job ----

const cards = new Map(); // job id -> {item, job, text, cancelling, picture}

function newCard(id) {
  const item = at("job-card").content.firstElementChild.cloneNode(true);
  const card = { id, item, part: (name) => item.querySelector(`.${name}`), cancelling: false };
  item.dataset.id = id;
  card.part("name").id = `name-${id}`;
  for (const button of item.querySelectorAll("button")) button.setAttribute("aria-describedby", `name-${id}`);
  card.part("cancel").addEventListener("click", () => cancel(card));
  card.part("detections").addEventListener("click", () => download(card, "detections"));
  card.part("table").addEventListener("click", () => download(card, "table"));
  card.part("enlarge").addEventListener("click", () => enlarge(card));
  cards.set(id, card);
  return card;
}

function fill(card, job) {
  const text = JSON.stringify(job) + new Date().toDateString(); // "17:40" is today's alone
  if (card.text === text) return;
  const before = card.job;
  Object.assign(card, { job, text });
  fillHead(card, job);
  fillProgress(card, job);
  fillTroubles(card, job);
  if (job.state === "done" && before?.state !== "done") fillResult(card, job);
}

const BADGES = { queued: "Waiting", running: "Running", done: "Done", failed: "Failed", cancelled: "Cancelled" };

function fillHead(card, job) {
  card.part("name").textContent = title(job);
  card.part("badge").textContent = BADGES[job.state] ?? job.state;
  card.item.dataset.state = job.state;
  const into = isTraining(job) ? `into model ${job.model}` : `Model ${job.model}`;
  const about = [isTraining(job) && job.image?.name, into, !isTraining(job) && listed(job.heads)];
  card.part("about").replaceChildren(about.filter(Boolean).join(" · ") + " · ", ...whenOf(job));
}

function whenOf(job) {
  if (job.state === "queued") return ["asked at ", time(job.created)];
  if (isGoing(job)) return ["started ", time(job.started ?? job.created)];
  const took = job.started ? (Date.parse(job.finished) - Date.parse(job.started)) / SECOND : null;
  const after = took === null ? "" : ` after ${span(took)}`;
  return [`${job.state === "done" ? "finished" : "ended"} `, time(job.finished ?? job.created), after];
}

function fillProgress(card, job) {
  show(card.part("going"), isGoing(job));
  if (!isGoing(job)) { card.cancelling = false; return; }
  const bar = card.item.querySelector("progress");
  show(bar, job.state === "running");
  if (COUNTED[job.stage] && job.tilesTotal) { bar.max = job.tilesTotal; bar.value = job.tilesDone; }
  else bar.removeAttribute("value");
  card.part("stage").textContent = stageWords(job);
  showCancelling(card);
}

function fillTroubles(card, job) {
  show(card.part("error"), job.error);
  card.part("error").textContent = job.error?.message ?? "";
  const warnings = job.warnings ?? [];
  show(card.part("warnings"), warnings.length);
  card.part("warnings").replaceChildren(...warnings.map((warning) => {
    const line = document.createElement("li");
    line.textContent = warning;
    return line;
  }));
}

function showCancelling(card) {
  const button = card.part("cancel");
  button.textContent = card.cancelling ? "Cancelling…" : "Cancel";
  button.setAttribute("aria-disabled", card.cancelling);
}

async function cancel(card) {
  if (card.cancelling) return;
  card.cancelling = true;
  showCancelling(card);
  try {
    await ask(card.job.links.self, { method: "DELETE", patience: PATIENCE });
    card.part("answer").textContent = "";
    wake();
  } catch (error) {
    card.cancelling = false;
    showCancelling(card);
    card.part("answer").textContent = `Not cancelled: ${spoken(error)}`;
  }
}

// ---- what a finished job found ----

function fillResult(card, job) {
  if (isTraining(job)) return fillTrained(card, job);
  const { objects, regions, classes } = job.result;
  show(card.part("result"), true);
  card.part("total").textContent = `${count(objects, "object")} in ${count(regions, "region")}`;
  const heads = [...new Set(classes.map((row) => row.head))];
  const unit = areaUnit(classes);
  const largest = classes.filter((row) => row.head === heads[0] && row.percent > 0).sort((a, b) => b.percent - a.percent);
  card.part("gist").replaceChildren(...largest.slice(0, 3).map(
    (row) => swatched(`${row.class} ${share(row.percent)}`, row.color)));
  card.part("areas").replaceChildren(...heads.map(
    (head) => areasTable(head, classes.filter((row) => row.head === head), unit)));
  show(card.part("picture"), job.links.overlay);
  show(card.part("detections"), job.links.detections);
  show(card.part("table"), job.links.classAreas);
  if (job.links.overlay) inSight.observe(card.part("picture"));
}

function fillTrained(card, job) {
  const { meanDice, trainImages, heldOutImages, model, classes = [] } = job.result;
  show(card.part("trained"), true);
  const score = document.createElement("strong");
  score.textContent = meanDice === null ? "No score" : `Mean Dice ${grouped(meanDice, 2)}`;
  const learned = document.createElement("span");
  learned.className = "learned detail";
  learned.append(...classes.map((kind) => swatched(kind.name, kind.color)));
  card.part("trained").replaceChildren(score,
    ` on ${count(heldOutImages, "held-out field")}, learned from ${count(trainImages, "field")} of view. `,
    `To use it, set the model to “${model}” in the first lines of a segment script.`, learned);
}

function areasTable(head, rows, unit) {
  const table = at("areas-table").content.firstElementChild.cloneNode(true);
  table.caption.textContent = capital(head);
  table.querySelector(".unit").textContent = unit.name;
  table.tBodies[0].replaceChildren(...rows.map((row) => areasRow(row, unit)));
  return table;
}

function areasRow(row, unit) {
  const line = at("areas-row").content.firstElementChild.cloneNode(true);
  const write = (name, text) => { line.querySelector(`.${name}`).textContent = text; };
  write("class", row.class);
  write("area", unit.of(row.areaUm2));
  write("share", share(row.percent));
  write("objects", row.objects === null ? "–" : grouped(row.objects));
  const bar = line.querySelector(".bar");
  show(bar, row.percent > 0);
  bar.style.width = `${Math.min(100, row.percent)}%`;
  bar.style.backgroundColor = paint(row.color);
  return line;
}

const paint = (color) => `rgb(${color.map(Number).join(" ")})`;

function swatched(text, color) {
  const [part, swatch] = [document.createElement("span"), document.createElement("span")];
  swatch.className = "swatch";
  swatch.style.backgroundColor = paint(color);
  part.append(swatch, text);
  return part;
}

const inSight = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) loadPicture(cards.get(entry.target.closest(".job").dataset.id));
  }
}, { rootMargin: "400px" });

async function loadPicture(card) {
  if (!card || card.picture) return;
  const caption = card.item.querySelector("figcaption");
  card.picture = "asked for";
  try {
    const answer = await ask(card.job.links.overlay, { accept: "image/png" });
    card.picture = URL.createObjectURL(await answer.blob());
    const image = card.item.querySelector("img");
    image.src = card.picture;
    image.alt = `${title(card.job)} with the objects found in it`;
    show(image, true);
    card.part("enlarge").disabled = false;
    caption.textContent = "";
    inSight.unobserve(card.part("picture"));
  } catch (error) {
    card.picture = null; // asked again when it next comes into sight
    caption.textContent = `No picture: ${spoken(error)}`;
  }
}

function enlarge(card) {
  at("enlarged-picture").src = card.picture;
  at("enlarged-picture").alt = card.item.querySelector("img").alt;
  at("enlarged").showModal();
}

const FILES = {
  detections: { link: "detections", accept: "application/geo+json", name: "detections.geojson" },
  table: { link: "classAreas", accept: "text/tab-separated-values", name: "class_areas.tsv" },
};

async function download(card, what) {
  const button = card.part(what);
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", true);
  card.part("answer").textContent = "Fetching the file…";
  try {
    const answer = await ask(card.job.links[FILES[what].link], { accept: FILES[what].accept });
    save(await answer.blob(), fileName(card.job, FILES[what].name));
    card.part("answer").textContent = "";
  } catch (error) {
    card.part("answer").textContent = `Not downloaded: ${spoken(error)}`;
  } finally {
    button.setAttribute("aria-disabled", false);
  }
}

function fileName(job, ending) {
  const stem = title(job).replace(/\.[A-Za-z0-9]{1,5}$/, "").replace(/[\p{Cc}\p{Cf}\\/:*?"<>|]+/gu, "_");
  return `${stem.slice(0, 120) || "image"}.${ending}`;
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60 * SECOND);
}

// ---- the lists ----

let olderShown = false;

function render(jobs) {
  const focused = document.activeElement;
  const going = jobs.filter(isGoing).sort((a, b) => a.place - b.place);
  const over = jobs.filter((job) => !isGoing(job))
    .sort((a, b) => Date.parse(b.finished ?? b.created) - Date.parse(a.finished ?? a.created));
  const shown = olderShown ? over : over.slice(0, FIRST_SHOWN);
  dropOthers(new Set([...going, ...shown].map((job) => job.id)));
  fillList("finished", shown);
  fillList("queue", going);
  show(at("empty"), jobs.length === 0);
  show(at("older"), over.length > shown.length);
  at("older").textContent = `Show ${grouped(over.length - shown.length)} older`;
  titleOf(going[0]);
  keepFocus(focused);
}

function dropOthers(ids) {
  for (const [id, card] of cards) {
    if (ids.has(id)) continue;
    if (card.picture) URL.revokeObjectURL(card.picture);
    inSight.unobserve(card.part("picture"));
    card.item.remove();
    cards.delete(id);
  }
}

function fillList(name, jobs) {
  const list = at(`${name}-list`);
  const newest = jobs.filter((job) => job.state === "done").slice(0, FIRST_OPEN);
  show(at(name), jobs.length);
  jobs.forEach((job, index) => {
    const card = cards.get(job.id) ?? newCard(job.id);
    const before = card.job;
    fill(card, job);
    if (before && isGoing(before) && !isGoing(job)) announce(`${title(job)}: ${BADGES[job.state]}`);
    if (before?.state !== job.state && newest.includes(job)) card.part("result").open = true;
    if (list.children[index] !== card.item) list.insertBefore(card.item, list.children[index] ?? null);
  });
}

function titleOf(job) {
  const done = job?.tilesTotal ? `${Math.floor(100 * job.tilesDone / job.tilesTotal)} % · ` : "";
  document.title = job ? `${done}${title(job)} · PathSegDiff` : "PathSegDiff";
}

// A card that moves to the other list loses the keyboard's place; its heading takes it over.
function keepFocus(focused) {
  const item = focused?.closest?.(".job");
  if (!item?.isConnected || document.activeElement === focused && focused.checkVisibility()) return;
  if (focused.checkVisibility()) focused.focus();
  else item.querySelector(".name").focus();
}

function announce(sentence) {
  at("announcer").textContent = sentence;
}

// ---- the server's state, and the one loop that asks for it ----

let failures = 0;
let lastAnswer = null;
let anyGoing = false;
let refused = false; // the token was, just now: look again at once, and say so
let wake = () => {};

function showServer(health) {
  const device = health.device.startsWith("cuda") ? `GPU (${health.device})` : health.device.toUpperCase();
  at("light").dataset.state = health.ready ? "ready" : "starting";
  at("readiness").textContent = health.ready ? "Ready" : "Starting, jobs wait";
  const on = health.device === "starting" ? "" : ` · ${device}`;
  at("where").textContent = `${location.host} · version ${health.version}${on}`;
}

function showLost(error) {
  const silent = !(error instanceof Refused);
  const what = silent ? "The server does not answer." : "The server reports an error.";
  if (at("lost").hidden || at("lost-what").textContent !== what) { // said once, not at every try
    at("lost-what").textContent = what;
    at("lost-error").textContent = silent ? "" : error.message;
    show(at("lost-remedy"), silent);
    at("lost-since").replaceChildren(...(lastAnswer ? ["Last answer: ", time(lastAnswer), "."] : []));
  }
  show(at("lost"), true);
  at("light").dataset.state = "lost";
  at("readiness").textContent = silent ? "Not connected" : "Trouble";
  document.body.classList.add("stale");
}

function showAnswered() {
  failures = 0;
  lastAnswer = new Date().toISOString();
  show(at("lost"), false);
  document.body.classList.remove("stale");
}

function lock() {
  at("locked-what").textContent = whyLocked;
  anyGoing = false;
  dropOthers(new Set());
  for (const id of ["queue", "finished", "empty", "older"]) show(at(id), false);
}

async function look() {
  if (code) await redeem();
  showServer(await (await ask("/v1/health", { key: null, patience: PATIENCE })).json());
  show(at("locked"), !token);
  if (!token) return lock();
  const { jobs } = await (await ask("/v1/jobs", { patience: PATIENCE })).json();
  anyGoing = jobs.some(isGoing);
  render(jobs);
}

async function lookOnce() {
  refused = false;
  try {
    await look();
    showAnswered();
  } catch (error) {
    if (error.status === 401) {
      keep(null);
      whyLocked = "The server was started anew, which ended this page’s session.";
      refused = true;
      return;
    }
    failures += 1;
    showLost(error);
  }
}

function interval() {
  if (refused) return 0;
  if (failures) return Math.min(30, 2 ** failures) * SECOND;
  if (document.hidden || !token) return 15 * SECOND;
  return (anyGoing ? 1 : 3) * SECOND;
}

function pause() {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, interval());
    wake = () => { clearTimeout(timer); resolve(); };
  });
}

addEventListener("hashchange", () => { takeCode(); wake(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) wake(); });
at("try-now").addEventListener("click", () => wake());
at("older").addEventListener("click", () => { olderShown = true; wake(); });
// any click closes it, and so do its button and the Escape key
at("enlarged").addEventListener("click", () => at("enlarged").close());

// Without one, a browser asks the server for /favicon.ico, which is not there.
function addIcon() {
  const drawing = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">
    <rect width="16" height="16" rx="4" fill="#5b3f9b"/>
    <path d="M4 9c0-4 3-6 5-5s4 2 3 5-3 4-5 3-3-1-3-3z" fill="#f6b7cf"/>
    <circle cx="8" cy="8" r="2" fill="#5b3f9b"/></svg>`;
  const link = document.createElement("link");
  link.rel = "icon";
  link.href = URL.createObjectURL(new Blob([drawing], { type: "image/svg+xml" }));
  document.head.append(link);
}

addIcon();
takeCode();
for (;;) {
  await lookOnce();
  await pause();
}
