import sys
from pathlib import Path


# The app's files import each other as they do on a Space, where their folder is all there is.
sys.path.insert(0, str(Path(__file__).parents[2] / "demo"))
