// Keeps the inbox at the present state: new calls appear, and those that somebody has decided move.
const EVERY_MS = 1000;
const waiting = document.getElementById("waiting");
const decided = document.getElementById("decided");
const empty = document.getElementById("empty");
const state = document.getElementById("state");

const element = (html) => {
  const template = document.createElement("template");
  template.innerHTML = html; // rendered by the server, with every text escaped
  return template.content.firstElementChild;
};

const show = (cards) => {
  const present = new Set(cards.map((card) => `a-${card.id}`));
  for (const known of document.querySelectorAll(".card")) if (!present.has(known.id)) known.remove();
  for (const { id, state: now, html } of cards) {
    const known = document.getElementById(`a-${id}`);
    if (known?.dataset.state === now) continue; // its form may be in use
    known?.remove();
    if (now === "pending") waiting.append(element(html));
    else decided.prepend(element(html));
    if (known && now !== "pending") state.textContent = `${id} was decided: ${now}`;
  }
  empty.hidden = waiting.children.length > 0;
};

const look = async () => {
  try {
    const response = await fetch(waiting.dataset.cards, { headers: { accept: "application/json" } });
    if (response.ok) show((await response.json()).cards);
    else state.textContent = response.status === 403 ? "Log in again." : "The inbox cannot be read; trying again.";
    if (response.status === 403) return;
  } catch {
    state.textContent = "The proxy cannot be reached; trying again.";
  }
  setTimeout(look, EVERY_MS);
};

setTimeout(look, EVERY_MS);
