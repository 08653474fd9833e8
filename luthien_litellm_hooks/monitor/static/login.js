// Logs in without a key: with a ticket in the address, or with the session of LiteLLM's Admin UI, which sends its claim
// to the frame of its plugin.
const base = document.querySelector("meta[name=luthien-base]").content;

async function logIn(credential, refusal) {
  const response = await fetch(`${base}/login`, { method: "POST", body: new URLSearchParams(credential) });
  if (response.ok) location.replace(location.pathname.endsWith("/login") ? `${base}/` : location.href);
  else document.getElementById("said").textContent = refusal;
}

addEventListener("message", (event) => {
  if (event.origin !== location.origin || event.source !== parent || parent === self) return;
  if (event.data?.type !== "litellm-auth" || typeof event.data.session_claim !== "string") return;
  const refusal = "The Admin UI's session opens no page here. Log in with a key.";
  logIn({ claim: event.data.session_claim }, refusal);
});

const ticket = new URLSearchParams(location.hash.slice(1)).get("ticket");
if (ticket !== null) {
  history.replaceState(null, "", location.pathname);
  logIn({ ticket }, "This link has been used, or has expired. Log in with a key.");
}
