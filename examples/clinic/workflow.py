"""Run the stages of one case. Each result is committed before the next call to the model starts."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from examples.clinic import prompts
from examples.clinic.llm.conversation import Llm
from examples.clinic.stages import GROUP_OF_STAGE, INITIAL, LAST_GROUP, STAGES, VALIDATION, Group, Stage
from examples.clinic.store import cases, messages, stage_results
from examples.clinic.store.database import Row


@dataclass
class Workflow:
    db: sqlite3.Connection
    llm: Llm
    case: Row

    def run_group(self, group: Group, input_text: str | None = None) -> Row:
        """All stages of the group in their order, then the summary; returns the group's result."""
        backend = {stage.name: self._run(stage, group, input_text) for stage in group.stages}
        result = self._put_group(group, backend)
        changes = {"is_complete": True} if group is LAST_GROUP else {}
        cases.update(self.db, self.case, current_stage=group.name, **changes)
        return result

    def run_stage(self, stage: Stage, input_text: str | None = None) -> Row:
        """One stage. Its group's summary is written anew, but only the database gets to see it."""
        group = GROUP_OF_STAGE[stage.name]
        result = self._run(stage, group, input_text)
        self._put_group(group, self._results(group.stages))
        cases.update(self.db, self.case, current_stage=stage.name)
        return result

    def validate_again(self) -> str:
        """The two calls that a chat message costs while the case stands at `validation`."""
        known = self._texts()
        verdict = self.llm.converse(self._history(), prompts.ask(VALIDATION, self.case["case_text"], known))
        return self.llm.complete(self._summary_prompt({VALIDATION: verdict}))

    def write_note(self) -> str:
        return self.llm.complete(prompts.ask("note", self.case["case_text"], self._texts()))

    def _run(self, stage: Stage, group: Group, input_text: str | None) -> Row:
        result: Row = {stage.field: self._text(stage, group, input_text)}
        if stage.name == VALIDATION:
            result["ready"] = "✅ Yes" in result[stage.field]
        result["next_stage"] = stage.next
        stage_results.put(self.db, self.case["id"], stage.name, result)
        return result

    def _text(self, stage: Stage, group: Group, input_text: str | None) -> str:
        # What the clinician adds replaces the case for the first two stages, is appended in one late stage,
        # and reaches no other stage except through the chat history.
        replaces = stage.name in (INITIAL, "extraction") and input_text
        case_text = input_text if replaces else self.case["case_text"]
        if stage.name == INITIAL:
            return str(case_text)
        extra = input_text or "" if stage.name == "patient_specific" else ""
        known = self._texts(before=stage)
        return self.llm.converse(self._history(), prompts.ask(stage.name, str(case_text), known, extra))

    def _put_group(self, group: Group, backend: Row) -> Row:
        texts = {name: result[STAGES[name].field] for name, result in backend.items() if name != INITIAL}
        summary = self.llm.complete(self._summary_prompt(texts))
        result = {"backend_results": backend, "summary": summary, "next_stage": group.next_stage}
        stage_results.put(self.db, self.case["id"], group.name, result)
        return result

    def _summary_prompt(self, texts: dict[str, str]) -> str:
        return prompts.ask("summary", self.case["case_text"], texts)

    def _history(self) -> list[dict[str, str]]:
        return prompts.as_history(messages.oldest(self.db, self.case["id"]))

    def _texts(self, before: Stage | None = None) -> dict[str, str]:
        """The texts so far by stage, up to `before` and without the case itself."""
        names = list(STAGES)
        earlier = names[: names.index(before.name)] if before else names
        wanted = (STAGES[name] for name in earlier if name != INITIAL)
        return {name: result[STAGES[name].field] for name, result in self._results(wanted).items()}

    def _results(self, stages: Iterable[Stage]) -> dict[str, Row]:
        rows = (stage_results.get(self.db, self.case["id"], stage.name) for stage in stages)
        return {row["stage_name"]: row["result"] for row in rows if row}
