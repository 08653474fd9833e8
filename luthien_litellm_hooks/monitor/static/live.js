// Puts what the server sends into the live page: rows of the table, and the plot of the last hour.
const MOST_ROWS = 200;
const table = document.getElementById("live");
const body = table.tBodies[0];
const state = document.getElementById("state");
const source = new EventSource(table.dataset.events);

const elements = (html) => {
  const template = document.createElement("template");
  template.innerHTML = html; // rendered by the server, with every text escaped
  return template.content;
};

source.onopen = () => (state.textContent = "live");
source.onerror = () => {
  state.textContent = source.readyState === EventSource.CLOSED ? "not live: load the page again" : "connecting again";
};

source.addEventListener("row", (event) => {
  const { id, html } = JSON.parse(event.data);
  const known = document.getElementById(`t-${id}`);
  const had_focus = known?.contains(document.activeElement);
  if (known) known.replaceWith(elements(html));
  else body.prepend(elements(html));
  if (had_focus) document.querySelector(`#t-${CSS.escape(id)} a`)?.focus();
  document.getElementById("empty")?.remove();
  while (body.rows.length > MOST_ROWS) body.lastElementChild.remove();
});

source.addEventListener("hour", (event) => {
  document.getElementById("hour").replaceChildren(elements(JSON.parse(event.data).html));
});
