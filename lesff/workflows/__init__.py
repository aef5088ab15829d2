"""From structures to properties with ASE, phonopy and pymatgen, batched where it pays."""
