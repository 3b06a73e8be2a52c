// A link from another site brings no cookie along, since that is SameSite=Strict; a request of
// this page does, and who has signed in is led on.
const answer = await fetch(location.href, { redirect: "manual" });
if (answer.type === "opaqueredirect") location.replace(location.href);
