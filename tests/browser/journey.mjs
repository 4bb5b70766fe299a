// One request through a real Headgate by `browser/client.js`, and how it went, as JSON:
//
//     node journey.mjs BASE PATH TOKEN

import { StreamClient } from "../../browser/client.js";
import { EMPTY, reduce } from "../../browser/state.js";

const [base, url, token] = process.argv.slice(2);
const client = new StreamClient({ base, random: () => 0.01, headers: () => ({ authorization: `Bearer ${token}` }) });
const stream = client.stream({ url, method: "POST", body: "{}", headers: { "content-type": "application/json" } });

let state = EMPTY;
let error = null;
const types = [];
try {
  for await (const event of stream) {
    types.push(event.type);
    state = reduce(state, event);
  }
} catch (failure) {
  error = { code: failure.code, status: failure.status };
}
const result = await stream.result.catch(() => null);
console.log(JSON.stringify({ types, state, error, result, run: stream.run, decision: stream.decision }));
