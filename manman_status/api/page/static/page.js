// What all pages share: filters without empty fields in the URL, and telling when nothing answers any more.

const bar = () => document.getElementById("bar");
const told = document.getElementById("told");

document.addEventListener("htmx:configRequest", ({ detail }) => {
  for (const [name, value] of [...detail.formData]) if (value === "") detail.formData.delete(name);
});

// Swapping rows away would take the selection with them.
document.addEventListener("htmx:beforeRequest", (event) => {
  const isPoll = !event.detail.requestConfig.triggeringEvent;
  if (isPoll && event.target.id !== "bar" && String(getSelection())) event.preventDefault();
});

document.addEventListener("htmx:responseError", ({ detail }) => {
  if (detail.xhr.status === 401) location.reload();
  else silent();
});
document.addEventListener("htmx:sendError", silent);

let answered = new Date();
document.addEventListener("htmx:afterOnLoad", () => (answered = new Date()));

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
