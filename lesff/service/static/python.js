// Python lines that reproduce a result.

function list(values) { return JSON.stringify(values).replaceAll(",", ", "); }

function rows(values, indent) {
  return `[\n${values.map((row) => `${indent}    ${list(row)},`).join("\n")}\n${indent}]`;
}

/** Lines for a result of a model; modes if it has some. */
export function pythonLines(model, row, hasModes) {
  const names = Object.keys(row.values);
  if (hasModes) names.push("hessian");
  const lines = ["import ase", "import lesff", "", "atoms = ase.Atoms(",
    `    ${list(row.symbols)},`, `    positions=${rows(row.positions, "    ")},`];
  if (row.cell) {
    const pbc = row.pbc.map((x) => (x ? "True" : "False")).join(", ");
    lines.push(`    cell=${rows(row.cell, "    ")},`, `    pbc=[${pbc}],`);
  }
  lines.push(")", `model = lesff.load(${JSON.stringify(model)})`, "prediction = model.predict(",
    "    atoms,", `    ${list(names)},`, `    total_charge=${row.charge},`,
    `    spin_multiplicity=${row.spin_multiplicity},`);
  if (row.external_field) lines.push(`    external_field=${list(row.external_field)},  # V/A`);
  lines.push(")", "print(prediction.energy)  # eV");
  if (hasModes) {
    const periodic = row.cell ? "True" : "False";
    lines.splice(2, 0, "from lesff.spectra.normal_modes import normal_modes");
    lines.splice(2, 0, "");
    lines.push("modes = normal_modes(", "    prediction.hessian,", "    atoms.get_masses(),",
      "    atoms.positions,", "    born=prediction.born_effective_charges,",
      `    is_periodic=${periodic},`, ")",
      "print(modes.wavenumbers)  # 1/cm", "print(modes.intensities)  # km/mol");
  }
  return `${lines.join("\n")}\n`;
}
