"""The fact check: what is said of the Llamas, a verdict on each claim, and its recomputation."""

from .box import show
from .evaluate import Outcome, recompute
from .quiz import Judged, judge
from .rows import VERDICTS, Claim, Contradiction, contradictions, find, ledger, writeups
from .table import report, select

__all__ = ["VERDICTS", "Claim", "Contradiction", "Judged", "Outcome", "contradictions", "find",
           "judge", "ledger", "recompute", "report", "select", "show", "writeups"]
