// What is in the form becomes the body of a request.

const NUMBER = String.raw`[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?`;
const ATOM = new RegExp(String.raw`^\s*[A-Z][a-z]?\s+${NUMBER}\s+${NUMBER}\s+${NUMBER}\s*$`);

/** "smiles", "xyz", "cif", "lines" (of an xyz file without its head) or "" for a text. */
export function kindOf(text) {
  const lines = text.split(/\r?\n/).filter((line) => line.trim());
  if (!lines.length) return "";
  if (/^\s*(data_|_cell_|loop_)/m.test(text)) return "cif";
  if (/^\s*\d+\s*$/.test(lines[0]) && lines.length > 1) return "xyz";
  if (lines.every((line) => ATOM.test(line))) return "lines";
  return "smiles";
}

export const NAMES = { smiles: "SMILES", xyz: "xyz", cif: "CIF", lines: "lines of atoms", "": "nothing yet" };

/** Rows of a cell of three lengths or nine numbers; null for none. */
export function cellOf(text) {
  const words = text.trim().split(/[\s,;]+/).filter(Boolean);
  if (!words.length) return null;
  const x = words.map(Number);
  if (x.some((value) => !Number.isFinite(value)) || ![3, 9].includes(x.length)) {
    throw new Error(`The cell must be three or nine numbers, got "${text.trim()}".`);
  }
  if (x.length === 3) return [[x[0], 0, 0], [0, x[1], 0], [0, 0, x[2]]];
  return [x.slice(0, 3), x.slice(3, 6), x.slice(6, 9)];
}

/** A whole number of an input field; null if it is empty. */
export function wholeOf(element, name) {
  if (element.value === "" && !element.validity.badInput) return null;
  const value = Number(element.value);
  if (element.validity.badInput || !Number.isInteger(value)) {
    throw new Error(`${name} must be a whole number.`);
  }
  return value;
}

/** The structure of a text, as the service takes it. */
export function structureOf(text) {
  const kind = kindOf(text);
  if (kind === "") throw new Error("Enter a SMILES, or the text of an xyz or CIF file.");
  if (kind === "lines") {
    const lines = text.split(/\r?\n/).filter((line) => line.trim());
    return { xyz: `${lines.length}\n\n${lines.join("\n")}\n` };
  }
  return { [kind]: kind === "smiles" ? text.trim() : text };
}

/** A structure of an answer, to ask about it again. */
export function sameStructure(row) {
  const given = {
    symbols: row.symbols, positions: row.positions, charge: row.charge,
    spin_multiplicity: row.spin_multiplicity, pbc: row.pbc,
  };
  if (row.cell) given.cell = row.cell;
  return given;
}
