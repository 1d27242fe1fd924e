// Requests to the server: JSON in, JSON or a stream of events out. Errors carry the server's own reason.

export class Refusal extends Error {
  constructor(reason, status) {
    super(reason);
    this.status = status;
  }
}

const token = () => sessionStorage.getItem("dreamrl-token");
let login = null;

export function onLogin(ask) {
  login = ask;
}

async function send(path, body, signal) {
  for (;;) {
    const headers = body === undefined ? {} : { "Content-Type": "application/json" };
    if (token()) headers.Authorization = `Bearer ${token()}`;
    const response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
    });
    if (response.status === 401 && login) {
      sessionStorage.setItem("dreamrl-token", await login());
      continue;
    }
    if (!response.ok) {
      let reason = `the server answered ${response.status}`;
      try {
        reason = (await response.json()).error ?? reason;
      } catch { /* no JSON: the status has to do */ }
      throw new Refusal(reason, response.status);
    }
    return response;
  }
}

export async function ask(path, body, signal) {
  return (await send(path, body, signal)).json();
}

/** The events of a server-sent stream as [name, data]. */
export async function* stream(path, body, signal) {
  const response = await send(path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const blocks = held.split("\n\n");
    held = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const name = lines.find((line) => line.startsWith("event: "))?.slice(7);
      const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (name) yield [name, JSON.parse(data)];
    }
  }
}
