"""Forces through a socket: the model in a process of its own, the dynamics in this one.

    python docs/examples/ase_socket.py MODEL STRUCTURE --steps 20

The process with the model speaks i-PI's protocol, and may run on another machine (``--port``): any
program that is a server of that protocol takes its place at the other end, ASE here.
"""

import argparse
import os
import subprocess
import sys

import ase.io
from ase.calculators.socketio import SocketClient, SocketIOCalculator
from ase.optimize import FIRE

import lesff


def serve(options: argparse.Namespace) -> None:
    """Answer with energies, forces and stresses until the other end closes the socket."""
    atoms = ase.io.read(options.structure, index=0)
    atoms.calc = lesff.load(options.model).calculator()
    where = {"port": options.port} if options.port else {"unixsocket": options.socket}
    SocketClient(host=options.host, **where).run(atoms, use_stress=bool(atoms.pbc.all()))


def main() -> None:
    """Relax a structure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("structure", help="a cell, if any, with a along x and b in the xy plane")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--socket", default=f"lesff_{os.getpid()}")
    parser.add_argument("--port", type=int)
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--serve", action="store_true", help="be the process with the model")
    options = parser.parse_args()
    if options.serve:
        serve(options)
        return
    atoms = ase.io.read(options.structure, index=0)
    where = {"port": options.port} if options.port else {"unixsocket": options.socket}
    with SocketIOCalculator(**where, timeout=300.0) as atoms.calc:
        command = [sys.executable, __file__, options.model, options.structure, "--serve"]
        command += ["--host", options.host, "--socket", options.socket]
        command += ["--port", str(options.port)] if options.port else []
        model = subprocess.Popen(command)  # noqa: S603 - this script again
        FIRE(atoms).run(fmax=0.01, steps=options.steps)
        print(f"energy {atoms.get_potential_energy():.4f} eV")  # noqa: T201
    model.wait()


if __name__ == "__main__":
    main()
