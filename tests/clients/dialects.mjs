// A run read by a client library of its dialect, over HTTP:
//
//     node dialects.mjs LIBRARY URL HEADERS [abort]
//     text
//     {"text": "…", "reasoning": "…", "ended": "finished" | "error: …" | "aborted"}
//
// URL is that of the POST. With `abort` the client leaves after its first text, which is told when it comes.

const [library, url, headersText, mode] = process.argv.slice(2);
const headers = JSON.parse(headersText);
const got = { text: "", reasoning: "", ended: "cut" };

let isHeard = false;

function hear() {
  if (!isHeard) console.log("text");
  isHeard = true;
}

const READERS = {
  openai: async () => {
    const { default: OpenAI } = await import("openai");
    const client = new OpenAI({ apiKey: "none", baseURL: url, maxRetries: 0, defaultHeaders: headers });
    const stream = await client.chat.completions.create({ model: "m", messages: [], stream: true });
    for await (const chunk of stream) {
      const [{ delta, finish_reason: reason }] = chunk.choices;
      got.text += delta.content ?? "";
      got.reasoning += delta.reasoning_content ?? "";
      if (got.text + got.reasoning) hear();
      if (reason === "stop") got.ended = "finished";
      if (mode === "abort" && got.text + got.reasoning) {
        stream.controller.abort();
        got.ended = "aborted";
      }
    }
  },
  ai: async () => {
    const { DefaultChatTransport, readUIMessageStream } = await import("ai");
    const transport = new DefaultChatTransport({
      api: url,
      headers,
      prepareReconnectToStreamRequest: () => ({ api: url }),
    });
    const controller = new AbortController();
    const asked = { chatId: "1", messages: [], trigger: "submit-message", abortSignal: controller.signal };
    const stream =
      mode === "resume" ? await transport.reconnectToStream({ chatId: "1" }) : await transport.sendMessages(asked);
    const [kinds, read] = stream.tee();
    const seen = (async () => {
      for await (const { type } of kinds) {
        if (type === "finish") got.ended = "finished";
        if (type === "abort") got.ended = "aborted";
      }
    })().catch(() => {});
    const onError = (error) => (got.ended = `error: ${error.message}`);
    for await (const message of readUIMessageStream({ stream: read, onError })) {
      const join = (kind) => message.parts.filter(({ type }) => type === kind).map(({ text }) => text).join("\n\n");
      got.text = join("text");
      got.reasoning = join("reasoning");
      if (got.text + got.reasoning) hear();
      if (mode === "abort" && got.text + got.reasoning && !controller.signal.aborted) controller.abort();
    }
    await seen;
    if (controller.signal.aborted) got.ended = "aborted";
  },
  "ag-ui": async () => {
    const { HttpAgent } = await import("@ag-ui/client");
    const agent = new HttpAgent({ url, headers, threadId: "thread", initialMessages: [{ id: "1", role: "user", content: "x" }] });
    await agent.runAgent({ runId: "run" }, {
      onTextMessageContentEvent: ({ event }) => {
        got.text += event.delta;
        hear();
        if (mode === "abort") agent.abortRun();
      },
      onReasoningMessageContentEvent: ({ event }) => {
        got.reasoning += event.delta;
        hear();
        if (mode === "abort") agent.abortRun();
      },
      onRunFinishedEvent: () => (got.ended = "finished"),
      onRunErrorEvent: ({ event }) => (got.ended = `error: ${event.message}`),
    });
    if (mode === "abort") got.ended = "aborted";
    got.messages = agent.messages.map(({ role, content }) => [role, content]);
  },
};

try {
  await READERS[library]();
} catch (error) {
  got.ended = mode === "abort" && error.name === "AbortError" ? "aborted" : `error: ${error.message}`;
}
console.log(JSON.stringify(got));
process.exit();
