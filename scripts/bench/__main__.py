"""`python scripts/bench`, which knows its package by its directory alone, and `python -m bench`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.app import main

sys.exit(main())
