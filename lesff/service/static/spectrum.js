// The infrared spectrum: sticks of the modes and their sum with a Lorentzian width.

const SVG = "http://www.w3.org/2000/svg";
const BOX = { left: 52, right: 508, top: 12, bottom: 180 };
const WIDTH = 20; // 1/cm, full width at half maximum
const POINTS = 600;

function add(parent, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

/** Draw the modes; choose(i) is called when one is clicked. */
export function drawSpectrum(svg, modes, choose) {
  svg.replaceChildren();
  const w = modes.wavenumbers, strength = modes.intensities || w.map(() => 0);
  const end = Math.max(1000, Math.ceil((Math.max(...w) + 100) / 500) * 500);
  const top = Math.max(...strength, 1e-9);
  // as spectrometers draw it: large wavenumbers left
  const x = (value) => BOX.right - (value / end) * (BOX.right - BOX.left);
  const y = (value) => BOX.bottom - value * (BOX.bottom - BOX.top);
  add(svg, "path", { class: "axis", fill: "none", d: `M${BOX.left} ${BOX.top}V${BOX.bottom}H${BOX.right}` });
  for (let value = 0; value <= end; value += end > 2000 ? 1000 : 500) {
    add(svg, "line", { class: "axis", x1: x(value), x2: x(value), y1: BOX.bottom, y2: BOX.bottom + 4 });
    add(svg, "text", { x: x(value), y: BOX.bottom + 18, "text-anchor": "middle" }, value);
  }
  add(svg, "text", { x: (BOX.left + BOX.right) / 2, y: 213, "text-anchor": "middle" }, "wavenumber (1/cm)");
  add(svg, "text", { x: 14, y: (BOX.top + BOX.bottom) / 2, "text-anchor": "middle",
    transform: `rotate(-90 14 ${(BOX.top + BOX.bottom) / 2})` }, "intensity (km/mol)");
  for (const part of [0, 1]) {
    add(svg, "text", { x: BOX.left - 5, y: y(part * 0.95) + 4, "text-anchor": "end" }, Math.round(part * top));
  }
  const curve = Array.from({ length: POINTS + 1 }, (_, i) => {
    const at = (end * i) / POINTS;
    return w.reduce((sum, mode, k) => sum + strength[k] / (1 + ((at - mode) / (WIDTH / 2)) ** 2), 0);
  });
  const most = Math.max(...curve, 1e-9);
  add(svg, "path", { class: "curve", d: curve.map((value, i) =>
    `${i ? "L" : "M"}${x((end * i) / POINTS).toFixed(1)} ${y((0.95 * value) / most).toFixed(1)}`).join("") });
  w.forEach((mode, i) => {
    if (mode <= 0) return;
    const at = { x1: x(mode), x2: x(mode), y1: BOX.bottom };
    add(svg, "line", { ...at, class: "stick", "data-mode": i, y2: y(Math.max(0.95 * strength[i] / top, 0.012)) });
    const hit = add(svg, "line", { ...at, class: "hit", y2: BOX.top });
    hit.addEventListener("click", () => choose(i));
    add(hit, "title", {}, modeText(modes, i));
  });
  const strongest = strength.indexOf(Math.max(...strength));
  svg.setAttribute("aria-label", `Infrared spectrum of ${w.length} modes, the strongest at `
    + `${Math.round(w[strongest])} per centimetre; the list beside it names them all`);
}

export function markMode(svg, i) {
  for (const stick of svg.querySelectorAll(".stick")) {
    stick.classList.toggle("chosen", Number(stick.dataset.mode) === i);
  }
}

export function modeText(modes, i) {
  const w = modes.wavenumbers[i];
  const name = w < 0 ? `${Math.round(-w)}i` : `${Math.round(w)}`;
  return modes.intensities ? `${name} 1/cm, ${modes.intensities[i].toFixed(0)} km/mol` : `${name} 1/cm`;
}
