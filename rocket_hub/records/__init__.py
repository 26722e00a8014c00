"""Plain data that travels between the stages.

Every selection says `selected`, `rejected` (each with a `reason` that names the fault) and, where there are numbers,
`scores`. Records are frozen; `serialization.py` is how the run folder and the recipes store them.
"""

from rocket_hub.records.chosen import ExpertScore, ExpertSelection, InstructionSelection
from rocket_hub.records.found import AdapterCandidate, AdapterDiscovery, DatasetCandidate, DatasetDiscovery
from rocket_hub.records.generated import Generated
from rocket_hub.records.ingredients import Example, Pinned, Rejection, Row, count_reasons, reasons_in_words
from rocket_hub.records.measured import Evaluation

__all__ = [
    "AdapterCandidate",
    "AdapterDiscovery",
    "DatasetCandidate",
    "DatasetDiscovery",
    "Evaluation",
    "Example",
    "ExpertScore",
    "ExpertSelection",
    "Generated",
    "InstructionSelection",
    "Pinned",
    "Rejection",
    "Row",
    "count_reasons",
    "reasons_in_words",
]
