"use strict";
// Orders about dead letters: each opens a dialog with the dry run of the API, and is carried out a step at a time.

addEventListener("DOMContentLoaded", () => {
  const dialog = at("ask"), form = dialog.querySelector("form"), go = at("ask-go"), note = at("ask-note");
  const TEXTS = {
    replay: "Send them again, in the order of their calls and with their idempotency keys.",
    reroute: "Move them to another destination. All deliveries of one record move together.",
    "replace-token": "Send them again with another key. It is stored in the spool and never shown.",
    export: "Download them with their documents, as a zip file. They stay in the spool; callspool dead import reads the unpacked files.",
    discard: "Discard them for good, with the deliveries held for a dead core.",
  };
  const VERBS = { replay: "Replay", reroute: "Reroute", "replace-token": "Give another key", export: "Export", discard: "Discard" };
  // What a dry run of another order counts as well: no key that is not typed yet, and no download, changes anything in it.
  const COUNTED_AS = { "replace-token": "replay", export: "replay" };
  const MOST_KEYS = 100;
  let asked = null;

  const letters = () => [...document.querySelectorAll("[data-letter]")];
  const count = (value) => value.toLocaleString("en");
  const sizeText = (value) => {
    const units = ["B", "KB", "MB", "GB", "TB"];
    let unit = 0;
    while (value >= 1000 && unit < units.length - 1) { value /= 1000; unit += 1; }
    return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)}\u00a0${units[unit]}`;
  };

  function showPicked() {
    const picked = letters().filter((box) => box.checked);
    for (const all of document.querySelectorAll("[data-all]")) {
      const members = letters().filter((box) => box.dataset.letter === all.dataset.all), on = members.filter((box) => box.checked).length;
      all.checked = on > 0 && on === members.length;
      all.indeterminate = on > 0 && on < members.length;
    }
    const size = picked.reduce((sum, box) => sum + Number(box.dataset.bytes), 0);
    at("picked").textContent = picked.length ? `${count(picked.length)} selected, ${sizeText(size)}` : "Nothing selected";
    at("tray").hidden = picked.length === 0;
  }

  // What is ordered: a filter for a group, also for what is not shown of it; keys for what is ticked.
  function selectionsOf(button) {
    if (button.dataset.group) return [JSON.parse(at(`select-${button.dataset.group}`).textContent)];
    const keys = letters().filter((box) => box.checked).map((box) => box.value), parts = [];
    for (let from = 0; from < keys.length; from += MOST_KEYS) parts.push({ states: ["dead"], keys: keys.slice(from, from + MOST_KEYS) });
    return parts;
  }

  async function inSteps(order, selections, more) {
    const sum = { matched: 0, matched_bytes: 0, done: 0, left_out: 0, along: 0 };
    for (const select of selections) {
      let cursor = null;
      do {
        const step = await post(`/api/orders/${order}`, { select, ...(cursor ? { cursor } : {}), ...more });
        for (const name of Object.keys(sum)) sum[name] += step[name];
        cursor = step.cursor;
        if (!more.dry_run) note.textContent = `${count(sum.done)} done`;
      } while (cursor);
    }
    return sum;
  }

  const extras = (order) => order === "reroute" ? { to: form.elements.to.value } : order === "replace-token" ? { token: form.elements.token.value } : {};

  function mayGo() {
    const { order, dry } = asked, ready = dry && dry.matched - dry.left_out > 0;
    const filled = order === "discard" ? form.elements.sure.value.trim() === String(dry?.matched) : order !== "replace-token" || form.elements.token.value;
    go.disabled = !(ready && filled);
  }

  function failed(error) {
    note.textContent = error.message;
    note.className = "bad";
    if (error.status === 401 || error.status === 403) {
      const link = element("a", " Sign in");
      link.href = `/sign-in?to=${encodeURIComponent(location.pathname + location.search)}`;
      note.append(link);
    }
  }

  async function dryRun() {
    const { order, selections } = asked, mine = asked;
    asked.dry = null;
    mayGo();
    try {
      const dry = await inSteps(COUNTED_AS[order] ?? order, selections, { dry_run: true, ...(COUNTED_AS[order] ? {} : extras(order)) });
      if (asked !== mine) return;
      asked.dry = dry;
      const goes = dry.matched - dry.left_out, verb = { discard: "be discarded", export: "be written" }[order] ?? "go";
      at("ask-title").textContent = `${VERBS[order]}: ${count(dry.matched)} dead letter${dry.matched === 1 ? "" : "s"}?`;
      at("ask-count").textContent = `Dry run: ${count(goes)} of ${count(dry.matched)} would ${verb}, ${sizeText(dry.matched_bytes)} in all`;
      const lines = [];
      if (dry.left_out) lines.push(`${count(dry.left_out)} stay: ${form.elements.to.value} takes no such form, or has it already`);
      if (dry.along) lines.push(`${count(dry.along)} held with these ${order === "discard" ? "are discarded, too" : "go along"}`);
      at("ask-list").replaceChildren(...lines.map((line) => element("li", line)));
      at("ask-sure").textContent = `Type ${dry.matched} to confirm`;
      go.textContent = `${VERBS[order]} ${order === "replace-token" ? "to " : ""}${count(goes)}`;
      mayGo();
    } catch (error) { failed(error); }
  }

  function ask(button, order = button.dataset.order) {
    asked = { order, selections: selectionsOf(button), button, dry: null };
    form.reset();
    for (const field of form.querySelectorAll("[data-for]")) field.hidden = field.dataset.for !== order;
    const [{ destination, keys }] = asked.selections, own = destination ?? keys[0].split("/").at(-1);
    const other = [...form.elements.to.options].find((option) => option.value !== own);
    if (other) other.selected = true;
    at("ask-title").textContent = `${VERBS[order]}?`;
    at("ask-text").textContent = TEXTS[order];
    at("ask-count").textContent = "Dry run: counting";
    at("ask-list").replaceChildren();
    note.className = "soft";
    note.textContent = order === "discard" ? "This cannot be undone." : order === "export" ? "They contain the transcripts of these calls." : "Counted just now; the order counts again when it runs.";
    go.textContent = VERBS[order];
    go.className = order === "discard" ? "danger" : "first";
    if (!dialog.open) dialog.showModal();
    (order === "replace-token" ? form.elements.token : at("ask-cancel")).focus();
    dryRun();
  }

  // A browser keeps what it downloads on disk, whatever its size; whether this person may have it is asked first.
  async function download(selections) {
    for (const { keys, states, ...filter } of selections) {
      const link = element("a"), query = new URLSearchParams(keys ? keys.map((key) => ["key", key]) : filter);
      link.href = `/api/dead-letters/export?${query}`;
      const answer = await fetch(link.href, { method: "HEAD" });
      if (!answer.ok) {
        const failed = new Error(answer.status === 403 ? "An export needs the role operate." : answer.status === 401 ? "An export needs a token." : `HTTP ${answer.status}`);
        throw Object.assign(failed, { status: answer.status });
      }
      link.download = "";
      link.click();
    }
  }

  async function carryOut() {
    const { order, selections, dry } = asked, more = extras(order);
    go.disabled = true;
    note.className = "soft";
    try {
      if (order === "export") {
        await download(selections);
        at("done").textContent = `Export: the download of ${count(dry.matched)} dead letter${dry.matched === 1 ? "" : "s"} began at ${timeText(new Date(), "seconds")}.`;
        dialog.close();
        return;
      }
      const sum = await inSteps(order, selections, more);
      if (order === "replace-token") Object.assign(sum, await inSteps("replay", selections, {}));
      for (const box of letters()) box.checked = false;
      const differs = sum.matched === dry.matched ? "" : ` The dry run had counted ${count(dry.matched)}.`;
      const also = sum.done > sum.matched - dry.left_out ? " What was held with them is counted, too." : "";
      at("done").textContent = `${VERBS[order]}: ${count(sum.done)} done at ${timeText(new Date(), "seconds")}.${differs}${also}`;
      dialog.close();
      await refresh();
      showPicked();
    } catch (error) { failed(error); }
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-order]");
    if (button) ask(button);
  });
  document.addEventListener("change", (event) => {
    const all = event.target.closest("[data-all]");
    if (all) for (const box of letters()) if (box.dataset.letter === all.dataset.all) box.checked = all.checked;
    if (all || event.target.closest("[data-letter]")) showPicked();
  });
  form.addEventListener("input", (event) => { if (event.target.name === "to") dryRun(); else mayGo(); });
  form.addEventListener("submit", (event) => { event.preventDefault(); if (!go.disabled) carryOut(); });
  at("ask-cancel").addEventListener("click", () => dialog.close());
  at("ask-export").addEventListener("click", () => ask(asked.button, "export"));
  dialog.addEventListener("close", () => { const { button } = asked; form.reset(); (button.isConnected ? button : at("title")).focus(); });
  followers.page.push(showPicked);
  showPicked();
});
