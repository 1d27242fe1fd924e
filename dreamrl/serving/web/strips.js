// Dreams as strips: a row a dream, a picture a step, what the simulator shows underneath.

import { $, el, sign } from "./dom.js";

const BELIEFS = {
  continue: "is still going",
  success: "believes that it reaches the end",
  failure: "believes that it fails",
  stop: "did what was asked",
};

export class Strips {
  constructor(select) {
    this.select = select;
    this.host = $("strips");
    this.clear();
  }

  clear() {
    this.host.replaceChildren();
    this.rows = [];
    this.steps = [];
  }

  /** Begin with the first picture and as many empty dreams as were asked for. */
  start({ picture, dreams, grid }) {
    this.clear();
    this.picture = picture;
    this.wide = grid[1] > 8;
    for (let n = 0; n < dreams; n += 1) {
      const frames = el("div", { class: "frames", role: "group", "aria-label": `Dream ${n + 1}` });
      frames.append(this.frame(el("img", { class: "first", src: picture, alt: "What is asked about", draggable: "false" })));
      const read = el("span", { class: "read" });
      const believes = el("span", { class: "believes" });
      const rewards = el("p", { class: "rewards" });
      const header = el("header", {}, el("h3", {}, `Dream ${n + 1}`), read, believes, rewards);
      const row = el("article", { class: "strip" }, header, frames);
      this.host.append(row);
      this.rows.push({ row, frames, read, believes, rewards });
      this.steps.push([]);
    }
  }

  frame(...children) {
    return el("div", { class: this.wide ? "frame wide" : "frame" }, ...children);
  }

  /** One more step at the end of its dream. */
  add(step) {
    const { frames, believes } = this.rows[step.dream];
    this.steps[step.dream].push(step);
    const truth = step.faithful === null ? "" : step.faithful ? ", as in the simulator" : ", not as in the simulator";
    const label = `Dream ${step.dream + 1}, step ${step.step + 1}: ${step.action}${truth}. Edit`;
    const kind = step.faithful === null ? "" : step.faithful ? "good" : "bad";
    const button = el(
      "button",
      { type: "button", class: `step ${kind}`, "aria-label": label, title: this.tip(step), onclick: () => this.select(step) },
      el("img", { src: step.picture, alt: "", draggable: "false" }),
    );
    const parts = [button];
    if (step.true_picture) {
      parts.push(el("img", { class: "true true-picture", src: step.true_picture, alt: `Simulator after step ${step.step + 1}` }));
      parts.push(el("small", { class: "true" }, "simulator"));
    }
    frames.append(
      el("div", { class: "move" }, el("span", { "aria-hidden": "true" }, sign(step.action)), step.action),
      this.frame(...parts),
    );
    step.button = button;
    believes.textContent = BELIEFS[step.belief];
    believes.className = `believes ${step.belief}`;
  }

  tip(step) {
    const experts = step.experts.map((weight, n) => (weight > 0 ? `expert ${n + 1}: ${Math.round(100 * weight)} %` : "")).filter(Boolean);
    const coherence = step.coherence === null ? [] : [`action fits the pictures: ${Math.round(100 * step.coherence)} %`];
    return [...coherence, ...experts].join("\n");
  }

  /** Which dream the answer was read from, and what each earned. */
  finish(result) {
    this.rows.forEach(({ row, read, rewards }, n) => {
      row.classList.toggle("focus", n === result.focus);
      read.textContent = n === result.focus ? "the answer is read here" : "";
      const earned = result.rewards?.[n];
      const parts = earned ? Object.entries(earned) : [];
      rewards.replaceChildren(...parts.map(([name, value]) => el("span", {}, `${name} `, el("b", {}, value.toFixed(2)))));
    });
  }

  /** Everything at once, as after an edit; ``edited`` dreams are marked. */
  whole(result, edited = []) {
    this.start({ picture: result.picture ?? this.picture, dreams: result.dreams.length, grid: [1, this.wide ? 9 : 1] });
    result.dreams.forEach((dream, n) => {
      dream.steps.forEach((step) => this.add(step));
      if (edited.includes(n)) this.steps[n].forEach((step) => step.button.classList.add("changed"));
    });
    this.finish(result);
  }
}
