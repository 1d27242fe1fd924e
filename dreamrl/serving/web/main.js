// The page: gathers a request from the form, follows its stream, and hands what comes to the views.

import { ask, onLogin, stream } from "./api.js";
import { answered, nothing, reread, working } from "./answer.js";
import { Board } from "./board.js";
import { $, complain, el } from "./dom.js";
import { askToken, editStep } from "./edit.js";
import { Graph } from "./graph.js";
import { SceneView } from "./scenes.js";
import { Strips } from "./strips.js";
import { setupUpload, uploaded } from "./upload.js";

const THEMES = [["", "as the system", "◐"], ["light", "light", "☀"], ["dark", "dark", "☾"]];
const STEP_MS = 140;
const SLOW_MS = 900;
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

let about = null; // what /v1/worlds said
let editor = null; // of the scene
let touched = false; // whether the scene was changed by hand
let running = null; // AbortController of the request in work
let asked = null; // the last request
let result = null; // its result
let edits = []; // of its dreams
const strips = new Strips(edit);
const graph = new Graph((node) => edit(strips.steps[node.dream][node.step]));
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const world = () => about.worlds.find((one) => one.name === $("world").value);
const byPicture = () => $("tab-picture").getAttribute("aria-selected") === "true";

function suggest(questions) {
  const chips = questions.map((text) =>
    el("button", { type: "button", onclick: () => { $("prompt").value = text; $("prompt").focus(); } }, text),
  );
  $("suggestions").replaceChildren(...chips);
  $("prompt").placeholder = questions[0] ?? "";
}

async function showScene() {
  try {
    const scene = await ask("/v1/scene", { world: world().name, seed: Number($("seed").value) });
    const change = (shown) => { touched = true; if (shown) suggest(shown.questions); };
    const board = world().editor === "board" && scene.options;
    editor = board
      ? new Board($("editor"), world().name, change)
      : new SceneView($("editor"), world().name, world().editor === "objects", change);
    touched = false;
    await editor.show(scene);
    suggest(scene.questions);
  } catch (error) {
    complain(error.message);
  }
}

function request() {
  const made = {
    world: world().name,
    seed: Number($("seed").value),
    prompt: $("prompt").value.trim() || $("prompt").placeholder,
    dreams: Number($("dreams-count").value),
    dream_temperature: Number($("heat").value),
    temperature: Number($("temperature").value),
    pictures: true,
  };
  if (byPicture()) {
    if (!uploaded()) throw new Error("Choose a picture first.");
    return { ...made, images: [uploaded()] };
  }
  if (editor.fault()) throw new Error(editor.fault());
  const options = editor instanceof Board || touched ? editor.options() : null;
  return options ? { ...made, options } : made;
}

async function dream() {
  running?.abort();
  const mine = (running = new AbortController());
  try {
    asked = request();
  } catch (error) {
    complain(error.message);
    return;
  }
  [result, edits] = [null, []];
  $("stop").disabled = false;
  working("Waiting for the model");
  strips.clear();
  graph.clear();
  try {
    for await (const [name, data] of stream("/v1/stream", asked, mine.signal)) {
      if (name === "start") {
        strips.start(data);
        working("Dreaming");
      } else if (name === "steps") {
        data.steps.forEach((step) => strips.add(step));
        graph.grow(data.steps);
        if (!still) await pause($("slow").checked ? SLOW_MS : STEP_MS);
      } else if (name === "answer") {
        result = data;
        answered(result);
        strips.finish(result);
        graph.read(result.graph, result.focus);
      } else if (name === "error") {
        throw new Error(data.error);
      }
    }
    if (!result) throw new Error("The server ended the stream before the answer.");
  } catch (error) {
    nothing(error.name === "AbortError" ? "Stopped." : "No answer.");
    if (error.name !== "AbortError") complain(error.message);
  } finally {
    if (running === mine) $("stop").disabled = true;
  }
}

