// A frontend that knows nothing of streaming, with the habits of the reference one: all state in React, panels set whole,
// the chat stored by the browser, everything unmounted when the session is looked at again because the tab came back.

import { useEffect, useState } from "react";
import { createRoot } from "react-dom/client";
import { approve, createCase, listCases, openCase, say, session, start, work } from "./api.js";

const FIRST = "patient_case_analysis_group";
const HEADINGS = {
  extraction: ["extracted_factors", "Extracted Medical Factors"],
  causal_analysis: ["causal_links", "Causal Relationships"],
  validation: ["validation_result", "Validation"],
  counterfactual: ["counterfactual_analysis", "Counterfactual Analysis"],
  diagnosis: ["diagnosis", "Diagnosis"],
  treatment_planning: ["treatment_plan", "Treatment Options"],
  patient_specific: ["patient_specific_plan", "Patient-Specific Plan"],
  final_plan: ["final_treatment_plan", "Final Treatment Plan"],
};

const escaped = (text) => text.replace(/[&<>]/g, (char) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[char]);
const asHtml = (backend) =>
  Object.entries(HEADINGS)
    .filter(([stage]) => backend[stage])
    .map(([stage, [field, heading]]) => `<h3>${heading}</h3><div class="text">${escaped(backend[stage][field])}</div>`)
    .join("");

function Analysis({ groups }) {
  return (
    <div className="column">
      <div className="title">
        <h2>Analysis Results</h2>
      </div>
      <div className="analysis">
        {groups.length === 0 ? <p>No analysis available yet</p> : null}
        {groups.map(({ name, html }) => (
          <section key={name} data-group={name} dangerouslySetInnerHTML={{ __html: html }} />
        ))}
      </div>
    </div>
  );
}

function Chat({ messages, isBusy, onSend, onApprove, canApprove, banner }) {
  const [text, setText] = useState("");
  const send = () => {
    setText("");
    onSend(text);
  };
  return (
    <div className="column chat">
      <div className="scroll">
        {messages.map(({ role, content }, at) => (
          <div key={at} className={`bubble ${role}`}>
            {content}
          </div>
        ))}
        {isBusy ? <div className="bubble dots">…</div> : null}
      </div>
      {banner ? <p role="alert">{banner}</p> : null}
      <textarea
        value={text}
        onChange={({ target }) => setText(target.value)}
        disabled={isBusy}
        placeholder={isBusy ? "Please wait while the assistant is responding…" : "Type your message…"}
      />
      <button onClick={send} disabled={isBusy || !text}>Send</button>
      <button onClick={onApprove} disabled={isBusy || !canApprove}>Approve</button>
    </div>
  );
}

function Workplace() {
  const [list, setList] = useState([]);
  const [caseId, setCaseId] = useState(null);
  const [group, setGroup] = useState(FIRST);
  const [groups, setGroups] = useState([]);
  const [messages, setMessages] = useState([]);
  const [isBusy, setBusy] = useState(false);
  const [banner, setBanner] = useState("");

  useEffect(() => {
    listCases().then(setList, () => {});
  }, []);

  const show = (role, content) => setMessages((before) => [...before, { role, content }]);
  const finish = async (id, answer) => {
    const { stage_name: name, result } = answer;
    setGroup(name);
    setGroups((before) => [...before.filter((one) => one.name !== name), { name, html: asHtml(result.backend_results) }]);
    const summary = result.summary ?? "I've analyzed the case.";
    show("assistant", summary);
    await say(id, "assistant", summary);
  };
  const attempt = async (what, steps) => {
    setBusy(true);
    setBanner("");
    try {
      await steps();
    } catch {
      setBanner(`Failed to ${what}. Please try again.`);
    } finally {
      setBusy(false);
    }
  };

  const send = (text) =>
    caseId === null
      ? attempt("create case", async () => {
          show("user", text);
          const made = await createCase(text);
          setCaseId(made.id);
          listCases().then(setList, () => {});
          await say(made.id, "user", text);
          await finish(made.id, await start(made.id));
        })
      : attempt("send message", async () => {
          show("user", text);
          await say(caseId, "user", text);
          await finish(caseId, await work(caseId, group, { input_text: text }));
        });
  const goOn = () =>
    attempt("approve stage", async () => {
      const words = `I approve the ${group} stage. Please go on.`;
      show("user", words);
      await say(caseId, "user", words);
      const { next_stage: next } = await approve(caseId, group);
      if (next !== group) await finish(caseId, await work(caseId, next, {}));
    });
  const begin = () => {
    setCaseId(null);
    setGroup(FIRST);
    setGroups([]);
    setMessages([]);
    setBusy(false);
  };
  const open = async (id) => {
    const details = await openCase(id);
    begin();
    setCaseId(id);
    setMessages(details.messages.map(({ role, content }) => ({ role, content })));
    const rows = details.stage_results.filter(({ result }) => result.backend_results);
    setGroups(rows.map(({ stage_name: name, result }) => ({ name, html: asHtml(result.backend_results) })));
  };

  return (
    <main>
      <div className="column">
        <button onClick={begin}>Start New Case</button>
        {list.map(({ id, case_text: text }) => (
          <button key={id} data-case={id} onClick={() => open(id)}>
            {text.slice(0, 20)}
          </button>
        ))}
      </div>
      <Chat messages={messages} isBusy={isBusy} onSend={send} onApprove={goOn} canApprove={groups.length > 0} banner={banner} />
      <Analysis groups={groups} />
    </main>
  );
}

function App() {
  const [isLoading, setLoading] = useState(true);
  useEffect(() => {
    const look = async () => {
      setLoading(true);
      await (localStorage.getItem("token") ? session.check() : session.refresh());
      setLoading(false);
    };
    const back = () => document.visibilityState === "visible" && look();
    look();
    document.addEventListener("visibilitychange", back);
    return () => document.removeEventListener("visibilitychange", back);
  }, []);
  return isLoading ? <p>Loading…</p> : <Workplace />;
}

createRoot(document.getElementById("root")).render(<App />);
