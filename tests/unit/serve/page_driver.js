"use strict";
// Runs the script of the page over a handful of elements, as a browser would, and tells what a person would see.
// Arguments: the script, the server's address, a token to type (or nothing), and what to press, in order.
const fs = require("fs");
const vm = require("vm");

const [script, base, token, ...presses] = process.argv.slice(2);
class HTMLInputElement {}
const elements = {};
function element(name) {
  if (!elements[name]) {
    const made = ["token", "wish"].includes(name) ? new HTMLInputElement() : {};
    Object.assign(made, { hidden: ["entry", "comparison"].includes(name), textContent: "", value: "", dataset: {}, on: {} });
    made.addEventListener = (kind, work) => { made.on[kind] = work; };
    made.focus = () => {};
    if (name === "choose-first") made.dataset.item = "0";
    if (name === "choose-second") made.dataset.item = "1";
    if (name === "choose-tie") made.dataset.item = "tie";
    elements[name] = made;
  }
  return elements[name];
}
const calls = [];
let waiting = 0;
const held = {};
const page = {
  console, String, Boolean, JSON, Error, HTMLInputElement,
  document: { getElementById: element, addEventListener: (kind, work) => { page.keys = work; } },
  sessionStorage: { getItem: (name) => held[name] || null, setItem: (name, value) => { held[name] = value; },
                    removeItem: (name) => { delete held[name]; } },
  fetch: async (path, options) => {
    waiting += 1;
    const answer = await fetch(base + path, options).finally(() => { waiting -= 1; });
    calls.push([path, JSON.parse(options.body), answer.status]);
    return answer;
  },
};
const settled = async () => {
  for (let last = -1; waiting || last !== calls.length;) {
    last = calls.length;
    await new Promise((go) => setTimeout(go, 150));
  }
};

(async () => {
  vm.runInNewContext(fs.readFileSync(script, "utf8"), page);
  await settled();
  const asked = !elements.entry.hidden;
  if (asked && token) {
    element("token").value = token;
    element("entry").on.submit({ preventDefault() {} });
    await settled();
  }
  for (const press of presses) {
    if (press.startsWith("key:")) page.keys({ key: press.slice(4), target: {} });
    else if (press.startsWith("held:")) page.keys({ key: press.slice(5), repeat: true, target: {} });
    else if (press.startsWith("wish:")) {
      element("wish").value = press.slice(5);
      element("own").on.submit({ preventDefault() {} });
    } else element(press).on.click();
    await settled();
  }
  const shown = Object.fromEntries(["prompt", "first", "second", "said", "count"].map((name) => [name, element(name).textContent]));
  console.log(JSON.stringify({ asked, shown, calls, open: !element("comparison").hidden, typed: element("token").value }));
})();
