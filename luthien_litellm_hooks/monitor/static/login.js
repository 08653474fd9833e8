// Logs in with the session of LiteLLM's Admin UI, which sends its claim to the frame of its plugin.
const base = document.querySelector("meta[name=luthien-base]").content;

addEventListener("message", async (event) => {
  if (event.origin !== location.origin || event.source !== parent || parent === self) return;
  if (event.data?.type !== "litellm-auth" || typeof event.data.session_claim !== "string") return;
  const response = await fetch(`${base}/login`, {
    method: "POST",
    body: new URLSearchParams({ claim: event.data.session_claim }),
  });
  if (response.ok) location.replace(location.pathname.endsWith("/login") ? `${base}/` : location.href);
  else document.getElementById("said").textContent = "The Admin UI's session opens no page here. Log in with a key.";
});