async function edit(step) {
  if (!result) return;
  const dreamed = strips.steps[step.dream];
  const change = await editStep({
    step,
    before: step.step ? dreamed[step.step - 1].picture : strips.picture,
    actions: world().actions,
    checked: step.faithful !== null,
    last: step.step === dreamed.length - 1,
  });
  if (!change) return;
  try {
    const changed = await ask("/v1/edit", { ...asked, edits: [...edits, change] });
    edits.push(change);
    reread(changed, undo);
    strips.whole(changed.after, changed.edited);
    graph.read(changed.after.graph, changed.after.focus);
    $("answer").scrollIntoView({ behavior: still ? "auto" : "smooth", block: "nearest" });
  } catch (error) {
    complain(error.message);
  }
}

function undo() {
  edits = [];
  answered(result);
  strips.whole(result);
  graph.read(result.graph, result.focus);
}

function setupTabs() {
  const tabs = [$("tab-scene"), $("tab-picture")];
  const open = (tab) => {
    for (const other of tabs) {
      const on = other === tab;
      other.setAttribute("aria-selected", String(on));
      other.tabIndex = on ? 0 : -1;
      $(other.getAttribute("aria-controls")).hidden = !on;
    }
  };
  for (const tab of tabs) {
    tab.addEventListener("click", () => open(tab));
    tab.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const other = tabs.find((one) => one !== tab);
      open(other);
      other.focus();
    });
  }
}

function setupTheme() {
  const put = (name) => {
    const [, words, mark] = THEMES.find(([value]) => value === name) ?? THEMES[0];
    if (name) document.documentElement.dataset.theme = name;
    else delete document.documentElement.dataset.theme;
    $("theme").textContent = mark;
    $("theme").setAttribute("aria-label", `Colours: ${words}`);
    $("theme").title = `Colours: ${words}`;
  };
  put(localStorage.getItem("dreamrl-theme") ?? "");
  $("theme").addEventListener("click", () => {
    const now = THEMES.findIndex(([value]) => value === (document.documentElement.dataset.theme ?? ""));
    const [next] = THEMES[(now + 1) % THEMES.length];
    localStorage.setItem("dreamrl-theme", next);
    put(next);
  });
}

function setupForm() {
  for (const [input, output] of [["dreams-count", "dreams-out"], ["heat", "heat-out"], ["temperature", "temperature-out"]]) {
    const show = () => ($(output).textContent = $(input).value);
    $(input).addEventListener("input", show);
    show();
  }
  $("ask").addEventListener("submit", (event) => { event.preventDefault(); dream(); });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); dream(); }
  });
  $("stop").addEventListener("click", () => running?.abort());
  $("shuffle").addEventListener("click", () => { $("seed").value = Math.floor(Math.random() * 100000); $("prompt").value = ""; showScene(); });
  $("seed").addEventListener("change", showScene);
  $("world").addEventListener("change", () => { $("prompt").value = ""; showScene(); });
  $("truth").addEventListener("change", () => $("strips").classList.toggle("no-truth", !$("truth").checked));
}

async function start() {
  setupTheme();
  setupTabs();
  setupForm();
  onLogin(askToken);
  try {
    about = await ask("/v1/worlds");
  } catch (error) {
    complain(error.message);
    return;
  }
  $("model").replaceChildren("model ", el("b", {}, about.model));
  $("world").replaceChildren(...about.worlds.map((one) => el("option", { value: one.name, title: one.about }, one.name)));
  $("world-field").hidden = about.worlds.length < 2;
  $("dreams-count").max = Math.min(16, about.limits.dreams);
  $("dreams-count").value = about.dreams;
  $("heat").value = about.dream_temperature;
  for (const id of ["dreams-count", "heat"]) $(id).dispatchEvent(new Event("input"));
  setupUpload(about.patch_size);
  await showScene();
  document.body.dataset.ready = "yes";
}

start();
