// Requests to the API of the server that this page came from, and their errors as one line each.
// Knows nothing of what is asked, nor of the page.

const BASE = new URL("v1/", document.baseURI);
const SENDABLE = /^[\x21-\x7e]*$/;

/** What went wrong, in one line. status: the response's, 0 where there was none. */
export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The JSON of a response; throws `ApiError`. key: the bearer key, "" for none. */
export async function call(path, options = {}) {
  const response = await send(path, options);
  try {
    return await response.json();
  } catch {
    throw new ApiError(`the server's answer to ${path} is not JSON; is this its own address?`, response.status);
  }
}

/** The server-sent events of a POST, each as an object, until `[DONE]`; throws `ApiError`. */
export async function* events(path, options) {
  const response = await send(path, { ...options, method: "POST" });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { done, value } = await read(reader);
      if (done) throw new ApiError("the answer was cut off; ask again");
      const whole = (held + value).split("\n\n");
      held = whole.pop();
      for (const event of whole) {
        const data = event.replace(/^data: /, "");
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ApiError(chunk.error.message);
        yield chunk;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever stops reading ends the server's work
  }
}

async function send(path, { method = "GET", body, key = "", signal } = {}) {
  if (!SENDABLE.test(key)) throw new ApiError("a key has ASCII characters and no space; check the one you typed", 401);
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const request = { method, headers, signal, cache: "no-store", body: body && JSON.stringify(body) };
  const response = await fetch(new URL(path, BASE), request).catch((error) => {
    throw aborted(error) ? error : new ApiError("the server cannot be reached; check that it runs");
  });
  if (!response.ok) throw await refusal(response);
  return response;
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    throw aborted(error) ? error : new ApiError("the connection was lost; ask again");
  }
}

async function refusal(response) {
  const said = await response.json().catch(() => ({}));
  return new ApiError(said?.error?.message ?? `the server answered ${response.status}`, response.status);
}

export function aborted(error) {
  return error.name === "AbortError";
}
