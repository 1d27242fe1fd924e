// The FrozenLake board as buttons: click or press a key to change a cell.

import { ask } from "./api.js";
import { el, image } from "./dom.js";

const NAMES = { S: "start", F: "ice", H: "hole", G: "gift" };
const TOOLS = [["H", "Hole or ice"], ["S", "Start"], ["G", "Gift"]];
const SMALLEST = 2;
const LARGEST = 8;
let sprites = null;

/** Tiles as data URLs, cut out of a scene that the server draws: the very pictures that the model sees. */
async function tiles(world) {
  const scene = await ask("/v1/scene", { world, options: { desc: ["SF", "HG"] } });
  const picture = await image(scene.picture);
  const side = picture.width / 2;
  const cut = (x, y) => {
    const canvas = el("canvas", { width: side, height: side });
    canvas.getContext("2d").drawImage(picture, x * side, y * side, side, side, 0, 0, side, side);
    return canvas.toDataURL();
  };
  return { S: cut(0, 0), F: cut(1, 0), H: cut(0, 1), G: cut(1, 1) };
}

export class Board {
  constructor(host, world, changed) {
    this.host = host;
    this.world = world;
    this.changed = changed;
    this.rows = [];
    this.tool = "H";
  }

  async show(scene) {
    sprites ??= await tiles(this.world);
    this.rows = scene.options.desc.map((row) => [...row]);
    this.draw();
  }

  options() {
    return { desc: this.rows.map((row) => row.join("")) };
  }

  /** What is wrong with the board; the server has the last word. */
  fault() {
    const [start] = this.places("S");
    if (!start) return "The board needs a start.";
    if (!this.places("G").length) return "The board needs a gift.";
    const seen = new Set([start.join()]);
    const queue = [start];
    while (queue.length) {
      const [y, x] = queue.shift();
      if (this.rows[y][x] === "G") return "";
      for (const [i, j] of [[y, x - 1], [y + 1, x], [y, x + 1], [y - 1, x]]) {
        const cell = this.rows[i]?.[j];
        if (cell && cell !== "H" && !seen.has([i, j].join())) {
          seen.add([i, j].join());
          queue.push([i, j]);
        }
      }
    }
    return "No path leads from the start to the gift; remove a hole.";
  }

  places(letter) {
    return this.rows.flatMap((row, y) => row.flatMap((cell, x) => (cell === letter ? [[y, x]] : [])));
  }

  put(y, x, letter) {
    const old = this.rows[y][x];
    if (letter === "H" || letter === "F") {
      if (old === "S" || old === "G") return;
      this.rows[y][x] = letter === "H" && old === "H" ? "F" : letter;
    } else {
      for (const [i, j] of this.places(letter)) this.rows[i][j] = "F";
      this.rows[y][x] = letter;
    }
    this.refresh();
    this.changed();
  }

  resize(height, width) {
    const old = this.rows;
    this.rows = Array.from({ length: height }, (_, y) => Array.from({ length: width }, (_, x) => old[y]?.[x] ?? "F"));
    const free = () => this.places("F").pop() ?? this.places("H").pop();
    for (const letter of "SG") {
      if (!this.places(letter).length) {
        const [y, x] = free();
        this.rows[y][x] = letter;
      }
    }
    this.draw();
    this.changed();
  }

  draw() {
    const [height, width] = [this.rows.length, this.rows[0].length];
    const tools = TOOLS.map(([letter, name]) =>
      el(
        "button",
        { type: "button", "aria-pressed": String(this.tool === letter), onclick: (event) => this.choose(letter, event) },
        el("img", { src: sprites[letter], alt: "" }),
        name,
      ),
    );
    this.cells = this.rows.map((row, y) => row.map((_, x) => this.cell(y, x)));
    const grid = el("div", { class: "board", role: "group", "aria-label": "Board. Keys: arrows move, H hole, F ice, S start, G gift." });
    grid.style.gridTemplateColumns = `repeat(${width}, 1fr)`;
    grid.append(...this.cells.flat());
    this.message = el("p", { class: "fault", role: "status" });
    const number = (label, value, change) =>
      el("label", {}, label, el("input", { type: "number", min: SMALLEST, max: LARGEST, value, onchange: change }));
    const bound = (event) => Math.min(LARGEST, Math.max(SMALLEST, Math.round(Number(event.target.value)) || SMALLEST));
    this.host.replaceChildren(
      el("div", { class: "tools", role: "group", "aria-label": "What a click places" }, tools),
      grid,
      this.message,
      el(
        "div",
        { class: "size" },
        number("Rows", height, (event) => this.resize(bound(event), this.rows[0].length)),
        number("Columns", width, (event) => this.resize(this.rows.length, bound(event))),
      ),
    );
    this.refresh();
  }

  choose(letter, event) {
    this.tool = letter;
    for (const button of event.currentTarget.parentElement.children) {
      button.setAttribute("aria-pressed", String(button === event.currentTarget));
    }
  }

  cell(y, x) {
    const button = el("button", { type: "button", tabindex: y || x ? -1 : 0 });
    button.addEventListener("click", () => this.put(y, x, this.tool));
    button.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
      if (move) {
        this.cells[y + move[0]]?.[x + move[1]]?.focus();
        event.preventDefault();
      } else if ("HFSGhfsg".includes(event.key)) {
        this.put(y, x, event.key.toUpperCase());
      }
    });
    button.addEventListener("focus", () => {
      for (const other of this.cells.flat()) other.tabIndex = -1;
      button.tabIndex = 0;
    });
    return button;
  }

  refresh() {
    this.rows.forEach((row, y) =>
      row.forEach((letter, x) => {
        this.cells[y][x].style.backgroundImage = `url(${sprites[letter]})`;
        this.cells[y][x].setAttribute("aria-label", `row ${y + 1}, column ${x + 1}: ${NAMES[letter]}`);
      }),
    );
    this.message.textContent = this.fault();
  }
}
