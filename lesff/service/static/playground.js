// The page: form, picture, results.

import { cellOf, kindOf, NAMES, sameStructure, structureOf, wholeOf } from "./input.js";
import { pythonLines } from "./python.js";
import { ask, askText, info, setKey } from "./service.js";
import { drawSpectrum, markMode, modeText } from "./spectrum.js";
import { drawSurface, hasSurface, surfaceText } from "./surface.js";
import { DEBYE, largest, signed, View } from "./view.js";

const $ = (id) => document.getElementById(id);
const state = { models: [], answer: null, other: null, free: null, modes: null, isDirty: true };
let view = null;
let running = 0;

// ---- asking -----------------------------------------------------------------------------------

function modelRow(name) { return state.models.find((row) => row.name === name); }

function wanted(name, isPeriodic) {
  const has = modelRow(name).properties;
  return ["energy", "forces", "charges", ...(isPeriodic ? [] : ["dipole"]), "novelty"]
    .filter((property) => has.includes(property));
}

function field() {
  const vector = [0, 0, 0];
  vector[Number($("axis").value)] = Number($("field").value);
  return vector;
}

/** The structure of the form, or the last one if the form has not changed since. */
function structure() {
  const body = state.isDirty || !state.answer
    ? structureOf($("text").value) : sameStructure(state.answer.results[0]);
  const charge = wholeOf($("charge"), "The charge"), spin = wholeOf($("spin"), "The spin multiplicity");
  if (charge !== null) body.charge = charge;
  if (spin !== null) body.spin_multiplicity = spin;
  const cell = cellOf($("cell").value);
  if (cell) body.cell = cell;
  if (field().some((x) => x !== 0)) body.external_field = field();
  return body;
}

function isPeriodic(body) {
  return Boolean(body.cell || body.cif || (body.xyz && /Lattice\s*=/i.test(body.xyz)));
}

async function predicted(name, body) {
  const properties = wanted(name, isPeriodic(body));
  return ask("/predict", { ...body, model: name, properties });
}

/** Run one piece of work: buttons wait, errors are told, an older one that ends late is dropped. */
async function busy(text, work) {
  const mine = ++running;
  const buttons = [$("predict"), $("relax"), $("vibrate")];
  for (const button of buttons) button.disabled = true;
  $("results").setAttribute("aria-busy", "true");
  $("status").textContent = text;
  $("alert").hidden = true;
  const start = performance.now();
  try {
    const show = await work();
    if (mine !== running) return;
    const more = show() || "";
    $("status").textContent = `Done in ${((performance.now() - start) / 1000).toFixed(2)} s.${more}`;
  } catch (error) {
    if (mine !== running) return;
    $("alert").textContent = error.message;
    $("alert").hidden = false;
    $("status").textContent = "No result.";
  } finally {
    if (mine === running) {
      for (const button of buttons) button.disabled = false;
      $("results").removeAttribute("aria-busy");
    }
  }
}

async function compared(row) {
  const name = $("compare").value;
  if (!name) return null;
  const body = sameStructure(row);
  if (row.external_field) body.external_field = row.external_field;
  return predicted(name, body);
}

function predict() {
  return busy("Predicting.", async () => {
    const answer = await predicted($("model").value, structure());
    const other = await compared(answer.results[0]);
    return () => showAnswer(answer, other, { modes: null });
  });
}

function relax() {
  return busy("Relaxing.", async () => {
    const answer = await ask("/relax", { ...structure(), model: $("model").value });
    const other = await compared(answer.results[0]);
    return () => {
      showAnswer(answer, other, { modes: null, keep: true });
      return answer.is_converged ? ` Relaxed in ${answer.n_steps} steps.`
        : ` Not relaxed after ${answer.n_steps} steps: press Relax again.`;
    };
  });
}

function vibrate() {
  return busy("Relaxing, then computing vibrations.", async () => {
    const body = structure();
    const answer = await ask("/vibrations", { ...body, model: $("model").value });
    const at = sameStructure(answer.results[0]);
    if (body.external_field) at.external_field = body.external_field;
    const plain = await predicted($("model").value, at);
    Object.assign(answer.results[0].values, plain.results[0].values);
    Object.assign(answer.results[0].units, plain.results[0].units);
    const other = await compared(answer.results[0]);
    return () => {
      showAnswer(answer, other, { modes: answer.modes, keep: true });
      return ` ${answer.modes.wavenumbers.length} modes.`;
    };
  });
}

let timer = 0;
function fieldMoved() {
  $("field-value").textContent = `${Number($("field").value).toFixed(2)}`;
  clearTimeout(timer);
  if (state.answer && !state.isDirty) timer = setTimeout(predict, 150);
}

// ---- showing ----------------------------------------------------------------------------------

function cells(row, tag, texts) {
  for (const text of texts) {
    const cell = document.createElement(tag);
    cell.textContent = text;
    if (tag === "th") cell.scope = "col";
    row.append(cell);
  }
}

