// Small helpers. Elements are made one by one, so that nothing a server or a user says can become markup.

export const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
export const svg = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

const ARROWS = { left: "←", down: "↓", right: "→", up: "↑", forward: "↑" };

/** An arrow for actions that are directions, else a dot. */
export const sign = (action) => ARROWS[action] ?? "•";

/** The arrows of an answer that is a plan of directions; empty for other sentences. */
export function arrows(text) {
  const words = text.replaceAll(",", " ").split(/\s+/).filter((word) => word && word !== "then");
  return words.length && words.every((word) => word in ARROWS) ? words.map(sign).join("") : "";
}

export const percent = (share) => `${Math.round(100 * share)} %`;
export const image = (source) =>
  new Promise((resolve, reject) => {
    const picture = new Image();
    picture.onload = () => resolve(picture);
    picture.onerror = () => reject(new Error("the picture cannot be shown"));
    picture.src = source;
  });

let hiding = 0;
export function complain(message) {
  const toast = $("status");
  toast.textContent = message;
  toast.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => (toast.hidden = true), 7000);
}
