"use strict";
// The last three hours: two panels over one time axis, drawn by uPlot, with one cursor for pointer and keys.

addEventListener("DOMContentLoaded", () => {
  const data = JSON.parse(at("samples").textContent), place = at("history"), narrow = matchMedia("(max-width: 700px)");
  const rows = new Map(data.samples.map((row) => [row[0], row]));
  const outages = data.outages.map(([name, since, until]) => ({ name, since: since / 1000, until: until === null ? null : until / 1000 }));
  let last = data.samples.length ? data.samples.at(-1)[0] : data.minute - 1, chosen = null, panels = [];

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  // A custom property that holds light-dark() is resolved only where it is used.
  function resolved(name) {
    const probe = element("i");
    probe.style.color = `var(--${name})`;
    place.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found || colour(name);
  }

  function columns() {
    const minutes = Array.from({ length: 181 }, (_, index) => last - 180 + index);
    const column = (number) => minutes.map((minute) => rows.get(minute)?.[number] ?? null);
    return { times: minutes.map((minute) => minute * 60), accepted: column(1), cores: column(2), details: column(3), coresWait: column(4), detailsWait: column(5) };
  }

  function shade(chart, looks, labelled) {
    const { ctx, bbox } = chart, from = chart.scales.x.min, to = chart.scales.x.max, scale = devicePixelRatio;
    ctx.save();
    const labels = [];
    // Those that go on first, then the latest: where two labels would lie on each other, the older one is left out.
    for (const { name, since, until } of [...outages].sort((a, b) => (b.until ?? Infinity) - (a.until ?? Infinity) || a.since - b.since)) {
      const left = Math.max(since, from), right = Math.min(until ?? to, to);
      if (left >= right && until !== null) continue;
      const x = chart.valToPos(left, "x", true), end = Math.max(x + 3 * scale, chart.valToPos(right, "x", true));
      ctx.fillStyle = looks.badBack;
      ctx.fillRect(x, bbox.top, end - x, bbox.height);
      ctx.strokeStyle = looks.bad;
      ctx.setLineDash([2 * scale, 3 * scale]);
      ctx.beginPath(); ctx.moveTo(x, bbox.top - (labelled ? 14 * scale : 0)); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
      if (!labelled) continue;
      const hours = (seconds) => timeText(new Date(seconds * 1000), "minutes");
      const also = until === null ? outages.filter((other) => other.until === null).map((other) => other.name) : [name];
      const who = also.length > 1 ? `${also.length} destinations` : name;
      const text = narrow.matches ? `${who} down` : until === null ? `${who} down since ${hours(since)}` : `${who} down ${hours(since)} to ${hours(until)}`;
      ctx.font = `600 ${11.5 * scale}px system-ui, sans-serif`;
      ctx.fillStyle = looks.bad;
      const wide = ctx.measureText(text).width, begin = Math.min(x + 4 * scale, bbox.left + bbox.width - wide);
      if (labels.some(([low, high]) => begin < high && begin + wide > low)) continue;
      labels.push([begin - 8 * scale, begin + wide + 8 * scale]);
      ctx.fillText(text, begin, bbox.top - 5 * scale);
    }
    ctx.restore();
  }

  function panel(name, height, series, values, looks, labelled) {
    const title = element("h3", name);
    place.append(title);
    const axis = { stroke: looks.soft, grid: { stroke: looks.line, width: 1 }, ticks: { show: false }, font: "11.5px system-ui, sans-serif" };
    const made = new uPlot({
      width: Math.max(200, place.clientWidth), height,
      padding: [labelled ? 16 : 8, 20, labelled ? 8 : 0, 0],
      legend: { show: false },
      cursor: { sync: { key: "history" }, y: false, drag: { x: false, y: false }, points: { size: 6 } },
      scales: { x: { time: true }, y: { range: (_chart, _low, high) => [0, Math.max(4, high * 1.08)] } },
      axes: [
        { ...axis, show: !labelled, size: 24, grid: { show: false }, space: narrow.matches ? 90 : 70, values: (_chart, times) => times.map((time) => timeText(new Date(time * 1000), "minutes")) },
        { ...axis, size: 40, space: 34, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 1e6, 1e7] },
      ],
      series: [{}, ...series],
      hooks: { drawClear: [(chart) => shade(chart, looks, labelled)], setCursor: [(chart) => { if (chart.cursor.idx !== null && chart.cursor.left >= 0) tell(chart.cursor.idx); }] },
    }, values, place);
    made.root.setAttribute("aria-hidden", "true");
    return made;
  }

  function draw() {
    for (const each of panels) each.destroy();
    place.replaceChildren();
    const { times, accepted, cores, details, coresWait, detailsWait } = columns();
    const looks = Object.fromEntries([["soft", "soft"], ["line", "line"], ["bad", "bad"], ["badBack", "bad-back"], ["core", "text"], ["detail", "llm"], ["taken", "taken"]].map(([key, name]) => [key, resolved(name)]));
    // A minute without neighbours makes no line: it is shown as a point.
    const alone = (chart, series, first, last_, gaps) => { const value = chart.data[series], found = []; for (let index = first; index <= last_; index += 1) if (value[index] !== null && (value[index - 1] ?? null) === null && (value[index + 1] ?? null) === null) found.push(index); return found; };
    const line = (stroke, fill) => ({ stroke, fill, width: 1.75, points: { show: true, filter: alone, size: 5, fill: stroke }, spanGaps: false });
    const under = looks.detail.replace(/^rgb\((.*)\)$/, "rgba($1, .15)");
    panels = [
      panel("Waiting to be delivered", 216, [line(looks.detail, under), line(looks.core)], [times, detailsWait, coresWait], looks, true),
      panel("Call logs and deliveries a minute", 196, [{ ...line("transparent", looks.taken), width: 0 }, line(looks.core), line(looks.detail)], [times, accepted, cores, details], looks, false),
    ];
    tell(chosen ?? 180);
  }

  const count = (value) => (value ?? 0).toLocaleString("en");
  function tell(index) {
    chosen = index;
    const minute = last - 180 + index, row = rows.get(minute), when = timeText(new Date(minute * 60000), "minutes");
    const text = row ? [[when, ": "], [count(row[1]), " accepted, "], [count(row[2]), " cores and "], [count(row[3]), " details delivered: "], [count(row[4]), " cores and "], [count(row[5]), " details waiting"]]
      : [[when, ": "], ["", "no figures of this minute"]];
    at("readout").replaceChildren(...text.flatMap(([value, rest]) => [element("b", value), rest]));
    place.setAttribute("aria-valuenow", String(index));
    place.setAttribute("aria-valuetext", at("readout").textContent);
  }

  function choose(index) {
    const next = Math.max(0, Math.min(180, index));
    tell(next);
    const [first] = panels;
    for (const each of panels) each.setCursor({ left: each.valToPos((last - 180 + next) * 60, "x"), top: 1 }, false);
    return first;
  }

  if (rows.size) return begin();
  followers.sample.push((row) => { if (!rows.size && row.slice(1, 6).some(Boolean)) { add(row); begin(); } });

  function add(row) {
    rows.set(row[0], row.slice(0, 6));
    last = Math.max(last, row[0]);
    for (const minute of rows.keys()) if (minute < last - 180) rows.delete(minute);
  }

  function begin() {
    for (const [name, value] of Object.entries({ role: "slider", tabindex: "0", "aria-label": "Minute of the last 3 hours", "aria-valuemin": "0", "aria-valuemax": "180" })) place.setAttribute(name, value);
    place.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, PageDown: -15, PageUp: 15 }[event.key];
      if (step) choose((chosen ?? 180) + step); else if (event.key === "Home") choose(0); else if (event.key === "End") choose(180); else return;
      event.preventDefault();
    });
    place.addEventListener("pointerleave", () => choose(180));
    followers.sample.push((row) => { add(row); chosen = null; draw(); });
    followers.page.push((fresh) => {
      const next = JSON.parse(fresh.getElementById("samples").textContent).outages;
      const known = JSON.stringify(outages.map(({ name, since, until }) => [name, since * 1000, until === null ? null : until * 1000]));
      if (JSON.stringify(next) === known) return;
      outages.splice(0, outages.length, ...next.map(([name, since, until]) => ({ name, since: since / 1000, until: until === null ? null : until / 1000 })));
      draw();
    });
    let width = 0;
    new ResizeObserver(() => { if (Math.abs(place.clientWidth - width) > 1) { width = place.clientWidth; draw(); } }).observe(place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }
});
