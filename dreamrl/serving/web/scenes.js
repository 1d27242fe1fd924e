// Scenes of other worlds: the server's picture, with places to put physics objects, and the options as JSON.

import { ask } from "./api.js";
import { el } from "./dom.js";

const KINDS = [
  ["ball red", "Red ball"], ["ball green", "Green ball"], ["ball blue", "Blue ball"],
  ["block red", "Red block"], ["block green", "Green block"], ["block blue", "Blue block"],
  ["platform", "Platform"], ["ramp left", "Ramp to the left"], ["ramp right", "Ramp to the right"],
];

/** What a click at (row, column) means; balls may stand on half columns. */
function piece(kind, row, column) {
  const [name, word] = kind.split(" ");
  const where = { kind: name, row, column: name === "ball" ? column : Math.floor(column) };
  if (name === "ramp") return { ...where, slope: word };
  return word ? { ...where, colour: word } : where;
}

export class SceneView {
  /** objects: whether things can be placed by hand. */
  constructor(host, world, objects, changed) {
    Object.assign(this, { host, world, objects, changed, chosen: null, message: "" });
  }

  async show(scene) {
    this.scene = scene;
    this.chosen = scene.options;
    this.draw();
  }

  /** Options only where they were changed by hand: a scene that the seed draws needs none. */
  options() {
    return this.edited ?? null;
  }

  fault() {
    return this.message;
  }

  async try(options) {
    try {
      const scene = await ask("/v1/scene", { world: this.world, options });
      this.edited = options;
      this.message = "";
      await this.show(scene);
      this.changed(scene);
    } catch (error) {
      this.message = error.message;
      this.notice.textContent = error.message;
    }
  }

  place(row, column) {
    const kind = this.kind.value;
    const objects = this.chosen.objects ?? [];
    const near = (other) => other.row === row && Math.abs(other.column - column) < 1;
    const kept = objects.filter((other) => !near(other));
    const added = kept.length < objects.length ? [] : [piece(kind, row, column)];
    const colour = added[0]?.colour;
    const rest = colour ? kept.filter((other) => other.colour !== colour) : kept;
    this.try({ ...this.chosen, objects: [...rest, ...added] });
  }

  lattice() {
    const [rows, columns] = this.scene.grid;
    const layer = el("div", { class: "lattice", role: "group", "aria-label": "Places: select one to add or remove a thing" });
    layer.style.gridTemplateColumns = `repeat(${2 * columns - 1}, 1fr)`;
    for (let row = 0; row < rows; row += 1) {
      for (let half = 0; half < 2 * columns - 1; half += 1) {
        const label = `row ${row}, column ${half / 2}`;
        layer.append(el("button", { type: "button", "aria-label": label, onclick: () => this.place(row, half / 2) }));
      }
    }
    return layer;
  }

  draw() {
    const stage = el("div", { class: "stage" }, el("img", { src: this.scene.picture, alt: `Scene of ${this.world}` }));
    const parts = [stage];
    if (this.objects && this.chosen) {
      this.kind = el("select", {}, KINDS.map(([value, name]) => el("option", { value }, name)));
      stage.append(this.lattice());
      parts.unshift(el("label", {}, "A click places, or removes what is there", this.kind));
    }
    this.notice = el("p", { class: "fault", role: "status" }, this.message);
    parts.push(this.notice);
    const text = el("textarea", { class: "options", rows: 4, spellcheck: "false" });
    text.value = this.chosen ? JSON.stringify(this.chosen) : "";
    const read = () => {
      try {
        this.try(JSON.parse(text.value));
      } catch {
        this.notice.textContent = "This is no valid JSON.";
      }
    };
    const show = el("button", { type: "button", class: "soft", onclick: read }, "Show this scene");
    parts.push(el("details", {}, el("summary", {}, "Describe the scene as JSON"), text, show));
    this.host.replaceChildren(...parts);
  }
}
