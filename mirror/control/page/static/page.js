// Says so when the mirror no longer answers; the events begin again by themselves.
"use strict";
const lost = document.getElementById("lost");
document.body.addEventListener("htmx:sseError", () => { lost.hidden = false; });
document.body.addEventListener("htmx:sseOpen", () => { lost.hidden = true; });

// What an operator has the mirror do; the API says what has come of it.
async function act(path, sent, method = "POST") {
  const said = document.getElementById("acted");
  said.textContent = "…";
  const request = { method };
  if (sent !== undefined) {
    request.headers = { "Content-Type": "application/json" };
    request.body = JSON.stringify(sent);
  }
  try {
    const answer = await fetch(path, request);
    said.textContent = answer.ok ? said.dataset.done : (await answer.json()).detail;
  } catch {
    said.textContent = said.dataset.lost;
  }
}
function ofImage(path, image) {
  act(path, path.endsWith("/warm") ? { images: [image] } : { image });
}
document.body.addEventListener("click", (event) => {
  const button = event.target.closest("button[type=button][data-act]");
  if (!button) { return; }
  const { act: path, image, upstream, endpoint, level } = button.dataset;
  if (image) { ofImage(path, image); }
  else if (endpoint) { act(path, { upstream, endpoint }); }
  else if (level) { act(path, { level: document.getElementById(level).value }, "PUT"); }
  else { act(path); }
});
document.body.addEventListener("submit", (event) => {
  if (!event.target.matches("form[data-acts]")) { return; }
  event.preventDefault();
  ofImage(event.submitter.dataset.act, event.target.elements.image.value.trim());
});
