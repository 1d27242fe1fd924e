// The dream graph as SVG: a row a dream, a column a step. It grows while dreams are imagined; weights come with the answer.

import { $, svg } from "./dom.js";

const CELL = [126, 74];
const BOX = [102, 42];
const LEFT = 66;
const TOP = 30;
const LEAST = 0.02;
const kindOf = (type) => (type.startsWith("learned") ? "learned" : type);
const centre = (node) => [LEFT + (node.step + 0.5) * CELL[0], TOP + (node.dream + 0.5) * CELL[1]];

/** Where the way from a box's centre to a point leaves the box. */
function border([x, y], [towardsX, towardsY]) {
  const [across, down] = [towardsX - x, towardsY - y];
  const share = Math.min(across ? BOX[0] / 2 / Math.abs(across) : 9, down ? BOX[1] / 2 / Math.abs(down) : 9);
  return [x + share * across, y + share * down];
}

function curve(source, target) {
  const [from, to] = [centre(source), centre(target)];
  const [across, down] = [to[0] - from[0], to[1] - from[1]];
  const far = Math.hypot(across, down) || 1;
  const near = Math.abs(across) <= CELL[0] && Math.abs(down) <= CELL[1];
  const aside = (near ? 0.16 : 0.26) * far;
  const middle = [(from[0] + to[0]) / 2 + (aside * down) / far, (from[1] + to[1]) / 2 - (aside * across) / far];
  const [a, b] = [border(from, middle), border(to, middle)];
  const text = (point) => point.map((value) => value.toFixed(1)).join(" ");
  return `M${text(a)}Q${text(middle)} ${text(b)}`;
}

function marker(kind) {
  const head = svg("path", { d: "M0 0L7 3.5L0 7z", class: `e-${kind}` });
  return svg("marker", { id: `m-${kind}`, viewBox: "0 0 7 7", refX: 6, refY: 3.5, markerWidth: 7, markerHeight: 7, markerUnits: "userSpaceOnUse", orient: "auto" }, head);
}

export class Graph {
  constructor(select) {
    this.select = select;
    this.clear();
  }

  clear() {
    this.nodes = [];
    this.edges = [];
    this.focus = null;
    $("graph-view").replaceChildren();
  }

  /** New steps: nodes, each bound to the step before by an edge whose weight is not known yet. */
  grow(steps) {
    for (const { dream, step, action, belief } of steps) {
      const target = this.nodes.push({ dream, step, action, belief }) - 1;
      const source = this.nodes.findIndex((node) => node.dream === dream && node.step === step - 1);
      if (source >= 0) this.edges.push({ source, target, type: "next", weight: 0.15 });
    }
    this.draw();
  }

  /** The graph as it was read. */
  read(graph, focus) {
    Object.assign(this, { nodes: graph.nodes, edges: graph.edges.filter((edge) => edge.weight >= LEAST), focus });
    this.draw();
  }

  draw() {
    const columns = 1 + Math.max(...this.nodes.map((node) => node.step));
    const rows = 1 + Math.max(...this.nodes.map((node) => node.dream));
    const [width, height] = [LEFT + columns * CELL[0] + 10, TOP + rows * CELL[1] + 8];
    const label = `${this.nodes.length} steps of ${rows} dreams, ${this.edges.length} arrows`;
    const picture = svg("svg", { class: "dream-graph", viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label });
    picture.style.maxWidth = `${width}px`;
    picture.style.minWidth = `${Math.round(0.72 * width)}px`;
    picture.append(svg("defs", {}, ["next", "previous", "sibling", "learned"].map(marker)));
    for (let t = 0; t < columns; t += 1) {
      picture.append(svg("text", { class: "tick", x: centre({ step: t, dream: 0 })[0], y: 16, "text-anchor": "middle" }, `step ${t + 1}`));
    }
    for (let n = 0; n < rows; n += 1) {
      picture.append(svg("text", { x: 0, y: centre({ step: 0, dream: n })[1] + 4 }, `dream ${n + 1}`));
    }
    for (const edge of [...this.edges].sort((a, b) => a.weight - b.weight)) picture.append(this.arrow(edge));
    this.nodes.forEach((node, index) => picture.append(this.box(node, index, picture)));
    $("graph-view").replaceChildren(picture);
  }

  arrow(edge) {
    const kind = kindOf(edge.type);
    const [source, target] = [this.nodes[edge.source], this.nodes[edge.target]];
    const name = (node) => `dream ${node.dream + 1} step ${node.step + 1}`;
    const path = svg(
      "path",
      { class: `edge e-${kind}`, d: curve(source, target), "marker-end": `url(#m-${kind})`, "data-ends": `${edge.source} ${edge.target}` },
      svg("title", {}, `${name(source)} → ${name(target)}: ${edge.type}, weight ${edge.weight.toFixed(2)}`),
    );
    path.style.strokeWidth = `${0.8 + 5 * edge.weight}px`;
    path.style.opacity = 0.25 + 0.75 * Math.min(1, edge.weight);
    return path;
  }

  box(node, index, picture) {
    const [x, y] = centre(node);
    const label = `dream ${node.dream + 1}, step ${node.step + 1}: ${node.action}, believes ${node.belief}. Edit`;
    const point = (on) => {
      picture.classList.toggle("asking", on);
      for (const path of picture.querySelectorAll("path.edge")) {
        path.classList.toggle("near", on && path.dataset.ends.split(" ").includes(String(index)));
      }
    };
    const open = () => this.select(node);
    const short = node.action.length > 12 ? `${node.action.slice(0, 11)}…` : node.action;
    return svg(
      "g",
      {
        class: `node ${node.belief} ${node.dream === this.focus ? "focus" : ""}`,
        tabindex: 0,
        role: "button",
        "aria-label": label,
        onclick: open,
        onkeydown: (event) => (event.key === "Enter" || event.key === " ") && (event.preventDefault(), open()),
        onmouseenter: () => point(true),
        onmouseleave: () => point(false),
        onfocus: () => point(true),
        onblur: () => point(false),
      },
      svg("rect", { x: x - BOX[0] / 2, y: y - BOX[1] / 2, width: BOX[0], height: BOX[1], rx: 9 }),
      svg("text", { x, y: y - 2, "text-anchor": "middle" }, short),
      svg("text", { class: "small", x, y: y + 13, "text-anchor": "middle" }, node.belief),
    );
  }
}
