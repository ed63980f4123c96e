"use strict";
// The list of calls: what is listed is kept up to date in its place; newer calls wait behind a button, so that no row
// moves under the pointer.

addEventListener("DOMContentLoaded", () => {
  const rows = at("rows"), newer = at("newer"), paged = new URLSearchParams(location.search).has("after");
  let fresh = null;

  followers.page.push((page) => {
    const next = page.getElementById("rows"), known = new Map([...rows.children].map((row) => [row.dataset.key, row]));
    const ids = new Set([...rows.querySelectorAll("th a")].map((link) => link.title));
    let count = 0;
    for (const row of next.children) {
      const here = known.get(row.dataset.key);
      if (here) takeOver(here, document.importNode(row, true)); else if (!paged && row.dataset.key !== "empty") count += 1;
    }
    fresh = next;
    if (count && !ids.size) return show();
    newer.hidden = !count;
    const text = `${count} newer ${count === 1 ? "call" : "calls"}: show ${count === 1 ? "it" : "them"}`;
    if (newer.textContent !== text) newer.textContent = text;
  });

  function show() {
    rows.replaceChildren(...[...fresh.children].map((row) => document.importNode(row, true)));
    newer.hidden = true;
    scrollTo(0, 0);
  }
  newer.addEventListener("click", () => { show(); at("filters").elements.q.focus({ preventScroll: true }); });

  // The server's times are UTC, those of the field are the reader's.
  const before = at("filters").elements.before;
  const label = before.closest("label").firstElementChild;
  label.textContent = label.textContent.replace(" (UTC)", "");
  const showBefore = () => {
    const given = new URLSearchParams(location.search).get("before"), when = new Date(`${given}Z`);
    before.value = given && !Number.isNaN(when.getTime()) ? new Date(when - when.getTimezoneOffset() * 60000).toISOString().slice(0, 19) : "";
  };
  addEventListener("pageshow", showBefore);
  at("filters").addEventListener("submit", () => { if (before.value) before.value = new Date(before.value).toISOString().slice(0, 19); });

  for (const name of ["agent", "state", "project"]) at("filters").elements[name]?.addEventListener("change", () => at("filters").requestSubmit());
  at("filters").addEventListener("submit", () => { for (const field of at("filters").elements) if (field.name && !field.value) field.disabled = true; });
});
