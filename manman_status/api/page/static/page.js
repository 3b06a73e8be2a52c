// What all pages share: filters without empty fields in the URL, a line when nothing answers any
// more or something was refused, and tables that stay where they were scrolled to.

const bar = () => document.getElementById("bar");
const told = document.getElementById("told");
const refused = document.getElementById("refused");

document.addEventListener("htmx:configRequest", ({ detail }) => {
  for (const [name, value] of [...detail.formData]) if (value === "") detail.formData.delete(name);
});

// Swapping rows away would take the selection with them.
document.addEventListener("htmx:beforeRequest", (event) => {
  const isPoll = !event.detail.requestConfig.triggeringEvent;
  if (isPoll && event.target.id !== "bar" && String(getSelection())) event.preventDefault();
});

document.addEventListener("htmx:responseError", ({ detail: { xhr, elt } }) => {
  if (xhr.status === 401) location.reload();
  else if (isRefusal(xhr) && elt !== bar()) refuse(xhr, elt);
  else silent();
});
document.addEventListener("htmx:sendError", silent);
document.addEventListener("htmx:timeout", silent);

let answered = new Date();
document.addEventListener("htmx:afterOnLoad", ({ detail: { xhr, requestConfig } }) => {
  if (xhr.status < 400 || isRefusal(xhr)) answered = new Date();
  if (xhr.status < 400 && requestConfig.elt.id === refusedTo) refused.textContent = "";
});

// By the api, and not by a proxy in front of it.
function isRefusal(xhr) {
  return xhr.status < 500 && xhr.getResponseHeader("content-type") === "application/problem+json";
}

// A field that was filled in wrongly, or a worker that is no longer known: shown until the same is
// answered. What is swapped is another element by then.
let refusedTo;
function refuse(xhr, elt) {
  refusedTo = elt.id;
  refused.textContent = JSON.parse(xhr.responseText).detail;
}

// Tables are swapped every few seconds.
let scrolled = [];
document.addEventListener("htmx:beforeSwap", ({ target }) => {
  scrolled = Array.from(
    target.querySelectorAll(".scroll[id]"),
    ({ id, scrollLeft, scrollTop }) => [id, { scrollLeft, scrollTop }],
  );
});
document.addEventListener("htmx:afterSwap", () => {
  for (const [id, to] of scrolled) Object.assign(document.getElementById(id) ?? {}, to);
});

function silent() {
  bar().className = "bar away";
  bar().querySelector(".observation strong").textContent = "no answer";
  const at = answered.toISOString().slice(11, 19);
  const since = `from the api since ${at} UTC: all of this may be old.`;
  bar().querySelector(".observation span").textContent = since;
  say("no answer", bar().textContent);
}

// Once for each state: the times in the bar change all the time, and nobody wants to be read them.
let state = bar().dataset.state;
document.addEventListener("htmx:afterSwap", () => {
  const now = bar().dataset.state;
  if (now !== state) say(now, bar().querySelector(".observation").textContent);
});

function say(now, text) {
  if (now === state) return;
  state = now;
  told.textContent = text;
}
