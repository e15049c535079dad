"""`python -m llama_edu` is the command `llama-edu`."""

import sys

from .cli import main

sys.exit(main())
