// The server's API, with the key that the user showed. Addresses are relative, so that the page works behind a path prefix.

import { events } from "./sse.js";

const STORED = "llmasos.key";

/** What the server refused, in its own words. */
export class ApiError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Requests of one key; empty: none is needed. */
export class Api {
  constructor(key = sessionStorage.getItem(STORED) ?? "") {
    this.key = key;
  }

  /** Keep the key until the tab is closed. */
  keep() {
    if (this.key) sessionStorage.setItem(STORED, this.key);
  }

  forget() {
    sessionStorage.removeItem(STORED);
    this.key = "";
  }

  async get(path, signal) {
    return (await this.#send("GET", path, undefined, signal)).json();
  }

  async text(path, signal) {
    return (await this.#send("GET", path, undefined, signal)).text();
  }

  async post(path, body = {}, signal = undefined) {
    return (await this.#send("POST", path, body, signal)).json();
  }

  async delete(path) {
    return (await this.#send("DELETE", path)).json();
  }

  /** The JSON of each event of a stream. Throws `ApiError` for an event that tells of an error. */
  async *stream(path, body, signal) {
    const response = await this.#send("POST", path, { ...body, stream: true }, signal);
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const found = JSON.parse(data);
      if (found.error) throw new ApiError(found.error.message, response.status, found.error.code);
      yield found;
    }
  }

  async #send(method, path, body, signal) {
    const headers = this.key ? { authorization: `Bearer ${this.key}` } : {};
    if (body !== undefined) headers["content-type"] = "application/json";
    const more = { method, headers, signal, credentials: "omit", cache: "no-store", redirect: "error" };
    const response = await fetch(path, body === undefined ? more : { ...more, body: JSON.stringify(body) });
    if (!response.ok) throw await refusal(response);
    return response;
  }
}

async function refusal(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    // Something between the page and the server answered, not in the server's form.
  }
  return new ApiError(error.message ?? `${response.status} ${response.statusText}`, response.status, error.code ?? "");
}
