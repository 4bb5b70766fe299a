"""The words of the made-up texts. Nothing here is advice; doses and values only look like medicine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scenario:
    words: tuple[str, ...]
    """A case whose text has one of these belongs here."""
    findings: tuple[tuple[str, str, str], ...]
    """Finding, value, weight."""
    links: tuple[tuple[str, str, str], ...]
    """Cause, effect, strength."""
    diagnoses: tuple[tuple[str, str, str], ...]
    """Diagnosis, likelihood, what speaks for it."""
    options: tuple[tuple[str, str, str], ...]
    """Measure, dose or target, reason."""
    remarks: tuple[str, ...]


RESPIRATORY = Scenario(
    words=("cough", "fever", "pneumonia", "breath", "sputum"),
    findings=(
        ("Temperature", "38.9 °C", "high"),
        ("Respiratory rate", "26 /min", "high"),
        ("SpO₂ on room air", "91 %", "high"),
        ("CRP", "148 mg/L", "moderate"),
        ("White cells", "15.2 × 10⁹/L", "moderate"),
        ("Creatinine", "97 µmol/L", "low"),
        ("Rust-coloured sputum", "for 2 days", "moderate"),
    ),
    links=(
        ("Alveolar inflammation", "SpO₂ 91 %", "strong"),
        ("Bacterial load", "38.9 °C and rigors", "strong"),
        ("Pleural irritation", "pain on deep breath", "moderate"),
        ("Fever and poor intake", "mild dehydration", "moderate"),
        ("Smoking, 20 pack-years", "slow clearance", "weak"),
    ),
    diagnoses=(
        ("Community-acquired pneumonia", "78 %", "focal crackles, fever, CRP"),
        ("Acute bronchitis", "9 %", "cough; but SpO₂ is too low"),
        ("Pulmonary embolism", "7 %", "pleuritic pain; D-dimer pending"),
        ("Heart failure", "4 %", "no oedema, no orthopnoea"),
    ),
    options=(
        ("Amoxicillin", "1 g three times a day", "first choice — no allergy"),
        ("Oxygen", "target 92–96 %", "hypoxaemia at rest"),
        ("Paracetamol", "1 g up to four times a day", "fever ≥ 38.5 °C"),
        ("Oral fluids", "1.5–2 L a day", "mild dehydration"),
        ("Chest X-ray", "today", "extent and effusion"),
    ),
    remarks=(
        "Crackles over the right base — dull to percussion.",
        "No travel, no known contacts; vaccination status unclear.",
        "CURB-65 is 1: ward care is reasonable.",
        "Reassess after 48 h; SpO₂ < 90 % calls for a higher level of care.",
        "The café owner lives alone; a daughter can visit daily.",
        "Repeat CRP on day 3, expect a fall of ≥ 50 %.",
    ),
)

CARDIAC = Scenario(
    words=("chest pain", "troponin", "palpitation", "angina"),
    findings=(
        ("Pain", "7/10, 40 min, left arm", "high"),
        ("Blood pressure", "158/94 mmHg", "moderate"),
        ("Heart rate", "104 /min", "moderate"),
        ("Troponin T", "62 ng/L", "high"),
        ("ECG", "ST depression V4–V6", "high"),
        ("LDL cholesterol", "4.1 mmol/L", "low"),
        ("Potassium", "4.2 mmol/L", "low"),
    ),
    links=(
        ("Plaque rupture", "ST depression", "strong"),
        ("Myocardial injury", "troponin 62 ng/L", "strong"),
        ("Sympathetic drive", "104 /min and sweating", "moderate"),
        ("Untreated hypertension", "raised oxygen demand", "moderate"),
        ("LDL 4.1 mmol/L", "coronary disease", "moderate"),
    ),
    diagnoses=(
        ("NSTEMI", "81 %", "troponin, ECG, typical pain"),
        ("Unstable angina", "8 %", "if troponin does not rise further"),
        ("Aortic dissection", "4 %", "pulses equal — unlikely"),
        ("Pericarditis", "3 %", "no rub, no postural change"),
    ),
    options=(
        ("Aspirin", "300 mg once, then 75 mg", "antiplatelet — no bleeding history"),
        ("Fondaparinux", "2.5 mg once a day", "eGFR > 60 mL/min"),
        ("Atorvastatin", "80 mg at night", "LDL 4.1 mmol/L"),
        ("Bisoprolol", "2.5 mg", "104 /min, no heart failure"),
        ("Coronary angiography", "within 24 h", "GRACE score 132"),
    ),
    remarks=(
        "Second troponin after 3 h — the change decides.",
        "No anticoagulant, no recent surgery.",
        "Father had an infarction at 54.",
        "Continuous ECG monitoring; call at any new pain.",
        "Naïve to statins; check liver enzymes after 6 weeks.",
        "Stop smoking — refer to the programme before discharge.",
    ),
)

METABOLIC = Scenario(
    words=(),
    findings=(
        ("Glucose", "24.6 mmol/L", "high"),
        ("Ketones", "4.8 mmol/L", "high"),
        ("pH", "7.21", "high"),
        ("Bicarbonate", "13 mmol/L", "moderate"),
        ("Heart rate", "112 /min", "moderate"),
        ("Weight", "−4 kg in 3 weeks", "moderate"),
        ("Potassium", "5.1 mmol/L", "moderate"),
    ),
    links=(
        ("Lack of insulin", "glucose 24.6 mmol/L", "strong"),
        ("Ketogenesis", "pH 7.21", "strong"),
        ("Osmotic diuresis", "thirst and −4 kg", "strong"),
        ("Volume loss", "112 /min", "moderate"),
        ("Acidosis", "potassium 5.1 mmol/L", "moderate"),
    ),
    diagnoses=(
        ("Diabetic ketoacidosis", "86 %", "glucose, ketones, pH"),
        ("Hyperosmolar state", "5 %", "ketones are too high"),
        ("Starvation ketosis", "3 %", "glucose is too high"),
        ("Lactic acidosis", "3 %", "lactate 1.4 mmol/L"),
    ),
    options=(
        ("Sodium chloride 0.9 %", "1 L in the first hour", "volume loss"),
        ("Insulin", "0.1 units/kg/h", "closes the ketone gap"),
        ("Potassium", "20 mmol in each litre", "falls once insulin runs"),
        ("Glucose 10 %", "below 14 mmol/L", "lets insulin go on"),
        ("Education", "before discharge", "first presentation"),
    ),
    remarks=(
        "Ketones every hour — aim for −0.5 mmol/L/h.",
        "Look for the trigger: infection, missed doses, infarction.",
        "No oedema; lungs are clear.",
        "Autoantibodies and C-peptide before discharge.",
        "Potassium every 2 h while insulin runs.",
        "Start a basal dose early — à la the local protocol.",
    ),
)

SCENARIOS = (CARDIAC, RESPIRATORY, METABOLIC)


def scenario_of(text: str) -> Scenario:
    """The first that the text has a word of; the last when there is none."""
    lowered = text.lower()
    return next((one for one in SCENARIOS if any(word in lowered for word in one.words)), SCENARIOS[-1])