function fill(table, head, rows) {
  const [thead, tbody] = [table.tHead, table.tBodies[0]];
  thead.replaceChildren();
  tbody.replaceChildren();
  cells(thead.insertRow(), "th", head);
  for (const texts of rows) {
    const row = tbody.insertRow();
    const first = document.createElement("th");
    first.scope = "row";
    first.textContent = texts[0];
    row.append(first);
    cells(row, "td", texts.slice(1));
  }
  table.hidden = false;
}

function minus(text) { return text.replaceAll("-", "−"); }
function vector(values, digits) { return minus(values.map((x) => x.toFixed(digits)).join("  ")); }

function showAnswer(answer, other, { modes, keep = false }) {
  const row = answer.results[0];
  Object.assign(state, { answer, other, modes, isDirty: false });
  if (!row.external_field) state.free = { model: answer.model, positions: row.positions, values: row.values };
  view.show(row, { keep: keep || state.hasShown });
  state.hasShown = true;
  const others = other ? [other] : [];
  const all = [answer, ...others].map((one) => one.results[0]);
  const lines = [["Energy (eV)", ...all.map((r) => minus(r.values.energy.toFixed(4)))]];
  if (all.some((r) => r.values.dipole)) {
    const dipole = (r) => r.values.dipole;
    lines.push(["Dipole (D)", ...all.map((r) => dipole(r) ? (Math.hypot(...dipole(r)) * DEBYE).toFixed(3) : "none")]);
    lines.push(["x y z", ...all.map((r) => dipole(r) ? vector(dipole(r).map((x) => x * DEBYE), 2) : "none")]);
  }
  lines.push(["Max. force (eV/Å)", ...all.map((r) => Math.max(...r.values.forces.map((f) => Math.hypot(...f))).toFixed(3))]);
  lines.push(["Charge, 2S+1", ...all.map((r) => `${minus(String(r.charge))}, ${r.spin_multiplicity}`)]);
  if (other) lines.push(["Forces differ (eV/Å)", "", rms(all[0].values.forces, all[1].values.forces).toFixed(3)]);
  fill($("summary"), ["", answer.model, ...others.map((one) => one.model)], lines);
  $("summary").caption.textContent = other ? "Results; zeros of energies differ between models" : "Results";
  const hasCharges = all.some((r) => r.values.charges);
  fill($("atoms"), ["Atom", ...(hasCharges ? [answer, ...others].map((one) => `charge (e)${other ? `, ${one.model}` : ""}`) : []),
    ...(other ? [] : ["x y z (Å)"])],
    row.symbols.map((symbol, i) => [`${symbol} ${i + 1}`,
      ...(hasCharges ? all.map((r) => (r.values.charges ? signed(r.values.charges[i]) : "none")) : []),
      ...(other ? [] : [vector(row.positions[i], 2)])]));
  showSurface();
  showWarnings(answer, other);
  showFieldEffect(answer.model, row);
  showModes();
  const most = row.values.charges ? largest(row.values.charges).toFixed(2) : "";
  $("low").textContent = `−${most}`;
  $("high").textContent = `+${most} e`;
  $("python").textContent = pythonLines(answer.model, row, Boolean(modes));
  $("downloads").hidden = false;
}

/** The potential on the surface, in the picture and in words. */
function showSurface() {
  const row = state.answer && state.answer.results[0];
  const told = row && state.models.find((model) => model.model === state.answer.model);
  const sigma = told ? told.charge_width : null;
  const isPossible = Boolean(row) && hasSurface(row, sigma);
  const isWanted = isPossible && $("surface").checked;
  view.options.surface = isWanted ? (viewer, shown) => drawSurface(viewer, shown, sigma) : null;
  $("surface").disabled = Boolean(row) && !isPossible;
  $("potential").textContent = isWanted ? surfaceText(row, sigma) : "";
  if (row) view.draw();
}

function rms(a, b) {
  const sum = a.flat().reduce((total, x, i) => total + (x - b.flat()[i]) ** 2, 0);
  return Math.sqrt(sum / a.flat().length);
}

function showWarnings(...answers) {
  const items = [];
  for (const answer of answers.filter(Boolean)) {
    const row = answer.results[0], name = answers[1] ? `${answer.model}: ` : "";
    items.push(...row.warnings.map((text) => name + text));
    if (row.out_of_domain && row.out_of_domain.length) {
      items.push(`${name}out of the domain of the calibration: ${row.out_of_domain.join("; ")}`);
    }
  }
  $("warnings").replaceChildren(...items.map((text) => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  }));
  $("warnings").hidden = !items.length;
}

function showFieldEffect(model, row) {
  const { free } = state;
  const isSame = free && free.model === model && JSON.stringify(free.positions) === JSON.stringify(row.positions);
  if (!row.external_field) { $("field-effect").textContent = ""; return; }
  if (!isSame) { $("field-effect").textContent = "Set the field to none once to see what it changes."; return; }
  let text = `Energy ${minus((row.values.energy - free.values.energy).toFixed(4))} eV`;
  if (row.values.dipole && free.values.dipole) {
    const change = row.values.dipole.map((x, i) => (x - free.values.dipole[i]) * DEBYE);
    text += change.some((x) => Math.abs(x) >= 5e-4) ? `, dipole ${vector(change, 3)} D`
      : ", dipole unchanged: charges of this model do not respond while atoms stay";
  }
  $("field-effect").textContent = `${text} against no field.`;
}

