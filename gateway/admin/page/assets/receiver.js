"use strict";
// Orders of a receiver: call somebody back now or no more, and say whose an agent is.

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

  document.addEventListener("click", async (event) => {
    const callback = event.target.closest("[data-callback]"), assign = event.target.closest("[data-assign]");
    if (callback) {
      const { callback: name, call, project } = callback.dataset, when = timeText(new Date(), "seconds");
      const told = name === "cancel" ? `Cancelled at ${when}.` : `Due now, as far as hours and limits allow (${when}).`;
      if (await order(callback, `/api/callbacks/${name}`, { call_id: call, project }, () => told) && name === "cancel") callback.closest("li").remove();
    }
    if (assign) {
      const tenant = at(assign.dataset.assign).value, agent = assign.dataset.agent ?? null;
      const told = (answer) => `${agent ?? "What came without an agent"} belongs to ${tenant}; ${answer.records} call logs that waited do, too.`;
      if (await order(assign, "/api/tenants/assign", { agent, tenant }, told)) refresh();
    }
  });
});
