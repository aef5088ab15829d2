// Requests to the service.

let key = "";

export function setKey(text) { key = text.trim(); }

async function answered(response) {
  if (response.ok) return response;
  let told = null;
  try { told = (await response.json()).error; } catch { /* no JSON: a proxy answers */ }
  const error = new Error(told ? told.message : `The service answers ${response.status}.`);
  error.kind = told ? told.kind : "";
  throw error;
}

function post(path, body) {
  const headers = { "content-type": "application/json" };
  if (key) headers.authorization = `Bearer ${key}`;
  return fetch(path, { method: "POST", headers, body: JSON.stringify(body) }).then(answered,
    () => { throw new Error("The service does not answer. Is it still running?"); });
}

export async function ask(path, body) { return (await post(path, body)).json(); }
export async function askText(path, body) { return (await post(path, { ...body, format: "extxyz" })).text(); }
export async function info() { return (await answered(await fetch("/info"))).json(); }
