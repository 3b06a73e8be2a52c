// A link from another site brings no cookie along, since that is SameSite=Strict; a request from here does.
const to = document.getElementById("to").value;
if ((await fetch(to, { method: "HEAD", headers: { accept: "*/*" } })).ok) location.replace(to);
