"""DVC stages: `python -m stages.<name>`, in the project's top folder."""

import os

# Before torch is imported: idle OpenMP threads sleep; spinning slows shared machines 3-6 times.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
