"""`python -m llama_edu.cli` is the command, too."""

import sys

from . import main

sys.exit(main())
