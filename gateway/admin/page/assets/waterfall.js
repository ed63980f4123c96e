"use strict";
// The spans by turn. Rows of equal height, only those in sight are in the document, so that 5,000 spans can be scrolled
// as 500 can.

addEventListener("DOMContentLoaded", () => {
if (!STORY || !document.getElementById("fall")) return;
const { names: SPAN_NAMES, operations: OPERATIONS, turns: TURNS } = STORY;
const SPANS = STORY.spans, ROW = 26, WHOLE = Math.max(1, STORY.length), TURN_COUNT = Math.max(TURNS.length, ...SPANS.map((span) => span[5]));
const LANES = { user_speaking: 0, agent_speaking: 0, stt_node: 1, eou_detection: 1, llm_node: 1, tts_node: 2 };
const KNOWN = SPANS.some((span) => SPAN_NAMES[span[0]] === "llm_node");
const laneOf = (span) => {
  const operation = OPERATIONS[span[1]], lane = LANES[SPAN_NAMES[span[0]]];
  if (lane !== undefined) return lane;
  if (operation === "tool") return span[5] ? 1 : undefined;
  return KNOWN ? undefined : { llm: 1, stt: 1, tts: 2, other: 0 }[operation];
};
const fall = at("fall"), rows = at("rows"), mini = at("mini");
const shown = new Set(OPERATIONS), opened = new Set();
let from = 0, to = WHOLE, active = 0, list = [];
// Compared: every turn is laid so that its caller stops speaking at 0. Else: by the clock of the call.
let compared = PARAMS.get("view") !== "clock";

const byTurn = Array.from({ length: TURN_COUNT + 1 }, () => []);
SPANS.forEach((span, index) => byTurn[span[5]].push(index));
const filled = byTurn.map((spans, turn) => turn).filter((turn) => byTurn[turn].length);
const depth = SPANS.map((_, index) => { let deep = 0; for (let above = SPANS[index][2]; above >= 0 && deep < 8; above = SPANS[above][2]) deep += 1; return deep; });
// Children stand below their parents, in the order of their starts.
for (const spans of byTurn) {
  const key = (index) => { const path = []; for (let each = index; each >= 0 && path.length < 9; each = SPANS[each][2]) path.unshift(SPANS[each][3] * 1e6 + each / 1e6); return path; };
  const keys = new Map(spans.map((index) => [index, key(index)]));
  spans.sort((a, b) => { const one = keys.get(a), other = keys.get(b); for (let at_ = 0; at_ < Math.min(one.length, other.length); at_ += 1) if (one[at_] !== other[at_]) return one[at_] - other[at_]; return one.length - other.length; });
}
const extent = (turn) => byTurn[turn].reduce(([low, high], index) => [Math.min(low, SPANS[index][3]), Math.max(high, SPANS[index][3] + SPANS[index][4])], [Infinity, 0]);

const stops = byTurn.map((spans, turn) => {
  const said = spans.find((index) => SPAN_NAMES[SPANS[index][0]] === "user_speaking");
  if (said !== undefined) return SPANS[said][3] + SPANS[said][4];
  return turn && spans.length ? Math.min(...spans.map((index) => SPANS[index][3])) : 0;
});
const base = (turn) => compared ? stops[turn] : 0;
const SPREAD = filled.reduce(([low, high], turn) => { const [start, end] = extent(turn); return [Math.min(low, start - stops[turn]), Math.max(high, end - stops[turn])]; }, [0, 0]);
const limits = () => compared ? [SPREAD[0] - 200, SPREAD[1] + 300] : [0, WHOLE];

function rebuild() {
  list = filled.flatMap((turn) => [{ turn }, ...(opened.has(turn) ? byTurn[turn].filter((index) => shown.has(OPERATIONS[SPANS[index][1]])).map((index) => ({ turn, span: index })) : [])]);
  active = Math.min(active, list.length - 1);
  rows.style.height = `${list.length * ROW}px`;
  at("fold").textContent = opened.size === filled.length ? "Close all" : "Open all";
  paint();
}

function bar(index, lane) {
  const [, operation, , began, ms, turn, fault] = SPANS[index];
  const start = began - base(turn), end = start + ms;
  if (end < from || start > to) return null;
  const made = element("span", null, `bar b-${OPERATIONS[operation]}${lane === undefined ? "" : ` l${lane}`}${shown.has(OPERATIONS[operation]) ? "" : " faint"}${fault ? " failed" : ""}`);
  const left = Math.max(-1, (start - from) / (to - from) * 100), right = Math.min(101, (end - from) / (to - from) * 100);
  made.style.left = `${left}%`;
  made.style.width = `${right - left}%`;
  return made;
}

function labelOf(row) {
  if (row.span === undefined) return row.turn ? `Turn ${row.turn}` : "Session";
  return SPAN_NAMES[SPANS[row.span][0]];
}

function rowOf(row, place) {
  const made = element("div", null, `row${row.span === undefined ? " turn" : ""}${place === active ? " is" : ""}`);
  made.setAttribute("role", "treeitem");
  made.setAttribute("aria-level", row.span === undefined ? 1 : depth[row.span] + 2);
  made.setAttribute("aria-setsize", list.length);
  made.setAttribute("aria-posinset", place + 1);
  made.setAttribute("aria-selected", String(place === active));
  made.tabIndex = place === active ? 0 : -1;
  made.dataset.place = place;
  made.style.transform = `translateY(${place * ROW}px)`;
  const label = element("div", null, "label"), track = element("div", null, "track");
  const text = element("em", labelOf(row));
  if (row.span === undefined) {
    const [low, high] = extent(row.turn);
    made.setAttribute("aria-expanded", String(opened.has(row.turn)));
    made.setAttribute("aria-label", `${labelOf(row)}, ${byTurn[row.turn].length} spans, ${took(high - low)}, from ${length(low / 1000)}`);
    label.append(element("span", opened.has(row.turn) ? "▼" : "▶", "twist"), text, element("small", `${byTurn[row.turn].length} · ${took(high - low)}`));
    for (const index of byTurn[row.turn]) {
      const lane = laneOf(SPANS[index]) ?? (row.turn === 0 && depth[index] === 1 ? 1 : undefined);
      const drawnBar = lane === undefined ? null : bar(index, lane);
      if (drawnBar) track.append(drawnBar);
    }
  } else {
    const [, operation, , began, ms, turn] = SPANS[row.span], start = began - base(turn);
    const fault = SPANS[row.span][6];
    made.setAttribute("aria-label", `${labelOf(row)}, ${OPERATIONS[operation]}, ${took(ms)}, from ${length(began / 1000)}${fault ? `, failed: ${fault}` : ""}`);
    label.classList.add(`d${Math.min(3, depth[row.span])}`);
    label.append(fault ? element("span", "✕", "bad") : element("span", null, `swatch b-${OPERATIONS[operation]}`), text, element("small", took(ms)));
    const one = bar(row.span);
    if (one) {
      track.append(one);
      const end = (start + ms - from) / (to - from) * 100, told = element("span", took(ms), "took-at");
      if (end < 84) told.style.left = `${Math.max(0, end)}%`; else if ((start - from) / (to - from) > .16) told.style.right = `${100 - (start - from) / (to - from) * 100}%`; else told.hidden = true;
      track.append(told);
    }
  }
  if (compared && from < 0 && to > 0) { const zero = element("i", null, "zero"); zero.style.left = `${-from / (to - from) * 100}%`; track.prepend(zero); }
  made.append(label, track);
  return made;
}

function paint() {
  const first = Math.max(0, Math.floor(fall.scrollTop / ROW) - 4), last = Math.min(list.length, Math.ceil((fall.scrollTop + fall.clientHeight) / ROW) + 4);
  const focused = rows.contains(document.activeElement);
  const places = new Set([active]);
  for (let place = first; place < last; place += 1) places.add(place);
  rows.replaceChildren(...[...places].sort((a, b) => a - b).map((place) => rowOf(list[place], place)));
  if (focused) rows.querySelector(".is").focus({ preventScroll: true });
  paintAxis();
  look(active);
}

function paintAxis() {
  const wide = at("axis").clientWidth, wanted = (to - from) / Math.max(2, wide / 90);
  const step = [100, 200, 500, 1000, 2000, 5000, 10000, 20000, 30000, 60000].find((each) => each >= wanted) ?? Math.ceil(wanted / 120000) * 120000;
  at("axis").replaceChildren();
  for (let ms = Math.ceil(from / step) * step; ms < to; ms += step) {
    const tick = element("span", compared ? (ms === 0 ? "0 end of speech" : `${ms > 0 ? "+" : "−"}${Math.abs(ms) / 1000} s`) : step < 1000 ? `${length(ms / 1000)}.${Math.floor(ms % 1000 / 100)}` : length(ms / 1000));
    tick.style.left = `${(ms - from) / (to - from) * 100}%`;
    at("axis").append(tick);
  }
  const [before, after, window_] = [mini.children[1], mini.children[2], mini.children[3]];
  const [low, high] = limits(), whole_ = from <= low && to >= high, all = compared || whole_;
  const left = compared ? 0 : from / WHOLE * 100, right = compared ? 100 : to / WHOLE * 100;
  before.style.cssText = `left:0;width:${left}%`;
  after.style.cssText = `left:${right}%;right:0`;
  window_.style.cssText = all ? "display:none" : `left:${left}%;width:${Math.max(.4, right - left)}%`;
  at("whole").disabled = whole_;
  at("compare").setAttribute("aria-pressed", String(compared)); at("clock").setAttribute("aria-pressed", String(!compared));
}

function paintMap() {
  const map = at("map"), scale = devicePixelRatio || 1, wide = map.clientWidth, high = map.clientHeight;
  if (!wide) return;
  map.width = wide * scale; map.height = high * scale;
  const pen = map.getContext("2d");
  pen.scale(scale, scale);
  const probe = element("span"); document.body.append(probe);
  const colours = OPERATIONS.map((operation) => { probe.className = `b-${operation}`; return getComputedStyle(probe).backgroundColor; });
  for (const index of SPANS.keys()) {
    const [, operation, , start, ms] = SPANS[index], lane = laneOf(SPANS[index]);
    if (lane === undefined || !shown.has(OPERATIONS[operation])) continue;
    pen.fillStyle = colours[operation];
    pen.fillRect(start / WHOLE * wide, 7 + lane * 11, Math.max(1, ms / WHOLE * wide), 8);
  }
  probe.remove();
}

function look(place) {
  const row = list[place], box = at("look");
  const pairs = [];
  let title = labelOf(row);
  if (row.span === undefined) {
    const [low, high] = extent(row.turn);
    pairs.push(["from", length(low / 1000)], ["took", took(high - low)], ["spans", byTurn[row.turn].length]);
    const turn = TURNS[row.turn - 1];
    if (turn) {
      if (turn[4]) title += `: ${turn[4]}`;
      if (wait(turn)) pairs.push(["until the agent speaks", took(wait(turn))]);
      for (const [name, value] of [["eou", turn[1]], ["ttft", turn[2]], ["ttfb", turn[3]]]) pairs.push([name, value === null ? "not measured" : took(value)]);
    }
  } else {
    const [, operation, parent, start, ms, turn, fault] = SPANS[row.span];
    const seconds = Math.abs(start) / 1000;
    pairs.push(["operation_type", OPERATIONS[operation]], ["from", `${length(start / 1000)}.${String(Math.floor(seconds % 1 * 1000)).padStart(3, "0")}`], ["took", took(ms)], ["turn", turn || "none"], ["parent", parent < 0 ? "none" : SPAN_NAMES[SPANS[parent][0]]], ["status", fault ? `failed: ${fault}` : "unset"]);
  }
  const facts = element("dl");
  for (const [term, value] of pairs) { const pair = element("div"); pair.append(element("dt", term), element("dd", String(value))); facts.append(pair); }
  box.replaceChildren(element("b", title), facts);
}

function zoomTo(low, high) {
  const [first, last] = limits(), least = Math.min(last - first, Math.max(120, high - low));
  from = Math.max(first, Math.min(last - least, low));
  to = from + least;
  paint();
}
function around(factor) {
  const row = list[active], span = row.span === undefined ? extent(row.turn) : [SPANS[row.span][3], SPANS[row.span][3] + SPANS[row.span][4]];
  let middle = (span[0] + span[1]) / 2 - base(row.turn);
  if (middle < from || middle > to) middle = (from + to) / 2;
  const wide = (to - from) * factor;
  zoomTo(middle - wide / 2, middle + wide / 2);
}
function whole() { [from, to] = limits(); paint(); }
function view(as) {
  if (compared === as) return;
  compared = as;
  const wanted = new URLSearchParams(location.search);
  if (compared) wanted.delete("view"); else wanted.set("view", "clock");
  history.replaceState(null, "", `${location.pathname}?${wanted}`);
  [from, to] = limits();
  if (!compared && opened.size === 1 && byTurn[picked]?.length) { const [low, high] = extent(picked), edge = (high - low) * .06; from = low - edge; to = high + edge; }
  paint();
}
function go(place) {
  active = Math.max(0, Math.min(list.length - 1, place));
  const top = active * ROW;
  if (top < fall.scrollTop) fall.scrollTop = top; else if (top + ROW > fall.scrollTop + fall.clientHeight) fall.scrollTop = top + ROW - fall.clientHeight;
  paint();
}
function toggle(turn) { opened.has(turn) ? opened.delete(turn) : opened.add(turn); rebuild(); }

window.showTurn = showTurn;
function showTurn(turn) {
  if (!byTurn[turn]?.length) return;
  opened.clear(); opened.add(turn);
  rebuild();
  active = list.findIndex((row) => row.turn === turn);
  fall.scrollTop = Math.max(0, (active - 2) * ROW);
  const [low, high] = extent(turn), edge = (high - low) * .06;
  if (compared) whole(); else zoomTo(low - edge, high + edge);
}
function zoomRow() {
  const row = list[active];
  if (row.span === undefined) { if (row.turn && TURNS[row.turn - 1]) { markTurn(row.turn); showTurn(row.turn); } else { opened.add(0); rebuild(); zoomTo(0, 2400); } }
  else { const [, , , began, ms, turn] = SPANS[row.span], start = began - base(turn); zoomTo(start - ms * .15, start + ms * 1.15); }
}

rows.addEventListener("click", (event) => {
  const made = event.target.closest(".row");
  if (!made) return;
  const place = Number(made.dataset.place), row = list[place];
  active = place;
  if (row.span === undefined) { toggle(row.turn); if (row.turn && TURNS[row.turn - 1]) markTurn(row.turn); } else paint();
  rows.querySelector(".is").focus({ preventScroll: true });
});
rows.addEventListener("dblclick", zoomRow);
rows.addEventListener("pointerover", (event) => { const made = event.target.closest(".row"); if (made) look(Number(made.dataset.place)); });
rows.addEventListener("pointerleave", () => look(active));
rows.addEventListener("keydown", (event) => {
  const row = list[active], page = Math.floor(fall.clientHeight / ROW) - 1;
  const moves = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: list.length - 1 };
  if (event.key in moves) go(moves[event.key]);
  else if (event.key === "ArrowRight" && row.span === undefined && !opened.has(row.turn)) toggle(row.turn);
  else if (event.key === "ArrowRight") go(active + 1);
  else if (event.key === "ArrowLeft" && row.span !== undefined) go(list.findIndex((each) => each.turn === row.turn));
  else if (event.key === "ArrowLeft" && opened.has(row.turn)) toggle(row.turn);
  else if (event.key === "Enter") zoomRow();
  else if (event.key === "Escape" || event.key === "0") whole();
  else if (event.key === "+") around(.5);
  else if (event.key === "-") around(2);
  else return;
  event.preventDefault();
});
fall.addEventListener("scroll", () => requestAnimationFrame(paint));
fall.addEventListener("wheel", (event) => { if (event.ctrlKey) { event.preventDefault(); around(event.deltaY > 0 ? 1.25 : .8); } }, { passive: false });

// Drag over the small map, or over the axis: that stretch is shown.
for (const [place, time] of [[mini, (share) => share * WHOLE], [at("axis"), (share) => from + share * (to - from)]]) {
  let start = null;
  const when = (event) => { const box = place.getBoundingClientRect(); return time(Math.max(0, Math.min(1, (event.clientX - box.left) / box.width))); };
  place.addEventListener("pointerdown", (event) => { start = when(event); place.setPointerCapture(event.pointerId); });
  place.addEventListener("pointerup", (event) => {
    if (start === null) return;
    const end = when(event), low = Math.min(start, end), high = Math.max(start, end);
    start = null;
    if (place === mini) view(false);
    if (high - low > WHOLE / 400) zoomTo(low, high); else { const wide = Math.min(to - from, WHOLE / 6); zoomTo(low - wide / 2, low + wide / 2); }
  });
  place.addEventListener("dblclick", whole);
}

for (const operation of OPERATIONS) {
  const button = element("button");
  button.type = "button";
  button.setAttribute("aria-pressed", "true");
  button.append(element("span", null, `swatch b-${operation}`), `${operation} ${SPANS.filter((span) => OPERATIONS[span[1]] === operation).length}`);
  button.addEventListener("click", () => {
    shown.has(operation) ? shown.delete(operation) : shown.add(operation);
    button.setAttribute("aria-pressed", String(shown.has(operation)));
    rebuild(); paintMap();
  });
  at("toggles").append(button);
}
at("compare").addEventListener("click", () => view(true));
at("clock").addEventListener("click", () => view(false));
at("in").addEventListener("click", () => around(.5));
at("out").addEventListener("click", () => around(2));
at("whole").addEventListener("click", whole);
at("fold").addEventListener("click", () => { const all = opened.size === filled.length; for (const turn of filled) if (all) opened.delete(turn); else opened.add(turn); rebuild(); });
new ResizeObserver(() => { paintMap(); paint(); }).observe(fall);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paintMap);
[from, to] = limits();
rebuild();
if (picked) showTurn(picked);
});
