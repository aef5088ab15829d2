// The picture of a structure: charges as colours and labels, dipole, cell, vibrations.

const RED = [200, 16, 46], WHITE = [242, 242, 242], BLUE = [31, 95, 191];
const DEBYE = 4.803204712570263; // 1 e A
const ARROW = 0.8; // A per Debye
const MOST_LABELS = 60;
const AMPLITUDE = 0.45; // A, of the atom that moves most
const PERIOD = 900; // ms
const FRAME = 40; // ms

/** Colour of a charge: red is negative, blue positive, as in maps of potentials. */
export function colourOf(charge, most) {
  const x = most > 0 ? Math.max(-1, Math.min(1, charge / most)) : 0;
  const end = x < 0 ? RED : BLUE;
  const mix = WHITE.map((white, i) => Math.round(white + Math.abs(x) * (end[i] - white)));
  return `#${mix.map((v) => v.toString(16).padStart(2, "0")).join("")}`;
}

export function largest(charges) {
  return Math.max(0.05, ...charges.map(Math.abs));
}

export class View {
  constructor(element) {
    this.element = element;
    this.viewer = window.$3Dmol.createViewer(element, { backgroundColor: "white" });
    // `surface` draws one around the structure that it is given
    this.options = { colour: "charge", labels: true, arrow: true, surface: null };
    this.frame = 0;
    element.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => { this.viewer.resize(); this.viewer.render(); }).observe(element);
  }

  #key(event) {
    const turns = { ArrowLeft: [-10, "y"], ArrowRight: [10, "y"], ArrowUp: [-10, "x"], ArrowDown: [10, "x"] };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (turns[event.key]) this.viewer.rotate(...turns[event.key]);
    else if (event.key === "+" || event.key === "=") this.viewer.zoom(1.15);
    else if (event.key === "-") this.viewer.zoom(1 / 1.15);
    else if (event.key === "0") this.viewer.zoomTo();
    else return;
    event.preventDefault();
    this.viewer.render();
  }

  setTheme(isDark) {
    this.isDark = isDark;
    this.viewer.setBackgroundColor(isDark ? "#14171a" : "#ffffff");
    if (this.row) this.draw();
  }

  /** Show a structure; the view turns back only if it is another one. */
  show(row, { keep = false } = {}) {
    this.stop();
    const isSame = keep && this.row && this.row.symbols.join() === row.symbols.join();
    this.row = row;
    this.viewer.removeAllModels();
    const lines = row.symbols.map((symbol, i) => `${symbol} ${row.positions[i].join(" ")}`);
    this.model = this.viewer.addModel(`${lines.length}\n\n${lines.join("\n")}`, "xyz");
    this.draw();
    if (!isSame) { this.viewer.zoomTo(); this.viewer.zoom(row.cell ? 1 : 1.25); }
    this.viewer.render();
    this.element.setAttribute("aria-label", this.description());
  }

  /** In words, for those who do not see it. */
  description() {
    const { symbols, values } = this.row;
    const counts = {};
    for (const symbol of symbols) counts[symbol] = (counts[symbol] || 0) + 1;
    const formula = Object.entries(counts).map(([symbol, n]) => `${n} ${symbol}`).join(", ");
    const q = values.charges;
    let text = `Structure of ${symbols.length} atoms: ${formula}.`;
    if (q) {
      const low = q.indexOf(Math.min(...q)), high = q.indexOf(Math.max(...q));
      text += ` Most negative is ${symbols[low]} ${low + 1} with ${q[low].toFixed(2)} e, most positive `
        + `${symbols[high]} ${high + 1} with ${q[high].toFixed(2)} e.`;
    }
    if (values.dipole) text += ` Dipole ${(Math.hypot(...values.dipole) * DEBYE).toFixed(2)} debye.`;
    return text;
  }

  draw() {
    const { row, viewer, options } = this;
    viewer.removeAllShapes();
    viewer.removeAllLabels();
    viewer.removeAllSurfaces();
    this.#style();
    const q = row.values.charges;
    if (options.labels && !this.mode && row.symbols.length <= MOST_LABELS) {
      row.positions.forEach(([x, y, z], i) => viewer.addLabel(
        q && options.colour === "charge" ? signed(q[i]) : `${row.symbols[i]}${i + 1}`, {
          position: { x, y, z }, fontSize: 12, inFront: true, alignment: "center",
          fontColor: this.isDark ? "#ffffff" : "#111111",
          backgroundColor: this.isDark ? "#14171a" : "#ffffff", backgroundOpacity: 0.62, borderThickness: 0,
        }));
    }
    if (row.cell) this.#cell();
    if (options.arrow && row.values.dipole) this.#dipole();
    if (options.surface && !this.mode) options.surface(viewer, row);
    viewer.render();
  }

  #style() {
    const q = this.row.values.charges;
    const style = { sphere: { scale: 0.28 }, stick: { radius: 0.13 } };
    if (q && this.options.colour === "charge") {
      const most = largest(q);
      const colorfunc = (atom) => colourOf(q[atom.index], most);
      style.sphere.colorfunc = colorfunc;
      style.stick.colorfunc = colorfunc;
    }
    this.viewer.setStyle({}, style);
  }

  #cell() {
    const [a, b, c] = this.row.cell;
    const at = (i, j, k) => ({
      x: i * a[0] + j * b[0] + k * c[0], y: i * a[1] + j * b[1] + k * c[1], z: i * a[2] + j * b[2] + k * c[2],
    });
    const bits = [0, 1];
    for (const i of bits) for (const j of bits) {
      const ends = [[[0, i, j], [1, i, j]], [[i, 0, j], [i, 1, j]], [[i, j, 0], [i, j, 1]]];
      for (const [s, e] of ends) {
        this.viewer.addLine({ start: at(...s), end: at(...e), color: this.isDark ? "#a9b4bf" : "#55606b" });
      }
    }
  }

  #dipole() {
    const mu = this.row.values.dipole.map((x) => x * DEBYE);
    const size = Math.hypot(...mu);
    if (size < 0.02) return;
    const n = this.row.positions.length;
    const mid = [0, 1, 2].map((k) => this.row.positions.reduce((sum, r) => sum + r[k], 0) / n);
    const point = (f) => ({ x: mid[0] + f * mu[0], y: mid[1] + f * mu[1], z: mid[2] + f * mu[2] });
    const color = this.isDark ? "#f0b429" : "#7a4400";
    const half = ARROW * Math.max(1, 1.2 / size) / 2 * Math.min(1, 8 / size);
    this.viewer.addArrow({ start: point(-half), end: point(half), radius: 0.07, radiusRatio: 2.4, mid: 0.8, color });
    if (!this.options.labels) return;
    this.viewer.addLabel(`${size.toFixed(2)} D`, {
      position: point(half * 1.25), fontSize: 13, fontColor: this.isDark ? "#ffffff" : "#000000", inFront: true, alignment: "center",
      backgroundColor: this.isDark ? "#14171a" : "#ffffff", backgroundOpacity: 0.75, borderThickness: 0,
    });
  }

  /** Move the atoms along a mode, (n_atoms, 3), until stop. */
  play(displacements) {
    this.stop();
    const most = Math.max(...displacements.map((d) => Math.hypot(...d)));
    this.mode = displacements;
    this.draw();
    const start = performance.now();
    let last = 0;
    const step = (now) => {
      this.frame = requestAnimationFrame(step);
      if (now - last < FRAME) return;
      last = now;
      const f = AMPLITUDE / most * Math.sin(2 * Math.PI * (now - start) / PERIOD);
      this.#place(f);
    };
    this.frame = requestAnimationFrame(step);
  }

  /** The structure at rest. */
  stop() {
    if (!this.mode) return;
    cancelAnimationFrame(this.frame);
    this.#place(0);
    this.mode = null;
    this.draw();
  }

  #place(f) {
    for (const atom of this.model.selectedAtoms({})) {
      const r = this.row.positions[atom.index], d = this.mode[atom.index];
      [atom.x, atom.y, atom.z] = [0, 1, 2].map((k) => r[k] + f * d[k]);
    }
    this.#style(); // makes 3Dmol build the picture anew
    this.viewer.render();
  }
}

export function signed(x) { return (x < 0 ? "−" : "+") + Math.abs(x).toFixed(2); }
export { DEBYE };
