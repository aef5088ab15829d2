"""AIMNet2 (Anstine, Zubatyuk, Isayev, Chem. Sci. 2025): charges inside the message passing."""
