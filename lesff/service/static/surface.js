// The electrostatic potential of the charges of a molecule, on its van der Waals surface.

import { signed } from "./view.js";

const COULOMB = 14.399645; // V A / e
const POINTS = 100; // of a sphere
const GOLDEN = Math.PI * (3 - Math.sqrt(5));
const COLOURS = ["#c8102e", "#f2f2f2", "#1f5fbf"];
export const MOST_ATOMS = 200;

/** Van der Waals radii of 3Dmol's surface, A; 2 where it has none. */
function radiusOf(symbol) { return window.$3Dmol.GLModel.vdwRadii[symbol] || 2; }

/** Error function to 1.5e-7 (Abramowitz, Stegun, 7.1.26), x >= 0. */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * x);
  const p = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return 1 - p * Math.exp(-x * x);
}

/**
 * Potential of the charges at a point, V, as a point charge feels it: atoms are Gaussians whose pairs
 * interact by erf(r / (sqrt(2) sigma)) / r, so that of an atom is erf(r / sigma) / r.
 */
export function potentialAt([x, y, z], row, sigma) {
  let sum = 0;
  row.positions.forEach(([a, b, c], i) => {
    const r = Math.hypot(x - a, y - b, z - c);
    sum += row.values.charges[i] * (r < 1e-6 * sigma ? 2 / Math.sqrt(Math.PI) / sigma : erf(r / sigma) / r);
  });
  return COULOMB * sum;
}

/** Lowest and highest potential on the surface, V, and the atoms below: spheres of points. */
export function extremes(row, sigma) {
  let low = { value: Infinity, atom: 0 }, high = { value: -Infinity, atom: 0 };
  const radii = row.symbols.map(radiusOf);
  row.positions.forEach(([x, y, z], i) => {
    for (let k = 0; k < POINTS; k += 1) {
      const h = 1 - (2 * k + 1) / POINTS, s = Math.sqrt(1 - h * h), turn = GOLDEN * k;
      const at = [x + radii[i] * s * Math.cos(turn), y + radii[i] * s * Math.sin(turn), z + radii[i] * h];
      const isInside = row.positions.some((r, j) => j !== i
        && Math.hypot(at[0] - r[0], at[1] - r[1], at[2] - r[2]) < radii[j]);
      if (isInside) continue;
      const value = potentialAt(at, row, sigma);
      if (value < low.value) low = { value, atom: i };
      if (value > high.value) high = { value, atom: i };
    }
  });
  return { low, high };
}

/** Whether a structure has a surface that can be shown. */
export function hasSurface(row, sigma) {
  return Boolean(sigma && row.values.charges && !row.cell && row.symbols.length <= MOST_ATOMS);
}

/** Its ends in words. */
export function surfaceText(row, sigma) {
  const { low, high } = extremes(row, sigma);
  const end = ({ value, atom }) => `${signed(value)} V at ${row.symbols[atom]} ${atom + 1}`;
  return `Potential of the charges on the van der Waals surface: ${end(low)} (red) to ${end(high)} (blue).`;
}

/** Draw it; red is negative, blue positive, white zero. */
export function drawSurface(viewer, row, sigma) {
  const { low, high } = extremes(row, sigma);
  const most = Math.max(-low.value, high.value, 0.05);
  window.$3Dmol.setSyncSurface(true); // workers would be scripts of another origin
  viewer.addSurface(window.$3Dmol.SurfaceType.VDW, {
    opacity: 0.78,
    voldata: { getVal: (x, y, z) => potentialAt([x, y, z], row, sigma) },
    volscheme: new window.$3Dmol.Gradient.CustomLinear(-most, most, COLOURS),
  });
}
