"""What a child process that runs this Python needs to import the same modules."""

import os
import sys
from pathlib import Path


def module_path() -> str:
    """Return the value of PYTHONPATH with which a child can import what is imported here.

    An empty entry of ``sys.path`` is the working folder, from which serpipe may have been imported,
    but whose other files must not take the place of modules: only the folder of serpipe is added.
    """
    folders = [each for each in sys.path if isinstance(each, str) and each]
    return os.pathsep.join([*folders, str(Path(__file__).parents[1])])
