"use strict";

// Everything that comes from a model or a person is put in as text, never as markup.
const part = (name) => document.getElementById(name);
let token = sessionStorage.getItem("headrace-token") || "";
let shown = null;
let votes = 0;
let busy = false;

function say(text) {
  part("said").textContent = text;
}

async function call(path, body) {
  const headers = { "content-type": "application/json" };
  if (token) headers.authorization = "Bearer " + token;
  const answer = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), credentials: "omit" });
  const content = await answer.json().catch(() => ({}));
  if (answer.status === 401) {
    sessionStorage.removeItem("headrace-token");
    part("entry").hidden = false;
    part("token").focus();
  }
  if (!answer.ok) throw new Error([content.what, content.got, content.do].filter(Boolean).join(": ") || answer.status);
  return content;
}

async function once(work) {
  if (busy) return;
  busy = true;
  try {
    await work();
  } catch (error) {
    say(String(error.message || error));
  } finally {
    busy = false;
  }
}

async function next() {
  const wish = part("wish").value.trim();
  say("Writing …");
  const found = await call("/v1/comparisons", wish ? { prompt: wish } : {});
  shown = found.key;
  part("prompt").textContent = found.prompt;
  part("first").textContent = found.completions[0].text;
  part("second").textContent = found.completions[1].text;
  part("comparison").hidden = false;
  say("Version " + found.version + " wrote both.");
}

async function choose(item) {
  if (shown === null) return;
  await call("/v1/feedback", { key: shown, kind: "prefer", item });
  shown = null;
  votes += 1;
  part("count").textContent = String(votes);
  await next();
}

part("entry").addEventListener("submit", (event) => {
  event.preventDefault();
  token = part("token").value;
  part("token").value = "";
  part("entry").hidden = true;
  sessionStorage.setItem("headrace-token", token);
  once(next);
});
part("own").addEventListener("submit", (event) => {
  event.preventDefault();
  once(next);
});
for (const name of ["choose-first", "choose-second", "choose-tie"]) {
  part(name).addEventListener("click", () => once(() => choose(part(name).dataset.item)));
}
part("skip").addEventListener("click", () => once(next));
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target instanceof HTMLInputElement) return;
  const items = { a: "0", b: "1", n: "tie" };
  const key = event.key.toLowerCase();
  if (key in items) once(() => choose(items[key]));
  else if (key === "s") once(next);
});
once(next);
