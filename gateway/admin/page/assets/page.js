"use strict";
// What every page does: follow the gateway, show times in the reader's zone, copy commands, give orders.
// The server renders everything. To stay up to date a page asks for itself, and takes over what changed.

const at = (id) => document.getElementById(id);
const csrf = () => document.querySelector("meta[name=csrf]")?.content ?? "";
const SILENT_MS = 5000;

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// Times --------------------------------------------------------------------------------------------------------

const two = (value) => String(value).padStart(2, "0");

function timeText(when, form) {
  const hours = `${two(when.getHours())}:${two(when.getMinutes())}`;
  if (form === "minutes") return hours;
  const seconds = `${hours}:${two(when.getSeconds())}`;
  if (form === "seconds") return seconds;
  const clock = form === "day" ? hours : form === "exact" ? `${seconds}.${String(when.getMilliseconds()).padStart(3, "0")}` : seconds;
  if (when.toDateString() === new Date().toDateString()) return clock;
  const year = when.getFullYear() === new Date().getFullYear() ? undefined : "numeric";
  return `${when.toLocaleString("en", { month: "short", day: "numeric", year })}, ${clock}`;
}

function localize(root) {
  for (const each of root.querySelectorAll("time[datetime]")) {
    each.textContent = timeText(new Date(each.dateTime), each.dataset.form);
  }
}

// Taking over what changed: only texts and attributes that differ are written, so that focus, selection, open
// details and the place that was scrolled to stay. What a script owns (`data-own`) is left alone.

const OWNED_ATTRIBUTES = new Set(["open", "checked", "aria-busy"]);

function takeOver(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE || old.hasAttribute("data-own")) return;
  for (const { name, value } of fresh.attributes) {
    if (!OWNED_ATTRIBUTES.has(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!OWNED_ATTRIBUTES.has(name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  takeOverChildren(old, [...fresh.childNodes]);
}

function takeOverChildren(parent, fresh) {
  const keyed = new Map([...parent.children].filter((each) => each.dataset.key).map((each) => [each.dataset.key, each]));
  let place = parent.firstChild;
  for (const next of fresh) {
    const key = next.dataset?.key;
    let match = key ? keyed.get(key) : place;
    if (match && (match.nodeType !== next.nodeType || match.nodeName !== next.nodeName || match.dataset?.key !== key)) match = null;
    if (!match) {
      parent.insertBefore(next, place);
    } else {
      if (match === place) place = place.nextSibling; else parent.insertBefore(match, place);
      takeOver(match, next);
    }
  }
  while (place) {
    const gone = place;
    place = place.nextSibling;
    gone.remove();
  }
}

// Following the gateway -----------------------------------------------------------------------------------------

const followers = { sample: [], page: [] };
let stream = null;
let heardAt = Date.now();
let shownAt = Date.now();
let asking = false;
let askAgain = false;
let askedAt = Date.now();
let later = null;
let shutOut = false;

async function refresh() {
  const { pause } = at("main").dataset, wait = pause === "never" ? Infinity : Number(pause) * 1000 - (Date.now() - askedAt);
  if (wait > 0) {
    if (wait !== Infinity) later ??= setTimeout(() => { later = null; refresh(); }, wait);
    return;
  }
  if (asking) { askAgain = true; return; }
  asking = true;
  askedAt = Date.now();
  try {
    const answer = await fetch(location.href, { headers: { Accept: "text/html", "X-Refresh": "1" } });
    shutOut = answer.status === 401 || answer.status === 403;
    showLiveness();
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    localize(fresh);
    for (const each of document.querySelectorAll("[data-live]")) {
      const next = fresh.getElementById(each.id);
      if (next) takeOver(each, document.importNode(next, true));
    }
    for (const follow of followers.page) follow(fresh);
  } catch {
    // No answer: the figures stay, and the head says since when.
  } finally {
    asking = false;
    if (askAgain) { askAgain = false; refresh(); }
  }
}

function showLiveness() {
  const live = at("live"), place = live.querySelector(".at"), silent = Date.now() - heardAt > SILENT_MS;
  const text = shutOut ? "signed out; reload the page to sign in" : silent ? `no answer since ${timeText(new Date(shownAt), "seconds")}; these are the last figures`
    : `live, ${timeText(new Date(shownAt), "seconds")}`;
  live.classList.toggle("lost", silent || shutOut);
  if (place.textContent !== text) place.textContent = text;
}

function heard(event) {
  heardAt = Date.now();
  shownAt = JSON.parse(event.data).now;
  showLiveness();
}

function follow() {
  stream = new EventSource("/api/events");
  stream.addEventListener("beat", heard);
  // A browser tries again by itself, but not after an answer that is no stream: of a proxy, or of too many pages.
  stream.addEventListener("error", () => { if (stream?.readyState === EventSource.CLOSED) setTimeout(() => { if (stream?.readyState === EventSource.CLOSED) follow(); }, 3000); });
  stream.addEventListener("status", (event) => { heard(event); refresh(); });
  stream.addEventListener("sample", (event) => {
    heardAt = Date.now();
    for (const each of followers.sample) each(JSON.parse(event.data));
  });
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) { stream?.close(); stream = null; } else if (!stream) { heardAt = Date.now(); follow(); }
});

// Orders ----------------------------------------------------------------------------------------------------------

async function post(path, body) {
  const headers = { "Content-Type": "application/json", "X-CSRF-Token": csrf() };
  let answer;
  try {
    answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  } catch {
    throw new Error("The gateway does not answer.");
  }
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const failed = new Error(said.error ? `${said.error.message} ${said.error.hint}` : `HTTP ${answer.status}`);
    failed.status = answer.status;
    throw failed;
  }
  return said;
}

async function resume(button) {
  const told = button.closest("section")?.querySelector("[role=status]") ?? at("resumed");
  button.disabled = true;
  try {
    const { waited } = await post(`/api/destinations/${encodeURIComponent(button.dataset.resume)}/resume`, {});
    const when = timeText(new Date(), "seconds");
    told.textContent = waited ? `Tried ${when}; the answer shows above as soon as it is there.` : `It waited for nothing at ${when}.`;
  } catch (error) {
    told.textContent = error.message;
    if (error.status === 401 || error.status === 403) {
      const link = element("a", " Sign in");
      link.href = `/sign-in?to=${encodeURIComponent(location.pathname + location.search)}`;
      told.append(link);
    }
  } finally {
    setTimeout(() => { button.disabled = false; }, 1000);
  }
}

document.addEventListener("click", async (event) => {
  const copy = event.target.closest("[data-copy]"), again = event.target.closest("[data-resume]");
  if (again) resume(again);
  if (!copy) return;
  const before = copy.dataset.label ?? copy.textContent;
  copy.dataset.label = before;
  try { await navigator.clipboard.writeText(copy.dataset.copy); copy.textContent = "Copied"; } catch { copy.textContent = "Could not copy"; }
  setTimeout(() => { copy.textContent = before; }, 2000);
});

document.addEventListener("keydown", (event) => {
  const field = document.querySelector("[data-find]");
  const typing = /INPUT|TEXTAREA|SELECT/.test(event.target.tagName);
  if (event.key === "/" && field && !typing && !event.ctrlKey && !event.metaKey) { event.preventDefault(); field.focus(); field.select(); }
});

document.querySelector("#pages [aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" });
localize(document);
follow();
setInterval(showLiveness, 1000);
