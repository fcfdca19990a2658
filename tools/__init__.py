"""What people run by hand beside the deployed system."""

import sys
from pathlib import Path

# From a clone, with any Python: nothing has to be installed to make a token.
sys.path.append(str(Path(__file__).parent.parent / "src"))
