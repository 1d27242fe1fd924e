// The dialog in which a dreamed step is changed.

import { $, el, sign } from "./dom.js";

const BELIEFS = { continue: "it goes on", success: "it succeeds", failure: "it fails" };

function choices(host, name, values, words) {
  host.replaceChildren(
    ...values.map((value, n) =>
      el("label", {}, el("input", { type: "radio", name, value, checked: n === 0 }), words(value)),
    ),
  );
}

const picked = (name) => document.querySelector(`#edit input[name="${name}"]:checked`)?.value;

function follow() {
  const belief = picked("mode") === "belief";
  $("edit-action").hidden = belief;
  $("edit-belief").hidden = !belief;
}

/** Asks what to change about a step; the edit for the server, or null. */
export function editStep({ step, before, actions, checked, last }) {
  const dialog = $("edit");
  $("edit-title").textContent = `Dream ${step.dream + 1}, step ${step.step + 1}`;
  $("edit-pictures").replaceChildren(
    el("img", { src: before, alt: "Before the step" }),
    el("span", {}, sign(step.action), el("br"), step.action),
    el("img", { src: step.picture, alt: "After the step" }),
  );
  choices($("edit-actions"), "action", actions.filter((action) => action !== step.action), (action) => `${sign(action)} ${action}`);
  choices($("edit-beliefs"), "belief", Object.keys(BELIEFS).filter((belief) => belief !== step.belief), (belief) => BELIEFS[belief]);
  $("mode-replay").hidden = !checked;
  $("mode-belief").hidden = !last;
  document.querySelector('#edit input[value="label"]').checked = true;
  $("edit-mode").onchange = follow;
  follow();
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      const edit = { dream: step.dream, step: step.step, mode: picked("mode") };
      edit[edit.mode === "belief" ? "belief" : "action"] = picked(edit.mode === "belief" ? "belief" : "action");
      resolve(dialog.returnValue === "apply" ? edit : null);
      dialog.returnValue = "";
    };
  });
}

/** Asks for the server's token. */
export function askToken() {
  const dialog = $("login");
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => resolve($("token").value);
  });
}
