"use strict";
// One call: the turns, how long each took until the agent spoke, and the raw JSON. A bar, a turn or a row of the
// waterfall chooses the turn in all three.

const PARAMS = new URLSearchParams(location.search);
const STORY = JSON.parse(document.getElementById("story")?.textContent ?? "null");
let picked = Number(PARAMS.get("turn")) || 0;

function drawn(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes ?? {})) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
function took(ms) {
  if (ms > 0 && ms < 0.95) return `${ms.toFixed(1)}\u00a0ms`;
  if (ms < 999.5) return `${Math.round(ms)}\u00a0ms`;
  if (ms < 100000) return `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)}\u00a0s`;
  if (ms < 3600000) return `${Math.floor(ms / 60000)}\u00a0min ${Math.floor(ms % 60000 / 1000)}\u00a0s`;
  return `${Math.floor(ms / 3600000)}\u00a0h ${Math.floor(ms % 3600000 / 60000)}\u00a0min`;
}
function length(seconds) {
  const whole = Math.floor(Math.abs(seconds)), minutes = Math.floor(whole / 60), rest = String(whole % 60).padStart(2, "0");
  return `${seconds < 0 ? "−" : ""}${minutes < 60 ? minutes : `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}`}:${rest}`;
}
const wait = (turn) => turn.slice(1, 4).reduce((sum, each) => sum + (each ?? 0), 0);

function drawStrip() {
  const svg = document.getElementById("strip");
  if (!svg) return;
  svg.removeAttribute("hidden");
  const turns = STORY.turns, width = svg.clientWidth, left = 46, base = 116, top = 16;
  if (width < 60) return;
  const longest = Math.max(...turns.map(wait), .1), unit = [.1, .2, .5, 1, 2, 5, 10, 20, 50, 100, 250, 500, 1000, 2000, 5000, 10000, 30000].find((each) => longest / each <= 4) ?? 60000;
  const most = Math.max(longest * 1.06, unit), y = (ms) => base - (base - top) * ms / most, step = (width - left) / turns.length;
  svg.setAttribute("viewBox", `0 0 ${width} 136`);
  svg.replaceChildren();
  if (picked) svg.append(drawn("rect", { class: "picked", x: left + (picked - 1) * step, y: 4, width: step, height: base + 12 }));
  for (let ms = 0; ms <= most; ms += unit) {
    const label = drawn("text", { x: left - 6, y: y(ms) + 4, "text-anchor": "end" });
    label.textContent = ms === 0 ? "0" : unit < 100 ? `${Number(ms.toPrecision(3))} ms` : `${ms / 1000} s`;
    svg.append(drawn("line", { class: "grid", x1: left, x2: width, y1: y(ms), y2: y(ms) }), label);
  }
  turns.forEach((turn, index) => {
    const wide = Math.min(step * .64, 40), x = left + (index + .5) * step - wide / 2;
    let from = 0;
    for (const [look, ms] of [["f-eou", turn[1]], ["f-ttft", turn[2]], ["f-ttfb", turn[3]]]) {
      if (!ms) continue;
      svg.append(drawn("rect", { class: look, x, y: y(from + ms), width: wide, height: Math.max(0, y(from) - y(from + ms) - .5) }));
      from += ms;
    }
    const say = (text, look, height) => { const label = drawn("text", { ...(look ? { class: look } : {}), x: Math.min(x + wide / 2, width - 3 * String(text).length), y: height, "text-anchor": "middle" }); label.textContent = text; svg.append(label); };
    if (STORY.slow !== null && from > STORY.slow) say(from < 100 ? took(from) : (from / 1000).toFixed(1), "say", y(from) - 4);
    if (index === 0 || (index + 1) % (step < 14 ? 10 : step < 24 ? 5 : 1) === 0) say(index + 1, "", base + 14);
    const hit = drawn("rect", { class: "hit", x: left + index * step, y: 4, width: step, height: base + 12 });
    hit.append(drawn("title")); hit.firstChild.textContent = `Turn ${index + 1}: ${took(wait(turn))}`;
    hit.addEventListener("click", () => pick(index + 1));
    svg.append(hit);
  });
}

function markTurn(number) {
  picked = number;
  const list = document.getElementById("turns");
  [...list.children].forEach((item, index) => item.querySelector("button")?.setAttribute("aria-pressed", String(index + 1 === number)));
  const item = list.children[number - 1];
  if (item) {
    const above = item.offsetTop - list.scrollTop;
    if (above < 0 || above + item.offsetHeight > list.clientHeight) list.scrollTop = item.offsetTop - list.clientHeight / 3;
  }
  const wanted = new URLSearchParams(location.search);
  if (number) wanted.set("turn", number); else wanted.delete("turn");
  history.replaceState(null, "", `${location.pathname}${wanted.size ? `?${wanted}` : ""}${location.hash}`);
  drawStrip();
}
function pick(number) { markTurn(number); window.showTurn?.(number); }

async function showRaw(place) {
  if (place.textContent) return;
  place.textContent = "loading";
  place.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(place.dataset.from), reader = answer.body.getReader(), decoder = new TextDecoder();
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (value) text += decoder.decode(value, { stream: true });
      if (done) break;
      if (text.length > 65536) { text = `${text.slice(0, 65536)}\n…`; await reader.cancel(); break; }
    }
    place.textContent = text;
  } catch (error) {
    place.textContent = `It could not be read: ${error.message}. Reload the page to try again.`;
  } finally {
    place.removeAttribute("aria-busy");
  }
}

addEventListener("DOMContentLoaded", () => {
  if (!STORY) return;
  const turns = document.getElementById("turns"), tabs = [...document.querySelectorAll("[role=tab]")];
  [...turns.children].forEach((item, index) => item.querySelector("button")?.addEventListener("click", () => pick(index + 1)));
  turns.addEventListener("keydown", (event) => {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key], item = event.target.closest("li");
    if (!step || !item) return;
    event.preventDefault();
    item[step]?.querySelector("button")?.focus();
  });
  document.getElementById("slowest").addEventListener("click", () => {
    pick(STORY.turns.reduce((best, turn, index) => wait(turn) > wait(STORY.turns[best]) ? index : best, 0) + 1);
  });
  function openTab(tab) {
    for (const each of tabs) {
      each.setAttribute("aria-selected", String(each === tab));
      each.tabIndex = each === tab ? 0 : -1;
      document.getElementById(each.getAttribute("aria-controls")).hidden = each !== tab;
    }
    if (tab.id === "tab-raw") showRaw(document.getElementById("json"));
  }
  tabs.forEach((tab, index) => {
    tab.addEventListener("click", () => { openTab(tab); history.replaceState(null, "", tab.id === "tab-raw" ? "#raw" : location.pathname + location.search); });
    tab.addEventListener("keydown", (event) => { if (/Arrow(Left|Right)/.test(event.key)) { const next = tabs[1 - index]; openTab(next); next.focus(); } });
  });
  const strip = document.getElementById("strip");
  if (strip) new ResizeObserver(drawStrip).observe(strip.parentElement);
  if (picked) pick(Math.min(picked, STORY.turns.length));
  if (location.hash === "#raw") openTab(tabs[1]);
});
