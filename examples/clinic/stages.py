"""The stages of a case and the groups the frontend runs them in, as tables."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    name: str
    field: str
    """Key of the stage's text in its result."""
    next: str


@dataclass(frozen=True)
class Group:
    name: str
    stages: tuple[Stage, ...]
    next_stage: str
    """The stage that comes next, as the answer says: a stage or `complete`, never a group. The frontend
    ignores it."""
    next_group: str
    """The group to which approving this one leads; the last leads to itself."""


INITIAL = "initial"
VALIDATION = "validation"

GROUPS = (
    Group(
        "patient_case_analysis_group",
        (
            Stage(INITIAL, "case_text", next="extraction"),
            Stage("extraction", "extracted_factors", next="causal_analysis"),
            Stage("causal_analysis", "causal_links", next=VALIDATION),
            Stage(VALIDATION, "validation_result", next="counterfactual"),
        ),
        next_stage="diagnosis",
        next_group="diagnosis_group",
    ),
    Group(
        "diagnosis_group",
        (
            Stage("counterfactual", "counterfactual_analysis", next="diagnosis"),
            Stage("diagnosis", "diagnosis", next="treatment_planning"),
        ),
        next_stage="treatment_planning",
        next_group="treatment_planning_group",
    ),
    Group(
        "treatment_planning_group",
        (
            Stage("treatment_planning", "treatment_plan", next="patient_specific"),
            Stage("patient_specific", "patient_specific_plan", next="final_plan"),
            Stage("final_plan", "final_treatment_plan", next="complete"),
        ),
        next_stage="complete",
        next_group="treatment_planning_group",
    ),
)
FIRST_GROUP, LAST_GROUP = GROUPS[0], GROUPS[-1]

GROUP_OF_NAME = {group.name: group for group in GROUPS}
GROUP_OF_STAGE = {stage.name: group for group in GROUPS for stage in group.stages}
STAGES = {stage.name: stage for group in GROUPS for stage in group.stages}

UI_LABELS = {
    INITIAL: "Patient Case",
    "extraction": "Patient Case",
    "causal_analysis": "Patient Case",
    VALIDATION: "Patient Case",
    "counterfactual": "Diagnosis",
    "diagnosis": "Diagnosis",
    "treatment_planning": "Treatment",
    "patient_specific": "Treatment",
    "final_plan": "Treatment",
    "complete": "Complete",
}
"""Four labels, though the frontend shows three groups: so it is in the app this stands for."""


def next_after(name: str) -> str:
    """Return the group to which approving leads."""
    group = GROUP_OF_NAME.get(name)
    return group.next_group if group else STAGES[name].next
