// What all pages share: filters without empty fields in the URL, telling when nothing answers any more or what was
// refused, and tables that stay where they were scrolled to.

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
  else if (xhr.status >= 500) silent();
  else refuse(xhr, elt);
});
document.addEventListener("htmx:sendError", silent);
document.addEventListener("htmx:timeout", silent);

let answered = new Date();
document.addEventListener("htmx:afterOnLoad", ({ detail: { xhr, elt } }) => {
  if (xhr.status < 500) answered = new Date();
  if (xhr.status < 400 && elt === refusedTo) refuse();
});

// A field that was filled in wrongly, or a worker that is no longer known: told until the same is answered.
let refusedTo;
function refuse(xhr, elt) {
  refusedTo = elt;
  refused.textContent = xhr ? reason(xhr) : "";
}

function reason({ status, responseText }) {
  try {
    return JSON.parse(responseText).detail;
  } catch {
    return `Refused with ${status}, and not by the api.`; // a proxy's own page
  }
}

// Tables are swapped every few seconds.
let scrolled = [];
document.addEventListener("htmx:beforeSwap", ({ target }) => {
  scrolled = Array.from(target.querySelectorAll(".scroll[id]"), ({ id, scrollLeft, scrollTop }) => [id, { scrollLeft, scrollTop }]);
});
document.addEventListener("htmx:afterSwap", () => {
  for (const [id, to] of scrolled) Object.assign(document.getElementById(id) ?? {}, to);
});

function silent() {
  bar().className = "bar away";
  bar().querySelector(".observation strong").textContent = "no answer";
  const at = answered.toISOString().slice(11, 19);
  bar().querySelector(".observation span").textContent = `from the api since ${at} UTC: all of this may be old.`;
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
