"use strict";

// Curves: show the values under the pointer, computed from the coordinates in the drawing.
for (const svg of document.querySelectorAll("svg[data-frame]")) {
  const { plot: [left, right, top, bottom], x: [x0, x1], y: [y0, y1], logarithmic } = JSON.parse(svg.dataset.frame);
  const legend = svg.parentElement.querySelector(".legend");
  if (!legend) continue;
  const lines = [...svg.querySelectorAll("polyline[data-name]")].map(line => ({
    points: line.getAttribute("points").split(" ").map(pair => pair.split(",").map(Number)),
    readout: [...legend.children].find(entry => entry.dataset.name === line.dataset.name).querySelector("b"),
  }));
  lines.forEach(line => { line.last = line.readout.textContent; });
  const cursor = document.createElementNS(svg.namespaceURI, "path");
  cursor.setAttribute("class", "cursor");
  svg.append(cursor);
  const digits = Math.max(0, Math.ceil(-Math.log10((y1 - y0) / (bottom - top) / 50)));
  const value = y => {
    const level = y0 + (bottom - y) / (bottom - top) * (y1 - y0);
    return logarithmic ? (10 ** level).toPrecision(3) : level.toFixed(digits);
  };
  const hideValues = () => {
    cursor.removeAttribute("d");
    legend.querySelector(".at").textContent = "";
    lines.forEach(line => { line.readout.textContent = line.last; });
  };
  const showValues = event => {
    const box = svg.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const nearest = lines.map(({ points }) => points.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a));
    const x = nearest.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a)[0];
    cursor.setAttribute("d", `M${x} ${top}V${bottom}`);
    const label = svg.dataset.x + " " + Math.round(x0 + (x - left) / (right - left) * (x1 - x0)).toLocaleString("en");
    legend.querySelector(".at").textContent = label;
    lines.forEach((line, number) => { line.readout.textContent = value(nearest[number][1]); });
  };
  svg.addEventListener("pointerdown", showValues);
  svg.addEventListener("pointermove", showValues);
  svg.addEventListener("pointerleave", hideValues);
}

// Image sliders: two images on top of one another, a divider that is dragged or moved with the arrow keys, and a slider
// for the iteration.
for (const box of document.querySelectorAll(".slider")) {
  const stage = box.querySelector(".stage");
  const frames = [...stage.querySelectorAll(".frame")];
  const sides = { left: box.querySelector("select.left"), right: box.querySelector("select.right") };
  const cut = box.querySelector(".cut");
  const time = box.querySelector(".time input");
  const times = JSON.parse(box.dataset.times);
  const show = () => {
    const now = time ? times[time.value] : 0;
    for (const [side, select] of Object.entries(sides)) {
      const ofLayer = frames.filter(frame => frame.dataset.layer === select.value);
      const chosen = ofLayer.find(frame => !(frame.dataset.iteration > now)) ?? ofLayer.at(-1);  // sorted from the latest
      frames.forEach(frame => frame.classList.toggle(side, frame === chosen));
    }
    if (time) box.querySelector("output").textContent = now.toLocaleString("en");
    stage.style.setProperty("--cut", cut.value + "%");
  };
  const drag = event => {
    if (event.type === "pointerdown") stage.setPointerCapture(event.pointerId);
    else if (!event.buttons) return;
    const { left, width } = stage.getBoundingClientRect();
    cut.value = (event.clientX - left) / width * 100;
    show();
  };
  box.classList.add("live");
  stage.addEventListener("pointerdown", drag);
  stage.addEventListener("pointermove", drag);
  box.addEventListener("input", show);
  show();
}
