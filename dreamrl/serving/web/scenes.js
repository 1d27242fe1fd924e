// Scenes of other worlds: the server's picture, physics objects to place on it, and the options as JSON.

import { ask } from "./api.js";
import { el } from "./dom.js";
import { Lattice } from "./objects.js";

export class SceneView {
  /** objects: whether things can be placed by hand. */
  constructor(host, world, objects, changed) {
    Object.assign(this, { host, world, changed, edited: null, queue: Promise.resolve() });
    this.lattice = objects ? new Lattice((make) => this.edit(() => ({ ...this.shown, objects: make(this.shown.objects) }))) : null;
    this.picture = el("img", { alt: `Scene of ${world}` });
    this.notice = el("p", { class: "fault", role: "status" });
    this.text = el("textarea", { class: "options", rows: 5, spellcheck: "false", "aria-label": "The scene as JSON" });
  }

  async show(scene) {
    this.fill(scene);
    const read = el("button", { type: "button", class: "soft", onclick: () => this.read() }, "Show this scene");
    const tool = this.lattice && scene.options ? el("label", {}, "What a click does", this.lattice.tool) : null;
    this.host.replaceChildren(
      ...(tool ? [tool] : []),
      el("div", { class: "stage" }, this.picture, tool ? this.lattice.layer : null),
      this.notice,
      el("details", {}, el("summary", {}, "Describe the scene as JSON"), this.text, read),
    );
  }

  fill(scene) {
    this.shown = scene.options;
    this.picture.src = scene.picture;
    this.notice.textContent = "";
    this.text.value = scene.options ? JSON.stringify(scene.options) : "";
    if (this.lattice && scene.options) this.lattice.show(scene.options.objects, ...scene.grid);
  }

  /** Options only where they were changed by hand: a scene that the seed draws needs none. */
  options() {
    return this.edited;
  }

  /** Nothing: what the server refuses is told, and the scene stays as it was. */
  fault() {
    return "";
  }

  /** One edit after the other: each changes what the one before has led to. */
  edit(make) {
    this.queue = this.queue.then(() => this.try(make()));
  }

  async try(options) {
    this.host.setAttribute("aria-busy", "true");
    try {
      const scene = await ask("/v1/scene", { world: this.world, options });
      this.edited = options;
      this.fill(scene);
      this.changed(scene);
    } catch (error) {
      this.notice.textContent = error.message;
    } finally {
      this.host.removeAttribute("aria-busy");
    }
  }

  read() {
    let options = null;
    try {
      options = JSON.parse(this.text.value);
    } catch {
      // told below, with what is JSON but no description
    }
    if (options && typeof options === "object" && !Array.isArray(options)) this.edit(() => options);
    else this.notice.textContent = "This is no JSON object; it must look like {\"size\": 6, …}.";
  }
}
