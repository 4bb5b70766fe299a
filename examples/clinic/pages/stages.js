/** The stages as people read them, in the order they run, and where each one's text lies in a batch answer. */

export const GROUPS = {
  patient_case_analysis_group: {
    label: "Patient Case Analysis",
    stages: [
      { name: "extraction", field: "extracted_factors", title: "Extracted Medical Factors" },
      { name: "causal_analysis", field: "causal_links", title: "Causal Relationships" },
      { name: "validation", field: "validation_result", title: "Validation" },
    ],
  },
  diagnosis_group: {
    label: "Diagnosis",
    stages: [
      { name: "counterfactual", field: "counterfactual_analysis", title: "Counterfactual Analysis" },
      { name: "diagnosis", field: "diagnosis", title: "Diagnosis" },
    ],
  },
  treatment_planning_group: {
    label: "Treatment Planning",
    stages: [
      { name: "treatment_planning", field: "treatment_plan", title: "Treatment Options" },
      { name: "patient_specific", field: "patient_specific_plan", title: "Patient-Specific Plan" },
      { name: "final_plan", field: "final_treatment_plan", title: "Final Treatment Plan" },
    ],
  },
};

/** @returns {{name: string, title: string, text: string}[]} what the reasoning panel shows of a group's result */
export function reasoningOf(groupName, result) {
  return GROUPS[groupName].stages.map(({ name, field, title }) => {
    return { name, title, text: result.backend_results[name][field] };
  });
}
