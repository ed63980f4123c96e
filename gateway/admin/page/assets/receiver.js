"use strict";
// Orders of a receiver: call somebody back now or no more, or say that it is done; and say whose an agent is.

addEventListener("DOMContentLoaded", () => {
  const done = at("done");

  async function order(button, path, body, told) {
    button.disabled = true;
    done.className = "good";
    try {
      const answer = await post(path, body);
      done.textContent = told(answer);
      return true;
    } catch (error) {
      done.className = "bad";
      done.textContent = error.message;
      button.disabled = false;
      return false;
    }
  }

  const UNDO_MS = 10000;
  const TOLD = { run: "Due now, as far as hours and limits allow", done: "Done", cancel: "Cancelled" };

  async function orderCallback(button) {
    const { callback: name, call, project } = button.dataset, body = { call_id: call, project }, item = button.closest("li");
    if (!await order(button, `/api/callbacks/${name}`, body, () => `${TOLD[name]} (${timeText(new Date(), "seconds")}).`)) return;
    if (name === "run") { button.disabled = false; return; }
    const before = [...item.childNodes], undo = element("button", "Undo", "quiet"), about = element("div", `${TOLD[name]}. `, "soft");
    undo.type = "button";
    undo.setAttribute("aria-label", `Undo: call ${call}`);
    about.append(undo);
    item.replaceChildren(before[0].cloneNode(true), about);
    undo.focus();
    const timer = setTimeout(() => {
      const next = item.nextElementSibling ?? item.previousElementSibling, focused = item.contains(document.activeElement);
      item.remove();
      if (focused) (next?.querySelector("button") ?? at("callbacks")).focus();
    }, UNDO_MS);
    undo.addEventListener("click", async () => {
      clearTimeout(timer);
      if (!await order(undo, "/api/callbacks/reopen", body, () => `Undone: it waits again (${timeText(new Date(), "seconds")}).`)) return;
      button.disabled = false;
      item.replaceChildren(...before);
      button.focus();
    });
  }

  document.addEventListener("click", async (event) => {
    const callback = event.target.closest("[data-callback]"), assign = event.target.closest("[data-assign]");
    if (callback) await orderCallback(callback);
    if (assign) {
      const tenant = at(assign.dataset.assign).value, agent = assign.dataset.agent ?? null;
      const told = (answer) => `${agent ?? "A call log without an agent"} belongs to ${tenant}, also what waited: ${answer.records} call log${answer.records === 1 ? "" : "s"}.`;
      if (await order(assign, "/api/tenants/assign", { agent, tenant }, told)) refresh();
    }
  });
});
