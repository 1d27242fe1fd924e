"use strict";
// The page is complete without this: it adds values under the pointer, filters, and the panel beside a dream graph.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (name, text, style) => {
    const element = document.createElement(name);
    if (text !== undefined) element.textContent = text;
    if (style) element.className = style;
    return element;
  };
  document.documentElement.classList.add("script");

  const nameOf = (node) => node.getAttribute("aria-label").split(":")[0];

  const picture = (step, selector, caption) => {
    const found = step && step.querySelector(selector);
    if (!found) return null;
    const box = make("div");
    box.append(found.cloneNode(true), make("span", caption));
    return box;
  };

  // What a node is: its triplet, copied from the strip, and its edges with types and weights.
  const tell = (node) => {
    const graph = node.closest("svg");
    const panel = node.closest(".answer").querySelector(".panel");
    const nodes = all(".node", graph);
    const edges = all(".edge", graph);
    const number = node.dataset.n;
    const step = document.getElementById(node.dataset.at);
    const triplet = make("div", undefined, "triplet");
    const action = step.querySelector(".act").textContent;
    const parts = [
      picture(step.previousElementSibling, ".frame:not(.true)", "what"),
      make("span", action + " →"),
      picture(step, ".frame:not(.true)", "result"),
      step.querySelector(".sign") && step.querySelector(".sign").cloneNode(true),
      picture(step, ".frame.true", "simulator"),
    ];
    triplet.append(...parts.filter(Boolean));
    const list = (title, side, other) => {
      const items = edges.filter((edge) => edge.dataset[side] === number);
      items.sort((a, b) => b.dataset.w - a.dataset.w);
      const box = make("div");
      box.append(make("strong", items.length ? title : title + " nothing"));
      const rows = make("ul");
      for (const edge of items) {
        const row = make("li");
        const key = make("i", undefined, "key line " + edge.classList[1]);
        row.append(key, make("b", edge.dataset.w), make("span", nameOf(nodes[edge.dataset[other]]) + ", " + edge.dataset.k));
        rows.append(row);
      }
      box.append(rows);
      return box;
    };
    const heard = make("div", undefined, "heard");
    heard.append(list("Heard of", "t", "s"), list("Was heard by", "s", "t"));
    const title = make("h4", node.getAttribute("aria-label"));
    const experts = make("p", step.querySelector(".bar").title, "muted");
    panel.replaceChildren(title, triplet, experts, heard);
    return { nodes, edges, number };
  };

  const point = (node) => {
    const { nodes, edges, number } = tell(node);
    for (const edge of edges) {
      const own = edge.dataset.s === number || edge.dataset.t === number;
      edge.classList.toggle("dim", !own);
      edge.classList.toggle("on", own);
    }
    for (const other of nodes) {
      other.classList.toggle("on", other === node);
      other.setAttribute("tabindex", other === node ? "0" : "-1");
    }
  };

  const over = (event) => {
    if (!event.target.closest) return;
    const hit = event.target.closest(".hit");
    if (hit) hit.closest("figure").querySelector(".readout").textContent = hit.querySelector("title").textContent;
    const node = event.target.closest(".node");
    if (node) point(node);
  };
  for (const kind of ["pointerover", "focusin", "click"]) document.addEventListener(kind, over);
  document.addEventListener("pointerout", (event) => {
    const graph = event.target.closest && event.target.closest("svg.graph");
    if (!graph || graph.contains(event.relatedTarget) || graph.contains(document.activeElement)) return;
    for (const edge of all(".edge", graph)) edge.classList.remove("dim", "on");
    for (const node of all(".node", graph)) node.classList.remove("on");
  });

  const first = (details) => {
    for (const answer of all(".answer", details)) {
      const node = answer.querySelector(".node.read") || answer.querySelector(".node");
      if (node) tell(node);
    }
  };
  all("details.question").forEach((details) => {
    if (details.open) first(details);
    details.addEventListener("toggle", () => details.open && first(details), { once: !details.open });
  });

  const questions = all("details.question");
  const status = document.querySelector(".toolbar output");
  const filters = all(".toolbar [data-filter]");
  const filter = (button) => {
    const [kind, value] = button.dataset.filter.split(/:(.*)/);
    let count = 0;
    for (const question of questions) {
      const flags = (question.dataset.flags || "").split(" ");
      const kept = kind === "all" || (kind === "flag" ? flags.includes(value) : question.dataset.part === value);
      question.hidden = !kept;
      count += kept;
    }
    for (const other of filters) other.setAttribute("aria-pressed", String(other === button));
    status.textContent = count + " shown";
  };
  for (const button of filters) button.addEventListener("click", () => filter(button));
  const fold = document.querySelector("[data-fold]");
  if (fold) {
    fold.addEventListener("click", () => {
      const open = questions.some((question) => !question.hidden && !question.open);
      for (const question of questions) question.open = open;
    });
  }
  addEventListener("beforeprint", () => questions.forEach((question) => (question.open = true)));

  const beside = (node, key) => {
    const { row, col } = node.dataset;
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[key];
    const line = all(".node", node.closest("svg")).filter((other) => Number(other.dataset.row) === Number(row) + move[0]);
    const wanted = Number(col) + move[1];
    const near = (other) => Math.abs(other.dataset.col - wanted);
    return line.sort((a, b) => near(a) - near(b))[0];
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const node = event.target.closest && event.target.closest(".node");
    if (node && event.key.startsWith("Arrow")) {
      const next = beside(node, event.key);
      if (next) next.focus();
      event.preventDefault();
    } else if (event.key === "j" || event.key === "k") {
      const heads = questions.filter((question) => !question.hidden).map((question) => question.firstElementChild);
      const here = heads.findIndex((head) => head.parentElement.contains(document.activeElement));
      const next = heads[event.key === "j" ? here + 1 : Math.max(0, here - 1)];
      if (next) next.focus();
    }
  });
})();
