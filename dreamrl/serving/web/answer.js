// The answer: what was said, how sure the model is, what the simulator says, and what an edit changed.

import { $, arrows, el, percent } from "./dom.js";

function badge(result) {
  if (result.warnings.length) return el("p", { class: "badge warn" }, `! ${result.warnings.join("; ")}`);
  const verdict = result.verdict;
  if (!verdict) return el("p", { class: "badge none" }, "nothing here to check it with");
  const [kind, mark] = verdict.exact ? ["good", "✓"] : verdict.success ? ["warn", "≈"] : ["bad", "✗"];
  return el("p", { class: `badge ${kind}` }, el("span", { "aria-hidden": "true" }, mark), verdict.words);
}

function body(result) {
  const meter = el("i");
  meter.style.width = `${100 * result.confidence}%`;
  const plan = arrows(result.text);
  return el(
    "div",
    { class: "answer-grid" },
    el(
      "div",
      {},
      el("p", { class: "asked" }, result.question),
      el("p", { class: "said" }, result.text || "(no words)"),
      plan ? el("p", { class: "arrows", "aria-hidden": "true" }, plan) : null,
      badge(result),
    ),
    el("div", { class: "meter" }, el("b", {}, percent(result.confidence)), el("div", { class: "bar" }, meter), el("small", {}, "confidence")),
  );
}

export function working(words) {
  $("answer-body").replaceChildren(el("p", { class: "working" }, words));
}

export function nothing(words) {
  $("answer-body").replaceChildren(el("p", { class: "empty" }, words));
}

export function answered(result) {
  $("answer-body").replaceChildren(body(result));
}

/** The answer after an edit, beside the one before. */
export function reread({ before, after, dreams_say: says, follows, edited }, undo) {
  const names = edited.map((n) => n + 1).join(" and ");
  const verdict =
    follows === null
      ? "What the edited dreams should lead to is not known for this question."
      : follows
        ? "The new answer is what the edited dreams say: it was read from them."
        : `The edited dreams would say “${says[0]}”: the answer does not follow them.`;
  const changed = before.text === after.text ? "The answer stays the same." : "The answer has changed.";
  $("answer-body").replaceChildren(
    body(after),
    el(
      "div",
      { class: "edited" },
      el("p", {}, el("b", {}, `Edited: dream ${names}. ${changed}`)),
      el("p", {}, "Before: ", el("s", {}, before.text), " · now: ", el("b", {}, after.text)),
      el("p", { class: follows === false ? "believes failure" : "believes" }, verdict),
      el("div", { class: "row" }, el("button", { type: "button", class: "soft", onclick: undo }, "Undo the edits")),
    ),
  );
}
