/** Calls to the API by XMLHttpRequest with the headers of the common clients, and the token they carry. */

const ACCEPT = "application/json, text/plain, */*";

/** Takes a token for a made-up user and keeps it where the API calls find it. */
export async function signIn(user) {
  const response = await fetch(`/demo/token?user=${encodeURIComponent(user)}`);
  if (!response.ok) throw new Error("this clinic hands out no tokens; start it with CLINIC_DEMO=1");
  localStorage.user = user;
  localStorage.token = (await response.json()).token;
}

export function bearer() {
  return `Bearer ${localStorage.token ?? ""}`;
}

/**
 * @param {string} method
 * @param {string} path
 * @param {object} [body] sent as JSON; without it the request has neither body nor content type
 * @param {{accept?: string, responseType?: XMLHttpRequestResponseType}} [options]
 * @returns {Promise<any>} the parsed JSON, the raw text when it is not JSON, or the blob
 */
export async function send(method, path, body, options = {}) {
  const request = await exchange(method, path, body, options);
  if (request.status === 401) {
    // No count of repetitions: the frontend this stands for has none either.
    await signIn(localStorage.user);
    return send(method, path, body, options);
  }
  const { status } = request;
  if (status < 200 || status >= 300) throw Object.assign(new Error(`${method} ${path}: ${status}`), { status });
  return options.responseType ? request.response : parse(request.responseText);
}

function exchange(method, path, body, { accept = ACCEPT, responseType = "" }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, path);
    request.responseType = responseType;
    request.setRequestHeader("Accept", accept);
    request.setRequestHeader("Authorization", bearer());
    if (body !== undefined) request.setRequestHeader("Content-Type", "application/json");
    request.onload = () => resolve(request);
    request.onerror = () => reject(new Error(`${method} ${path}: no answer`));
    request.send(body === undefined ? null : JSON.stringify(body));
  });
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
