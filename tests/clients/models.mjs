// Batch calls of providers' own packages, as a backend in Node makes them. Each line of standard input is a call:
//
//     {"call": "openai.chat", "url": "http://…", "headers": {…}, "key": {…}}
//
// and is answered by a line: {"came": …}, or {"failed": {"name": …, "status": …}}. No package asks again by itself.
// `headers` go with the call, as tracing adds them; `key` is of AWS.

import { createInterface } from "node:readline";

const MESSAGES = [{ role: "user", content: "a" }];
const SCHEMA = { type: "object", properties: { mg: { type: "number" } }, required: ["mg"], additionalProperties: false };

const openai = async (url, headers) => {
  const { default: OpenAI } = await import("openai");
  return new OpenAI({ apiKey: "k", baseURL: `${url}/v1`, maxRetries: 0, defaultHeaders: headers });
};
const ollama = async (url, headers) => new (await import("ollama")).Ollama({ host: url, headers });

const CALLS = {
  "openai.chat": async (url, headers) => (await openai(url, headers)).chat.completions.create({ model: "m", messages: MESSAGES }),
  "openai.parsed": async (url, headers) =>
    (await openai(url, headers)).chat.completions.parse({
      model: "m",
      messages: MESSAGES,
      response_format: { type: "json_schema", json_schema: { name: "dose", strict: true, schema: SCHEMA } },
    }),
  "openai.respond": async (url, headers) => (await openai(url, headers)).responses.create({ model: "m", input: "a", store: false }),
  anthropic: async (url, headers) => {
    const { default: Anthropic } = await import("@anthropic-ai/sdk");
    const client = new Anthropic({ apiKey: "k", baseURL: url, maxRetries: 0, defaultHeaders: headers });
    return client.messages.create({ model: "m", max_tokens: 9, messages: MESSAGES });
  },
  gemini: async (url, headers) => {
    const { GoogleGenAI } = await import("@google/genai");
    const client = new GoogleGenAI({ apiKey: "k", httpOptions: { baseUrl: url, headers } });
    const came = await client.models.generateContent({ model: "m", contents: "a" });
    delete came.sdkHttpResponse; // headers, of which some are the framing's
    return came;
  },
  "ollama.chat": async (url, headers) => (await ollama(url, headers)).chat({ model: "m", messages: MESSAGES }),
  "ollama.generate": async (url, headers) => (await ollama(url, headers)).generate({ model: "m", prompt: "a" }),
  cohere: async (url, headers) => {
    const { CohereClientV2 } = await import("cohere-ai");
    const client = new CohereClientV2({ token: "k", environment: url });
    return client.chat({ model: "m", messages: MESSAGES }, { headers, maxRetries: 0 });
  },
  mistral: async (url, headers) => {
    const { Mistral } = await import("@mistralai/mistralai");
    const client = new Mistral({ apiKey: "k", serverURL: url, retryConfig: { strategy: "none" } });
    return client.chat.complete({ model: "m", messages: MESSAGES }, { headers });
  },
  bedrock: async (url, headers, key) => {
    const { BedrockRuntimeClient, ConverseCommand } = await import("@aws-sdk/client-bedrock-runtime");
    const { NodeHttpHandler } = await import("@smithy/node-http-handler");
    const client = new BedrockRuntimeClient({
      endpoint: url,
      region: "eu-central-1",
      credentials: key,
      maxAttempts: 1,
      requestHandler: new NodeHttpHandler(), // its own speaks HTTP/2 alone
    });
    const traced = (next) => (args) => {
      Object.assign(args.request.headers, headers);
      return next(args);
    };
    client.middlewareStack.add(traced, { step: "build", name: "traced" });
    const { $metadata: _, ...came } = await client.send(
      new ConverseCommand({ modelId: "m", messages: [{ role: "user", content: [{ text: "a" }] }] }),
    );
    return came;
  },
};

const status = (error) => error.status ?? error.statusCode ?? error.status_code ?? error.$metadata?.httpStatusCode;

for await (const line of createInterface({ input: process.stdin })) {
  const { call, url, headers, key } = JSON.parse(line);
  let said;
  try {
    said = { came: await CALLS[call](url, headers, key) };
  } catch (error) {
    said = { failed: { name: error.constructor.name, status: status(error) ?? String(error.stack) } };
  }
  console.log(JSON.stringify(said));
}