// ---- vibrations -------------------------------------------------------------------------------

function showModes() {
  const { modes } = state;
  $("spectrum-box").hidden = !modes;
  if (!modes) return;
  drawSpectrum($("spectrum"), modes, (i) => { $("mode").selectedIndex = i; chooseMode(); });
  $("mode").replaceChildren(...modes.wavenumbers.map((_, i) => new Option(modeText(modes, i), String(i))));
  const strength = modes.intensities || modes.wavenumbers;
  $("mode").selectedIndex = strength.indexOf(Math.max(...strength));
  chooseMode({ isMoving: !matchMedia("(prefers-reduced-motion: reduce)").matches });
}

function chooseMode({ isMoving = true } = {}) {
  const i = $("mode").selectedIndex;
  if (!state.modes || i < 0) return;
  markMode($("spectrum"), i);
  if (isMoving) view.play(state.modes.displacements[i]);
  else view.stop();
  showPlaying();
}

function showPlaying() {
  $("play").textContent = view.mode ? "Stop" : "Animate";
  $("play").setAttribute("aria-pressed", String(Boolean(view.mode)));
}

// ---- downloads --------------------------------------------------------------------------------

function save(text, name, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function saveXyz() {
  const row = state.answer.results[0];
  const body = sameStructure(row);
  if (row.external_field) body.external_field = row.external_field;
  const name = $("model").value;
  const text = await askText("/predict", { ...body, model: name, properties: wanted(name, Boolean(row.cell)) });
  save(text, "lesff.extxyz", "chemical/x-xyz");
}

// ---- start ------------------------------------------------------------------------------------

function setTheme(isDark) {
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  $("theme").textContent = isDark ? "Light" : "Dark";
  $("theme").setAttribute("aria-pressed", String(isDark));
  if (view) view.setTheme(isDark);
}

function textChanged() {
  state.isDirty = true;
  state.hasShown = false;
  $("kind").textContent = `read as ${NAMES[kindOf($("text").value)]}`;
}

async function start() {
  view = new View($("view"));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  setTheme(dark.matches);
  dark.addEventListener("change", () => setTheme(dark.matches));
  $("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme !== "dark"));
  $("form").addEventListener("submit", (event) => { event.preventDefault(); predict(); });
  $("relax").addEventListener("click", relax);
  $("vibrate").addEventListener("click", vibrate);
  $("text").addEventListener("input", textChanged);
  $("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) predict();
  });
  for (const id of ["charge", "spin", "cell"]) {
    $(id).addEventListener("input", () => { state.isDirty = state.isDirty || id === "cell"; });
  }
  $("file").addEventListener("change", async () => {
    const [file] = $("file").files;
    if (!file) return;
    $("text").value = (await file.text()).trimEnd();
    textChanged();
  });
  $("field").addEventListener("input", fieldMoved);
  $("axis").addEventListener("change", fieldMoved);
  $("no-field").addEventListener("click", () => { $("field").value = 0; fieldMoved(); });
  $("key").addEventListener("input", () => setKey($("key").value));
  for (const radio of document.querySelectorAll("input[name=colour]")) {
    radio.addEventListener("change", () => { view.options.colour = radio.value; if (view.row) view.draw(); });
  }
  $("surface").addEventListener("change", showSurface);
  for (const id of ["labels", "arrow"]) {
    $(id).addEventListener("change", () => { view.options[id] = $(id).checked; if (view.row) view.draw(); });
  }
  $("mode").addEventListener("change", () => chooseMode());
  $("play").addEventListener("click", () => chooseMode({ isMoving: !view.mode }));
  $("get-json").addEventListener("click", () => save(JSON.stringify(state.answer, null, 1), "lesff.json", "application/json"));
  $("get-xyz").addEventListener("click", () => busy("Writing extxyz.", async () => { await saveXyz(); return () => ""; }));
  $("get-python").addEventListener("click", () => save($("python").textContent, "lesff_result.py", "text/x-python"));
  const told = await info();
  state.models = told.models;
  $("model").replaceChildren(...told.models.map((row) => new Option(row.model, row.name)));
  $("compare").replaceChildren(new Option("nothing", ""), ...told.models.map((row) => new Option(row.model, row.name)));
  $("compare-field").hidden = told.models.length < 2;
  $("key-field").hidden = !told.needs_key;
  $("about").textContent = told.models.map((row) => `${row.model}: ${row.level_of_theory}`).join(" · ");
  document.body.dataset.ready = "true";
}

start().catch((error) => {
  $("alert").textContent = `The page cannot start: ${error.message}`;
  $("alert").hidden = false;
});
