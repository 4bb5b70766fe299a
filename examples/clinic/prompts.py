"""The prompts of the model. The `Task:` line names the stage; the rest is the case and what is known."""

from collections.abc import Mapping

from examples.clinic.store.database import Row

ORDERS = {
    "extraction": "List the clinical factors of the case.",
    "causal_analysis": "Link causes to effects among the factors.",
    "validation": "Say whether the analysis holds; begin the verdict with ✅ Yes or ❌ No.",
    "counterfactual": "Say what would change if single factors were absent.",
    "diagnosis": "Rank the diagnoses with their evidence.",
    "treatment_planning": "Lay out the options of treatment.",
    "patient_specific": "Fit the options to this patient.",
    "final_plan": "Write the plan to follow.",
    "summary": "Sum up for the clinician, in a few lines.",
    "note": "Write the clinical note. Its first heading is of level 1.",
}


def ask(task: str, case_text: str, known: Mapping[str, str], extra: str = "") -> str:
    """One prompt. `known` maps the names of stages to their texts; `extra` is what the clinician added."""
    parts = [f"Task: {task}", ORDERS[task], f"Case:\n{case_text}"]
    parts += [f"{stage}:\n{text}" for stage, text in known.items()]
    parts += [f"The clinician adds:\n{extra}"] if extra else []
    return "\n\n".join(parts)


def as_history(messages: list[Row]) -> list[dict[str, str]]:
    return [{"role": message["role"], "content": message["content"]} for message in messages]
