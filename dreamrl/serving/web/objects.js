// Physics objects on a lattice over the scene: placed, moved and removed by mouse or by keyboard.

import { el } from "./dom.js";

const MOVE = "move";
const REMOVE = "remove";
const TOOLS = [
  [MOVE, "Move a thing to a place"],
  ["ball red", "Place a red ball"], ["ball green", "Place a green ball"], ["ball blue", "Place a blue ball"],
  ["block red", "Place a red block"], ["block green", "Place a green block"], ["block blue", "Place a blue block"],
  ["platform", "Place a platform"], ["ramp left", "Place a ramp down to the left"], ["ramp right", "Place a ramp down to the right"],
  [REMOVE, "Remove what is there"],
];
const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const KEYS = "Keys: arrows go to another place, Enter does what is chosen above, Delete removes, Escape lets go.";

const named = (piece) =>
  [piece.colour, piece.kind, piece.slope && `down to the ${piece.slope}`].filter(Boolean).join(" ");
const covers = (piece, row, column) => piece.row === row && Math.abs(piece.column - column) < 1;
const together = (a, b) => a.kind !== b.kind && [a.kind, b.kind].every((kind) => kind === "ball" || kind === "platform");

/** What ``tool`` places at (row, column); only balls may stand on half columns. */
function made(tool, row, column) {
  const [kind, word] = tool.split(" ");
  const where = { kind, row, column: kind === "ball" ? column : Math.floor(column) };
  if (kind === "ramp") return { ...where, slope: word };
  return word ? { ...where, colour: word } : where;
}

/** ``pieces`` with ``added``; what is in its way goes, and so does another thing of its colour. */
function put(pieces, added) {
  const stays = (other) =>
    (together(other, added) || !covers(other, added.row, added.column)) && !(added.colour && other.colour === added.colour);
  return [...pieces.filter(stays), added];
}

const differsFrom = (piece) => (other) => JSON.stringify(piece) !== JSON.stringify(other);

export class Lattice {
  /** changed: called with a function from the pieces to the new ones; what comes of it is told by ``show``. */
  constructor(changed) {
    Object.assign(this, { changed, pieces: [], rows: 0, columns: 0, held: null, at: [0, 0] });
    this.tool = el("select", { onchange: () => this.hold(null) }, TOOLS.map(([value, words]) => el("option", { value }, words)));
    this.layer = el("div", { class: "lattice", role: "group", "aria-label": `Places. ${KEYS}` });
    this.layer.addEventListener("pointerdown", (event) => (this.from = event.pointerType === "mouse" ? event.target : null));
    this.layer.addEventListener("pointerup", (event) => this.drop(event));
  }

  /** The pieces of a scene of ``rows`` x ``columns`` patches. */
  show(pieces, rows, columns) {
    this.pieces = pieces;
    if (rows !== this.rows || columns !== this.columns) this.build(rows, columns);
    this.hold(null);
  }

  build(rows, columns) {
    Object.assign(this, { rows, columns, at: [0, 0] });
    const halves = 2 * columns - 1;
    this.layer.style.gridTemplateColumns = `repeat(${halves}, 1fr)`;
    this.layer.style.insetInline = `${25 / columns}%`; // a place is the middle of what stands there
    this.cells = Array.from({ length: rows }, (_, row) => Array.from({ length: halves }, (_, half) => this.cell(row, half)));
    this.layer.replaceChildren(...this.cells.flat());
  }

  cell(row, half) {
    const button = el("button", { type: "button", tabindex: row || half ? -1 : 0 });
    button.addEventListener("click", () => this.act(row, half / 2));
    button.addEventListener("keydown", (event) => this.key(event, row, half));
    button.addEventListener("focus", () => {
      this.cells[this.at[0]][this.at[1]].tabIndex = -1;
      this.at = [row, half];
      button.tabIndex = 0;
    });
    return button;
  }

  /** The piece at a place, of a ball and its platform the ball; the nearest where two begin half a column apart. */
  piece(row, column) {
    const here = this.pieces.filter((piece) => covers(piece, row, column));
    const rank = (piece) => Math.abs(piece.column - column) + (piece.kind === "platform" ? 0.25 : 0);
    return here.sort((a, b) => rank(a) - rank(b))[0] ?? null;
  }

  act(row, column) {
    const there = this.piece(row, column);
    if (this.tool.value === REMOVE) this.remove(there);
    else if (this.tool.value !== MOVE) this.place(made(this.tool.value, row, column));
    else if (this.held) this.move(this.held, row, column);
    else this.hold(there);
  }

  place(piece) {
    this.changed((pieces) => put(pieces, piece));
  }

  move(piece, row, column) {
    const to = { ...piece, row, column: piece.kind === "ball" ? column : Math.floor(column) };
    this.hold(null);
    if (to.row === piece.row && to.column === piece.column) return;
    this.changed((pieces) => put(pieces.filter(differsFrom(piece)), to));
  }

  remove(piece) {
    if (piece) this.changed((pieces) => pieces.filter(differsFrom(piece)));
  }

  key(event, row, half) {
    const step = STEPS[event.key];
    if (step) this.cells[row + step[0]]?.[half + step[1]]?.focus();
    else if (event.key === "Delete" || event.key === "Backspace") this.remove(this.piece(row, half / 2));
    else if (event.key === "Escape") this.hold(null);
    else return;
    event.preventDefault();
  }

  /** The end of a drag: what was under its beginning goes to where the mouse was let go. */
  drop(event) {
    const start = this.where(this.from);
    const end = this.where(event.target);
    if (this.tool.value !== MOVE || !start || !end || start.join() === end.join()) return;
    const piece = this.piece(...start);
    if (piece) this.move(piece, ...end);
  }

  where(button) {
    const index = [...this.layer.children].indexOf(button);
    const halves = 2 * this.columns - 1;
    return index < 0 ? null : [Math.floor(index / halves), (index % halves) / 2];
  }

  /** Take ``piece`` up, or let go of what was. */
  hold(piece) {
    this.held = piece;
    this.cells.forEach((row, y) =>
      row.forEach((button, half) => {
        const there = this.piece(y, half / 2);
        const up = Boolean(piece) && covers(piece, y, half / 2);
        button.classList.toggle("taken", Boolean(there));
        button.classList.toggle("held", up);
        button.setAttribute("aria-label", `row ${y}, column ${half / 2}: ${there ? named(there) : "nothing"}${up ? ", taken up" : ""}`);
      }),
    );
  }
}
