"""stub"""
import dataclasses
from fastfold_jax.inference.ranking import Finished
from fastfold_jax.inference.result import Prediction
REPORT_FILE = "report.html"
@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranked:
    summary: Finished
    prediction: Prediction
def report_html(job, ranked, shown, coverage, config):
    return "x"
