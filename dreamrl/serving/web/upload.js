// A picture of the user's own, scaled in the browser to one patch a cell.

import { $, complain, image } from "./dom.js";

let source = null;
let patch = 16;

function redraw() {
  if (!source) return;
  const [columns, rows] = [Number($("cells-x").value) || 1, Number($("cells-y").value) || 1];
  const canvas = $("upload-view");
  canvas.width = columns * patch;
  canvas.height = rows * patch;
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = source.width > canvas.width;
  pen.imageSmoothingQuality = "high";
  pen.drawImage(source, 0, 0, canvas.width, canvas.height);
  canvas.setAttribute("aria-label", `Your picture as ${columns} by ${rows} cells`);
}

async function take(file) {
  if (!file) return;
  try {
    source = await image(await new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => reject(reader.error);
      reader.readAsDataURL(file);
    }));
  } catch {
    complain(`${file.name} cannot be read as a picture; choose a PNG or JPEG.`);
    return;
  }
  const cells = Math.max(1, Math.min(12, Math.round(source.width / patch)));
  if (source.width % patch === 0 && source.height % patch === 0 && source.width <= 12 * patch) {
    $("cells-x").value = cells;
    $("cells-y").value = source.height / patch;
  } else {
    $("cells-y").value = Math.max(1, Math.min(12, Math.round((Number($("cells-x").value) * source.height) / source.width)));
  }
  $("upload-view").hidden = false;
  $("drop-text").textContent = file.name;
  redraw();
}

export function setupUpload(patchSize) {
  patch = patchSize;
  const drop = $("drop");
  $("file").addEventListener("change", (event) => take(event.target.files[0]));
  for (const id of ["cells-x", "cells-y"]) $(id).addEventListener("input", redraw);
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop") take(event.dataTransfer.files[0]);
    });
  }
}

/** The picture as a data URL; null while there is none. */
export const uploaded = () => (source ? $("upload-view").toDataURL("image/png") : null);
