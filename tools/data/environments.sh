#!/usr/bin/env bash
# Environments of the programs that labels come from, each with lesff of this checkout:
#
#     tools/data/environments.sh lesff FOLDER   # structures.py, labels.py with teachers that lesff converts
#     tools/data/environments.sh pyscf FOLDER   # dft_anchors.py, isolated_energies.py, pair_contacts.py
#     tools/data/environments.sh xtb FOLDER     # compressed.py, contact_dimers.py, turned_bonds.py, ...
#     tools/data/environments.sh so3lr FOLDER   # labels.py --teacher with SO3LR's calculator
#
# Then FOLDER/bin/python tools/data/TOOL.py ...
set -euo pipefail
here="$(cd "$(dirname "$0")/../.." && pwd)"
case "${1:-}-${2:+folder}" in
    lesff-folder) packages=(rdkit) ;;
    pyscf-folder) packages=(pyscf==2.14.0 dftd3==1.7.0 tblite rdkit) ;;
    xtb-folder) packages=(tblite rdkit) ;;
    so3lr-folder) packages=(so3krates-torch==0.2.1) ;;
    *)
        echo "usage: environments.sh lesff|pyscf|xtb|so3lr FOLDER" >&2
        exit 2
        ;;
esac
python3 -m venv "$2"
"$2/bin/pip" install -q torch==2.13.0
"$2/bin/pip" install -q "$here" "${packages[@]}"
echo "$2/bin/python"
